//! `flipside self-test`: the integrator's doctor. Slots, boot loader, space, clock, keys, state.
//!
//! With another root (a new slot, mounted read-only) nothing is written: it proves that this binary can read today's
//! configuration and journal.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use bundle::json;
use nix::sys::statfs::{MSDOS_SUPER_MAGIC, statfs};
use serde::Serialize;
use serde_json::json;
use updater_core::journal;
use updater_core::slot::SlotId;

use super::exit::{Exit, Failed};
use super::output::Output;
use super::text;
use crate::config::Severity;
use crate::daemon::device::Device;
use crate::daemon::http_settings;
use crate::http::Client;
use crate::rehearsal::sandbox;
use crate::seams::{BootControl, Clock, JournalStore};
use crate::slots::device::resolve;
use crate::slots::folder::standing;
use crate::slots::{Place, guard};
use crate::system::chain;

/// Less than this on the data partition, and an update may fail halfway (bytes).
const LEAST_SPACE: u64 = 32 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Test {
    subject: String,
    verdict: Verdict,
    sentence: String,
}

/// Runs all tests.
pub fn run(device: &Device, output: &Output) -> Exit {
    let elsewhere = device.elsewhere || (device.root != Path::new("/") && !device.simulated);
    let tests = tests(device, elsewhere);
    let failed = tests.iter().any(|t| t.verdict == Verdict::Failed);
    output.page(
        || render(&tests),
        &json!({"tests": json::to_value(&tests).unwrap_or_default(), "result": if failed { "failed" } else { "ok" }}),
    );
    if failed { Exit::Failed } else { Exit::Ok }
}

/// Lets the updater of another slot test itself, and ends as it does. Exit code 1: the system in the slot is at fault,
/// 3: it can not be tried here.
///
/// # Errors
/// It could not be run; otherwise this does not come back.
pub fn of_slot(device: &Device, slot: &str, output: &Output) -> Result<Exit, Failed> {
    let Ok(slot) = slot.parse::<SlotId>() else {
        return Err(Failed::plain(Exit::Usage, format!("there is no slot {slot:?}; it is a or b")));
    };
    if device.simulated {
        return Err(Failed::plain(Exit::Refused, "a simulated device has no system in its slots that could be run"));
    }
    match sandbox::enter(device, slot, output.json) {
        // What it ended with is ours to end with, whatever it is: whoever asked knows what it means.
        Ok(status) => std::process::exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())),
        Err(error) => {
            let exit = if error.is_the_releases_fault() { Exit::Failed } else { Exit::Refused };
            Err(Failed::plain(exit, chain(&error)))
        }
    }
}

fn tests(device: &Device, elsewhere: bool) -> Vec<Test> {
    let mut tests = configuration(device, elsewhere);
    tests.push(keys(device));
    tests.push(state(device, elsewhere));
    if !elsewhere {
        tests.push(server(device));
        tests.extend(slots(device));
        tests.push(boot_control(device));
        tests.push(space(device));
        tests.push(clock(device));
    }
    tests
}

fn test(subject: &str, result: Result<String, String>) -> Test {
    let (verdict, sentence) = match result {
        Ok(sentence) => (Verdict::Ok, sentence),
        Err(sentence) => (Verdict::Failed, sentence),
    };
    Test { subject: subject.to_owned(), verdict, sentence }
}

fn configuration(device: &Device, elsewhere: bool) -> Vec<Test> {
    let findings = &device.loaded.findings;
    if findings.is_empty() {
        return vec![test("config", Ok(format!("{} values set, all understood", device.loaded.values.len())))];
    }
    let of = |finding: &crate::config::Finding| {
        let file = finding.file.as_ref().map(|f| format!("{}: ", f.display())).unwrap_or_default();
        // Warnings are for newer and older versions to live with each other; they break nothing. What is wrong with the
        // values together is wrong with this device, whichever system runs.
        let fatal = finding.severity == Severity::Error && !(elsewhere && finding.file.is_none());
        let verdict = if fatal { Verdict::Failed } else { Verdict::Warning };
        Test { subject: "config".to_owned(), verdict, sentence: format!("{file}{}", finding.message) }
    };
    findings.iter().map(of).collect()
}

fn keys(device: &Device) -> Test {
    let opened = crate::daemon::trust(device).map_err(|e| chain(&e)).map(|store| {
        let root = store.current();
        let regions: Vec<_> = root.regions.keys().map(String::as_str).collect();
        format!("trust root version {}, expires {}, regions: {}", root.version, root.expires, regions.join(", "))
    });
    test("keys", opened)
}

/// Nobody is asked: whether what is configured can be used.
fn server(device: &Device) -> Test {
    let config = &device.loaded.config;
    let settings = http_settings(config, &device.root, device.simulated);
    let url = config.source.url.as_deref().unwrap_or("no update server is configured");
    test("server", Client::new(&settings).map(|_| url.to_owned()).map_err(|e| chain(&e)))
}

fn state(device: &Device, elsewhere: bool) -> Test {
    let read = match device.journal().load() {
        Ok(None) => Ok("no journal yet".to_owned()),
        Ok(Some(bytes)) => {
            let decoded = journal::decode(&bytes);
            match decoded.lost.first() {
                None => Ok(format!("journal readable, {} outcomes", decoded.journal.history.len())),
                Some(loss) => Err(format!("the journal can not be understood: {loss}")),
            }
        }
        Err(e) => Err(e.to_string()),
    };
    let mut test = test("state", read);
    // What an older updater does not understand of a newer one's journal, the boot loader tells: it may go back.
    if elsewhere && test.verdict == Verdict::Failed {
        test.verdict = Verdict::Warning;
    }
    test
}

fn slots(device: &Device) -> Vec<Test> {
    let booted = device.booted().map(|slot| format!("slot {slot} is running"));
    let mut tests = vec![test("slot", booted.ok_or_else(|| "it is not certain which slot is running".to_owned()))];
    let map = match device.slot_map() {
        Ok(map) => map,
        Err(e) => return vec![test("slots", Err(e))],
    };
    for slot in SlotId::ALL {
        for (image, place) in map.slots.get(slot) {
            tests.push(test(&format!("slot {slot}"), one_place(device, image, place)));
        }
    }
    if map.slots.a.is_empty() {
        tests.push(test("slots", Err("none are configured: nothing can be installed".to_owned())));
    }
    tests
}

fn one_place(device: &Device, image: &str, place: &Place) -> Result<String, String> {
    match place {
        Place::Block(reference) => resolve(reference, &device.roots())
            .map(|node| format!("{image}: {reference} is {}", node.display()))
            .map_err(|e| format!("{image}: {}", chain(&e))),
        // The file comes with the first install; its folder, at least, must be a place where one can be.
        Place::File(path) => match path.ancestors().skip(1).find(|folder| folder.exists()) {
            Some(folder) if folder.is_dir() => Ok(format!("{image}: {}", path.display())),
            _ => Err(format!("{image}: {} can not be written", path.display())),
        },
        Place::Tree(path) => one_folder(image, path),
    }
}

/// A folder of a slot: itself, or what it will be made in, on a file system that keeps owners.
fn one_folder(image: &str, path: &Path) -> Result<String, String> {
    if fs::symlink_metadata(path).is_ok_and(|facts| !facts.is_dir()) {
        return Err(format!("{image}: {} is not a folder", path.display()));
    }
    let around = standing(path.parent().unwrap_or(Path::new("/")));
    match statfs(around) {
        Ok(found) if found.filesystem_type() == MSDOS_SUPER_MAGIC => {
            Err(format!("{image}: {} is on FAT, which keeps no owners and modes", path.display()))
        }
        Ok(_) if around.is_dir() => Ok(format!("{image}: {}", path.display())),
        _ => Err(format!("{image}: {} can not be written", path.display())),
    }
}

fn boot_control(device: &Device) -> Test {
    let tested = device.boot_control().self_test();
    let backend = device.loaded.config.boot.backend.as_str();
    let proven = counting(backend, device.root.join("sys/firmware/efi/efivars").is_dir());
    test(
        "boot",
        tested.map(|()| format!("{backend}: state readable and writable; {proven}")).map_err(|e| e.to_string()),
    )
}

/// What a passed test of this backend says about counting, and not more.
const fn counting(backend: &str, variables: bool) -> &'static str {
    match (backend.as_bytes(), variables) {
        (b"systemd-boot", true) => "the boot loader says that it counts",
        (b"systemd-boot", false) => "without firmware variables it can not be seen whether the boot loader counts",
        (b"grub" | b"uboot", _) => "the script that counts has started this system",
        (b"sim", _) => "counting is simulated",
        _ => "the program says that all is well",
    }
}

fn space(device: &Device) -> Test {
    let checked = fs::create_dir_all(&device.state).and_then(|()| guard::free_bytes(&device.state));
    let judged = match checked {
        Ok(free) if free >= LEAST_SPACE => Ok(format!("{} free for state", text::bytes(free))),
        Ok(free) => Err(format!("only {} free for state", text::bytes(free))),
        Err(e) => Err(format!("{}: {e}", device.state.display())),
    };
    test("space", judged)
}

fn clock(device: &Device) -> Test {
    let now = device.clock().now();
    let (verdict, sentence) = if now.wall_trusted {
        (Verdict::Ok, format!("{} is to be trusted", now.wall))
    } else {
        // Blocks starting an update until the network tells the time; breaks nothing.
        (Verdict::Warning, format!("{} is not to be trusted yet: no update starts before it is", now.wall))
    };
    Test { subject: "clock".to_owned(), verdict, sentence }
}

fn render(tests: &[Test]) -> String {
    let rows: Vec<_> = tests
        .iter()
        .map(|t| {
            let word = match t.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Failed => "FAILED",
            };
            vec![word.to_owned(), t.subject.clone(), text::one_line(&t.sentence)]
        })
        .collect();
    text::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_system_is_told_what_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let found = tests(&Device::open(root.path(), false), false);
        let failed: Vec<_> =
            found.iter().filter(|t| t.verdict == Verdict::Failed).map(|t| t.subject.as_str()).collect();
        assert_eq!(failed.get(..3), Some(["keys", "slot", "slots"].as_slice()));
        assert!(render(&found).contains("FAILED"));
    }

    #[test]
    fn a_server_that_can_not_be_asked_as_configured_is_told() {
        let root = tempfile::tempdir().unwrap();
        let verdict = || {
            let test = server(&Device::open(root.path(), false));
            (test.verdict, test.sentence)
        };
        assert_eq!(verdict().0, Verdict::Ok);
        fs::create_dir_all(root.path().join("etc/flipside")).unwrap();
        let config = "[source]\nurl = \"https://h/x\"\nca_file = \"/etc/flipside/ca.pem\"\n";
        fs::write(root.path().join("etc/flipside/flipside.toml"), config).unwrap();
        let (failed, sentence) = verdict();
        assert_eq!(failed, Verdict::Failed);
        assert!(sentence.contains("etc/flipside/ca.pem"), "{sentence}");
        let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/ca.pem");
        fs::copy(ca, root.path().join("etc/flipside/ca.pem")).unwrap();
        assert_eq!(verdict(), (Verdict::Ok, "https://h/x".to_owned()));
    }

    #[test]
    fn of_counting_no_more_is_said_than_was_proven() {
        assert!(counting("systemd-boot", true).contains("says that it counts"));
        assert!(counting("systemd-boot", false).contains("can not be seen"));
        assert!(counting("grub", true).contains("has started this system"));
        assert!(counting("custom", true).contains("the program"));
    }

    #[test]
    fn a_folder_is_a_folder_or_can_be_one() {
        let root = tempfile::tempdir().unwrap();
        one_folder("rootfs", &root.path().join("slots/b/rootfs")).unwrap();
        one_folder("rootfs", root.path()).unwrap();
        std::os::unix::fs::symlink(root.path(), root.path().join("link")).unwrap();
        assert!(one_folder("rootfs", &root.path().join("link")).unwrap_err().contains("not a folder"));
    }

    #[test]
    fn a_new_slot_is_only_read() {
        let root = tempfile::tempdir().unwrap();
        tests(&Device::open(root.path(), false), true);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
