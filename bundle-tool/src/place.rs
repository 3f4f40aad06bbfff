//! Putting signed documents where devices look: only what they accept. The rest waits beside it for signatures.

use std::path::Path;

use anyhow::{Result, bail};
use bundle::dsse::Envelope;
use bundle::keys::KeySet;
use bundle::reason::Reason;

use crate::document::Document;
use crate::files;
use crate::refusal::Refused;
use crate::webroot::WebRoot;

/// Who must have signed a document that is put in place.
pub enum Needed {
    /// As the trust root says.
    These(KeySet, usize),
    /// Nobody knows, but not fewer than signed the one that is there.
    AsMany,
    /// What is there does not matter.
    Blindly,
}

impl Needed {
    /// What the options of a command come to.
    pub fn new(role: Option<(KeySet, usize)>, blindly: bool) -> Self {
        match role {
            Some((keys, threshold)) => Self::These(keys, threshold),
            None if blindly => Self::Blindly,
            None => Self::AsMany,
        }
    }

    /// Whether a document that is in place counts. Without a trust root nobody knows better.
    fn believes(&self, envelope: &Envelope) -> bool {
        match self {
            Self::These(keys, threshold) => envelope.verify(&envelope.payload_type, keys, *threshold).is_ok(),
            Self::AsMany | Self::Blindly => true,
        }
    }

    /// Why a document must not be put in place.
    fn lacks(&self, path: &Path, envelope: &Envelope) -> Option<(Reason, String)> {
        match self {
            Self::These(..) if envelope.signatures.is_empty() => {
                Some((Reason::ThresholdNotMet, "nobody has signed it yet".to_owned()))
            }
            Self::These(keys, threshold) => {
                let error = envelope.verify(&envelope.payload_type, keys, *threshold).err()?;
                Some((error.reason(), error.to_string()))
            }
            Self::Blindly => None,
            Self::AsMany => {
                let there = read(path)?.signatures.len();
                let own = envelope.signatures.len();
                let why =
                    || format!("it has {own} signatures and the present one {there}; --trust FILE says how many count");
                (own < there).then(|| (Reason::ThresholdNotMet, why()))
            }
        }
    }
}

/// Whether that document is to take the place of the live one still: one that was made before it must not.
///
/// A live one that does not count, for its key was replaced or a stranger wrote it, outranks nothing.
fn waits(next: &Path, live: Option<(u64, u64)>, new: Option<(u64, u64)>) -> bool {
    let next = read(next).and_then(|it| rank(&it));
    // Nor does one wait that is older than what was made now, where nothing that counts is in place.
    next.is_some_and(|next| live.map_or_else(|| new.is_none_or(|new| next >= new), |live| next > live))
}

fn read(path: &Path) -> Option<Envelope> {
    Envelope::parse(&files::document(path).ok()?).ok()
}

/// What never goes down on a device.
fn rank(envelope: &Envelope) -> Option<(u64, u64)> {
    match Document::of(envelope).ok()? {
        Document::Channel(it) => Some((0, it.version)),
        Document::Recall(it) => Some((0, it.version)),
        Document::Approval(it) => Some(it.rank()),
        Document::Manifest(_) | Document::Trust(_) => None,
    }
}

/// Replaces a document that devices look at; one that they would refuse is put beside it instead, to be signed by the others
/// whose signatures it needs.
pub fn replace(path: &Path, envelope: &Envelope, needed: &Needed) -> Result<()> {
    let bytes = envelope.to_bytes()?;
    let next = WebRoot::pending(path);
    let shown = next.display();
    let (live, new) = (read(path).filter(|it| needed.believes(it)).and_then(|it| rank(&it)), rank(envelope));
    if !matches!(needed, Needed::Blindly) && live.zip(new).is_some_and(|(live, new)| live >= new) {
        bail!("{} was changed meanwhile, and is as it was; run this again", path.display());
    }
    let Some((reason, why)) = needed.lacks(path, envelope) else {
        files::replace(path, &bytes)?;
        if next.exists() {
            eprintln!("warning: {shown} was made before this one and must not replace it; remove it and make it again");
        }
        return Ok(());
    };
    if waits(&next, live, new) {
        let why = format!(
            "{why}. {shown} waits for signatures already: complete it and put it in place, or remove it, before another one"
        );
        return Err(Refused(reason, why).into());
    }
    files::replace(&next, &bytes)?;
    let why = format!(
        "devices would refuse it yet, so {path} is as it was: {why}. It is in {shown}; sign it there \
         (bundle-tool sign {shown} --key KEY.pem, or --print-pae and --attach), and rename it when `bundle-tool verify {shown} \
         --trust TRUST` is content: mv {shown} {path}",
        path = path.display(),
    );
    Err(Refused(reason, why).into())
}

#[cfg(test)]
mod tests {
    use bundle::channel::{CHANNEL_TYPE, Channel};
    use bundle::keys::PrivateKey;

    use super::*;

    fn index(key: &PrivateKey, version: u64) -> Envelope {
        let issued = jiff::Timestamp::UNIX_EPOCH;
        let channel = Channel { channel: "stable".into(), version, issued, releases: Vec::new(), crit: Vec::new() };
        let mut envelope = Envelope::new(CHANNEL_TYPE, channel.to_bytes().unwrap());
        envelope.sign(key).unwrap();
        envelope
    }

    #[test]
    fn what_came_in_place_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("channel.dsse.json");
        let (ours, strangers) = (PrivateKey::from_seed(&[1; 32]), PrivateKey::from_seed(&[2; 32]));
        let mut keys = KeySet::default();
        keys.insert(ours.public().unwrap());
        let needed = || Needed::These(keys.clone(), 1);
        replace(&path, &index(&ours, 57), &needed()).unwrap();
        replace(&path, &index(&ours, 58), &needed()).unwrap();
        let error = replace(&path, &index(&ours, 58), &needed()).unwrap_err();
        assert!(error.to_string().contains("was changed meanwhile"), "{error}");
        // What does not count is no reason.
        std::fs::write(&path, index(&strangers, 99).to_bytes().unwrap()).unwrap();
        replace(&path, &index(&ours, 59), &needed()).unwrap();
    }
}
