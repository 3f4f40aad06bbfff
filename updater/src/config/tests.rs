//! Layers on a disk, as the device has them, under a temporary root.

use std::fs;
use std::path::Path;

use super::*;

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

const COMPLETE: &str = r#"
compatible = "demo"
mode = "apply"
region = "eu"
[source]
url = "http://10.0.2.2:8000/"
[slots.a]
rootfs = { kind = "block", device = "PARTLABEL=root-a" }
[slots.b]
rootfs = { kind = "block", device = "PARTLABEL=root-b" }
"#;

#[test]
fn without_any_file_nothing_happens_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let loaded = load(root.path());
    assert_eq!(loaded.config.mode, Mode::Off);
    assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
    assert_eq!(loaded.config.boot.tries, 3);
}

#[test]
fn later_layers_win_and_the_origin_is_kept() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "usr/lib/flipside/flipside.toml", COMPLETE);
    write(root.path(), "etc/flipside/flipside.toml", "channel = \"beta\"\n[boot]\ntries = 2\n");
    write(root.path(), "usr/lib/flipside/flipside.d/10-x.toml", "channel = \"hidden\"\n");
    write(root.path(), "etc/flipside/flipside.d/10-x.toml", "region = \"us\"\n");
    write(root.path(), "usr/lib/flipside/flipside.d/20-y.toml", "channel = \"nightly\"\n");
    let loaded = load(root.path());
    assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
    let config = &loaded.config;
    assert_eq!((config.channel.as_str(), config.region.as_deref(), config.boot.tries), ("nightly", Some("us"), 2));
    assert_eq!(config.source.url.as_deref(), Some("http://10.0.2.2:8000"));
    assert_eq!(config.approval.urls, ["http://10.0.2.2:8000"]);
    assert_eq!(loaded.origins["channel"], Path::new("/usr/lib/flipside/flipside.d/20-y.toml"));
    assert_eq!(loaded.origins["region"], Path::new("/etc/flipside/flipside.d/10-x.toml"));
    assert_eq!(loaded.origins["slots.a.rootfs.device"], Path::new("/usr/lib/flipside/flipside.toml"));
}

#[test]
fn a_broken_fragment_is_skipped_and_named_and_the_rest_works() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "usr/lib/flipside/flipside.toml", COMPLETE);
    write(root.path(), "etc/flipside/flipside.toml", "channel = \n");
    write(root.path(), "etc/flipside/flipside.d/a.toml", "[boot]\ntries = 0\n");
    write(root.path(), "etc/flipside/flipside.d/b.toml", "channnel = \"typo\"\nchannel = \"beta\"\n");
    let loaded = load(root.path());
    assert_eq!(loaded.config.channel, "beta");
    assert_eq!(loaded.config.mode, Mode::Apply);
    let texts: Vec<String> =
        loaded.findings.iter().map(|f| format!("{}: {}", f.file.as_ref().unwrap().display(), f.message)).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(texts[0].starts_with("/etc/flipside/flipside.toml: skipped: "), "{texts:?}");
    assert!(texts[1].contains("tries"), "{texts:?}");
    assert!(texts[2].contains("unknown key \"channnel\""), "{texts:?}");
}

#[test]
fn a_link_to_dev_null_switches_a_fragment_off() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "usr/lib/flipside/flipside.d/a.toml", "channel = \"x\"\n");
    fs::create_dir_all(root.path().join("etc/flipside/flipside.d")).unwrap();
    std::os::unix::fs::symlink("/dev/null", root.path().join("etc/flipside/flipside.d/a.toml")).unwrap();
    let loaded = load(root.path());
    assert_eq!(loaded.config.channel, "stable");
    assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
}

#[test]
fn what_the_mode_needs_is_said() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "etc/flipside/flipside.toml", "mode = \"stage\"\n");
    let loaded = load(root.path());
    let all: String = loaded.findings.iter().map(|f| f.message.clone() + "\n").collect();
    for part in ["source.url", "compatible", "region", "slots"] {
        assert!(all.contains(part), "{part} in {all}");
    }
}

#[test]
fn half_a_slot_map_is_none() {
    for slots in [
        "[slots.a]\nx = { kind = \"file\", path = \"/x\" }\n",
        "[slots.a]\nx = { kind = \"file\", path = \"/x\" }\n[slots.b]\nx = { kind = \"file\", path = \"/x\" }\n",
        "[slots.a]\nx = { kind = \"tree\", path = \"/s\" }\n[slots.b]\nx = { kind = \"tree\", path = \"/s/b\" }\n",
        "[slots.a]\nx = { kind = \"tree\", path = \"/s/a\" }\n[slots.b]\nx = { kind = \"tree\", path = \"/s/../b\" }\n",
        "[slots.a]\nx = { kind = \"file\" }\n[slots.b]\nx = { kind = \"file\", path = \"/x\" }\n",
    ] {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "etc/flipside/flipside.toml", slots);
        let loaded = load(root.path());
        assert_eq!(loaded.config.slots, None, "{slots}");
        assert!(!loaded.findings.is_empty());
    }
}

#[test]
fn windows_and_pins_reach_the_policy() {
    let root = tempfile::tempdir().unwrap();
    let text = "pin = \"2.4.1\"\n[[windows.reboot]]\nstart = \"01:00\"\nminutes = 90\n[health]\nsoak_seconds = 3\n";
    write(root.path(), "etc/flipside/flipside.toml", text);
    let policy = load(root.path()).config.policy();
    assert!(policy.pin.is_some());
    assert_eq!((policy.reboot_window[0].days.len(), policy.reboot_window[0].minutes), (7, 90));
    assert!(policy.download_window.is_empty());
    assert_eq!(policy.health.soak.as_secs(), 3);
}

#[test]
fn the_device_id_falls_back_to_one_derived_from_the_machine_id() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "etc/machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda4\n");
    write(root.path(), "usr/lib/flipside/build-time", "2026-11-20T10:00:00Z\n");
    write(root.path(), "usr/lib/flipside/counter", "57\n");
    let device = load(root.path()).config.device(root.path());
    // systemd-id128 machine-id --app-specific=fbffe0575b1243faa8b1b4eacd51a71c
    assert_eq!(device.id, "08ee739828b4442b91d68d0959da06dc");
    assert_eq!(device.build_time.to_string(), "2026-11-20T10:00:00Z");
    assert_eq!(device.image_counter, Some(57));
    for (text, version) in [
        ("ID=x\nVERSION_ID=12\n", None),
        ("ID=x\nIMAGE_VERSION=\"1.4.0\"\n", Some("1.4.0")),
        ("IMAGE_VERSION=33_rc\n", Some("33_rc")),
        ("IMAGE_VERSION='\u{1b}[2J'\n", None),
        ("IMAGE_VERSION=\n", None),
    ] {
        write(root.path(), "usr/lib/os-release", text);
        assert_eq!(
            RunningImage::of(root.path()),
            RunningImage { version: version.map(str::to_owned), counter: Some(57) },
            "{text:?}"
        );
    }
    write(root.path(), "etc/serial", "dev-0001\nrest\n");
    write(root.path(), "etc/flipside/flipside.toml", "[device]\nid_file = \"/etc/serial\"\n");
    assert_eq!(load(root.path()).config.device(root.path()).id, "dev-0001");
}

/// The shipped defaults: as they are, and with every comment taken off, so that the documentation can not rot.
#[test]
fn the_shipped_file_is_right_with_and_without_its_comments() {
    let shipped = include_str!("../../../systemd/usr/lib/flipside/flipside.toml");
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "usr/lib/flipside/flipside.toml", shipped);
    assert!(load(root.path()).findings.is_empty());
    let uncommented: String = shipped
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
                .unwrap_or(line)
        })
        .map(|line| line.to_owned() + "\n")
        .collect();
    write(root.path(), "usr/lib/flipside/flipside.toml", &uncommented);
    let loaded = load(root.path());
    assert!(loaded.findings.is_empty(), "{:?}\n{uncommented}", loaded.findings);
    assert!(loaded.values.len() > 30, "{}", loaded.values.len());
}

#[test]
fn network_checks_decide_only_where_it_is_said() {
    for (said, required) in
        [("", false), ("network_checks = \"advisory\"", false), ("network_checks = \"required\"", true)]
    {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "etc/flipside/flipside.toml", &format!("{COMPLETE}\n[health]\n{said}\n"));
        let loaded = load(root.path());
        assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
        assert_eq!(loaded.config.policy().health.network_required, required, "{said}");
    }
}
