//! What the running kernel offers, and what is used instead where it does not.

use std::fs;

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use fabric_api::status::Feature;

use super::{
    attach::{Links, TcMode},
    error::DataplaneError,
};

/// Kernel release: major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRelease(pub u32, pub u32);

/// The oldest release that is tested.
const OLDEST: KernelRelease = KernelRelease(6, 1);
/// TCX links: commit e420bed02507 ("bpf: Add fd-based tcx multi-prog infra with link support").
const TCX: KernelRelease = KernelRelease(6, 6);
/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV4` and `_IPV6`: commit d219df60a70e.
const CROSS_FAMILY: KernelRelease = KernelRelease(6, 3);

impl KernelRelease {
    /// From text such as `6.1.0-28-amd64`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

/// Text of the running release, as `uname -r` prints it.
pub(super) fn running_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// What was found out once, at start.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelFeatures {
    pub(super) release: KernelRelease,
    /// TC programs are attached by TCX links, else by clsact filters.
    pub(super) tcx: bool,
    /// An inner packet of another family than the outer can be decapsulated in TC.
    pub(super) cross_family: bool,
    redirect_peer: bool,
}

impl KernelFeatures {
    pub(super) fn detect(tc: TcMode) -> Result<Self, DataplaneError> {
        let text = running_release();
        let release = KernelRelease::parse(&text).ok_or_else(|| DataplaneError::Kernel {
            what: "read the kernel's release",
            source: std::io::Error::other(format!("`{text}` does not begin with two numbers")),
        })?;
        let redirect_peer =
            is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_redirect_peer)
                .unwrap_or(true);
        Ok(Self {
            release,
            tcx: release >= TCX && tc == TcMode::Auto,
            // A flag of a helper can't be asked for; that it would be refused shows only on a real packet.
            cross_family: release >= CROSS_FAMILY,
            redirect_peer,
        })
    }
}

/// Refuses to go on without the capabilities that everything here needs.
pub(super) fn check_privileges() -> Result<(), DataplaneError> {
    let status =
        fs::read_to_string("/proc/self/status").map_err(DataplaneError::kernel("read /proc/self/status"))?;
    match missing_capability(&status) {
        Some(missing) => Err(DataplaneError::Privileges { missing }),
        None => Ok(()),
    }
}

/// The first needed capability that `/proc/self/status` does not show as effective.
fn missing_capability(status: &str) -> Option<&'static str> {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    const BPF: u64 = 1 << 39;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    if effective & NET_ADMIN == 0 {
        Some("CAP_NET_ADMIN")
    } else if effective & (BPF | SYS_ADMIN) == 0 {
        Some("CAP_BPF")
    } else {
        None
    }
}

/// The features for `fabric status`.
pub(super) fn report(kernel: KernelFeatures, links: &Links, uplinks: &[(String, u32)]) -> Vec<Feature> {
    let feature = |name: &str, available: bool, yes: &str, no: &str| Feature {
        name: name.to_owned(),
        available,
        note: if available { yes } else { no }.to_owned(),
    };
    let tcx_no = if kernel.release >= TCX {
        "available but switched off; clsact filters are used"
    } else {
        "needs Linux 6.6; clsact filters are used instead"
    };
    let mut features = vec![
        feature(
            "tested kernel",
            kernel.release >= OLDEST,
            "Linux 6.1 or newer",
            "older than Linux 6.1, which is the oldest that is tested",
        ),
        feature("tcx", kernel.tcx, "programs are attached by pinned TCX links", tcx_no),
        feature(
            "bpf_redirect_peer",
            kernel.redirect_peer,
            "delivers straight into the container's namespace",
            "needs Linux 5.10; nothing can be delivered to containers without it",
        ),
        feature(
            "cross-family decapsulation",
            kernel.cross_family,
            "IPv6 in IPv4 and IPv4 in IPv6 are decapsulated in TC",
            "needs Linux 6.3; such packets take the vxlan device instead",
        ),
    ];
    for (name, ifindex) in uplinks {
        let (native, note) = links.native_xdp(*ifindex);
        features.push(Feature { name: format!("native XDP on {name}"), available: native, note });
    }
    features
}

#[cfg(test)]
mod tests {
    use super::{CROSS_FAMILY, KernelRelease, TCX, missing_capability};

    #[test]
    fn releases_are_read_from_what_distributions_write() {
        for (text, release) in [
            ("6.1.0-28-amd64", KernelRelease(6, 1)),
            ("6.18.44-fc-v669", KernelRelease(6, 18)),
            ("7.3-rc1", KernelRelease(7, 3)),
            ("5.14.0-503.el9.x86_64", KernelRelease(5, 14)),
        ] {
            assert_eq!(KernelRelease::parse(text), Some(release), "{text}");
        }
        assert_eq!(KernelRelease::parse(""), None);
        assert_eq!(KernelRelease::parse("linux"), None);
    }

    #[test]
    fn releases_compare_by_number() {
        assert!(KernelRelease(6, 10) > TCX);
        assert!(KernelRelease(6, 2) < CROSS_FAMILY);
        assert!(KernelRelease(7, 0) > CROSS_FAMILY);
    }

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = |hex: &str| format!("Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{hex}\n");
        assert_eq!(missing_capability(&status("000001ffffffffff")), None);
        assert_eq!(missing_capability(&status("0000000000000000")), Some("CAP_NET_ADMIN"));
        assert_eq!(missing_capability(&status("0000000000001000")), Some("CAP_BPF"));
        assert_eq!(missing_capability(&status("0000000000201000")), None);
        assert_eq!(missing_capability(&status("0000008000001000")), None);
        assert_eq!(missing_capability(""), Some("CAP_NET_ADMIN"));
    }
}
