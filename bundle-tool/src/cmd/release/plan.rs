//! What this release is going to be, settled before the first gate runs: hours later is too late for a typing error.

use anyhow::{Context as _, Result};
use bundle::build::{Settings, Source};
use bundle::channel::Channel;
use bundle::digest::Digest;
use bundle::keys::{KeySet, PrivateKey};
use bundle::manifest::Manifest;

use super::state::{Identity, State};
use super::{Args, check_skips, inputs};
use crate::cmd::build::build_time;
use crate::cmd::publish;
use crate::files;
use crate::gate::Gate;
use crate::recipe::Recipe;
use crate::webroot::{WebRoot, ensure_channel};

/// A release under way.
pub struct Plan {
    /// For people.
    pub version: semver::Version,
    /// For machines.
    pub counter: u64,
    /// The manifest, without images and results.
    pub manifest: Manifest,
    /// Its gates, in order.
    pub gates: Vec<Gate>,
    /// Its images.
    pub sources: Vec<Source>,
    /// Settings of the build.
    pub settings: Settings,
    /// Keys that sign.
    pub keys: Vec<PrivateKey>,
    /// Whose signatures count, and how many of them; none when nobody was named.
    pub believed: Option<(KeySet, usize)>,
    /// The channel as it is, where one is named and exists.
    pub channel: Option<Channel>,
    /// The commit it is made from.
    pub revision: Option<inputs::Revision>,
    /// What is done.
    pub state: State,
}

impl Plan {
    /// Reads and checks everything that is there already.
    pub fn make(args: &Args) -> Result<Self> {
        let text = std::fs::read_to_string(&args.recipe);
        let text = text.with_context(|| format!("reading {}", args.recipe.display()))?;
        let recipe = Recipe::parse(&text).with_context(|| format!("in {}", args.recipe.display()))?;
        let gates = recipe.gates()?;
        check_skips(args, &gates)?;
        let keys = args.key.iter().map(|path| files::private_key(path)).collect::<Result<Vec<_>>>()?;
        let believed = match (&args.trust, keys.len()) {
            (None, 0) => None,
            // Without a trust root everybody who was asked to sign must have signed.
            (None, all) => Some((publish::believed(None, &keys)?.0, all)),
            (Some(trust), _) => Some(publish::believed(Some(trust), &keys)?),
        };
        let mut manifest = recipe.manifest(build_time()?);
        manifest.version = args.release_version.clone().unwrap_or(manifest.version);
        manifest.counter = args.counter.unwrap_or(manifest.counter);
        recipe.check_plan(&manifest).with_context(|| args.recipe.display().to_string())?;
        let (version, counter) = (manifest.version.clone(), manifest.counter);
        let revision = inputs::Revision::of(args.folder());
        let source = revision.as_ref().map(inputs::Revision::exact);
        let identity = Identity { recipe: Digest::of(text.as_bytes()), version: version.clone(), counter, source };
        let state = State::open(&args.state(), identity, manifest.created, args.fresh)?;
        manifest.created = state.created();
        let channel = channel(args, believed.as_ref())?;
        if let Some(channel) = &channel {
            publish::free(channel, &version, counter, state.output("package"))?;
        }
        let mut settings = recipe.settings()?;
        settings.level = args.level.unwrap_or(settings.level);
        settings.threads = args.threads.unwrap_or(settings.threads);
        let sources = recipe.sources(args.folder())?;
        Ok(Self { version, counter, manifest, gates, sources, settings, keys, believed, channel, revision, state })
    }
}

fn channel(args: &Args, believed: Option<&(KeySet, usize)>) -> Result<Option<Channel>> {
    let (Some(root), Some(name), Some((keys, threshold))) = (&args.root, &args.channel, believed) else {
        return Ok(None);
    };
    ensure_channel(name)?;
    let web = WebRoot::new(root);
    let channel = publish::load(&web.channel(name), name, keys, *threshold)?;
    if channel.is_none() {
        publish::ensure_not_lost(&web, name)?;
    }
    Ok(channel)
}
