//! Declares shared types and computes a layout hash for each.

/// A type with a fixed layout that both sides of a map agree on.
pub trait Layout {
    /// FNV-1a over the type's name, its fields' names, offsets, sizes and their own hashes.
    const HASH: u64;
    /// The fields of a struct in order, as (name, byte offset, type); none of what is no struct.
    const FIELDS: Fields = &[];
}

/// Fields of a struct: name, byte offset, type.
pub type Fields = &'static [(&'static str, usize, &'static str)];

/// One step of 64-bit FNV-1a over `bytes` (<http://www.isthe.com/chongo/tech/comp/fnv/>), usable in constants.
pub const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// The FNV-1a offset basis, the start of every hash.
pub const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

macro_rules! primitive_layout {
    ($($t:ty),*) => { $(
        impl Layout for $t {
            const HASH: u64 = fnv(FNV_BASIS, stringify!($t).as_bytes());
        }
    )* };
}
primitive_layout!(u8, u16, u32, u64);

impl<T: Layout, const N: usize> Layout for [T; N] {
    const HASH: u64 = fnv(fnv(T::HASH, b"[]"), &(N as u64).to_le_bytes());
}

/// Declares a shared type: `repr(C)`, no padding (a hole is a compile error), a checked size, a layout hash and,
/// with feature `user`, `aya::Pod`.
#[macro_export]
macro_rules! shared {
    (
        $(#[$meta:meta])*
        $size:literal bytes: pub struct $name:ident {
            $( $(#[$field_meta:meta])* pub $field:ident: $ty:ty, )+
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $ty, )+
        }

        const _: () = assert!(core::mem::size_of::<$name>() == $size, "size differs from the declared one");

        impl $crate::layout::Layout for $name {
            const HASH: u64 = {
                let hash = $crate::layout::fnv($crate::layout::FNV_BASIS, stringify!($name).as_bytes());
                $(
                    let hash = $crate::layout::fnv(hash, stringify!($field).as_bytes());
                    let hash = $crate::layout::fnv(hash, &(core::mem::offset_of!($name, $field) as u64).to_le_bytes());
                    let hash = $crate::layout::fnv(hash, &<$ty as $crate::layout::Layout>::HASH.to_le_bytes());
                )+
                hash
            };
            const FIELDS: $crate::layout::Fields = $name::FIELDS;
        }

        impl $name {
            /// The fields in order, as (name, byte offset, type), for the generated documents.
            pub const FIELDS: &'static [(&'static str, usize, &'static str)] = &[
                $( (stringify!($field), core::mem::offset_of!($name, $field), stringify!($ty)), )+
            ];
        }

        #[cfg(feature = "user")]
        // SAFETY: `repr(C)`, `Copy`, without padding and valid for every bit pattern (zerocopy's `FromBytes` and
        // `IntoBytes` are derived above and would not compile otherwise).
        unsafe impl aya::Pod for $name {}
    };
}

#[cfg(test)]
mod tests {
    #![expect(unreachable_pub, reason = "what the macro declares is public and has more than is tested here")]

    use super::Layout;

    shared! {
        /// Twin one.
        8 bytes: pub struct A { /** x */ pub x: u32, /** y */ pub y: u32, }
    }
    mod other {
        shared! {
            /// The same name and size as `A`, fields swapped.
            8 bytes: pub struct A { /** y */ pub y: u32, /** x */ pub x: u32, }
        }
    }

    #[test]
    fn a_swapped_field_changes_the_hash() {
        assert_ne!(A::HASH, other::A::HASH);
    }

    #[test]
    fn an_array_length_changes_the_hash() {
        assert_ne!(<[u8; 6]>::HASH, <[u8; 8]>::HASH);
    }
}
