//! Which document a change begins from, and the epoch and version that outrank what devices saw.
//!
//! `(epoch, version)` never goes down on a device. A thief of the region's key may have signed any version of his
//! epoch; only a higher epoch, signed by the key that came after, ends that.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use bundle::approval::{APPROVAL_KIND, APPROVAL_TYPE, Approval};
use bundle::dsse::Envelope;
use bundle::keys::KeySet;
use jiff::{SignedDuration, Timestamp};

use super::Args;
use crate::cmd::publish::raised;
use crate::files;
use crate::webroot::ensure_own;

/// Highest epoch that is taken from a document nobody vouches for. A region raises its epoch a few times in its life;
/// who follows a thief to the end of the numbers can never raise it again.
const MAX_UNVERIFIED_EPOCH: u64 = 1 << 32;

/// How long a new approval is valid when nobody says.
const NEW: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The approval to change, ranked above the one that stands there.
pub fn next(path: &Path, args: &Args, believed: &(KeySet, usize), now: Timestamp) -> Result<Approval> {
    let blind = args.blindly_replace_approval && path.exists();
    let mut approval = if path.exists() && !blind { load(path, args, believed)? } else { empty(args, now)? };
    let seen = match (blind, args.epoch) {
        (false, _) => Some(approval.rank()),
        (true, None) => Some(unverified(path)?),
        // Said by somebody who knows: what stands there does not matter.
        (true, Some(_)) => None,
    };
    (approval.epoch, approval.version) = rank(seen, args.epoch, args.raise_epoch)?;
    Ok(approval)
}

/// Epoch and version of the next document.
fn rank(seen: Option<(u64, u64)>, wanted: Option<u64>, raise: bool) -> Result<(u64, u64)> {
    let (epoch, version) = seen.unwrap_or_default();
    match wanted {
        Some(wanted) => {
            ensure!(wanted > epoch, "--epoch {wanted} does not outrank epoch {epoch}, which devices have");
            Ok((wanted, 1))
        }
        None if raise => Ok((epoch.checked_add(1).context("the approval has the highest epoch there is")?, 1)),
        None => Ok((epoch, raised(version, "the approval (--raise-epoch goes on)")?)),
    }
}

/// What somebody else put there must not be signed again by us.
fn load(path: &Path, args: &Args, (keys, threshold): &(KeySet, usize)) -> Result<Approval> {
    let read = || -> Result<Approval> {
        let verified = Envelope::parse(&files::document(path)?)?.verify(APPROVAL_TYPE, keys, *threshold)?;
        let approval = Approval::parse(&verified.payload)?;
        ensure_own(path, "region", &args.region, &approval.region)?;
        ensure_own(path, "channel", &args.channel, &approval.channel)?;
        Ok(approval)
    };
    read().with_context(|| format!("the approval {} (--blindly-replace-approval starts a new one)", path.display()))
}

/// The rank of a document whose signature means nothing any more.
fn unverified(path: &Path) -> Result<(u64, u64)> {
    let read = || -> Result<Approval> { Ok(Approval::parse(&Envelope::parse(&files::document(path)?)?.payload)?) };
    let what = || format!("{}: its epoch can not be told; say one above it with --epoch N", path.display());
    let (epoch, version) = read().with_context(what)?.rank();
    if epoch > MAX_UNVERIFIED_EPOCH {
        bail!("{} has epoch {epoch}, which no honest region reaches; say your own with --epoch N", path.display());
    }
    Ok((epoch, version))
}

/// Nothing is approved.
fn empty(args: &Args, now: Timestamp) -> Result<Approval> {
    Ok(Approval {
        kind: APPROVAL_KIND.to_owned(),
        region: args.region.clone(),
        channel: args.channel.clone(),
        epoch: 1,
        version: 0,
        issued: now,
        expires: now.checked_add(NEW)?,
        max_stale_seconds: 6 * 3600,
        entries: Vec::new(),
        crit: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn every_next_rank_is_above_the_last() {
        assert_eq!(rank(Some((1, 0)), None, false).unwrap(), (1, 1));
        assert_eq!(rank(Some((3, 411)), None, false).unwrap(), (3, 412));
        assert_eq!(rank(Some((3, 411)), None, true).unwrap(), (4, 1));
        assert_eq!(rank(Some((3, u64::MAX)), None, true).unwrap(), (4, 1));
        assert_eq!(rank(Some((3, 9)), Some(7), false).unwrap(), (7, 1));
        assert_eq!(rank(None, Some(7), false).unwrap(), (7, 1));
    }

    #[test]
    fn the_end_of_the_numbers_is_an_error() {
        let said = |seen, wanted, raise| rank(Some(seen), wanted, raise).unwrap_err().to_string();
        assert!(said((3, u64::MAX), None, false).contains("--raise-epoch"));
        assert!(said((u64::MAX, 1), None, true).contains("highest epoch"));
        assert!(said((3, 1), Some(3), false).contains("does not outrank"));
    }
}
