//! `bundle.toml`: what goes into a bundle. Parsing only; files are read elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bundle::build::{ChunkChoice, ChunkMethod, Settings, Source};
use bundle::manifest::{self, ImageKind, Manifest};
use jiff::Timestamp;
use serde::Deserialize;

use crate::gate::{self, Gate, GateRecipe};
use crate::text;

/// A recipe. Unknown keys are errors: a mistyped `rollback_flor` must not pass silently.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    compatible: String,
    version: semver::Version,
    counter: u64,
    #[serde(default)]
    hardware: Vec<String>,
    #[serde(default)]
    rollback_floor: u64,
    from: Option<FromRange>,
    state_schema: Option<SchemaRange>,
    created: Option<Timestamp>,
    #[serde(default)]
    hooks: Vec<String>,
    #[serde(default)]
    attestations: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    crit: Vec<String>,
    image: Vec<ImageRecipe>,
    #[serde(default)]
    gate: Vec<GateRecipe>,
    #[serde(default)]
    build: BuildRecipe,
}

/// Counters it may be installed over. As in the manifest; but there unknown fields are for newer writers, here they are
/// typing errors.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct FromRange {
    #[serde(default)]
    min_counter: u64,
    max_counter: Option<u64>,
}

/// Data formats it can read.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct SchemaRange {
    min: u32,
    max: u32,
}

/// The attestation under which a release records its gates; a recipe must not write it by hand.
pub const GATES: &str = "gates";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageRecipe {
    name: String,
    kind: ImageKind,
    path: PathBuf,
    #[serde(default)]
    chunks: ChunkRecipe,
    chunk_size: Option<String>,
}

/// How chunk addresses are cut: `"auto"`, `"none"`, `"fastcdc"` (32 KiB) or `"blocks"` (4 KiB); `chunk_size` says another
/// size.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ChunkRecipe {
    #[default]
    Auto,
    None,
    FastCdc,
    Blocks,
}

impl ImageRecipe {
    /// How its chunk addresses are cut.
    fn chunks(&self) -> Result<ChunkChoice> {
        let size = self.chunk_size.as_deref().map(text::size).transpose()?;
        let method = match (self.chunks, size) {
            (ChunkRecipe::Auto, None) => return Ok(ChunkChoice::Auto),
            (ChunkRecipe::None, None) => return Ok(ChunkChoice::None),
            (ChunkRecipe::Auto | ChunkRecipe::None, Some(_)) => {
                anyhow::bail!("image {}: chunk_size goes with chunks = \"fastcdc\" or \"blocks\"", self.name)
            }
            (ChunkRecipe::FastCdc, size) => ChunkMethod::FastCdc(size.unwrap_or(32 << 10)),
            (ChunkRecipe::Blocks, size) => ChunkMethod::Blocks(size.unwrap_or(4 << 10)),
        };
        // A device cuts the image it runs in the same way, or has no use for the addresses.
        anyhow::ensure!(
            method.is_cut_by_devices(),
            "image {}: chunk_size is 256 bytes to 1 MiB for fastcdc, 512 bytes to 4 MiB for blocks",
            self.name
        );
        Ok(ChunkChoice::Cut(method))
    }
}

/// Settings of the build; the command line wins over them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BuildRecipe {
    level: Option<i32>,
    frame_size: Option<String>,
    threads: Option<usize>,
}

impl Recipe {
    /// Reads `bundle.toml`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Of the text of a `bundle.toml`.
    pub fn parse(text: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text)?;
        anyhow::ensure!(
            !recipe.attestations.contains_key(GATES),
            "attestations.{GATES} is written by `bundle-tool release`, which runs the gates"
        );
        // Also for commands that run none: a mistake is found when it is made, not on the day of the release.
        recipe.gates()?;
        recipe.sources(Path::new(""))?;
        Ok(recipe)
    }

    /// Checks a manifest of this recipe, whatever the command line changed in it: what is wrong is better known before the
    /// work than after it.
    pub fn check_plan(&self, manifest: &Manifest) -> Result<()> {
        Ok(manifest.check_plan(self.image.iter().map(|image| image.name.as_str()))?)
    }

    /// The gates, in the order in which they run.
    pub fn gates(&self) -> Result<Vec<Gate>> {
        gate::gates(&self.gate)
    }

    /// The manifest, images still missing. `now` is used when neither recipe nor `SOURCE_DATE_EPOCH` names a time.
    pub fn manifest(&self, now: Timestamp) -> Manifest {
        Manifest {
            compatible: self.compatible.clone(),
            hardware: self.hardware.clone(),
            version: self.version.clone(),
            counter: self.counter,
            rollback_floor: self.rollback_floor,
            from: self
                .from
                .map(|from| manifest::FromRange { min_counter: from.min_counter, max_counter: from.max_counter }),
            state_schema: self.state_schema.map(|schema| manifest::SchemaRange { min: schema.min, max: schema.max }),
            created: self.created.unwrap_or(now),
            images: Vec::new(),
            hooks: self.hooks.clone(),
            attestations: self.attestations.clone(),
            crit: self.crit.clone(),
        }
    }

    /// The images, their paths taken from the folder of the recipe.
    pub fn sources(&self, folder: &Path) -> Result<Vec<Source>> {
        let source = |image: &ImageRecipe| {
            let chunks = image.chunks()?;
            Ok(Source { name: image.name.clone(), kind: image.kind, path: folder.join(&image.path), chunks })
        };
        self.image.iter().map(source).collect()
    }

    /// Settings of the build.
    pub fn settings(&self) -> Result<Settings> {
        let default = Settings::default();
        let frame_size = self.build.frame_size.as_deref().map(text::size).transpose()?;
        Ok(Settings {
            level: self.build.level.unwrap_or(default.level),
            frame_size: frame_size.unwrap_or(default.frame_size),
            threads: self.build.threads.unwrap_or(default.threads),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
compatible = "demo"
version = "2.4.1"
counter = 57
hardware = ["rev-*"]
rollback_floor = 50
from = { min_counter = 40 }
state_schema = { min = 1, max = 2 }
created = "2026-11-20T00:00:00Z"
hooks = ["migrate"]
crit = ["from"]
[[image]]
name = "rootfs"
kind = "block"
path = "rootfs.ext4"
[build]
level = 3
frame_size = "256KiB"
[attestations]
revision = "abc"
tests = { passed = 10, total = 10 }
"#;

    #[test]
    fn a_full_recipe_is_read() {
        let recipe: Recipe = toml::from_str(FULL).unwrap();
        let manifest = recipe.manifest(Timestamp::UNIX_EPOCH);
        assert_eq!((manifest.counter, manifest.created.to_string().as_str()), (57, "2026-11-20T00:00:00Z"));
        assert_eq!(manifest.attestations["tests"]["passed"], 10);
        assert_eq!(recipe.settings().unwrap().frame_size, 256 << 10);
        assert_eq!(recipe.sources(Path::new("/x")).unwrap()[0].path, Path::new("/x/rootfs.ext4"));
    }

    #[test]
    fn chunks_have_the_size_that_was_asked_for_within_what_devices_cut() {
        let cut = |lines: &str| {
            let recipe = Recipe::parse(&FULL.replace("path = \"rootfs.ext4\"", &format!("path = \"x\"\n{lines}")))?;
            Ok::<_, anyhow::Error>(recipe.sources(Path::new(""))?[0].chunks)
        };
        assert_eq!(cut("").unwrap(), ChunkChoice::Auto);
        assert_eq!(cut("chunks = \"fastcdc\"").unwrap(), ChunkChoice::Cut(ChunkMethod::FastCdc(32 << 10)));
        let small = cut("chunks = \"fastcdc\"\nchunk_size = \"8KiB\"").unwrap();
        assert_eq!(small, ChunkChoice::Cut(ChunkMethod::FastCdc(8 << 10)));
        let blocks = cut("chunks = \"blocks\"\nchunk_size = \"16KiB\"").unwrap();
        assert_eq!(blocks, ChunkChoice::Cut(ChunkMethod::Blocks(16 << 10)));
        for bad in [
            "chunk_size = \"8KiB\"",
            "chunks = \"none\"\nchunk_size = \"8KiB\"",
            "chunks = \"fastcdc\"\nchunk_size = \"2MiB\"",
            "chunks = \"blocks\"\nchunk_size = \"0\"",
            "chunks = \"blocks\"\nchunk_size = \"big\"",
        ] {
            assert!(cut(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mistyped_key_is_an_error() {
        for (from, to) in
            [("hooks", "hoocks"), ("kind", "knid"), ("level", "lvl"), ("min_counter", "min"), ("max = 2", "mx = 2")]
        {
            assert!(Recipe::parse(&FULL.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn what_the_manifest_would_refuse_is_refused_before_anything_is_built() {
        let good = Recipe::parse(FULL).unwrap();
        assert!(good.check_plan(&good.manifest(Timestamp::UNIX_EPOCH)).is_ok());
        for (from, to, says) in [
            ("rollback_floor = 50", "rollback_floor = 58", "floor 58 above counter 57"),
            ("min_counter = 40", "min_counter = 60", "min above"),
            ("\"rootfs\"", "\"../rootfs\"", "image name"),
            ("\"migrate\"", "\"migrate it\"", "hooks"),
            ("crit = [\"from\"]", "crit = [\"rollback_flor\"]", "rollback_flor"),
            ("min = 1, max = 2", "min = 3, max = 2", "state_schema"),
        ] {
            let recipe = Recipe::parse(&FULL.replace(from, to)).unwrap();
            let error = recipe.check_plan(&recipe.manifest(Timestamp::UNIX_EPOCH)).unwrap_err();
            assert!(format!("{error:#}").contains(says), "{to}: {error:#}");
        }
    }
}
