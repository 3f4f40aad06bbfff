//! Which image goes where, per slot. Plain data from the configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use updater_core::slot::{PerSlot, SlotId};

use super::device::{DeviceError, DeviceRef};

/// Where one image of a slot goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A partition.
    Block(DeviceRef),
    /// A file, replaced as a whole.
    File(PathBuf),
}

impl Place {
    /// A partition by `PARTLABEL=…`, `PARTUUID=…` or path.
    ///
    /// # Errors
    /// [`DeviceError::NotAPartition`].
    pub fn block(text: &str) -> Result<Self, DeviceError> {
        text.parse().map(Self::Block)
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
#[error("both slots, or two images, have the same place {0}")]
pub struct SharedPlace(pub String);

impl SlotMap {
    /// Takes the map of both slots.
    ///
    /// # Errors
    /// [`SharedPlace`]: two images would overwrite each other, or an update the running system.
    pub fn new(slots: PerSlot<BTreeMap<String, Place>>) -> Result<Self, SharedPlace> {
        let mut seen: Vec<&Place> = Vec::new();
        for place in slots.a.values().chain(slots.b.values()) {
            if seen.contains(&place) {
                let name = match place {
                    Place::Block(device) => device.to_string(),
                    Place::File(path) => path.display().to_string(),
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
                Place::File(_) => None,
            })
        };
        of(SlotId::A).chain(of(SlotId::B)).collect()
    }
}

/// The name beside `path` under which a new version is written before it takes the place of the old one.
#[must_use]
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".flipside-new");
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
}
