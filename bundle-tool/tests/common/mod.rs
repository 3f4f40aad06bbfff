//! A workshop for the tests: a scratch folder with keys, a trust root and a recipe, and the command to run in it.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A scratch folder with `keys/{root,release,eu,stranger}.pem`, `trust.dsse.json`, two images and `bundle.toml`.
pub struct Workshop {
    dir: tempfile::TempDir,
}

impl Workshop {
    pub fn new() -> Self {
        let workshop = Self { dir: tempfile::tempdir().unwrap() };
        for key in ["root", "release", "eu", "stranger"] {
            workshop.ok(&["keygen", "--out", &format!("keys/{key}")]);
        }
        workshop.ok(&[
            "trust",
            "init",
            "--root-key",
            "keys/root.pem",
            "--release",
            "keys/release.pub.pem",
            "--region",
            "eu-west=keys/eu.pub.pem",
            "--out",
            "trust.dsse.json",
        ]);
        workshop.write("rootfs.img", &image(3_000_000, 1));
        workshop.write("kernel", &image(100_001, 2));
        workshop.write("bundle.toml", RECIPE.as_bytes());
        workshop
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Writes a file of that many MiB in small pieces: what this process holds is counted for its children too (the
    /// kernel takes over the peak of the address space they are born in).
    pub fn write_big(&self, name: &str, mib: u64) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.path(name)).unwrap();
        (0..mib).for_each(|n| file.write_all(&image(1 << 20, n)).unwrap());
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_bundle-tool"))
            .args(args)
            .current_dir(self.folder())
            .env("SOURCE_DATE_EPOCH", "1790000000")
            .output()
            .unwrap()
    }

    /// Runs what must succeed; gives standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "bundle-tool {}\n{stderr}", args.join(" "));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Runs what must succeed with `--json`.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }

    /// Runs what must be refused with that reason code (exit code 3); gives standard error.
    pub fn refused(&self, args: &[&str], reason: &str) -> String {
        let out = self.run(args);
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(3), "bundle-tool {}\n{stderr}", args.join(" "));
        assert!(stderr.contains(&format!("refused: {reason} ")), "{reason} expected\n{stderr}");
        stderr
    }

    /// Runs what must fail without being a refusal (exit code 1); gives standard error.
    pub fn fails(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(1), "bundle-tool {}", args.join(" "));
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    /// Builds and signs a release.
    pub fn release(&self, out: &str, version: &str, counter: u64) -> serde_json::Value {
        let facts = self.json(&[
            "build",
            "bundle.toml",
            "--out",
            out,
            "--release-version",
            version,
            "--counter",
            &counter.to_string(),
            "--level",
            "3",
            "--quiet",
        ]);
        self.ok(&["sign", out, "--key", "keys/release.pem"]);
        facts
    }

    /// Publishes a signed bundle on `web`, channel `stable`.
    pub fn publish(&self, bundle: &str) -> serde_json::Value {
        self.json(&["publish", bundle, "--root", "web", "--channel", "stable", "--key", "keys/release.pem"])
    }

    /// Another program in this folder; none when it is not installed.
    pub fn other(&self, program: &str, args: &[&str]) -> Option<Output> {
        match Command::new(program).args(args).current_dir(self.folder()).output() {
            Ok(out) => Some(out),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("{program}: {error}"),
        }
    }
}

/// The recipe of the workshop.
pub const RECIPE: &str = r#"
compatible = "demo-appliance"
version = "1.0.0"
counter = 1
hardware = ["rev-*"]
[[image]]
name = "rootfs"
kind = "block"
path = "rootfs.img"
chunks = "fastcdc"
[[image]]
name = "kernel"
kind = "file"
path = "kernel"
chunks = "blocks"
[build]
frame_size = "256KiB"
"#;

/// Text, noise and zeros.
pub fn image(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let run = (state >> 40) as usize % 9000 + 1;
        match state >> 62 {
            0 => out.extend(std::iter::repeat_n(0, run)),
            1 => out.extend((0..run as u64).map(|n| (state.wrapping_mul(n * 2 + 1) >> 56) as u8)),
            _ => out.extend(b"the quick brown fox ".iter().cycle().take(run)),
        }
    }
    out.truncate(len);
    out
}

/// Says loudly that a test could not do its work: silence would look like success. With `FLIPSIDE_NO_SKIP` set, as
/// `make unit` does, that is a failure.
pub fn skipped(what: &str) {
    assert!(std::env::var_os("FLIPSIDE_NO_SKIP").is_none_or(|set| set.is_empty()), "skipped: {what}");
    say_skipped(what);
}

/// The same for what only root can test: that nobody is root is no failure.
pub fn skipped_without_root(what: &str) {
    assert!(!nix::unistd::Uid::effective().is_root(), "skipped: {what}");
    say_skipped(what);
}

fn say_skipped(what: &str) {
    use std::io::Write as _;
    // Not by eprintln!, which the test harness keeps to itself when a test passes.
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "\n*** SKIPPED: {what} ***\n").unwrap();
}
