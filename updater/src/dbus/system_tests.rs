//! What Flipside asks of logind and systemd, on a private bus with both of them made of paper.

use std::sync::{Arc, Mutex};

use updater_core::event::Surroundings;
use zbus::fdo;

use super::Bus;
use super::testing::PrivateBus;
use crate::seams::{Inhibitors as _, Rebooter as _, SurroundingsProbe as _};
use crate::system::inhibit::LogindInhibitors;
use crate::system::reboot::SystemRebooter;
use crate::system::surroundings::SystemSurroundings;

/// What was asked of the two, in order.
type Story = Arc<Mutex<Vec<String>>>;

/// How this logind answers a request to reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Willing,
    /// Somebody holds a block lock, and root is bound by it (systemd 257).
    Blocked,
    /// The same, and it does not know how to skip one.
    BlockedAndOld,
    /// The machine is going down already.
    Busy,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.login1")]
enum No {
    #[zbus(error)]
    ZBus(zbus::Error),
    BlockedByInhibitorLock(String),
    OperationInProgress(String),
}

struct PaperLogind {
    mood: Mood,
    story: Story,
    /// The other ends of the locks that were given out.
    locks: Arc<Mutex<Vec<std::os::unix::net::UnixStream>>>,
}

impl PaperLogind {
    fn note(&self, what: String) {
        self.story.lock().unwrap().push(what);
    }
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl PaperLogind {
    fn reboot(&self, interactive: bool) -> Result<(), No> {
        self.note(format!("Reboot {interactive}"));
        match self.mood {
            Mood::Willing => Ok(()),
            Mood::Blocked | Mood::BlockedAndOld => Err(No::BlockedByInhibitorLock("the application prints".into())),
            Mood::Busy => Err(No::OperationInProgress("a power-off is under way".into())),
        }
    }

    fn reboot_with_flags(&self, flags: u64) -> fdo::Result<()> {
        self.note(format!("RebootWithFlags {flags}"));
        match self.mood {
            Mood::BlockedAndOld => Err(fdo::Error::InvalidArgs("Invalid flags parameter".into())),
            _ => Ok(()),
        }
    }

    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::OwnedFd {
        self.note(format!("Inhibit {what} {who} {mode}: {why}"));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        self.locks.lock().unwrap().push(ours);
        std::os::fd::OwnedFd::from(theirs).into()
    }

    fn list_inhibitors(&self) -> Vec<(String, String, String, String, u32, u32)> {
        let lock = |what: &str, who: &str, mode: &str| {
            (what.to_owned(), who.to_owned(), "printing".to_owned(), mode.to_owned(), 0, 1)
        };
        vec![
            lock("shutdown:sleep", "Press", "block"),
            lock("shutdown", "Scale", "block-weak"),
            lock("shutdown", "NetworkManager", "delay"),
            lock("handle-lid-switch", "Lid", "block"),
            lock("shutdown:sleep", "Flipside", "block"),
        ]
    }
}

struct PaperSystemd(Story);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl PaperSystemd {
    fn start_unit(&self, name: &str, mode: &str) -> zbus::OwnedObjectPath {
        self.0.lock().unwrap().push(format!("StartUnit {name} {mode}"));
        zbus::OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/1").unwrap()
    }
}

/// What it says of the link, as a number of its own (`NMMetered`).
struct PaperNetworkManager(u32);

#[zbus::interface(name = "org.freedesktop.NetworkManager")]
impl PaperNetworkManager {
    #[zbus(property)]
    fn metered(&self) -> u32 {
        self.0
    }
}

struct System {
    bus: Bus,
    story: Story,
    locks: Arc<Mutex<Vec<std::os::unix::net::UnixStream>>>,
    _kept: (PrivateBus, Vec<zbus::Connection>),
}

/// A bus with systemd on it and, with a mood, logind.
async fn system(mood: Option<Mood>) -> System {
    let private = PrivateBus::start();
    let (story, locks) = (Story::default(), Arc::default());
    let systemd = private.builder().serve_at("/org/freedesktop/systemd1", PaperSystemd(Arc::clone(&story)));
    let mut kept = vec![systemd.name("org.freedesktop.systemd1").build().await.unwrap()];
    if let Some(mood) = mood {
        let logind = PaperLogind { mood, story: Arc::clone(&story), locks: Arc::clone(&locks) };
        let logind = private.builder().serve_at("/org/freedesktop/login1", logind);
        kept.push(logind.name("org.freedesktop.login1").build().await.unwrap());
    }
    let bus = Bus::connect(private.builder()).await.unwrap();
    System { bus, story, locks, _kept: (private, kept) }
}

async fn reboot(mood: Option<Mood>) -> (Result<(), String>, Vec<String>) {
    let system = system(mood).await;
    let rebooter = SystemRebooter { bus: Some(system.bus.clone()) };
    let result = rebooter.reboot().await.map_err(|e| e.to_string());
    let story = system.story.lock().unwrap().clone();
    (result, story)
}

#[tokio::test]
async fn logind_is_asked_first_and_never_for_a_password() {
    assert_eq!(reboot(Some(Mood::Willing)).await, (Ok(()), vec!["Reboot false".to_owned()]));
}

/// The gate has asked about locks where there was time for it; a system that is being left must not be kept by its own
/// application's lock.
#[tokio::test]
async fn a_block_lock_does_not_keep_a_restart_that_is_due() {
    let (result, story) = reboot(Some(Mood::Blocked)).await;
    assert_eq!((result, story), (Ok(()), vec!["Reboot false".to_owned(), "RebootWithFlags 16".to_owned()]));
    let (result, story) = reboot(Some(Mood::BlockedAndOld)).await;
    assert_eq!(result, Ok(()));
    assert_eq!(story.last().unwrap(), "StartUnit reboot.target replace-irreversibly");
}

#[tokio::test]
async fn a_shutdown_under_way_is_not_turned_around() {
    let (result, story) = reboot(Some(Mood::Busy)).await;
    assert!(result.unwrap_err().contains("a power-off is under way"));
    assert_eq!(story, ["Reboot false"]);
}

#[tokio::test]
async fn without_logind_systemd_is_asked() {
    let (result, story) = reboot(None).await;
    assert_eq!((result, story), (Ok(()), vec!["StartUnit reboot.target replace-irreversibly".to_owned()]));
}

#[tokio::test]
async fn our_lock_is_a_block_lock_and_ends_with_its_holder() {
    use std::io::Read as _;
    let system = system(Some(Mood::Willing)).await;
    let inhibitors = LogindInhibitors { bus: Some(system.bus.clone()) };
    let hold = inhibitors.hold("a system update is being written").await.expect("logind gave a lock");
    assert_eq!(
        *system.story.lock().unwrap(),
        ["Inhibit shutdown:sleep Flipside block: a system update is being written"]
    );
    let mut lock = system.locks.lock().unwrap().pop().unwrap();
    lock.set_nonblocking(true).unwrap();
    assert_eq!(lock.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it is held");
    drop(hold);
    lock.set_nonblocking(false).unwrap();
    assert_eq!(lock.read(&mut [0]).unwrap(), 0, "it is given back");
    // Without logind an update goes on: each of its steps survives a power cut.
    assert!(LogindInhibitors { bus: Some(self::system(None).await.bus) }.hold("x").await.is_none());
}

#[tokio::test]
async fn the_locks_of_others_are_named() {
    let system = system(Some(Mood::Willing)).await;
    let root = tempfile::tempdir().unwrap();
    let probe = SystemSurroundings { bus: Some(system.bus.clone()), root: root.path().to_owned() };
    let Surroundings { inhibitors, metered, .. } = probe.look().await;
    assert_eq!(inhibitors, ["Press: printing", "Scale: printing"]);
    assert!(!metered);
}

/// <https://networkmanager.dev/docs/api/latest/nm-dbus-types.html#NMMetered>: unknown, yes, no, guessed yes, guessed no.
#[tokio::test]
async fn networkmanager_says_whether_the_link_is_metered() {
    for (number, metered) in [(0, false), (1, true), (2, false), (3, true), (4, false)] {
        let private = PrivateBus::start();
        let manager = private.builder().serve_at("/org/freedesktop/NetworkManager", PaperNetworkManager(number));
        let _manager = manager.name("org.freedesktop.NetworkManager").build().await.unwrap();
        let bus = Some(Bus::connect(private.builder()).await.unwrap());
        let root = tempfile::tempdir().unwrap();
        let seen = SystemSurroundings { bus, root: root.path().to_owned() }.look().await;
        assert_eq!(seen.metered, metered, "{number}");
    }
}

#[tokio::test]
async fn a_networkmanager_that_does_not_answer_counts_as_metered() {
    let private = PrivateBus::start();
    // Something else is there under its name.
    let other = private.builder().serve_at("/org/freedesktop/NetworkManager", PaperSystemd(Story::default()));
    let _manager = other.name("org.freedesktop.NetworkManager").build().await.unwrap();
    assert!(Bus::connect(private.builder()).await.unwrap().metered().await);
}
