//! `bundle-tool inspect`: what is in a bundle or a document. Believes nothing and says so.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bundle::chunks::{ChunksHeader, ChunksReader};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::layout::MemberKind;
use bundle::manifest::Manifest;
use bundle::random::{RandomReader, read_envelope};
use serde::Serialize;

use crate::document::{self, Document};
use crate::gate::counts::Counts;
use crate::output::{self, bytes, harmless};
use crate::recipe::GATES;

/// Show what is in a bundle or a signed document, without verifying it
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  bundle-tool inspect demo.bundle\n  bundle-tool inspect demo.bundle --json | jq .manifest.counter"
)]
pub struct Args {
    /// The bundle, or a .dsse.json document
    bundle: PathBuf,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Facts {
    size: u64,
    manifest_sha256: Digest,
    signatures: Vec<String>,
    manifest: Manifest,
    images: Vec<ImageFacts>,
}

#[derive(Serialize)]
struct ImageFacts {
    name: String,
    frame_size: u32,
    frames: u32,
    zero_frames: u32,
    raw: u64,
    stored: u64,
    largest_frame: u32,
    chunk_groups: u32,
    chunks: u32,
}

pub fn run(args: &Args) -> Result<()> {
    if let Some(envelope) = document::read(&args.bundle)? {
        return document(args, &envelope);
    }
    let facts = gather(args).with_context(|| args.bundle.display().to_string())?;
    if args.json { output::json(&facts) } else { print(&facts) }
}

fn document(args: &Args, envelope: &Envelope) -> Result<()> {
    if args.json {
        return output::json(&document::facts(envelope)?);
    }
    let document = Document::of(envelope).with_context(|| args.bundle.display().to_string())?;
    println!("{}", document.sentence());
    println!("payload     {}", Digest::of(&envelope.payload));
    document.lines().iter().for_each(|line| println!("  {line}"));
    print_signatures(envelope.signatures.iter().map(|each| each.key_id.as_str()));
    Ok(())
}

fn gather(args: &Args) -> Result<Facts> {
    let mut file = BufReader::new(File::open(&args.bundle)?);
    let bytes = read_envelope(&mut file)?;
    let envelope = Envelope::parse(&bytes)?;
    let manifest = Manifest::parse(&envelope.payload)?;
    let mut reader = RandomReader::new(file, bytes.len() as u64, manifest)?;
    let manifest = reader.manifest().clone();
    let images = manifest.images.iter().enumerate().map(|(n, image)| {
        let records = reader.index(n).with_context(|| format!("index of {}", image.name))?;
        let header = *records.header();
        let (mut zero_frames, mut largest_frame) = (0, 0);
        for record in records {
            let record = record.with_context(|| format!("index of {}", image.name))?;
            zero_frames += u32::from(record.zero);
            largest_frame = largest_frame.max(record.stored_len);
        }
        let chunks = reader.layout().member(MemberKind::Chunks, n).cloned();
        let chunks = chunks.map(|member| -> Result<ChunksHeader> {
            Ok(*ChunksReader::new(reader.content(&member, 0)?, image)?.header())
        });
        let chunks = chunks.transpose().with_context(|| format!("chunks of {}", image.name))?;
        Ok(ImageFacts {
            chunk_groups: chunks.map_or(0, |header| header.groups),
            chunks: chunks.map_or(0, |header| header.chunks),
            name: image.name.clone(),
            frame_size: header.frame_size,
            frames: header.frame_count,
            zero_frames,
            raw: image.size,
            stored: image.payload.size,
            largest_frame,
        })
    });
    let images = images.collect::<Result<Vec<_>>>()?;
    Ok(Facts {
        size: reader.layout().len(),
        manifest_sha256: Digest::of(&envelope.payload),
        signatures: envelope.signatures.into_iter().map(|each| each.key_id).collect(),
        manifest,
        images,
    })
}

fn print(facts: &Facts) -> Result<()> {
    let manifest = &facts.manifest;
    println!("release     {} (counter {}) for {}", manifest.version, manifest.counter, harmless(&manifest.compatible));
    println!("manifest    {}", facts.manifest_sha256);
    println!("created     {}", manifest.created);
    let some = |name: &str, text: String| {
        if !text.is_empty() {
            println!("{name:11} {}", harmless(&text));
        }
    };
    some("hardware", manifest.hardware.join(", "));
    some("installs on", manifest.from.map(|from| from_text(from.min_counter, from.max_counter)).unwrap_or_default());
    some("floor", if manifest.rollback_floor > 0 { manifest.rollback_floor.to_string() } else { String::new() });
    some("data format", manifest.state_schema.map(|s| format!("reads {} to {}", s.min, s.max)).unwrap_or_default());
    some("hooks", manifest.hooks.join(", "));
    some("critical", manifest.crit.join(", "));
    for (name, value) in &manifest.attestations {
        match value.as_object().filter(|_| name == GATES) {
            Some(gates) => gates.iter().for_each(|(name, gate)| {
                println!("gate        {}: {}", harmless(name), harmless(&gate_text(gate)));
            }),
            None => println!("attested    {}: {}", harmless(name), harmless(&value.to_string())),
        }
    }
    println!("bundle      {}", bytes(facts.size));
    for (image, stats) in manifest.images.iter().zip(&facts.images) {
        let share = stats.stored as f64 * 100.0 / stats.raw.max(1) as f64;
        let kind = format!("{:?}", image.kind).to_lowercase();
        println!("image       {} ({kind}): {} in {} ({share:.1} %)", image.name, bytes(stats.raw), bytes(stats.stored));
        println!(
            "            {} frames of {} KiB, {} all zeros; largest stored {}",
            stats.frames,
            stats.frame_size / 1024,
            stats.zero_frames,
            bytes(stats.largest_frame.into())
        );
        if let Some(chunks) = &image.chunks {
            println!(
                "            {} chunks in {} groups ({} of {} KiB), {} of addresses",
                stats.chunks,
                stats.chunk_groups,
                harmless(&chunks.method),
                chunks.target / 1024,
                bytes(chunks.size)
            );
        }
        println!("            sha256 {}", image.sha256);
    }
    print_signatures(facts.signatures.iter().map(String::as_str));
    Ok(())
}

fn print_signatures<'a>(ids: impl Iterator<Item = &'a str>) {
    let mut ids = ids.peekable();
    if ids.peek().is_none() {
        println!("signature   none");
    }
    ids.for_each(|id| println!("signature   names itself {} (not checked here: bundle-tool verify)", harmless(id)));
}

/// One gate in words, from whatever version wrote it.
fn gate_text(gate: &serde_json::Value) -> String {
    let text = |name: &str| gate.get(name).and_then(serde_json::Value::as_str).unwrap_or("?");
    let shown = gate.get("shown").cloned().unwrap_or_default();
    let counts = shown.get("tests").cloned().and_then(|tests| serde_json::from_value::<Counts>(tests).ok());
    let measures = shown.get("benchmarks").and_then(serde_json::Value::as_object).map_or(0, serde_json::Map::len);
    let mut facts = vec![text("outcome").to_owned()];
    facts.extend(gate.get("why").and_then(serde_json::Value::as_str).map(ToOwned::to_owned));
    facts.extend(counts.map(|counts| counts.to_string()));
    facts.extend((measures > 0).then(|| format!("{measures} benchmarks")));
    format!("{} ({}, `{}`)", facts.join(", "), text("stage"), text("run"))
}

fn from_text(min: u64, max: Option<u64>) -> String {
    match max {
        Some(max) => format!("counters {min} to {max}"),
        None => format!("counters from {min}"),
    }
}
