//! Kernels from Debian: chosen, downloaded and unpacked into the cache. The machine's own apt state is only read.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::cpio::Archive;
use crate::{
    ui,
    workspace::{cache, which},
};

/// The meta package whose versions are the kernels that Debian offers.
const META: &str = "linux-image-cloud-amd64";
/// Releases of Debian that hold the oldest kernel that Fabric supports, the next one and the newest.
const SUITES: [&str; 4] = ["bookworm", "trixie", "trixie-backports", "sid"];
/// What a guest needs before it sees the machine's files.
const EARLY_MODULES: [&str; 3] = ["virtio_pci", "virtiofs", "overlay"];

/// Which of Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The newest of a series, `6.1`.
    Series(&'static str),
    /// The newest of all.
    Newest,
}

impl Choice {
    /// Name of its directory in the cache.
    fn name(self) -> &'static str {
        match self {
            Self::Series(series) => series,
            Self::Newest => "newest",
        }
    }

    /// The best of `versions`, which come newest first.
    fn of(self, versions: &[Offer]) -> Option<&Offer> {
        match self {
            Self::Series(series) => versions
                .iter()
                .find(|offer| offer.version.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'))),
            Self::Newest => versions.first(),
        }
    }
}

/// A version of the meta package.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offer {
    version: String,
    /// Packages of exactly this build.
    packages: Vec<String>,
}

/// A kernel that is ready to boot.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// As `uname -r` prints it.
    pub(super) release: String,
    directory: PathBuf,
}

impl Kernel {
    pub(super) fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    pub(super) fn initrd(&self) -> PathBuf {
        self.directory.join("initrd")
    }

    /// The directory that a guest sees as `/lib/modules`.
    pub(super) fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules")
    }

    fn open(directory: PathBuf) -> Option<Self> {
        let release = fs::read_to_string(directory.join("release")).ok()?;
        Some(Self { release, directory })
    }
}

/// Makes every chosen kernel that the cache lacks.
///
/// # Errors
/// One sentence that names what is missing.
pub(super) fn prepare(choices: &[Choice]) -> Result<Vec<Kernel>> {
    let base = cache()?.join("kernels");
    let missing: Vec<_> =
        choices.iter().filter(|choice| Kernel::open(base.join(choice.name())).is_none()).collect();
    if !missing.is_empty() {
        let step = ui::Step::start("kernels of Debian (once)");
        let made = make(&base, &missing, |note| step.progress(note));
        step.end_with(made)?;
    }
    choices
        .iter()
        .map(|choice| Kernel::open(base.join(choice.name())).context("a kernel was not made"))
        .collect()
}

fn make(base: &Path, choices: &[&Choice], progress: impl Fn(&str)) -> Result<()> {
    let apt = Apt::new(base)?;
    progress("package lists");
    apt.update()?;
    let offers = apt.offers()?;
    let unpacked = apt.unpack(&["busybox-static".to_owned()])?;
    let busybox = fs::read(first_of(&unpacked, &["bin/busybox", "usr/bin/busybox"])?)?;
    for choice in choices {
        let offer = choice
            .of(&offers)
            .with_context(|| format!("Debian's mirror offers no kernel {}", choice.name()))?;
        progress(&offer.version);
        let mut packages = Vec::new();
        for package in &offer.packages {
            packages.push(package.clone());
            packages.extend(parts(&apt.show(package)?));
        }
        install(&apt.unpack(&packages)?, &base.join(choice.name()), &busybox)?;
    }
    fs::remove_dir_all(&apt.directory)?;
    Ok(())
}

/// An apt of our own: the machine's mirror and keys, other releases, nothing shared with the machine's state.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn new(base: &Path) -> Result<Self> {
        let apt = Self { directory: base.join("apt") };
        // What a run that was interrupted left.
        if apt.directory.exists() {
            fs::remove_dir_all(&apt.directory)?;
        }
        for directory in ["lists/partial", "cache/archives/partial", "download"] {
            fs::create_dir_all(apt.directory.join(directory))?;
        }
        let mirror = mirror()?;
        let lines = SUITES.map(|suite| format!("deb {mirror} {suite} main\n"));
        fs::write(apt.directory.join("sources.list"), lines.concat())?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.directory.join("download"));
        for (option, path) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::Etc::SourceParts", "no-sources"),
            ("Dir::State::Lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", self.directory.join(path).display()));
        }
        for option in [
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
            "APT::Sandbox::User=root",
        ] {
            command.args(["-o", option]);
        }
        command
    }

    fn update(&self) -> Result<()> {
        ui::run_quiet(self.command("apt-get").args(["update", "--quiet", "--error-on=any"]), |_| ())
            .map(drop)
            .context("the package lists of Debian's releases can't be fetched")
    }

    fn show(&self, package: &str) -> Result<String> {
        ui::run_quiet(self.command("apt-cache").args(["show", package]), |_| ())
    }

    /// Every kernel, the newest first.
    fn offers(&self) -> Result<Vec<Offer>> {
        Ok(offers(&self.show(META)?))
    }

    /// Downloads packages and unpacks them into one new directory.
    fn unpack(&self, packages: &[String]) -> Result<PathBuf> {
        let (download, root) = (self.directory.join("download"), self.directory.join("root"));
        for directory in [&download, &root] {
            let _ = fs::remove_dir_all(directory);
            fs::create_dir_all(directory)?;
        }
        ui::run_quiet(self.command("apt-get").args(["download", "--quiet"]).args(packages), |_| ())?;
        for entry in fs::read_dir(&download)? {
            ui::run_quiet(Command::new("dpkg-deb").arg("--extract").arg(entry?.path()).arg(&root), |_| ())?;
        }
        Ok(root)
    }
}

/// The Debian mirror that the machine's apt is configured with.
fn mirror() -> Result<String> {
    let output = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)",
            "Created-By: Packages",
        ])
        .output()
        .context("apt-get does not start; other kernels come from Debian's packages")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    mirror_in(&String::from_utf8_lossy(&output.stdout))
        .context("apt on this machine has no Debian mirror; other kernels come from Debian's packages")
}

/// The first line of a release itself, not of its security updates, which have a place of their own.
fn mirror_in(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        let [origin, "main", release, uri] = words[..] else { return None };
        // Before the first update of the machine's lists apt does not know the origin.
        let debian = origin == "Debian" || uri.trim_end_matches('/').ends_with("/debian");
        (debian && !release.contains('-')).then(|| uri.to_owned())
    })
}

/// What `apt-cache show` says of the meta package: one paragraph a version, the newest first.
fn offers(text: &str) -> Vec<Offer> {
    text.split("\n\n")
        .filter_map(|paragraph| {
            let version = field(paragraph, "Version: ")?.to_owned();
            let packages = parts(paragraph);
            Some(Offer { version, packages })
        })
        .collect()
}

fn field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    paragraph.lines().find_map(|line| line.strip_prefix(name))
}

/// Packages of the same build that a package depends on and that hold files: `linux-image-6.1.0-50-cloud-amd64`; from
/// 7.0 on `linux-binary-…`, `linux-modules-…` and `linux-base-…` as well.
fn parts(paragraph: &str) -> Vec<String> {
    let holds_files = |name: &str| {
        ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"].iter().any(|prefix| {
            name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    field(paragraph, "Depends: ")
        .unwrap_or_default()
        .split(", ")
        .filter_map(|dependency| dependency.split(' ').next())
        .filter(|name| holds_files(name))
        .map(str::to_owned)
        .collect()
}

/// Takes out of unpacked packages what a guest needs. `release` is written last: it says that the rest is whole.
fn install(unpacked: &Path, into: &Path, busybox: &[u8]) -> Result<()> {
    let modules = first_of(unpacked, &["lib/modules", "usr/lib/modules"])?;
    let release = fs::read_dir(&modules)?
        .find_map(|entry| entry.ok()?.file_name().into_string().ok())
        .context("Debian's package holds no modules of a kernel")?;
    let (boot, beside) = (format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz"));
    let image = first_of(unpacked, &[&boot, &beside])?;
    if into.exists() {
        fs::remove_dir_all(into)?;
    }
    fs::create_dir_all(into.join("lib"))?;
    fs::copy(&image, into.join("vmlinuz"))?;
    fs::rename(modules, into.join("lib/modules"))?;
    let depmod = which("depmod").context("depmod is missing")?;
    ui::run_quiet(Command::new(depmod).arg("-b").arg(into).arg(&release), |_| ())?;
    fs::write(into.join("initrd"), initrd(into, &release, busybox)?)?;
    fs::write(into.join("release"), &release)?;
    Ok(())
}

/// Releases of Debian differ in where a file is.
fn first_of(unpacked: &Path, places: &[&str]) -> Result<PathBuf> {
    places
        .iter()
        .map(|place| unpacked.join(place))
        .find(|path| path.exists())
        .with_context(|| format!("Debian's package holds no {}", places[0]))
}

/// A shell, the first script, and the modules for the machine's files in the order in which they load.
fn initrd(kernel: &Path, release: &str, busybox: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "modules"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", busybox);
    archive.file("init", include_bytes!("init.sh"));
    let mut order = Vec::new();
    for module in EARLY_MODULES {
        for file in load_order(kernel, release, module)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = name.strip_suffix(".xz").unwrap_or(&name).to_owned();
            if !order.contains(&name) {
                archive.file(&format!("modules/{name}"), &module_bytes(&file)?);
                order.push(name);
            }
        }
    }
    archive.file("modules/order", (order.join("\n") + "\n").as_bytes());
    Ok(archive.end())
}

/// Files of a module and what it depends on; none for what is built in.
fn load_order(kernel: &Path, release: &str, module: &str) -> Result<Vec<PathBuf>> {
    let modprobe = which("modprobe").context("modprobe is missing")?;
    let text = ui::run_quiet(
        Command::new(modprobe).arg("-d").arg(kernel).args(["-S", release, "--show-depends", module]),
        |_| (),
    )?;
    Ok(text.lines().filter_map(|line| Some(line.strip_prefix("insmod ")?.trim().into())).collect())
}

fn module_bytes(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|extension| extension != "xz") {
        return Ok(fs::read(file)?);
    }
    let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(file).output()?;
    if !output.status.success() {
        bail!("xz: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::{Choice, mirror_in, offers, parts};

    const OFFERS: &str = "Package: linux-image-cloud-amd64\nVersion: 7.3.4-1~bpo13+1\nDepends: linux-base-cloud-amd64 (= 7.3.4-1~bpo13+1), linux-image-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1)\n\nVersion: 6.12.117-1\nDepends: linux-image-6.12.117+deb13-cloud-amd64 (= 6.12.117-1)\n\nVersion: 6.1.176-1\nDepends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)\n";

    #[test]
    fn each_choice_finds_its_kernel() {
        let offers = offers(OFFERS);
        for (choice, package) in [
            (Choice::Newest, "linux-image-7.3.4+deb13-cloud-amd64"),
            (Choice::Series("6.12"), "linux-image-6.12.117+deb13-cloud-amd64"),
            (Choice::Series("6.1"), "linux-image-6.1.0-50-cloud-amd64"),
        ] {
            assert_eq!(
                choice.of(&offers).map(|offer| offer.packages.clone()),
                Some(vec![package.to_owned()])
            );
        }
        assert_eq!(Choice::Series("5.10").of(&offers), None);
    }

    #[test]
    fn a_kernel_in_several_packages_is_found_whole() {
        let text = "Depends: dracut | initramfs-tools (>= 0.120), linux-base-7.3.4-cloud-amd64 (= 7), linux-binary-7.3.4-cloud-amd64 (= 7), linux-modules-7.3.4-cloud-amd64 (= 7)";
        let names = ["base", "binary", "modules"].map(|part| format!("linux-{part}-7.3.4-cloud-amd64"));
        assert_eq!(parts(text), names);
    }

    #[test]
    fn the_mirror_is_that_of_a_release_itself() {
        let targets = "Other main nodistro https://a/x\nDebian main bookworm-security http://b/debian-security/\nDebian main bookworm http://c/debian/\n";
        assert_eq!(mirror_in(targets).as_deref(), Some("http://c/debian/"));
        assert_eq!(
            mirror_in("$(ORIGIN) main trixie http://c/debian/\n").as_deref(),
            Some("http://c/debian/")
        );
        assert_eq!(mirror_in("Ubuntu main noble http://d/ubuntu/\n"), None);
    }
}
