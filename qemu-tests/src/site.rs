//! Finds what the tests are made of: images, keys, bundle-tool, and the host's tools.
//!
//! Anything missing is an error that names the make target which brings it. A VM test that skips itself because
//! nothing was built is a green light that means nothing.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::disk::sha256;
use crate::qemu::{Firmware, Spec};

/// Programs of the host, and the Debian package of each.
const TOOLS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("mdir", "mtools"),
    ("debugfs", "e2fsprogs"),
    ("setpriv", "util-linux"),
];

/// What a release is made of.
pub const RELEASE_FILES: [&str; 3] = ["rootfs.img", "vmlinuz", "initrd.img"];

/// One release of the appliance, as `images/build.sh` made it.
#[derive(Debug, Clone, Deserialize)]
pub struct Release {
    /// Name of its folder.
    pub name: String,
    /// For people.
    pub version: String,
    /// For machines.
    pub counter: u64,
    /// One line on what it is; bad ones start with `bad:`.
    pub what: String,
    /// Where its images are.
    #[serde(skip)]
    pub dir: PathBuf,
}

impl Release {
    /// The image file of this name: `rootfs.img`, `vmlinuz`, `initrd.img`.
    #[must_use]
    pub fn image(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// SHA-256 of an image, lower-case hex. Hashed once: images do not change while tests run.
    ///
    /// # Errors
    /// Not readable.
    pub fn sha256(&self, file: &str) -> Result<String> {
        static KNOWN: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
        let path = self.image(file);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = known.get(&path) {
            return Ok(digest.clone());
        }
        let digest = sha256(&mut File::open(&path).with_context(|| format!("open {}", path.display()))?)?;
        known.insert(path, digest.clone());
        Ok(digest)
    }

    /// Was it made to fail?
    #[must_use]
    pub fn bad(&self) -> bool {
        self.what.starts_with("bad:")
    }
}

/// Where everything is, for one variant of the appliance.
#[derive(Debug, Clone)]
pub struct Site {
    /// `systemd-boot`, `grub`, `uboot`.
    pub variant: String,
    /// Folder of the variant's images.
    pub images: PathBuf,
    /// Folder of the test keys and the trust root.
    pub keys: PathBuf,
    /// The command.
    pub bundle_tool: PathBuf,
    /// Where evidence of failures goes.
    pub evidence: PathBuf,
    releases: BTreeMap<String, Release>,
}

impl Site {
    /// Looks everything up: `FLIPSIDE_IMAGES` and `FLIPSIDE_BUNDLE_TOOL`, else under `target/` of the workspace.
    ///
    /// # Errors
    /// Something is missing; the text says which make target brings it.
    pub fn find(variant: &str) -> Result<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let path = |name: &str, default: PathBuf| env::var_os(name).map_or(default, PathBuf::from);
        let root = path("FLIPSIDE_IMAGES", target.join("images"));
        let bundle_tool = path("FLIPSIDE_BUNDLE_TOOL", target.join("release/bundle-tool"));
        let evidence = path("FLIPSIDE_EVIDENCE", target.join("vm-evidence"));
        Self::at(variant, &root, bundle_tool, evidence)
    }

    fn at(variant: &str, root: &Path, bundle_tool: PathBuf, evidence: PathBuf) -> Result<Self> {
        for (tool, package) in TOOLS {
            if Command::new(tool).arg("--version").output().is_err() {
                bail!("{tool} is missing (Debian package {package}): `make vm-test` installs what the VM tests need");
            }
        }
        let (images, keys) = (root.join(variant), root.join("keys"));
        if !images.join("disk.img").is_file() {
            bail!("no appliance at {}: build it with `make images VARIANT={variant}`", images.display());
        }
        if !bundle_tool.is_file() {
            bail!("no bundle-tool at {}: build it with `make tools`", bundle_tool.display());
        }
        if !keys.join("trust.dsse.json").is_file() {
            bail!("no test keys at {}: `make images` makes them", keys.display());
        }
        let releases = read_releases(&images.join("releases"))?;
        Ok(Self { variant: variant.into(), images, keys, bundle_tool, evidence, releases })
    }

    /// The disk as it leaves the factory: v1 in slot a.
    #[must_use]
    pub fn factory_disk(&self) -> PathBuf {
        self.images.join("disk.img")
    }

    /// What starts this variant's boot loader.
    #[must_use]
    pub fn firmware(&self) -> Firmware {
        if self.variant == "uboot" { Firmware::UBoot } else { Firmware::Uefi }
    }

    /// A machine of this variant.
    #[must_use]
    pub fn spec(&self, name: &str, dir: &Path, base: &Path) -> Spec {
        Spec { firmware: self.firmware(), ..Spec::new(name, dir, base) }
    }

    /// A release by its name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn release(&self, name: &str) -> Result<&Release> {
        self.releases.get(name).with_context(|| {
            let known: Vec<_> = self.releases.keys().map(String::as_str).collect();
            format!("no release {name}; there are {}", known.join(", "))
        })
    }

    /// All releases.
    pub fn releases(&self) -> impl Iterator<Item = &Release> {
        self.releases.values()
    }
}

fn read_releases(folder: &Path) -> Result<BTreeMap<String, Release>> {
    let mut releases = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("no releases in {}: `make images`", folder.display()))? {
        let dir = entry?.path();
        let Ok(text) = fs::read(dir.join("release.json")) else { continue };
        let mut release: Release =
            serde_json::from_slice(&text).with_context(|| format!("{}/release.json", dir.display()))?;
        release.dir = dir;
        releases.insert(release.name.clone(), release);
    }
    if releases.is_empty() {
        bail!("no release in {}: `make images` makes them", folder.display());
    }
    Ok(releases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_names_its_make_target() {
        if !crate::tools::present(&TOOLS.iter().map(|(tool, _)| *tool).collect::<Vec<_>>()) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let find =
            || Site::at("systemd-boot", root, root.join("bundle-tool"), root.join("e")).map_err(|e| e.to_string());
        assert!(find().unwrap_err().contains("make images VARIANT=systemd-boot"));
        fs::create_dir_all(root.join("systemd-boot/releases/v2")).unwrap();
        fs::write(root.join("systemd-boot/disk.img"), "").unwrap();
        assert!(find().unwrap_err().contains("make tools"));
        fs::write(root.join("bundle-tool"), "").unwrap();
        assert!(find().unwrap_err().contains("make images"));
        fs::create_dir(root.join("keys")).unwrap();
        fs::write(root.join("keys/trust.dsse.json"), "").unwrap();
        let json = r#"{"name":"v2","version":"2.0.0","counter":2,"what":"bad: x"}"#;
        fs::write(root.join("systemd-boot/releases/v2/release.json"), json).unwrap();
        let site = find().unwrap();
        assert!(site.release("v2").unwrap().bad());
        assert!(site.release("v9").unwrap_err().to_string().contains("there are v2"));
    }
}
