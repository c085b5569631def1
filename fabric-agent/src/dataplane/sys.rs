//! The few `bpf(2)` calls that aya keeps to itself: content of maps as bytes (aya's maps are typed), batches, and where
//! a link sits. All unsafe code of the dataplane is in this file.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

use nix::libc;
use tokio::io::{Interest, unix::AsyncFd};

use super::features::KernelRelease;

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const MAP_DELETE_BATCH: libc::c_long = 27;
const LINK_GET_FD_BY_ID: libc::c_long = 30;
const LINK_DETACH: libc::c_long = 34;

const LINK_TYPE_XDP: u32 = 6;
const LINK_TYPE_TCX: u32 = 11;
const ATTACH_TCX_INGRESS: u32 = 46;

/// The largest `bpf_attr` that any call here uses, zeroed beyond what is set: the kernel refuses other bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct Attr([u32; 18]);

impl Attr {
    fn word(mut self, offset: usize, value: u32) -> Self {
        self.0[offset / 4] = value;
        self
    }

    fn long(mut self, offset: usize, value: u64) -> Self {
        let bytes = value.to_ne_bytes();
        for half in 0..2 {
            let word = [bytes[half * 4], bytes[half * 4 + 1], bytes[half * 4 + 2], bytes[half * 4 + 3]];
            self.0[offset / 4 + half] = u32::from_ne_bytes(word);
        }
        self
    }

    fn fd(self, offset: usize, fd: BorrowedFd<'_>) -> Self {
        self.word(offset, fd.as_raw_fd().cast_unsigned())
    }
}

/// # Safety
/// Every pointer in `attr` must be valid for what `command` reads and writes through it.
unsafe fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is as long as said and lives through the call; the caller vouches for the pointers in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size_of::<Attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Keys and values as bytes.
pub(super) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// How far a reading by [`RawMap::lookup_batch`] has come.
#[derive(Debug, Default)]
pub(super) struct Batch(Option<u32>);

/// A map as bytes: descriptor and the sizes that the kernel reads and writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawMap<'a> {
    fd: BorrowedFd<'a>,
    key: usize,
    value: usize,
}

impl<'a> RawMap<'a> {
    /// `value` counts all CPUs' values, each rounded up to eight bytes, for a per-CPU map.
    pub(super) fn new(fd: BorrowedFd<'a>, key: usize, value: usize) -> Self {
        Self { fd, key, value }
    }

    /// Bytes of a value, all CPUs' included.
    pub(super) fn value_size(&self) -> usize {
        self.value
    }

    fn elem(&self, key: *const u8, value: *const u8) -> Attr {
        Attr::default().fd(0, self.fd).long(8, key.addr() as u64).long(16, value.addr() as u64)
    }

    /// The key after `key`, the first one for `None`; absent at the end.
    pub(super) fn next_key(&self, key: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        let mut next = vec![0; self.key];
        if let Some(key) = key {
            assert_eq!(key.len(), self.key, "key size");
        }
        let current = key.map_or(ptr::null(), <[u8]>::as_ptr);
        let mut attr = self.elem(current, next.as_mut_ptr());
        // SAFETY: both buffers are as long as the map's key.
        absent(unsafe { bpf(MAP_GET_NEXT_KEY, &mut attr) }).map(|found| found.map(|_| next))
    }

    /// The value at `key`, if there is one.
    pub(super) fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        assert_eq!(key.len(), self.key, "key size");
        let mut value = vec![0; self.value];
        let mut attr = self.elem(key.as_ptr(), value.as_mut_ptr());
        // SAFETY: both buffers are as long as the map's key and value.
        absent(unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr) }).map(|found| found.map(|_| value))
    }

    /// Writes one entry, new or not.
    pub(super) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert_eq!((key.len(), value.len()), (self.key, self.value), "key and value size");
        let mut attr = self.elem(key.as_ptr(), value.as_ptr());
        // SAFETY: both buffers are as long as the map's key and value; the kernel only reads them.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    /// Removes one entry; says whether it was there.
    pub(super) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        assert_eq!(key.len(), self.key, "key size");
        let mut attr = self.elem(key.as_ptr(), ptr::null());
        // SAFETY: the buffer is as long as the map's key; the kernel only reads it.
        absent(unsafe { bpf(MAP_DELETE_ELEM, &mut attr) }).map(|found| found.is_some())
    }

    /// Writes many entries, keys and values one after the other. Returns how many were written and, if that is not
    /// all, why.
    pub(super) fn update_batch(&self, keys: &[u8], values: &[u8]) -> (usize, io::Result<()>) {
        assert_eq!(keys.len() / self.key, values.len() / self.value, "as many values as keys");
        self.batch(MAP_UPDATE_BATCH, keys, values.as_ptr())
    }

    /// Removes many entries. Returns how many were removed and, if that is not all, why; an absent key stops it.
    pub(super) fn delete_batch(&self, keys: &[u8]) -> (usize, io::Result<()>) {
        self.batch(MAP_DELETE_BATCH, keys, ptr::null())
    }

    /// The next entries, at most `room`, and whether there may be more. Safe against removals meanwhile, which `next_key` is not:
    /// it begins anew where its key is gone. Without room for a bucket of the hash the error is `ENOSPC`; then ask for more.
    /// Hashes only (Linux 5.6).
    pub(super) fn lookup_batch(&self, at: &mut Batch, room: usize) -> io::Result<(Entries, bool)> {
        let (mut keys, mut values) = (vec![0; room * self.key], vec![0; room * self.value]);
        let mut next = 0u32;
        let current = at.0.as_ref().map_or(ptr::null(), ptr::from_ref);
        let mut attr = Attr::default()
            .long(0, current.addr() as u64)
            .long(8, ptr::from_mut(&mut next).addr() as u64)
            .long(16, keys.as_mut_ptr().addr() as u64)
            .long(24, values.as_mut_ptr().addr() as u64)
            .word(32, u32::try_from(room).unwrap_or(u32::MAX))
            .fd(36, self.fd);
        // SAFETY: there is room for as many keys and values as said; the place of a hash is four bytes (`generic_map_lookup_batch`
        // and `__htab_map_lookup_and_delete_batch` in `kernel/bpf`).
        let more = match unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) } {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        at.0 = Some(next);
        let count = (attr.0[8] as usize).min(room);
        let keys = keys.chunks(self.key).map(<[u8]>::to_vec);
        Ok((keys.zip(values.chunks(self.value).map(<[u8]>::to_vec)).take(count).collect(), more))
    }

    fn batch(&self, command: libc::c_long, keys: &[u8], values: *const u8) -> (usize, io::Result<()>) {
        let count = keys.len() / self.key;
        let mut attr = Attr::default()
            .long(16, keys.as_ptr().addr() as u64)
            .long(24, values.addr() as u64)
            .word(32, u32::try_from(count).unwrap_or(u32::MAX))
            .fd(36, self.fd);
        // SAFETY: `keys` holds `count` keys and `values`, where the command reads it, as many values.
        match unsafe { bpf(command, &mut attr) } {
            Ok(_) => (count, Ok(())),
            // The kernel writes the count only once it has begun; a refusal before that leaves what we had set.
            Err(error) => {
                let done = attr.0[8] as usize;
                (if done < count { done } else { 0 }, Err(error))
            }
        }
    }

    /// Every entry at the time of its own lookup. An entry that is removed meanwhile is left out.
    pub(super) fn entries(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.first_entries(usize::MAX)
    }

    /// As [`Self::entries`], but no more than `limit`.
    pub(super) fn first_entries(&self, limit: usize) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut entries = Vec::new();
        let mut key = self.next_key(None)?;
        while let Some(current) = key.filter(|_| entries.len() < limit) {
            let value = self.lookup(&current)?;
            key = self.next_key(Some(&current))?;
            if let Some(value) = value {
                entries.push((current, value));
            }
        }
        Ok(entries)
    }

    /// Every key.
    pub(super) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let (mut keys, mut key) = (Vec::new(), self.next_key(None)?);
        while let Some(current) = key {
            key = self.next_key(Some(&current))?;
            keys.push(current);
        }
        Ok(keys)
    }

    /// How many entries there are.
    pub(super) fn count(&self) -> io::Result<u64> {
        let (mut count, mut key) = (0, self.next_key(None)?);
        while let Some(current) = key {
            count += 1;
            key = self.next_key(Some(&current))?;
        }
        Ok(count)
    }
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Opens a pinned object; absent if there is no such file.
pub(super) fn obj_get(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = c_path(path)?;
    let mut attr = Attr::default().long(0, path.as_ptr().addr() as u64);
    // SAFETY: the path is a C string that lives through the call.
    absent(unsafe { bpf(OBJ_GET, &mut attr) })?.map(own).transpose()
}

/// Pins an object.
pub(super) fn obj_pin(path: &Path, fd: BorrowedFd<'_>) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Attr::default().long(0, path.as_ptr().addr() as u64).fd(8, fd);
    // SAFETY: the path is a C string that lives through the call.
    unsafe { bpf(OBJ_PIN, &mut attr) }.map(drop)
}

/// Where a link sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkSeat {
    /// Kernel id of the link.
    pub(super) id: u32,
    /// Kernel id of its program.
    pub(super) program: u32,
    /// Interface index, 0 once the interface is gone or the link was detached.
    pub(super) ifindex: u32,
    /// Which hook.
    pub(super) hook: LinkHook,
}

/// The hook of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkHook {
    /// TCX ingress.
    TcxIngress,
    /// XDP.
    Xdp,
    /// One that we never use.
    Other,
}

/// Reads where a link sits.
pub(super) fn link_seat(fd: BorrowedFd<'_>) -> io::Result<LinkSeat> {
    // `struct bpf_link_info`: type, id, prog_id, a hole, then by type: interface index, attach type.
    let mut info = [0u32; 32];
    let mut attr =
        Attr::default().fd(0, fd).word(4, size_of_val(&info) as u32).long(8, info.as_mut_ptr().addr() as u64);
    // SAFETY: `info` is as long as said and lives through the call.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let hook = match (info[0], info[5]) {
        (LINK_TYPE_TCX, ATTACH_TCX_INGRESS) => LinkHook::TcxIngress,
        (LINK_TYPE_XDP, _) => LinkHook::Xdp,
        _ => LinkHook::Other,
    };
    Ok(LinkSeat { id: info[1], program: info[2], ifindex: info[4], hook })
}

/// (program id, link id) of everything at the TCX ingress hook of an interface, in the order in which it runs. The link
/// id is 0 of a program that was attached without a link.
pub(super) fn tcx_ingress(ifindex: u32) -> io::Result<Vec<(u32, u32)>> {
    // The kernel allows 64 programs at a hook.
    let (mut programs, mut links) = ([0u32; 64], [0u32; 64]);
    let mut attr = Attr::default()
        .word(0, ifindex)
        .word(4, ATTACH_TCX_INGRESS)
        .long(16, programs.as_mut_ptr().addr() as u64)
        .word(24, programs.len() as u32)
        .long(40, links.as_mut_ptr().addr() as u64);
    // SAFETY: both arrays have room for the count said and live through the call.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    Ok((0..attr.0[6] as usize).map(|at| (programs[at], links[at])).collect())
}

/// Takes the link with this kernel id off its hook, whoever holds it.
pub(super) fn detach_link(id: u32) -> io::Result<()> {
    let mut attr = Attr::default().word(0, id);
    // SAFETY: no pointers in this attribute.
    let link = own(unsafe { bpf(LINK_GET_FD_BY_ID, &mut attr) }?)?;
    let mut attr = Attr::default().fd(0, link.as_fd());
    // SAFETY: no pointers in this attribute.
    unsafe { bpf(LINK_DETACH, &mut attr) }.map(drop)
}

/// A ring buffer that tokio polls. `inner` must own its descriptor and keep it for life, as aya's ring buffers and its
/// logger do.
pub(super) fn readable<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: see above; both types return the descriptor of the map that they own and never close or exchange it.
    Ok(unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }?)
}

/// Bytes of a memory page.
pub(super) fn page_size() -> u32 {
    // SAFETY: no pointers are passed.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Lifts the limit of locked memory, which kernels before 5.11 charge maps and programs to. A refusal shows when a map
/// is created.
pub(super) fn raise_memlock(release: KernelRelease) {
    if release >= KernelRelease(5, 11) {
        return;
    }
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit lives through the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
        tracing::warn!("the limit of locked memory could not be raised: {}", io::Error::last_os_error());
    }
}
