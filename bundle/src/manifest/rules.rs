//! The rules a manifest must keep, so that nobody downstream has to ask again.
//!
//! Sizes come from the network and end up in allocations, offsets and sums: every one is bounded here, once.

use serde::Deserialize;

use super::{Image, MAX_IMAGE_SIZE, MAX_IMAGES, MAX_INDEX_SIZE, Manifest};
use crate::document::{self, DocumentError, all_different, is_label, is_name, rule};
use crate::index;

/// Kinds this version can write.
const KINDS: &[&str] = &["block", "file", "tree"];

/// An image kind of the future is "newer", not "malformed".
pub(super) fn known_kinds(bytes: &[u8]) -> Result<(), DocumentError> {
    #[derive(Deserialize)]
    struct Images {
        #[serde(default)]
        images: Vec<Kind>,
    }
    #[derive(Deserialize)]
    struct Kind {
        #[serde(default)]
        kind: String,
    }
    let probe: Images = document::typed(bytes)?;
    match probe.images.iter().find(|image| !KINDS.contains(&image.kind.as_str())) {
        Some(image) => Err(DocumentError::TooNew(format!("image kind {:?}", image.kind))),
        None => Ok(()),
    }
}

/// All rules.
pub(super) fn validate(manifest: &Manifest) -> Result<(), DocumentError> {
    planned(manifest, manifest.images.iter().map(|image| image.name.as_str()))?;
    manifest.images.iter().try_for_each(image)
}

/// The rules of a release whose images are not built yet, only named.
pub(super) fn planned<'a>(
    manifest: &Manifest,
    images: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), DocumentError> {
    rule(is_label(&manifest.compatible), || "compatible is empty or not printable".to_owned())?;
    rule(manifest.hardware.len() <= 64 && manifest.hardware.iter().all(|each| is_label(each)), || {
        "hardware patterns".to_owned()
    })?;
    rule(manifest.rollback_floor <= manifest.counter, || {
        format!("rollback floor {} above counter {}", manifest.rollback_floor, manifest.counter)
    })?;
    if let Some(from) = manifest.from {
        rule(from.max_counter.is_none_or(|highest| from.min_counter <= highest), || "from: min above max".to_owned())?;
        rule(from.min_counter <= manifest.counter, || "from: min above the release's own counter".to_owned())?;
    }
    if let Some(schema) = manifest.state_schema {
        rule(schema.min <= schema.max, || "state_schema: min above max".to_owned())?;
    }
    rule(manifest.hooks.len() <= 32 && manifest.hooks.iter().all(|hook| is_name(hook)), || "hooks".to_owned())?;
    rule(all_different(&manifest.hooks), || "one hook twice".to_owned())?;
    let count = images.clone().count();
    rule((1..=MAX_IMAGES).contains(&count), || format!("{count} images, 1 to {MAX_IMAGES} are possible"))?;
    rule(all_different(images.clone()), || "two images of one name".to_owned())?;
    match images.clone().find(|name| !is_name(name)) {
        Some(name) => Err(DocumentError::Invalid(format!("image name {name:?}"))),
        None => Ok(()),
    }
}

fn image(image: &Image) -> Result<(), DocumentError> {
    let name = &image.name;
    rule(image.size <= MAX_IMAGE_SIZE, || format!("{name}: larger than 16 TiB"))?;
    let frames = index::frames_of_index(image.index.size).filter(|_| image.index.size <= MAX_INDEX_SIZE);
    rule(frames.is_some(), || format!("{name}: an index can not have {} bytes", image.index.size))?;
    rule(image.payload.size <= index::max_payload(image.size, frames.unwrap_or_default()), || {
        format!("{name}: payload of {} bytes for an image of {}", image.payload.size, image.size)
    })?;
    image.chunks.as_ref().map_or(Ok(()), |chunks| {
        rule(chunks.size <= MAX_INDEX_SIZE && chunks.target > 0, || format!("{name}: chunks"))?;
        rule(is_label(&chunks.method), || format!("{name}: chunks"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::manifest::{Blob, Chunks, FromRange, ImageKind, SchemaRange};
    use crate::reason::Reason;

    pub(crate) fn example() -> Manifest {
        let blob = |size| Blob { size, sha256: Digest::of(b"x") };
        let image = Image {
            name: "rootfs".to_owned(),
            kind: ImageKind::Block,
            size: 1 << 20,
            sha256: Digest::of(b"image"),
            index: blob(index::HEADER_LEN as u64 + index::RECORD_LEN as u64),
            chunks: None,
            payload: blob(1000),
            frame_size: None,
            level: None,
        };
        Manifest {
            compatible: "demo".to_owned(),
            hardware: vec!["rev-*".to_owned()],
            version: semver::Version::new(1, 2, 3),
            counter: 5,
            rollback_floor: 2,
            from: Some(FromRange { min_counter: 1, max_counter: Some(4) }),
            state_schema: Some(SchemaRange { min: 1, max: 2 }),
            created: "2026-11-20T00:00:00Z".parse().unwrap(),
            images: vec![image],
            hooks: vec!["migrate".to_owned()],
            attestations: Default::default(),
            crit: vec!["from".to_owned()],
        }
    }

    #[test]
    fn round_trip_and_questions() {
        let manifest = example();
        assert_eq!(Manifest::parse(&manifest.to_bytes().unwrap()).unwrap(), manifest);
        assert!(manifest.is_for("demo") && !manifest.is_for("demo2"));
        assert!(manifest.supports("rev-b") && !manifest.supports("b"));
        assert!(!manifest.accepts_from(0) && manifest.accepts_from(4) && !manifest.accepts_from(5));
        assert!(manifest.image("rootfs").is_some() && manifest.image("kernel").is_none());
    }

    #[test]
    fn devices_that_must_not_take_it() {
        let refusal = |hardware, counter| example().refusal_for("demo", hardware, counter);
        assert_eq!(example().refusal_for("other", Some("rev-a"), Some(2)), Some(Reason::Incompatible));
        assert_eq!(refusal(Some("x"), Some(2)), Some(Reason::HardwareMismatch));
        assert_eq!(refusal(None, Some(2)), Some(Reason::HardwareMismatch));
        assert_eq!(refusal(Some("rev-a"), Some(5)), Some(Reason::CounterRollback));
        assert_eq!(refusal(Some("rev-a"), Some(0)), Some(Reason::SteppingStoneRequired));
        assert_eq!(refusal(Some("rev-a"), Some(4)), None);
        assert_eq!(refusal(Some("rev-a"), None), None);
    }

    #[test]
    fn contradictions_are_malformed() {
        let refused = |what: &str, change: fn(&mut Manifest)| {
            let mut manifest = example();
            change(&mut manifest);
            assert!(manifest.to_bytes().is_err(), "{what}");
            let error = Manifest::parse(&document::to_bytes(&manifest).unwrap()).unwrap_err();
            assert_eq!(error.reason(), Reason::Malformed, "{what}");
        };
        refused("compatible", |m| m.compatible.clear());
        refused("compatible", |m| m.compatible = "a\u{7}".to_owned());
        refused("floor", |m| m.rollback_floor = 6);
        refused("from", |m| m.from = Some(FromRange { min_counter: 4, max_counter: Some(3) }));
        refused("from", |m| m.from = Some(FromRange { min_counter: 6, max_counter: None }));
        refused("schema", |m| m.state_schema = Some(SchemaRange { min: 3, max: 2 }));
        refused("no images", |m| m.images.clear());
        refused("image twice", |m| m.images.push(m.images[0].clone()));
        refused("too many", |m| m.images = vec![m.images[0].clone(); 33]);
        refused("name", |m| m.images[0].name = "../x".to_owned());
        refused("size", |m| m.images[0].size = u64::MAX);
        refused("payload", |m| m.images[0].payload.size = u64::MAX);
        refused("index", |m| m.images[0].index.size += 1);
        refused("index", |m| m.images[0].index.size = 0);
        refused("index", |m| m.images[0].index.size = u64::MAX);
        refused("hooks", |m| m.hooks = vec!["a b".to_owned()]);
        refused("hooks", |m| m.hooks = vec!["a".to_owned(), "a".to_owned()]);
        refused("chunks", |m| {
            m.images[0].chunks =
                Some(Chunks { size: u64::MAX, sha256: Digest::of(b""), method: "fastcdc".to_owned(), target: 1 });
        });
    }

    #[test]
    fn what_is_newer_is_called_newer() {
        let text = String::from_utf8(example().to_bytes().unwrap()).unwrap();
        let reason = |from: &str, to: &str| Manifest::parse(text.replace(from, to).as_bytes()).unwrap_err().reason();
        assert_eq!(reason("\"block\"", "\"verity\""), Reason::FormatTooNew);
        assert_eq!(reason("\"crit\":[\"from\"]", "\"crit\":[\"quantum\"]"), Reason::FormatTooNew);
        assert!(Manifest::parse(text.replace("\"hooks\"", "\"new\":[{}],\"hooks\"").as_bytes()).is_ok());
    }
}
