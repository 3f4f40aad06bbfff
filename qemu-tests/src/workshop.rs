//! The release engineer and the regional operator: every call of `bundle-tool` stands here.
//!
//! Calls the command as people do, so that what the README tells is what the tests ran. Building and signing a bundle
//! takes a while; it is done once for each release and key and kept beside the images, under a name that holds
//! the digests of what went in.

mod application;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use bundle::approval::Approval;
use bundle::dsse::Envelope;
use bundle::keys::PublicKey;
use serde_json::Value;

use crate::disk::sha256;
use crate::scenario::{Approve, Publish};
use crate::site::{RELEASE_FILES, Release, Site};

/// Channel and region of the test appliance (`images/overlay/etc/flipside/flipside.toml`).
const CHANNEL: &str = "stable";
const REGION: &str = "eu-west";
/// For what the appliance's own releases are made.
const COMPATIBLE: &str = "demo-appliance";
const HARDWARE: &str = "rev-*";
/// When every bundle says it was made. Whoever signs it, it is the same release.
const CREATED: &str = "2026-11-01T00:00:00Z";
/// Names of the keys that are believed (`scripts/build-images.sh`).
const RELEASE_KEY: &str = "release";
const REGION_KEY: &str = "region";

/// zstd level of the test bundles. The default, 19, takes two minutes for each on a busy machine; what the tests look at
/// is the same at any level.
const LEVEL: &str = "3";

/// A release that was put on a server.
#[derive(Debug, Clone)]
pub struct Published {
    /// The release's name.
    pub release: String,
    /// Path of its bundle on the server.
    pub path: String,
    /// Size of the bundle, bytes.
    pub size: u64,
    /// Is it genuine, and for this very appliance? What is not must never be in a slot, whoever approved it.
    pub fit: bool,
}

/// A served tree, and who fills it.
#[derive(Debug)]
pub struct Workshop<'a> {
    site: &'a Site,
    www: PathBuf,
    /// Every document of the region that was made here, by version.
    approvals: BTreeMap<u64, Vec<u8>>,
    /// Who signed the channel index last.
    channel_key: String,
    /// The newest trust root.
    trust: PathBuf,
    /// The key that is believed to sign releases.
    release_key: String,
}

impl<'a> Workshop<'a> {
    /// Fills the tree at `www`.
    ///
    /// # Errors
    /// The folder can not be made.
    pub fn new(site: &'a Site, www: &Path) -> Result<Self> {
        fs::create_dir_all(www)?;
        let trust = site.keys.join("trust.dsse.json");
        let (approvals, release_key) = (BTreeMap::new(), RELEASE_KEY.to_owned());
        Ok(Self { site, www: www.to_owned(), approvals, channel_key: release_key.clone(), trust, release_key })
    }

    /// The served tree.
    #[must_use]
    pub fn www(&self) -> &Path {
        &self.www
    }

    /// Builds and signs the release's bundle if nobody did, and puts it into the channel.
    ///
    /// # Errors
    /// bundle-tool fails; the text holds what it said.
    pub fn publish(&mut self, release: &Release, how: &Publish) -> Result<Published> {
        let key = how.key.as_str();
        let bundle = self.bundle(release, how)?;
        let mut command = Command::new(&self.site.bundle_tool);
        command.arg("publish").arg(&bundle).arg("--root").arg(&self.www).args(["--channel", CHANNEL, "--json"]);
        if how.deltas > 0 {
            command.args(["--level", LEVEL, "--deltas", &how.deltas.to_string()]);
        }
        // A stranger can write what he likes on a web server he took over; bundle-tool wants that said.
        if key != self.channel_key {
            command.arg("--blindly-replace-channel");
        }
        if key == self.release_key {
            command.arg("--trust").arg(&self.trust);
        }
        let told: Value = serde_json::from_str(&self.run(command.arg("--key").arg(self.key(key)?))?)?;
        let url = told.get("url").and_then(Value::as_str).context("publish tells no url")?;
        key.clone_into(&mut self.channel_key);
        let size = fs::metadata(&bundle)?.len();
        if let Some(forger) = &how.forged_with {
            let served = self.www.join(url);
            fs::remove_file(&served)?;
            fs::copy(self.bundle(release, &Publish { key: forger.clone(), ..how.clone() })?, served)?;
        }
        let genuine = key == self.release_key && how.forged_with.is_none();
        let ours = |said: &Option<String>, own: &str| said.as_deref().is_none_or(|said| said == own);
        let fit = genuine && ours(&how.compatible, COMPATIBLE) && ours(&how.hardware, HARDWARE);
        Ok(Published { release: release.name.clone(), path: format!("/{url}"), size, fit })
    }

    /// Lets the region say something about a published release.
    ///
    /// # Errors
    /// bundle-tool fails; the text holds what it said.
    pub fn approve(&mut self, release: &Release, how: &Approve) -> Result<()> {
        let mut command = Command::new(&self.site.bundle_tool);
        command.arg("approve").arg("--root").arg(&self.www).args(["--region", REGION, "--channel", CHANNEL, "--json"]);
        command.args(["--release", &release.version, "--threshold", &format!("{}%", how.percent)]);
        match how.state.as_str() {
            "rolling" => drop(command.arg("--resume")),
            "paused" => drop(command.arg("--pause")),
            "halted" => drop(command.arg("--halt")),
            other => bail!("a rollout is rolling, paused or halted, not {other:?}"),
        }
        for (flag, value) in [("--expires", &how.expires), ("--max-stale", &how.max_stale)] {
            command.args(value.iter().flat_map(|value| [flag, value]));
        }
        if how.raise_epoch {
            command.arg("--raise-epoch");
        }
        if how.key != REGION_KEY {
            command.arg("--blindly-replace-approval");
        }
        self.run(command.arg("--key").arg(self.key(&how.key)?))?;
        // By number, not by version: that begins again with every epoch.
        self.approvals.insert(self.approvals.len() as u64 + 1, fs::read(self.approval())?);
        Ok(())
    }

    /// Shows an older (or the newest) document of the region again.
    ///
    /// # Errors
    /// There was none of that version.
    pub fn serve_approval(&self, version: u64) -> Result<()> {
        let document = self.approvals.get(&version).with_context(|| format!("no approval has version {version}"))?;
        fs::write(self.approval(), document)?;
        Ok(())
    }

    /// Replaces the release key, as `docs/src/releases.md` says.
    ///
    /// # Errors
    /// bundle-tool fails; the text holds what it said.
    pub fn rotate_release_key(&mut self, to: &str) -> Result<()> {
        let tool = || Command::new(&self.site.bundle_tool);
        let (old, new) = (self.public_key(&self.release_key)?, self.new_key(to)?);
        let old = PublicKey::from_pem(&fs::read_to_string(old)?)?.id().to_string();
        let next = self.www.with_file_name("trust-next.dsse.json");
        let mut rotate = tool();
        rotate.args(["trust", "rotate"]).arg(&self.trust).arg("--out").arg(&next);
        rotate.arg("--root-key").arg(self.key("root")?).args(["--remove-release", &old, "--add-release"]).arg(new);
        self.run(&mut rotate)?;
        let mut publish = tool();
        publish.args(["trust", "publish"]).arg(&next).arg("--previous").arg(&self.trust).arg("--root").arg(&self.www);
        self.run(&mut publish)?;
        let channel = self.www.join(format!("channels/{CHANNEL}/channel.dsse.json"));
        let mut sign = tool();
        sign.arg("sign").arg(channel).args(["--expect", "channel", "--trust"]).arg(&self.trust);
        self.run(sign.arg("--key").arg(self.key(to)?))?;
        self.trust = next;
        to.clone_into(&mut self.channel_key);
        to.clone_into(&mut self.release_key);
        Ok(())
    }

    /// Salt of the newest rollout in the region's document.
    ///
    /// # Errors
    /// There is no document, or no rollout in it.
    pub fn salt(&self) -> Result<Vec<u8>> {
        let path = self.approval();
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let approval = Approval::parse(&Envelope::parse(&bytes)?.payload)?;
        let newest = approval.entries.last().context("the region's document holds no rollout")?;
        Ok(newest.salt_bytes().context("the salt is not base64")?.to_vec())
    }

    /// Where the region's document is served.
    fn approval(&self) -> PathBuf {
        self.www.join(format!("approvals/{REGION}/{CHANNEL}.dsse.json"))
    }

    /// The region's document disappears.
    ///
    /// # Errors
    /// There is none.
    pub fn withdraw_approval(&self) -> Result<()> {
        let path = self.approval();
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    fn key(&self, name: &str) -> Result<PathBuf> {
        let path = self.site.keys.join(format!("{name}.pem"));
        if !path.is_file() {
            bail!("no test key {}: `make images` makes it", path.display());
        }
        Ok(path)
    }

    fn public_key(&self, name: &str) -> Result<PathBuf> {
        self.key(name).map(|path| path.with_extension("pub.pem"))
    }

    /// A key that the images do not come with; made once, so that the bundles it signed stay good.
    fn new_key(&self, name: &str) -> Result<PathBuf> {
        let lock = File::create(self.site.keys.join("lock"))?;
        lock.lock().context("lock the test keys")?;
        if self.key(name).is_err() {
            self.run(Command::new(&self.site.bundle_tool).args(["keygen", "--out"]).arg(self.site.keys.join(name)))?;
        }
        self.public_key(name)
    }

    /// The signed bundle, from the cache or built now. One builder at a time: zstd uses all processors anyway.
    fn bundle(&self, release: &Release, how: &Publish) -> Result<PathBuf> {
        let cache = self.site.images.join("bundles");
        fs::create_dir_all(&cache)?;
        let lock = File::create(cache.join("lock"))?;
        lock.lock().context("lock the bundle cache")?;
        let key = self.key(&how.key)?;
        let mut text = recipe_of(release, how);
        if how.application {
            let tar = cache.join(format!("application-{}.tar", release.version));
            application::write(&release.version, File::create(&tar)?)?;
            text.push_str(&image("app", "tree", &tar));
            // The bundle is named after this text.
            text.push_str(&format!("# sha256 {}\n", sha256(&mut File::open(&tar)?)?));
        }
        let name = format!("{}-{}.bundle", release.name, self.fingerprint(release, &text, &key)?);
        let bundle = cache.join(&name);
        if bundle.is_file() {
            return Ok(bundle);
        }
        let unfinished = cache.join(format!("{name}.new"));
        let recipe = cache.join(format!("{name}.toml"));
        fs::write(&recipe, text)?;
        self.run(
            Command::new(&self.site.bundle_tool)
                .args(["build", "--level", LEVEL])
                .arg(&recipe)
                .arg("--out")
                .arg(&unfinished),
        )?;
        self.run(Command::new(&self.site.bundle_tool).arg("sign").arg(&unfinished).arg("--key").arg(&key))?;
        fs::rename(&unfinished, &bundle)?;
        Ok(bundle)
    }

    /// Digest over everything that shapes the bundle: images, recipe, key, and the tool itself.
    fn fingerprint(&self, release: &Release, recipe: &str, key: &Path) -> Result<String> {
        let mut all = format!("{LEVEL}{recipe}");
        for file in RELEASE_FILES {
            all.push_str(&release.sha256(file)?);
        }
        all.push_str(&sha256(&mut File::open(key)?)?);
        all.push_str(&sha256(&mut File::open(&self.site.bundle_tool)?)?);
        let digest = sha256(&mut all.as_bytes())?;
        Ok(digest.get(..16).unwrap_or(&digest).to_owned())
    }

    /// Runs bundle-tool; returns what it printed.
    fn run(&self, command: &mut Command) -> Result<String> {
        let output = command.output().with_context(|| format!("run {}", self.site.bundle_tool.display()))?;
        if !output.status.success() {
            let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
            bail!("bundle-tool {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// What `bundle-tool build` is told about a release of the appliance.
fn recipe_of(release: &Release, how: &Publish) -> String {
    let image = |name: &str, kind: &str, file: &str| image(name, kind, &release.image(file));
    format!(
        "created = \"{CREATED}\"\ncompatible = {:?}\nhardware = [{:?}]\nversion = {:?}\ncounter = {}\n{}{}{}",
        how.compatible.as_deref().unwrap_or(COMPATIBLE),
        how.hardware.as_deref().unwrap_or(HARDWARE),
        release.version,
        release.counter,
        image("rootfs", "block", "rootfs.img"),
        image("kernel", "file", "vmlinuz"),
        image("initrd", "file", "initrd.img"),
    )
}

fn image(name: &str, kind: &str, path: &Path) -> String {
    format!("\n[[image]]\nname = \"{name}\"\nkind = \"{kind}\"\npath = {path:?}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_toml_and_names_three_images() {
        let release = Release {
            name: "v2".into(),
            version: "2.0.0".into(),
            counter: 2,
            what: "good".into(),
            dir: "/r/v \"2".into(),
        };
        let recipe: toml::Table = toml::from_str(&recipe_of(&release, &Publish::of("v2"))).unwrap();
        let images = recipe["image"].as_array().unwrap();
        assert_eq!(images.len(), 3);
        assert_eq!(images[0]["path"].as_str(), Some("/r/v \"2/rootfs.img"));
    }
}
