//! Which channel index a publication goes on from, and the version above every one that devices saw.
//!
//! The version never goes down on a device: an index with a lower one is passed over without a word. One that began
//! at 1 again would reach nobody until it had caught up.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use bundle::channel::{CHANNEL_TYPE, Channel};
use bundle::dsse::{DsseError, Envelope};
use bundle::keys::KeySet;
use jiff::Timestamp;

use super::{Args, keep, raised};
use crate::files;
use crate::webroot::{WebRoot, ensure_own};

/// Highest version that is taken from an index nobody vouches for. A channel has one version for each change; who
/// follows a stranger to the end of the numbers can never publish again.
const MAX_UNVERIFIED_VERSION: u64 = 1 << 32;

/// Highest version that can be said: nobody gets there by publishing, and it leaves room above a slip of the finger.
const MAX_SAID_VERSION: u64 = 1 << 53;

/// The index to add to, with its new version already, and the genuine one that stands there.
pub fn next(args: &Args, web: &WebRoot, by: (&KeySet, usize)) -> Result<(Channel, Option<Channel>)> {
    let path = web.channel(&args.channel);
    let loaded = load(&path, &args.channel, by.0, by.1);
    // Whatever was said, what is genuine is gone on from: it names what is approved.
    let blind = args.blindly_replace_channel && loaded.is_err();
    let present = if blind { None } else { loaded? };
    if args.blindly_replace_channel && present.is_some() {
        eprintln!("note: the present index is genuine, and not replaced but gone on from");
    }
    let seen = match (&present, args.channel_version) {
        (Some(present), _) => present.version,
        // Said by somebody who knows: what stands there, or does not any more, does not matter.
        (None, Some(_)) => 0,
        (None, None) if blind => unverified(&path, &args.channel)?,
        (None, None) => first(web, &args.channel)?,
    };
    let mut channel = present.clone().unwrap_or_else(|| empty(&args.channel));
    channel.version = version(seen, args.channel_version)?;
    Ok((channel, present))
}

/// The version of the next index.
fn version(seen: u64, wanted: Option<u64>) -> Result<u64> {
    let Some(wanted) = wanted else { return raised(seen, "the channel index") };
    ensure!(wanted > seen, "--channel-version {wanted} is not above version {seen}, which devices have");
    ensure!(
        wanted <= MAX_SAID_VERSION,
        "--channel-version {wanted} is above {MAX_SAID_VERSION}: no room would be left"
    );
    Ok(wanted)
}

/// The channel as it stands, if it does. What somebody else put there must not be signed again by us.
pub fn load(path: &Path, name: &str, keys: &KeySet, threshold: usize) -> Result<Option<Channel>> {
    if !path.exists() {
        return Ok(None);
    }
    let read = || -> Result<Channel> {
        let verified = Envelope::parse(&files::document(path)?)?.verify(CHANNEL_TYPE, keys, threshold)?;
        own(path, name, &verified.payload)
    };
    read().map(Some).map_err(|error| {
        let advice = advice(path, &error);
        error.context(format!("the channel index {} ({advice})", path.display()))
    })
}

/// The index, when it is of that channel.
fn own(path: &Path, name: &str, payload: &[u8]) -> Result<Channel> {
    let channel = Channel::parse(payload)?;
    ensure_own(path, "channel", name, &channel.channel)?;
    Ok(channel)
}

/// What helps. After a change of keys that is a signature: a new index would not name the releases before.
fn advice(path: &Path, error: &anyhow::Error) -> String {
    let blind = "`publish --blindly-replace-channel` starts a new one";
    let sign = format!(
        "add the new key's signature: `bundle-tool sign {} --expect channel --trust TRUST --key KEY.pem`, with a TRUST \
         by which it is genuine",
        path.display()
    );
    match error.downcast_ref() {
        Some(DsseError::ThresholdNotMet { .. }) => sign,
        Some(DsseError::KeyUnknown) => format!("after a change of keys, {sign}; when it is not ours, {blind}"),
        _ => blind.to_owned(),
    }
}

/// The version of an index whose signature means nothing.
fn unverified(path: &Path, name: &str) -> Result<u64> {
    let read = || -> Result<u64> {
        // How far ours had come, another channel's index does not tell.
        Ok(own(path, name, &Envelope::parse(&files::document(path)?)?.payload)?.version)
    };
    let what = || format!("{}: its version can not be told; say one above it with --channel-version N", path.display());
    let version = read().with_context(what)?;
    if version > MAX_UNVERIFIED_VERSION {
        bail!(
            "{} has version {version}, which no honest channel reaches; say your own with --channel-version N",
            path.display()
        );
    }
    eprintln!(
        "note: version {version} is that of an index nobody vouches for; where devices saw a higher one, say one above it \
         with --channel-version N"
    );
    Ok(version)
}

/// Refuses a channel without an index whose releases an approval or a recall names: it is not new, its index is lost.
pub fn ensure_not_lost(web: &WebRoot, name: &str) -> Result<()> {
    let approved =
        keep::approved(web, name).context("`publish --channel-version N` does not look whether it is lost")?;
    let had_one = web.recall(name).exists() || !approved.is_empty();
    ensure!(
        !had_one,
        "{} is lost: an approval or a recall names releases of channel {name}. Devices take no index with a lower \
         version than they saw; put the file back, or say any version above its last with `publish --channel-version N`, \
         and publish again every release that an approval names",
        web.channel(name).display()
    );
    Ok(())
}

/// Nothing was seen yet of a new channel.
fn first(web: &WebRoot, name: &str) -> Result<u64> {
    ensure_not_lost(web, name)?;
    eprintln!(
        "note: the index of channel {name} begins with version 1; where devices saw one, say --channel-version N"
    );
    Ok(0)
}

fn empty(channel: &str) -> Channel {
    let issued = Timestamp::UNIX_EPOCH;
    Channel { channel: channel.to_owned(), version: 0, issued, releases: Vec::new(), crit: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn every_next_version_is_above_the_last() {
        assert_eq!(version(0, None).unwrap(), 1);
        assert_eq!(version(57, None).unwrap(), 58);
        assert_eq!(version(57, Some(60)).unwrap(), 60);
        assert!(version(57, Some(57)).unwrap_err().to_string().contains("not above version 57"));
        assert!(version(0, Some(0)).is_err());
        assert!(version(0, Some(u64::MAX)).unwrap_err().to_string().contains("no room"));
        assert!(version(u64::MAX, None).is_err());
    }
}
