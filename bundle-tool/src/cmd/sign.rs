//! `bundle-tool sign`: adds signatures to a bundle or to any other signed document.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bundle::build::{publish, replace_envelope};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::keys::{KeyId, SIGNATURE_LEN};
use bundle::manifest::Manifest;
use bundle::random::read_envelope;
use bundle::reason::Reason;
use serde_json::json;

use crate::document::{self, Document, Kind};
use crate::refusal::Refused;
use crate::webroot::WebRoot;
use crate::{files, output};

const EXAMPLE: &str = "Example:
  bundle-tool sign demo.bundle --key keys/release.pem

Example with a document from where others can write: only what was genuine before, and only what it should be:
  bundle-tool sign channel.dsse.json --expect channel --trust trust.dsse.json --key keys/release-2.pem

Example with a key that can not leave its hardware module or cloud service:
  bundle-tool sign demo.bundle --print-pae > pae.bin
  openssl pkeyutl -sign -rawin -inkey release.pem -in pae.bin -out sig.bin     # or any Ed25519 signer
  bundle-tool sign demo.bundle --attach sig.bin --public-key keys/release.pub.pem";

/// Add signatures to a bundle, trust root, channel index or approval
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// A bundle or a .dsse.json document; changed in one step
    file: PathBuf,
    /// Private key to sign with; several times for several
    #[arg(long, value_name = "KEY.pem", required_unless_present_any = ["print_pae", "attach"])]
    key: Vec<PathBuf>,
    /// Print the bytes to sign elsewhere
    #[arg(long, conflicts_with_all = ["key", "attach", "json"])]
    print_pae: bool,
    /// Signature made elsewhere: 64 bytes, raw or base64
    #[arg(long, value_name = "SIG", requires = "public_key", conflicts_with = "key")]
    attach: Option<PathBuf>,
    /// Public key the attached signature is of
    #[arg(long, value_name = "KEY.pub.pem")]
    public_key: Option<PathBuf>,
    /// Sign nothing but this kind of document
    #[arg(long, value_name = "KIND")]
    expect: Option<Kind>,
    /// Sign nothing that is not genuine already, by this trust root
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    // Of two who sign at once, or one who publishes meanwhile, nobody's work is lost. Who only reads may have no right
    // to write.
    let changes = !args.print_pae && document::read(&args.file)?.is_some();
    let _lock = if changes { Some(WebRoot::lock(&args.file)?) } else { None };
    let signable = Signable::open(&args.file)?;
    let mut envelope = Envelope::parse(signable.envelope()).with_context(|| args.file.display().to_string())?;
    let document = examine(args, &envelope).with_context(|| args.file.display().to_string())?;
    if args.print_pae {
        return std::io::stdout().write_all(&envelope.pae()).context("writing the bytes to sign");
    }
    let signed = if let (Some(signature), Some(public_key)) = (&args.attach, &args.public_key) {
        let signature = read_signature(signature)?;
        let key = files::public_key(public_key)?;
        // A wrong signature in a released file is found by the whole fleet; here it costs a line.
        anyhow::ensure!(
            key.verifies(&envelope.pae(), &signature),
            "the signature in {} is not one of {} over this file (`--print-pae` gives the bytes to sign)",
            args.attach.as_deref().unwrap_or(Path::new("")).display(),
            public_key.display()
        );
        envelope.attach(key.id(), signature);
        signable.write(&args.file, &envelope)?;
        vec![key.id()]
    } else {
        // What was examined, and not what lies there by now.
        let keys = args.key.iter().map(|path| files::private_key(path)).collect::<Result<Vec<_>>>()?;
        let signed = keys.iter().map(|key| envelope.sign(key)).collect::<Result<Vec<_>, _>>()?;
        signable.write(&args.file, &envelope)?;
        signed
    };
    if args.json {
        let signed = signed.iter().map(ToString::to_string).collect::<Vec<_>>();
        return output::json(&json!({
            "file": args.file, "signed_by": signed, "is": document.sentence(),
            "payload_sha256": Digest::of(&envelope.payload),
        }));
    }
    println!("{}, {}", document.sentence(), Digest::of(&envelope.payload));
    for id in signed {
        println!("{}: signed by {id}", args.file.display());
    }
    Ok(())
}

/// What is about to be signed. A signature over what somebody else put there is a forgery made by ourselves.
fn examine(args: &Args, envelope: &Envelope) -> Result<Document> {
    let document = Document::of(envelope)?;
    if let Some(expected) = args.expect.filter(|kind| *kind != document.kind()) {
        let why = format!("it is no {expected:?}: {}", document.sentence()).to_lowercase();
        return Err(Refused(Reason::Malformed, why).into());
    }
    if let Some(trust) = &args.trust {
        let (keys, threshold) = document.keys(&files::trust(trust)?);
        envelope
            .verify(&envelope.payload_type, &keys, threshold)
            .with_context(|| format!("not genuine by {}, so it is not signed", trust.display()))?;
    }
    Ok(document)
}

/// Adds the signatures of those private keys to the file.
pub fn add(file: &Path, keys: &[PathBuf]) -> Result<Vec<KeyId>> {
    let signable = Signable::open(file)?;
    let mut envelope = Envelope::parse(signable.envelope()).with_context(|| file.display().to_string())?;
    let mut signed = Vec::new();
    for path in keys {
        signed.push(envelope.sign(&files::private_key(path)?)?);
    }
    signable.write(file, &envelope)?;
    Ok(signed)
}

/// A file that has an envelope: as its whole, or as its first member.
pub enum Signable {
    /// The whole file.
    Document(Vec<u8>),
    /// A bundle, and the envelope at its head.
    Bundle(File, Vec<u8>),
}

impl Signable {
    /// Opens it; nothing is verified.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("reading {}", path.display());
        let mut file = File::open(path).with_context(what)?;
        let mut first = [0];
        file.read_exact(&mut first).with_context(what)?;
        if first == *b"{" {
            return files::document(path).map(Self::Document);
        }
        let envelope = read_envelope(&mut file).with_context(what)?;
        Ok(Self::Bundle(file, envelope))
    }

    /// The envelope as it stands in the file.
    pub fn envelope(&self) -> &[u8] {
        match self {
            Self::Document(envelope) | Self::Bundle(_, envelope) => envelope,
        }
    }

    fn write(self, path: &Path, envelope: &Envelope) -> Result<()> {
        let bytes = envelope.to_bytes()?;
        match self {
            Self::Document(_) => files::replace(path, &bytes),
            Self::Bundle(mut file, old) => {
                let manifest = Manifest::parse(&envelope.payload).context("the manifest")?;
                publish(path, |out| replace_envelope(&mut file, old.len() as u64, &bytes, &manifest, out))
                    .with_context(|| format!("writing {}", path.display()))
            }
        }
    }
}

fn read_signature(path: &Path) -> Result<[u8; SIGNATURE_LEN]> {
    let bytes = files::document(path)?;
    if let Ok(raw) = bytes.as_slice().try_into() {
        return Ok(raw);
    }
    let decoded = STANDARD.decode(bytes.trim_ascii()).ok().and_then(|raw| raw.try_into().ok());
    match decoded {
        Some(signature) => Ok(signature),
        None => bail!("{} is not an Ed25519 signature: 64 bytes, raw or in base64", path.display()),
    }
}
