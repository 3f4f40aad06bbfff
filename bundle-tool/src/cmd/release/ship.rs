//! The second half of a release: build the bundle, sign it, publish it. Each step looks first whether it is done.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::manifest::MANIFEST_TYPE;
use jiff::Timestamp;

use super::plan::Plan;
use super::state::{Outcome, Step};
use super::{Args, attest, inputs, say};
use crate::cmd::delta::Effort;
use crate::cmd::publish::Published;
use crate::cmd::{build, publish as publishing, sign as signing};
use crate::gate::verdict::Shown;
use crate::release::Release;

/// The bundle, with the results of the gates in its manifest; gives the digest of that.
pub fn package(args: &Args, plan: &mut Plan) -> Result<Digest> {
    let mut manifest = plan.manifest.clone();
    let revision = plan.revision.as_ref().map(inputs::Revision::attested);
    attest::attest(&mut manifest, &plan.gates, plan.state.steps(), revision.as_deref())?;
    let input = inputs::package(&manifest, &plan.settings, &plan.sources)?;
    if let Some(step) = plan.state.passed("package", "", Some(input))
        && step.output.is_some()
        && step.output == digest_of(&args.out)
    {
        say(args, step, true);
        return step.output.context("a package without digest");
    }
    let (started, at) = (Instant::now(), Timestamp::now());
    let built = build::package(manifest, &plan.sources, &plan.settings, &args.out, args.quiet || args.json)?;
    done(args, plan, ("package", at, started), Some(input), Some(built.digest))?;
    Ok(built.digest)
}

/// The digest of the bundle that stands there, if one does.
fn digest_of(path: &Path) -> Option<Digest> {
    Release::open(path).ok().map(|release| release.digest)
}

/// Signs with the keys that have not signed yet; false when nobody was named who should.
pub fn sign(args: &Args, plan: &mut Plan, digest: Digest) -> Result<bool> {
    let Some((believed, threshold)) = plan.believed.clone() else {
        eprintln!("note: {} is not signed; no --key and no --trust was given", args.out.display());
        return Ok(false);
    };
    let (started, at) = (Instant::now(), Timestamp::now());
    let envelope = Envelope::parse(&Release::open(&args.out)?.envelope)?;
    let pae = envelope.pae();
    let mut missing = Vec::new();
    for (key, path) in plan.keys.iter().zip(&args.key) {
        let public = key.public()?;
        if !envelope.signatures.iter().any(|each| public.verifies(&pae, &each.signature)) {
            missing.push(path.clone());
        }
    }
    if !missing.is_empty() {
        signing::add(&args.out, &missing)?;
    }
    let envelope = Envelope::parse(&Release::open(&args.out)?.envelope)?;
    let verified = envelope.verify(MANIFEST_TYPE, &believed, threshold).with_context(|| {
        format!(
            "{} is built, but has not the {threshold} signatures it needs; add them with `bundle-tool sign`, also from \
             elsewhere, then run this again",
            args.out.display()
        )
    })?;
    ensure!(Digest::of(&verified.payload) == digest, "{} changed while it was signed", args.out.display());
    done(args, plan, ("sign", at, started), Some(digest), None)?;
    Ok(true)
}

/// Publishes it when a web root was named and it is not there already.
pub fn publish(args: &Args, plan: &mut Plan, digest: Digest) -> Result<Option<Published>> {
    let (Some(root), Some(channel)) = (&args.root, &args.channel) else {
        return Ok(None);
    };
    let there = plan.channel.as_ref().is_some_and(|channel| channel.find(&digest).is_some());
    if let Some(step) = plan.state.passed("publish", "", Some(digest)).filter(|_| there) {
        say(args, step, true);
        return Ok(None);
    }
    let (started, at) = (Instant::now(), Timestamp::now());
    let published = publishing::publish(&publishing::Args {
        bundle: args.out.clone(),
        root: root.clone(),
        channel: channel.clone(),
        key: args.key.clone(),
        trust: args.trust.clone(),
        blindly_replace_channel: false,
        channel_version: None,
        deltas: args.deltas,
        keep: args.keep,
        effort: Effort { level: args.level, threads: args.threads },
        quiet: args.quiet,
        json: args.json,
    })?;
    done(args, plan, ("publish", at, started), Some(digest), None)?;
    Ok(Some(published))
}

fn done(
    args: &Args,
    plan: &mut Plan,
    (stage, at, started): (&str, Timestamp, Instant),
    input: Option<Digest>,
    output: Option<Digest>,
) -> Result<()> {
    let step = Step {
        stage: stage.to_owned(),
        name: String::new(),
        outcome: Outcome::Passed,
        started: at,
        seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        input,
        output,
        shown: Shown::default(),
        why: String::new(),
    };
    say(args, &step, false);
    plan.state.record(step)
}
