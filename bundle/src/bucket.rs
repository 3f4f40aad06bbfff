//! Which share of a fleet a device belongs to.
//!
//! A device is let in when its bucket is below the rollout's threshold. The salt makes the order of devices differ
//! from rollout to rollout, so that the same ones are not always first. Pure.

use sha2::{Digest as _, Sha256};

/// Separates this use of SHA-256 from every other.
const DOMAIN: &[u8] = b"fleet-bucket-v1\0";

/// Number of buckets: thresholds are basis points.
pub const BUCKETS: u16 = 10_000;

/// The bucket of a device, 0 to 9999.
#[must_use]
pub fn bucket(salt: &[u8], device_id: &str) -> u16 {
    let hash = Sha256::new().chain_update(DOMAIN).chain_update(salt).chain_update(device_id).finalize();
    let x = hash.iter().take(8).fold(0u64, |x, byte| x << 8 | u64::from(*byte));
    // Multiply and shift instead of modulo: the same share for every bucket.
    let bucket = (u128::from(x) * u128::from(BUCKETS)) >> 64;
    u16::try_from(bucket).unwrap_or(BUCKETS - 1)
}

/// Whether a threshold in basis points lets that bucket in: 0 nobody, 10000 everybody.
#[must_use]
pub const fn admits(bucket: u16, threshold_bp: u16) -> bool {
    bucket < threshold_bp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_the_specification() {
        let salt: Vec<u8> = (0..32).collect();
        assert_eq!(bucket(&salt, "dev-0001"), 4643);
        assert_eq!(bucket(&salt, "dev-0002"), 6645);
        assert_eq!(bucket(&salt, "3f1b6c1e-6d7d-4b53-9a6e-0d5f7f0a1c22"), 6419);
        assert_eq!(bucket(&salt, ""), 4662);
        assert_eq!(bucket(&[0xff; 32], "dev-0001"), 181);
    }

    #[test]
    fn thresholds() {
        assert!(!admits(0, 0));
        assert!(admits(0, 1));
        assert!(admits(9999, 10_000));
    }

    /// Buckets of a large fleet in one rollout.
    fn fleet(salt: &[u8]) -> Vec<u16> {
        (0..200_000).map(|n| bucket(salt, &format!("device-{n:06}"))).collect()
    }

    fn share(buckets: &[u16], threshold_bp: u16) -> f64 {
        buckets.iter().filter(|bucket| admits(**bucket, threshold_bp)).count() as f64 / buckets.len() as f64
    }

    #[test]
    fn a_threshold_lets_in_that_share_of_a_fleet() {
        let buckets = fleet(&[7; 32]);
        for threshold in [0, 1, 10, 100, 500, 1_000, 2_500, 5_000, 7_500, 9_000, 9_999, 10_000] {
            let (share, wanted) = (share(&buckets, threshold), f64::from(threshold) / 10_000.0);
            assert!((share - wanted).abs() < 0.002, "{threshold} bp let in {share}");
        }
    }

    #[test]
    fn raising_a_threshold_never_drops_a_device() {
        for bucket in fleet(&[7; 32]).into_iter().step_by(100) {
            let admitted: Vec<bool> = (0..=BUCKETS).step_by(50).map(|threshold| admits(bucket, threshold)).collect();
            assert!(admitted.is_sorted() && !admitted[0] && admitted[admitted.len() - 1]);
        }
    }

    #[test]
    fn who_is_first_differs_from_rollout_to_rollout() {
        let (spring, summer) = (fleet(&[1; 32]), fleet(&[2; 32]));
        let both = spring.iter().zip(&summer).filter(|(a, b)| admits(**a, 2_000) && admits(**b, 2_000)).count();
        let share = both as f64 / spring.len() as f64;
        assert!((share - 0.04).abs() < 0.002, "20 % of 20 % are 4 %, not {share}");
    }
}
