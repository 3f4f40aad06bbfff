//! Runs the updater of another slot: in that slot's root, read-only, without capabilities, devices or network.
//!
//! Linux namespaces (unshare(2), pivot_root(2)); needs CAP_SYS_ADMIN. Everything happens in a mount namespace of this
//! process, so nothing is left behind however it ends. The other system is mounted at `/run`, which every system has and
//! which is hidden in here only; its own `/run` holds what it may read of this device.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::{chdir, pivot_root};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use updater_core::slot::SlotId;

use super::{filesystem, settings};
use crate::daemon::device::Device;
use crate::slots::Place;
use crate::slots::device::resolve;

/// Where the other system is mounted; then its root.
const NEW: &str = "/run";
/// Where every release has its updater.
const UPDATER: &str = "usr/bin/flipside";
/// What makes a folder a system: os-release(5), either place.
const SYSTEM: [&str; 2] = ["usr/lib/os-release", "etc/os-release"];
/// Configuration and state of the device, as the other updater sees them.
const ETC: &str = "/run/flipside-etc";
const STATE: &str = "/run/flipside-state";

/// How everything of the device is mounted in there.
const LOOK: MsFlags = MsFlags::MS_RDONLY.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOSUID);

/// Why the other updater does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is a system in the slot, and no updater in it.
    #[error("the system in slot {0} has no /{UPDATER}: it could never be updated, nor confirm itself")]
    NoUpdater(SlotId),
    /// It is there and does not start.
    #[error("/{UPDATER} of slot {0} can not be started")]
    NotStarted(SlotId, #[source] io::Error),
    /// No image of the slot can be looked into.
    #[error("no system can be found in slot {0}: {1}")]
    NoSystem(SlotId, String),
    /// This kernel or this process's own sandbox does not allow it.
    #[error("{0}")]
    Step(&'static str, #[source] io::Error),
}

impl Error {
    /// True when the release is at fault; otherwise it could not be tried here: a program for another kernel than the
    /// one that runs, say, may be right for the one that comes with it.
    #[must_use]
    pub fn is_the_releases_fault(&self) -> bool {
        match self {
            Self::NoUpdater(_) => true,
            Self::NotStarted(_, error) => {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
            }
            Self::NoSystem(..) | Self::Step(..) => false,
        }
    }
}

fn step(what: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Step(what, errno.into())
}

/// Goes into the system of `slot` and runs its `flipside self-test` there. The process is of no other use afterwards.
///
/// # Errors
/// [`Error`].
pub fn enter(device: &Device, slot: SlotId, json: bool) -> Result<ExitStatus, Error> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(step("a mount namespace of its own"))?;
    // Without them, it could reach the network, and signal other processes. Worth having, not worth doing without the rest.
    for more in [CloneFlags::CLONE_NEWNET, CloneFlags::CLONE_NEWPID] {
        if let Err(error) = unshare(more) {
            tracing::debug!(%error, namespace = ?more, "a namespace can not be had");
        }
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(step("keeping mounts to itself"))?;
    mount_system(device, slot)?;
    lay_out(device).map_err(|e| Error::Step("laying out what it may read", e))?;
    chdir(NEW).map_err(step("going into the slot"))?;
    // The old root is stacked on the new one and taken away: pivot_root(2), "pivot_root(".", ".")".
    pivot_root(".", ".").map_err(step("making the slot the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(step("leaving the running system"))?;
    chdir("/").map_err(step("going to the root"))?;
    give_up_privileges().map_err(|e| Error::Step("giving up privileges", e))?;
    let mut command = Command::new(Path::new("/").join(UPDATER));
    command.env_clear().args(json.then_some("--json")).args(["self-test", "--state", STATE, "--etc", ETC]);
    // A child, and not this process: a new process namespace holds children only.
    command.status().map_err(|error| Error::NotStarted(slot, error))
}

/// Mounts the image of the slot that is a system with an updater. Others may be systems, too: a container's, say.
fn mount_system(device: &Device, slot: SlotId) -> Result<(), Error> {
    let map = device.slot_map().map_err(|problem| Error::NoSystem(slot, problem))?;
    let mut tried = vec!["it has no image of kind block or tree".to_owned()];
    let mut without = 0;
    for (image, place) in map.slots.get(slot) {
        let mounted = match place {
            Place::Block(reference) => resolve(reference, &device.roots())
                .map_err(|e| io::Error::other(crate::system::chain(&e)))
                .and_then(|node| mount_image(&node)),
            Place::Tree(folder) => bind(folder, Path::new(NEW)),
            Place::File(_) => continue,
        };
        match mounted {
            Ok(()) if is_system() && there(UPDATER) => return Ok(()),
            Ok(()) => {
                without += u32::from(is_system());
                umount2(NEW, MntFlags::MNT_DETACH).map_err(step("looking at the next image"))?;
                tried.push(format!("{image} has no {} beside /{UPDATER}", SYSTEM.join(" or ")));
            }
            Err(error) => tried.push(format!("{image}: {error}")),
        }
    }
    // Where several could be the one that boots, nobody is accused.
    if without == 1 {
        return Err(Error::NoUpdater(slot));
    }
    let skip = usize::from(tried.len() > 1);
    Err(Error::NoSystem(slot, tried.split_off(skip).join("; ")))
}

fn there(path: &str) -> bool {
    fs::symlink_metadata(Path::new(NEW).join(path)).is_ok()
}

/// An `/etc/os-release` alone may lead into an image for `/usr` that is not mounted here.
fn is_system() -> bool {
    let programs = || fs::read_dir(Path::new(NEW).join("usr")).is_ok_and(|mut entries| entries.next().is_some());
    SYSTEM.iter().any(|file| there(file)) && programs()
}

fn mount_image(node: &Path) -> io::Result<()> {
    let unknown = || io::Error::other(format!("{} has no file system that is known here", node.display()));
    let found = filesystem::on(node)?.ok_or_else(unknown)?;
    Ok(mount(Some(node), NEW, Some(found.name), LOOK, Some(found.options))?)
}

/// Shows `from` at `to`, read-only.
fn bind(from: &Path, to: &Path) -> io::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    // Flags of a bind mount count only in a second step (mount(2)).
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | LOOK;
    Ok(mount(None::<&str>, to, None::<&str>, again, None::<&str>)?)
}

/// What the other updater may read of this device, in the `/run` of its system.
fn lay_out(device: &Device) -> io::Result<()> {
    // Before the tmpfs: what the new system has in its own /etc may be links.
    let files = settings::of(&device.root, Path::new(NEW), &device.loaded.findings);
    let inside = |path: &str| PathBuf::from(format!("{NEW}{path}"));
    let (etc, state) = (inside(ETC), inside(STATE));
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), &inside("/run"), Some("tmpfs"), flags, Some("size=32m,mode=0755"))?;
    for (name, text) in files {
        let file = etc.join(name);
        fs::create_dir_all(file.parent().unwrap_or(&etc))?;
        fs::write(file, text)?;
    }
    fs::create_dir_all(&etc)?;
    fs::create_dir_all(&state)?;
    if device.state.is_dir() { bind(&device.state, &state) } else { Ok(()) }
}

/// It comes from a verified image; still, it shall only read.
fn give_up_privileges() -> io::Result<()> {
    // With this, exec gives no capability that is not there before it, not even to root (prctl(2), execve(2)).
    prctl::set_no_new_privs()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}
