//! What a release is made of, as digests: when one changes, results that were got from it count no more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use bundle::build::{Settings, Source};
use bundle::digest::Digest;
use bundle::manifest::Manifest;
use std::os::unix::fs::MetadataExt as _;

/// The images as they are now, by size and time: reading gigabytes to learn that nothing changed is not worth it.
pub fn images(sources: &[Source]) -> Result<Digest> {
    let mut facts = Vec::new();
    for source in sources {
        let missing = || format!("image {}: {}", source.name, source.path.display());
        visit(&source.path, &mut facts).with_context(missing)?;
    }
    Ok(Digest::of(&facts))
}

fn visit(path: &Path, facts: &mut Vec<u8>) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let link = if meta.is_symlink() { fs::read_link(path)? } else { PathBuf::new() };
    let line = format!("{path:?} {:o} {} {}.{} {link:?}\n", meta.mode(), meta.size(), meta.mtime(), meta.mtime_nsec());
    facts.extend_from_slice(line.as_bytes());
    if meta.is_dir() {
        let mut inner = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        inner.sort();
        inner.iter().try_for_each(|path| visit(path, facts))?;
    } else if meta.is_symlink() && path.exists() {
        // An image may be named by a link to it.
        let target = fs::metadata(path)?;
        facts.extend_from_slice(format!("{} {}.{}\n", target.size(), target.mtime(), target.mtime_nsec()).as_bytes());
    }
    Ok(())
}

/// Everything the bundle is made of.
pub fn package(manifest: &Manifest, settings: &Settings, sources: &[Source]) -> Result<Digest> {
    // Threads make no difference to the bytes.
    let cuts = sources.iter().map(|source| format!("{} {:?} {:?}", source.name, source.kind, source.chunks));
    let cuts = cuts.collect::<Vec<_>>();
    let text = serde_json::to_vec(&(manifest, settings.level, settings.frame_size, images(sources)?, cuts))?;
    Ok(Digest::of(&text))
}

/// The commit that `folder` is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    commit: String,
    changes: Option<Digest>,
}

impl Revision {
    /// By git; none outside a repository, without a commit, or where there is no git.
    pub fn of(folder: &Path) -> Option<Self> {
        let git = |args: &[&str]| {
            let out = Command::new("git").arg("-C").arg(folder).args(args).output().ok()?;
            out.status.success().then_some(out.stdout)
        };
        let commit = String::from_utf8(git(&["rev-parse", "--verify", "--quiet", "HEAD"])?).ok()?.trim().to_owned();
        let changes = git(&["diff", "HEAD", "--binary", "--no-ext-diff"])?;
        Some(Self { commit, changes: (!changes.is_empty()).then(|| Digest::of(&changes)) })
    }

    /// For the state file: which changes, too.
    pub fn exact(&self) -> String {
        self.changes.map_or_else(|| self.commit.clone(), |changes| format!("{}+{changes}", self.commit))
    }

    /// For the manifest: whether there were changes that no commit has.
    pub fn attested(&self) -> String {
        if self.changes.is_some() { format!("{}+modified", self.commit) } else { self.commit.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::build::ChunkChoice;
    use bundle::manifest::ImageKind;

    fn source(path: PathBuf) -> Source {
        Source { name: "x".to_owned(), kind: ImageKind::Tree, path, chunks: ChunkChoice::Auto }
    }

    #[test]
    fn a_changed_file_anywhere_in_a_tree_is_another_input() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/file"), "1").unwrap();
        let sources = [source(dir.path().to_owned())];
        let first = images(&sources).unwrap();
        assert_eq!(images(&sources).unwrap(), first);
        fs::write(dir.path().join("a/file"), "22").unwrap();
        assert_ne!(images(&sources).unwrap(), first);
        assert!(images(&[source(dir.path().join("missing"))]).is_err());
    }

    #[test]
    fn a_folder_outside_version_control_has_no_revision() {
        assert_eq!(Revision::of(Path::new("/proc")), None);
        let revision = Revision { commit: "abc".to_owned(), changes: Some(Digest::of(b"x")) };
        assert_eq!(revision.attested(), "abc+modified");
        assert!(revision.exact().len() > 60);
    }
}
