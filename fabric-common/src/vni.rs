//! VXLAN network identifiers.

/// The highest VNI: 24 bits (RFC 7348 section 5).
pub const VNI_MAX: u32 = 0x00ff_ffff;

/// A VXLAN network identifier, 24 bits, host byte order. Zero is legal on the wire and so it is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

/// A number that does not fit 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VniError(pub u32);

impl core::fmt::Display for VniError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "VNI {} is above {VNI_MAX}, the highest that fits VXLAN's 24 bits", self.0)
    }
}

impl core::error::Error for VniError {}

impl Vni {
    /// Checks the range.
    pub const fn new(vni: u32) -> Result<Self, VniError> {
        if vni <= VNI_MAX { Ok(Self(vni)) } else { Err(VniError(vni)) }
    }

    /// The number, host byte order.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = VniError;

    fn try_from(vni: u32) -> Result<Self, VniError> {
        Self::new(vni)
    }
}

impl core::fmt::Display for Vni {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}
