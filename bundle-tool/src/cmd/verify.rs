//! `bundle-tool verify`: is this bundle genuine, and whole? Or this document?

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::keys::KeySet;
use bundle::sequential::SequentialReader;
use serde_json::json;

use crate::content::{self, TrustArgs};
use crate::document::{self, Document};
use crate::output::{self, harmless};
use crate::progress::Progress;

const EXAMPLE: &str = "Example:
  bundle-tool verify demo.bundle --trust trust.dsse.json
  curl -s https://updates.example/demo.bundle | bundle-tool verify - --key keys/release.pub.pem
  bundle-tool verify /srv/www/channels/stable/channel.dsse.json --trust trust.dsse.json";

/// Verify signatures and every byte of a bundle, or a signed document; says who signed and what is missing
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The bundle, or - for standard input; or a .dsse.json document
    bundle: PathBuf,
    #[command(flatten)]
    trust: TrustArgs,
    /// How many keys must have signed (default: what the trust root says; all keys given by --key)
    #[arg(long, value_name = "N")]
    threshold: Option<usize>,
    /// Stop after the signatures
    #[arg(long)]
    signatures_only: bool,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    match document::read(&args.bundle)? {
        Some(envelope) => document(args, &envelope),
        None => bundle(args),
    }
}

fn document(args: &Args, envelope: &Envelope) -> Result<()> {
    let name = || args.bundle.display().to_string();
    let document = Document::of(envelope).with_context(name)?;
    let believed = args.trust.read_for(&document, args.threshold)?;
    let verified = envelope.verify(&envelope.payload_type, &believed.keys, believed.threshold).inspect_err(|_| {
        tell_signers(envelope, &believed.keys);
    });
    let signers = verified.with_context(name)?.signers;
    if args.json {
        let signers = signers.iter().map(ToString::to_string).collect::<Vec<_>>();
        return output::json(&json!({
            "genuine": true, "type": envelope.payload_type, "payload_sha256": Digest::of(&envelope.payload),
            "signers": signers, "threshold": believed.threshold,
        }));
    }
    println!("{}: genuine", name());
    println!("{}", document.sentence());
    signers.iter().for_each(|id| println!("signed by {id}"));
    println!("{} of {} required signatures", signers.len(), believed.threshold);
    Ok(())
}

fn bundle(args: &Args) -> Result<()> {
    let believed = args.trust.read(args.threshold)?;
    let name = || args.bundle.display().to_string();
    let opened = match content::open(content::input(&args.bundle)?, Some(&believed)) {
        Ok(opened) => opened,
        Err(error) => {
            explain(args, &believed.keys);
            return Err(error).with_context(name);
        }
    };
    let (manifest, digest, signers) = (opened.manifest.clone(), opened.digest, opened.signers.clone());
    if !args.signatures_only {
        opened.check(&Progress::new(args.quiet), &mut |_, _| Ok(())).with_context(name)?;
    }
    if args.json {
        let signers = signers.iter().map(ToString::to_string).collect::<Vec<_>>();
        return output::json(&json!({
            "genuine": true, "complete": !args.signatures_only, "manifest_sha256": digest, "signers": signers,
            "threshold": believed.threshold, "version": manifest.version, "counter": manifest.counter,
        }));
    }
    println!("{}: genuine{}", name(), if args.signatures_only { "" } else { " and whole" });
    println!(
        "release {} (counter {}) for {}, manifest {digest}",
        manifest.version,
        manifest.counter,
        harmless(&manifest.compatible)
    );
    signers.iter().for_each(|id| println!("signed by {id}"));
    println!("{} of {} required signatures", signers.len(), believed.threshold);
    Ok(())
}

/// Who signed and who did not, on standard error; only for files, a pipe can not be read twice.
fn explain(args: &Args, keys: &KeySet) {
    let envelope = content::input(&args.bundle).ok().and_then(|input| {
        let reader = SequentialReader::new(input).ok()?;
        Envelope::parse(reader.envelope()).ok()
    });
    if let Some(envelope) = envelope.filter(|_| args.bundle.as_os_str() != "-") {
        tell_signers(&envelope, keys);
    }
}

/// Who signed and who did not, on standard error.
pub fn tell_signers(envelope: &Envelope, keys: &KeySet) {
    let pae = envelope.pae();
    for key in keys.iter() {
        let id = key.id().to_string();
        let state = match envelope.signatures.iter().find(|each| each.key_id == id) {
            None => "did not sign",
            Some(each) if key.verifies(&pae, &each.signature) => "signed",
            Some(_) => "is named, but the signature is not its own",
        };
        eprintln!("  {id} {state}");
    }
    let known = |id: &str| keys.iter().any(|key| key.id().to_string() == id);
    for each in envelope.signatures.iter().filter(|each| !known(&each.key_id)) {
        // Anybody can write any name there; nothing says that this key signed.
        eprintln!("  a signature names itself {:?}, which is not trusted here", harmless(&each.key_id));
    }
}
