//! Which image goes where, per slot. Plain data from the configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use updater_core::slot::{PerSlot, SlotId};

use super::device::{DeviceError, DeviceRef};
use super::folder::overlap;

/// Where one image of a slot goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A partition.
    Block(DeviceRef),
    /// A file, replaced as a whole.
    File(PathBuf),
    /// A folder, replaced as a whole.
    Tree(PathBuf),
}

impl Place {
    /// A partition by `PARTLABEL=…`, `PARTUUID=…` or path.
    ///
    /// # Errors
    /// [`DeviceError::NotAPartition`].
    pub fn block(text: &str) -> Result<Self, DeviceError> {
        text.parse().map(Self::Block)
    }

    /// Where it is in the file system; none for a partition.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Block(_) => None,
            Self::File(path) | Self::Tree(path) => Some(path),
        }
    }

    /// Whether writing one writes the other: the same place, or something in a folder that is replaced as a whole.
    fn collides(&self, other: &Self) -> bool {
        let tree = matches!(self, Self::Tree(_)) || matches!(other, Self::Tree(_));
        self == other || tree && matches!((self.path(), other.path()), (Some(a), Some(b)) if overlap(a, b))
    }
}

/// The places of both slots, by image name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotMap {
    /// Image name to place.
    pub slots: PerSlot<BTreeMap<String, Place>>,
}

/// A map that would write one slot through the other's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("both slots, or two images, have the same place {0}, or one stands in the other")]
pub struct SharedPlace(pub String);

impl SlotMap {
    /// Takes the map of both slots.
    ///
    /// # Errors
    /// [`SharedPlace`]: two images would overwrite each other, or an update the running system.
    pub fn new(slots: PerSlot<BTreeMap<String, Place>>) -> Result<Self, SharedPlace> {
        let mut seen: Vec<&Place> = Vec::new();
        for place in slots.a.values().chain(slots.b.values()) {
            if seen.iter().any(|other| place.collides(other)) {
                let name = match place {
                    Place::Block(device) => device.to_string(),
                    Place::File(path) | Place::Tree(path) => path.display().to_string(),
                };
                return Err(SharedPlace(name));
            }
            seen.push(place);
        }
        Ok(Self { slots })
    }

    /// Where `image` goes in `slot`.
    #[must_use]
    pub fn place(&self, slot: SlotId, image: &str) -> Option<&Place> {
        self.slots.get(slot).get(image)
    }

    /// The block devices of both slots that could be the root of the running system.
    #[must_use]
    pub fn devices(&self) -> Vec<(SlotId, DeviceRef)> {
        let of = |slot: SlotId| {
            self.slots.get(slot).values().filter_map(move |place| match place {
                Place::Block(device) => Some((slot, device.clone())),
                Place::File(_) | Place::Tree(_) => None,
            })
        };
        of(SlotId::A).chain(of(SlotId::B)).collect()
    }

    /// The files and folders of both slots but that of `image` in `slot`.
    pub fn paths_but(&self, slot: SlotId, image: &str) -> impl Iterator<Item = &Path> {
        let of = move |each: SlotId| self.slots.get(each).iter().map(move |(name, place)| (each, name, place));
        let all = of(SlotId::A).chain(of(SlotId::B));
        all.filter(move |(each, name, _)| (*each, name.as_str()) != (slot, image)).filter_map(|(_, _, p)| p.path())
    }
}

/// The name beside `path` under which a new version is written before it takes the place of the old one.
#[must_use]
pub fn beside(path: &Path) -> PathBuf {
    named(path, ".flipside-new")
}

/// `path` with `ending` added to its name.
#[must_use]
pub fn named(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_for_two_slots_is_refused() {
        let map = |a: &str, b: &str| {
            let one = |text: &str| BTreeMap::from([("rootfs".to_owned(), Place::block(text).unwrap())]);
            SlotMap::new(PerSlot { a: one(a), b: one(b) })
        };
        let good = map("PARTLABEL=root-a", "PARTLABEL=root-b").unwrap();
        assert_eq!(good.devices().len(), 2);
        assert!(good.place(SlotId::B, "rootfs").is_some() && good.place(SlotId::B, "kernel").is_none());
        map("PARTLABEL=root-a", "PARTLABEL=root-a").unwrap_err();
    }

    #[test]
    fn a_folder_in_or_around_another_place_is_refused() {
        let map = |a: Place, b: Place| {
            let one = |place| BTreeMap::from([("rootfs".to_owned(), place)]);
            SlotMap::new(PerSlot { a: one(a), b: one(b) })
        };
        let (tree, file) = (|text: &str| Place::Tree(text.into()), |text: &str| Place::File(text.into()));
        let good = map(tree("/slots/a"), tree("/slots/ab")).unwrap();
        assert_eq!(good.paths_but(SlotId::B, "rootfs").collect::<Vec<_>>(), [Path::new("/slots/a")]);
        for (a, b) in [("/slots", "/slots"), ("/slots", "/slots/b"), ("/slots/a/b", "/slots/a")] {
            map(tree(a), tree(b)).unwrap_err();
            map(tree(a), file(b)).unwrap_err();
        }
        map(file("/slots/a/x"), file("/slots/a")).unwrap();
    }
}
