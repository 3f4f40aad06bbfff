//! What is put on the server: by the release engineer, by the region, or by a stranger.

use serde::{Deserialize, Serialize};

/// A release to put on the server.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Name of a folder under `releases/` of the images.
    pub release: String,
    /// Key that signs bundle and channel index.
    #[serde(default = "release_key")]
    pub key: String,
    /// In place of the published bundle the same one is served, signed with this key.
    pub forged_with: Option<String>,
    /// Make deltas from so many of the releases before.
    #[serde(default)]
    pub deltas: u32,
    /// Product it says it is made for, instead of the appliance's.
    pub compatible: Option<String>,
    /// Hardware it says it is made for, instead of the appliance's.
    pub hardware: Option<String>,
    /// With an application besides, an image of kind `tree` named `app`.
    #[serde(default)]
    pub application: bool,
}

impl Publish {
    /// As an ordinary release: everything at its default.
    #[must_use]
    pub fn of(release: &str) -> Self {
        Self {
            release: release.into(),
            key: release_key(),
            forged_with: None,
            deltas: 0,
            compatible: None,
            hardware: None,
            application: false,
        }
    }
}

fn release_key() -> String {
    "release".into()
}

/// What the region says.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// A published release.
    pub release: String,
    /// `rolling`, `paused` or `halted`.
    #[serde(default = "rolling")]
    pub state: String,
    /// Percent of devices let in.
    #[serde(default = "everyone")]
    pub percent: u32,
    /// Key that signs it.
    #[serde(default = "region_key")]
    pub key: String,
    /// When it ends, as `bundle-tool` takes it (`30d`).
    pub expires: Option<String>,
    /// How long a stored copy of it may be used, as `bundle-tool` takes it (`1s`).
    pub max_stale: Option<String>,
    /// Raise the epoch as well.
    #[serde(default)]
    pub raise_epoch: bool,
}

impl Approve {
    /// As for a release that may roll everywhere: everything at its default.
    #[must_use]
    pub fn of(release: &str) -> Self {
        Self {
            release: release.into(),
            state: rolling(),
            percent: everyone(),
            key: region_key(),
            expires: None,
            max_stale: None,
            raise_epoch: false,
        }
    }
}

fn rolling() -> String {
    "rolling".into()
}

fn region_key() -> String {
    "region".into()
}

fn everyone() -> u32 {
    100
}
