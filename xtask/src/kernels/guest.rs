//! One guest: a kernel in QEMU that sees the machine's files and runs one script.
//!
//! The processor is emulated (TCG), so that it works wherever the tests do; that is ten to thirty times slower than
//! the machine. The guest has no network. What it writes stays in its memory.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::packages::Kernel;
use crate::workspace::which;

/// Where packages put virtiofsd: QEMU's own one, and the one in Rust that replaced it.
const VIRTIOFSD: [&str; 3] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd"];
/// After this time a guest is ended from outside, seconds; its own steps end earlier.
const LIMIT: u32 = 900;
/// Memory of a guest, MiB.
const MEMORY: u32 = 1024;

/// What a guest's script begins with: the file systems that a host has, and its output to the second serial port.
const HEAD: &str = "\
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
exec </dev/null >/dev/ttyS1 2>&1
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
";
/// And what it ends with. The first process may not end, and nothing can be started once the devices are shut down, not even what was
/// begun before: so it waits by what the shell has in itself.
const TAIL: &str = "
echo o >/proc/sysrq-trigger
while :; do :; done
";

/// virtiofsd, wherever it is.
pub(super) fn virtiofsd() -> Option<PathBuf> {
    which("virtiofsd").or_else(|| VIRTIOFSD.iter().map(PathBuf::from).find(|path| path.is_file()))
}

/// Boots `kernel`, runs `script` and returns what it printed. Files of the run are in `directory`.
///
/// # Errors
/// If the guest does not start or was ended from outside; the message holds the kernel's last words.
pub(super) fn run(kernel: &Kernel, directory: &Path, script: &str) -> Result<String> {
    fs::create_dir_all(directory)?;
    let file = |suffix: &str| directory.join(format!("{}.{suffix}", kernel.release));
    let (script_file, output, console, socket) = (file("sh"), file("out"), file("console"), file("socket"));
    fs::write(&script_file, format!("{HEAD}{script}{TAIL}"))?;
    for old in [&output, &console, &socket] {
        let _ = fs::remove_file(old);
    }
    let _files = serve_files(&socket, &file("virtiofsd"))?;
    let arguments = format!(
        "console=ttyS0 quiet panic=-1 oops=panic rdinit=/init fabric.modules={} fabric.script={}",
        kernel.modules().display(),
        script_file.display()
    );
    let result = Command::new("timeout")
        .args(["--kill-after=5", &LIMIT.to_string(), "qemu-system-x86_64"])
        .args(["-machine", "q35,i8042=off", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
        .args(["-m", &MEMORY.to_string()])
        .args(["-object", &format!("memory-backend-memfd,id=mem,size={MEMORY}M,share=on")])
        .args(["-numa", "node,memdev=mem"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"])
        .args(["-serial", &format!("file:{}", console.display())])
        .args(["-serial", &format!("file:{}", output.display())])
        .args(["-chardev", &format!("socket,id=files,path={}", socket.display())])
        .args(["-device", "vhost-user-fs-pci,chardev=files,tag=host"])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(kernel.initrd())
        .args(["-append", &arguments])
        .stdin(Stdio::null())
        .output()
        .context("timeout does not start")?;
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\r', "");
    if !result.status.success() {
        bail!(
            "the guest was ended ({}): {}\n{}\n{}",
            result.status,
            String::from_utf8_lossy(&result.stderr).trim(),
            last_lines(&text(&console), 30),
            last_lines(&text(&output), 30)
        );
    }
    let kernel_says = text(&console);
    if kernel_says.contains("Kernel panic") {
        bail!("the kernel panicked:\n{}", last_lines(&kernel_says, 60));
    }
    Ok(text(&output))
}

/// The last lines of a text.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A child that is ended when it is dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts virtiofsd for the machine's root directory. It ends with the guest's connection.
fn serve_files(socket: &Path, log: &Path) -> Result<Ended> {
    let program = virtiofsd().context("virtiofsd is missing")?;
    let log_file = File::create(log)?;
    let child = Command::new(program)
        .arg(format!("--socket-path={}", socket.display()))
        .args(["-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"])
        .stdin(Stdio::null())
        .stdout(log_file.try_clone()?)
        .stderr(log_file)
        .spawn()
        .context("virtiofsd does not start")?;
    let mut child = Ended(child);
    let start = Instant::now();
    while !socket.exists() {
        if child.0.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(20) {
            bail!("virtiofsd does not listen:\n{}", fs::read_to_string(log)?.trim());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_end_of_a_text() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }
}
