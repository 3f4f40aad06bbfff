//! `bundle-tool extract`: an image back to a file, bit for bit, holes where it is zero.

use std::fs::{File, Permissions};
use std::io::{BufReader, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bundle::manifest::ImageKind;
use bundle::tree::{Owners, unpack};
use serde_json::json;

use crate::content::{self, TrustArgs};
use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::release::write_sparse;

const EXAMPLE: &str = "Example:
  bundle-tool extract demo.bundle --image rootfs --out rootfs.ext4 --trust trust.dsse.json";

/// Write an image of a bundle to a file
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The bundle, or - for standard input
    bundle: PathBuf,
    /// Which image
    #[arg(long, value_name = "NAME")]
    image: String,
    /// The file to write, for a tree the folder (which must not exist); it appears when it is complete and proven
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Write a tree as the tar it is
    #[arg(long)]
    as_tar: bool,
    /// Keep the owners of a tree's files, their capabilities and security labels; needs the rights of root
    #[arg(long)]
    keep_owners: bool,
    #[command(flatten)]
    trust: TrustArgs,
    /// Take the bundle's word for what it is: digests are checked, but not who signed them
    #[arg(long, conflicts_with_all = ["trust", "key"])]
    blindly_trust: bool,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let believed = if args.blindly_trust { None } else { Some(args.trust.read(None)?) };
    let name = || args.bundle.display().to_string();
    let opened = content::open(content::input(&args.bundle)?, believed.as_ref()).with_context(name)?;
    let images = &opened.manifest.images;
    let wanted = images.iter().position(|image| image.name == args.image).with_context(|| {
        let names = images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>().join(", ");
        format!("no image {:?}; the bundle has {names}", args.image)
    })?;
    let (size, kind) = images.get(wanted).map_or((0, ImageKind::File), |image| (image.size, image.kind));
    let folder = args.out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let what = || format!("writing {}", args.out.display());
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(what)?;
    opened
        .check(&Progress::new(args.quiet), &mut |n, raw| {
            if n == wanted { write_sparse(file.as_file_mut(), raw).with_context(what) } else { Ok(()) }
        })
        .with_context(name)?;
    file.as_file().set_len(size).and_then(|()| file.as_file().sync_all()).with_context(what)?;
    if kind == ImageKind::Tree && !args.as_tar {
        file.as_file_mut().rewind().with_context(what)?;
        unpack_tree(file.as_file(), folder, args).with_context(what)?;
    } else {
        file.persist(&args.out).with_context(what)?;
    }
    if args.json {
        return output::json(&json!({ "out": args.out, "image": args.image, "kind": kind, "size": size }));
    }
    println!("{}: {} of {}, {}", args.out.display(), args.image, name(), bytes(size));
    Ok(())
}

/// Beside its place first, so that the folder appears whole or not at all.
///
/// In the same folder: a folder that its owner may not write can be renamed, but not moved into another.
fn unpack_tree(tar: &File, folder: &Path, args: &Args) -> Result<()> {
    anyhow::ensure!(!args.out.exists(), "it exists already");
    let scratch = tempfile::tempdir_in(folder)?;
    let owners = if args.keep_owners { Owners::Keep } else { Owners::Ours };
    let unpacked = unpack(BufReader::new(tar), scratch.path(), owners).map_err(anyhow::Error::from);
    match unpacked.and_then(|_| Ok(std::fs::rename(scratch.path(), &args.out)?)) {
        Ok(()) => drop(scratch.keep()),
        Err(error) => {
            make_removable(scratch.path());
            return Err(error);
        }
    }
    Ok(())
}

/// What is in a folder of mode 0555 can not be removed by its owner either. As far as it goes: the error that led here
/// is the one to tell.
fn make_removable(folder: &Path) {
    let _ = std::fs::set_permissions(folder, Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_removable(&entry.path());
        }
    }
}
