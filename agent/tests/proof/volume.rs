//! A volume of its own for one test: a small ext4 on a loop device, or a tmpfs. Whatever happens, it is unmounted at the end, which frees
//! the loop device too.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::ioctl::{Setter, ioctl, opcode};

/// `EXT4_IOC_SHUTDOWN` of the kernel's fs/ext4/ext4.h, and its flag not to write the journal: what a power cut leaves.
const EXT4_SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
const WITHOUT_JOURNAL: u32 = 2;

/// A mounted volume.
pub(crate) struct Volume {
    folder: tempfile::TempDir,
}

/// Runs a program of the system that must succeed.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("the system has it");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Volume {
    /// An ext4 of so many MiB.
    pub(crate) fn ext4(mebibytes: u64) -> Self {
        let volume = Self::folder();
        let file = std::fs::File::create(volume.image()).expect("a temporary folder can be written");
        file.set_len(mebibytes << 20).expect("a sparse file takes no room");
        run("mkfs.ext4", &["-q", "-F", &text(&volume.image())]);
        volume.mount();
        volume
    }

    /// A tmpfs of so many KiB.
    pub(crate) fn tmpfs(kibibytes: u64) -> Self {
        let volume = Self::folder();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={kibibytes}k"), "forebay-test", &text(&volume.path())]);
        volume
    }

    fn folder() -> Self {
        let volume = Self { folder: tempfile::tempdir().expect("a directory") };
        std::fs::create_dir(volume.path()).expect("a directory");
        volume
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn mount(&self) {
        run("mount", &["-t", "ext4", "-o", "loop", &text(&self.image()), &text(&self.path())]);
    }

    /// As a boot does; nobody may hold a file of it.
    pub(crate) fn mount_again(&self) {
        run("umount", &[&text(&self.path())]);
        self.mount();
    }

    /// Cuts the power: nothing that was not synced reaches the device from here on.
    #[expect(unsafe_code, reason = "the request that cuts the power is not one of those the library wraps")]
    pub(crate) fn cut_power(&self) {
        let folder = std::fs::File::open(self.path()).expect("it is mounted");
        // SAFETY: the request reads one number of 32 bits, which `Setter` holds, and concerns the file system of the open file alone: a
        // volume that this test made.
        let cut = unsafe { ioctl(&folder, Setter::<EXT4_SHUTDOWN, u32>::new(WITHOUT_JOURNAL)) };
        cut.expect("ext4 can be shut down");
    }

    /// Every write waits as long as the value lives.
    pub(crate) fn freeze(&self) -> Frozen {
        run("fsfreeze", &["--freeze", &text(&self.path())]);
        Frozen { path: self.path() }
    }

    /// Has ext4 believe that the device fails: it is read-only from here on, as after a real error, until it is mounted anew.
    pub(crate) fn abort(&self) {
        run("mount", &["-o", "remount,abort", &text(&self.path())]);
    }

    /// Takes every byte that is left, until the file is removed.
    pub(crate) fn fill(&self) -> PathBuf {
        let filler = self.path().join("filler");
        let mut file = std::fs::File::create(&filler).expect("a name takes no room");
        for piece in [1 << 20, 1 << 10] {
            while file.write_all(&vec![1; piece]).is_ok() {}
        }
        filler
    }
}

/// A volume whose writes wait. It must be dropped before the process that writes is waited for.
pub(crate) struct Frozen {
    path: PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        Command::new("fsfreeze").args(["--unfreeze", &text(&self.path)]).output().ok();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily, for a test that fails may leave a process that holds a file; a volume that was never mounted is no matter.
        Command::new("umount").args(["--lazy", &text(&self.path())]).output().ok();
    }
}
