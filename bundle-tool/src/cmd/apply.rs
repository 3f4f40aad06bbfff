//! `bundle-tool apply`: does with a delta what a device does, into a file.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bundle::delta::{FrameSource, Item, Patcher, Recipe, RecipesReader, Section, check_recipes, delta_layout};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::frame::FrameDecoder;
use bundle::index::{FrameRecord, IndexReader, check_index};
use bundle::layout::MemberKind;
use bundle::manifest::{MANIFEST_TYPE, Manifest};
use bundle::reason::Reason;
use bundle::sequential::SequentialReader;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::content::TrustArgs;
use crate::crew;
use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::refusal::Refused;
use crate::release::write_sparse;

/// Bytes of frames and prefixes in work: with the program itself, less than 32 MB.
const BUDGET: usize = 16 << 20;

const EXAMPLE: &str = "Example:
  bundle-tool apply 2.4.0-2.4.1.delta --image rootfs --old rootfs-2.4.0.ext4 --out rootfs-2.4.1.ext4 \\
      --trust trust.dsse.json";

/// Make an image of the new release from a delta and the old image
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The delta
    delta: PathBuf,
    /// Which image
    #[arg(long, value_name = "NAME")]
    image: String,
    /// The old image: a file or a block device, only read
    #[arg(long, value_name = "FILE")]
    old: PathBuf,
    /// The file to write; it appears when it is complete and proven
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    trust: TrustArgs,
    /// Take the delta's word for what it makes: digests are checked, but not who signed them
    #[arg(long, conflicts_with_all = ["trust", "key"])]
    blindly_trust: bool,
    /// Threads (default: all cores); fewer where frames and prefixes are large, memory stays below 32 MB
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let delta = Delta::open(args).with_context(|| args.delta.display().to_string())?;
    let old = File::open(&args.old).with_context(|| format!("reading {}", args.old.display()))?;
    let folder = args.out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let what = || format!("writing {}", args.out.display());
    let mut out = tempfile::NamedTempFile::new_in(folder).with_context(what)?;
    delta.apply(&old, out.as_file_mut(), args.threads, &Progress::new(args.quiet))?;
    out.as_file().sync_all().with_context(what)?;
    out.persist(&args.out).with_context(what)?;
    if args.json {
        let (version, counter) = (&delta.manifest.version, delta.manifest.counter);
        return output::json(&json!({
            "out": args.out, "image": args.image, "size": delta.size, "version": version, "counter": counter,
        }));
    }
    println!("{}: {} of {}, {}", args.out.display(), args.image, delta.manifest.version, bytes(delta.size));
    Ok(())
}

/// A delta whose manifest was believed and whose recipes and index were checked.
struct Delta {
    file: File,
    manifest: Manifest,
    digest: Digest,
    image: usize,
    size: u64,
    section: Section,
    recipes: (u64, u64),
    index: (u64, u64),
    patch: u64,
}

impl Delta {
    fn open(args: &Args) -> Result<Self> {
        let file = File::open(&args.delta)?;
        let mut reader = SequentialReader::new(BufReader::new(&file))?;
        let envelope = Envelope::parse(reader.envelope())?;
        let payload = if args.blindly_trust {
            envelope.payload
        } else {
            let believed = args.trust.read(None)?;
            envelope.verify(MANIFEST_TYPE, &believed.keys, believed.threshold)?.payload
        };
        let manifest = Manifest::parse(&payload)?;
        let digest = Digest::of(&payload);
        let recipes = reader.begin_delta()?;
        let (_, sections) = check_recipes(BufReader::new(&mut reader), &manifest, &digest)?;
        let layout = delta_layout(reader.envelope().len() as u64, recipes.size, &manifest, &sections)?;
        drop(reader);
        let named = manifest.images.iter().enumerate().find(|(_, image)| image.name == args.image);
        let (n, image) = named.with_context(|| format!("no image {:?}", args.image))?;
        let section = sections.iter().find(|section| section.image as usize == n);
        let section = *section.with_context(|| format!("the delta does not make {:?}", args.image))?;
        let index = layout.index(n).context("no index")?;
        check_index(part(&file, (index.offset, index.size)), image)?;
        let patch = layout.member(MemberKind::Patch, n).context("no patch")?.offset;
        let (index, recipes, size) = ((index.offset, index.size), (recipes.offset, recipes.size), image.size);
        Ok(Self { file, digest, image: n, size, section, recipes, index, patch, manifest })
    }

    fn apply(&self, old: &File, out: &mut File, threads: Option<usize>, progress: &Progress) -> Result<()> {
        let image = self.manifest.images.get(self.image).context("no image")?;
        let index = IndexReader::new(part(&self.file, self.index), image)?;
        let frame = index.header().frame_size as usize;
        let frame_size = frame as u64;
        let mut frames = index.zip(0u32..);
        let recipes = RecipesReader::new(part(&self.file, self.recipes), &self.manifest, &self.digest)?;
        let mut recipes = self.recipes(recipes);
        progress.begin(&image.name, image.size);
        let mut current: Option<Recipe> = None;
        let produce = || {
            let (record, n) = frames.next()?;
            let job = record.map_err(anyhow::Error::from).and_then(|record| {
                while current.is_none_or(|recipe| recipe.frame + recipe.count <= n) {
                    match recipes.next() {
                        Some(recipe) => current = Some(recipe?),
                        None => break,
                    }
                }
                let recipe = current.filter(|recipe| recipe.frame <= n && n < recipe.frame + recipe.count);
                self.job(n, record, recipe, frame_size)
            });
            Some(job)
        };
        let mut hash = Sha256::new();
        // Each thread holds a frame raw, stored, in streams and as literal, and the prefix; one that waits is raw or
        // stored.
        let each = 4 * frame + self.section.max_prefix as usize;
        crew::run(
            crew::threads(threads, BUDGET, each, frame),
            produce,
            |job: Job| job.run(&self.section, old),
            |raw: Vec<u8>| {
                hash.update(&raw);
                progress.advance(raw.len() as u64);
                write_sparse(out, &raw).context("writing the image")
            },
        )?;
        progress.finish();
        out.set_len(image.size).context("writing the image")?;
        if Digest(hash.finalize().into()) != image.sha256 {
            return Err(Refused(Reason::ImageMismatch, "the image is not the one the manifest names".to_owned()).into());
        }
        Ok(())
    }

    /// The recipes of our image only.
    fn recipes<'a>(
        &'a self,
        items: impl Iterator<Item = Result<Item, bundle::delta::DeltaError>> + 'a,
    ) -> impl Iterator<Item = Result<Recipe>> + 'a {
        let mut ours = false;
        items.filter_map(move |item| match item {
            Err(error) => Some(Err(error.into())),
            Ok(Item::Section(section)) => {
                ours = section.image == self.section.image;
                None
            }
            Ok(Item::Recipe(recipe)) => ours.then_some(Ok(recipe)),
        })
    }

    fn job(&self, n: u32, frame: FrameRecord, recipe: Option<Recipe>, frame_size: u64) -> Result<Job> {
        let read = |offset: u64, len: u32| -> Result<Vec<u8>> {
            let mut body = vec![0; len as usize];
            self.file.read_exact_at(&mut body, self.patch + offset).context("reading the delta")?;
            Ok(body)
        };
        let source = match recipe.map(|recipe| (recipe, recipe.source)) {
            None if frame.zero => Source::Zeros,
            None => anyhow::bail!("frame {n} is not in the delta; a device fetches it from the bundle"),
            Some((recipe, FrameSource::Copy { old })) => Source::Copy(old + u64::from(n - recipe.frame) * frame_size),
            Some((_, FrameSource::Plain { offset, len })) => Source::Plain(read(offset, len)?),
            Some((_, FrameSource::Patch { offset, len, sha256 })) => Source::Patch(read(offset, len)?, sha256),
        };
        Ok(Job { n, frame, source })
    }
}

/// One frame to make.
struct Job {
    n: u32,
    frame: FrameRecord,
    source: Source,
}

enum Source {
    Zeros,
    Copy(u64),
    Plain(Vec<u8>),
    Patch(Vec<u8>, Digest),
}

thread_local!(static TOOLS: RefCell<(Patcher, FrameDecoder)> = RefCell::new((Patcher::new(), FrameDecoder::new())));

impl Job {
    fn run(self, section: &Section, old: &File) -> Result<Vec<u8>> {
        let mut raw = Vec::new();
        let made = TOOLS.with_borrow_mut(|(patcher, decoder)| match &self.source {
            Source::Zeros => decoder.decode(&self.frame, &[], &mut raw).map_err(anyhow::Error::from),
            Source::Copy(start) => patcher.copy(&self.frame, old, *start, &mut raw).map_err(Into::into),
            Source::Plain(stored) => decoder.decode(&self.frame, stored, &mut raw).map_err(Into::into),
            Source::Patch(body, sha256) => {
                patcher.patch(&self.frame, section, (body, sha256), old, &mut raw).map_err(Into::into)
            }
        });
        made.with_context(|| format!("frame {}", self.n))?;
        Ok(raw)
    }
}

/// A part of a file, read by position: several can be read in turns.
struct Part<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(buffer.get_mut(..left).unwrap_or_default(), self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn part(file: &File, (offset, size): (u64, u64)) -> BufReader<Part<'_>> {
    BufReader::new(Part { file, at: offset, end: offset + size })
}
