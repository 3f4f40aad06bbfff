//! A fleet host: takes the reports that devices post, and keeps those that are rightly signed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bundle::dsse::Envelope;
use bundle::keys::{KeySet, PublicKey};
use serde::Deserialize;
use serde_json::Value;

/// Where devices post.
pub(super) const PATH: &str = "/reports";
/// Longest post taken, bytes: 32 reports need far less.
pub(super) const LONGEST: usize = 1 << 20;
/// What is signed (`docs/src/reports.md`).
const REPORTS_TYPE: &str = "application/vnd.flipside.reports.v1+json";

#[derive(Debug, Deserialize)]
struct Batch {
    device: String,
    key: String,
    reports: Vec<Value>,
}

/// What devices said, by their ids.
#[derive(Debug, Default, Clone)]
pub(super) struct Reports {
    keys: BTreeMap<String, String>,
    by_device: BTreeMap<String, Vec<Value>>,
}

impl Reports {
    /// Takes one post. The first key of a device is the one it stays with.
    ///
    /// # Errors
    /// Not a batch of reports, or not signed with the device's key.
    pub fn take(&mut self, body: &[u8]) -> Result<()> {
        let envelope = Envelope::parse(body)?;
        let batch: Batch = serde_json::from_slice(&envelope.payload).context("a batch of reports")?;
        let keys: KeySet = [PublicKey::from_pem(&batch.key)?].into_iter().collect();
        envelope.verify(REPORTS_TYPE, &keys, 1)?;
        let known = self.keys.entry(batch.device.clone()).or_insert_with(|| batch.key.clone());
        ensure!(*known == batch.key, "{} came with another key", batch.device);
        self.by_device.entry(batch.device).or_default().extend(batch.reports);
        Ok(())
    }

    /// The reports of one device, or of all.
    pub fn of(&self, device: Option<&str>) -> Vec<Value> {
        let wanted = self.by_device.iter().filter(|(id, _)| device.is_none_or(|d| d == id.as_str()));
        wanted.flat_map(|(_, reports)| reports).cloned().collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bundle::keys::PrivateKey;
    use serde_json::json;

    /// A post of one report, that claims `claimed` and is signed by `signer`.
    pub(in super::super) fn post(device: &str, claimed: u8, signer: u8) -> Vec<u8> {
        let key = |seed| PrivateKey::from_seed(&[seed; 32]);
        let pem = key(claimed).public().unwrap().to_pem().to_owned();
        let batch = json!({"type": "reports/v1", "device": device, "key": pem, "reports": [{"sequence": 1}]});
        let mut envelope = Envelope::new(REPORTS_TYPE, serde_json::to_vec(&batch).unwrap());
        envelope.sign(&key(signer)).unwrap();
        envelope.to_bytes().unwrap()
    }

    #[test]
    fn only_a_device_speaks_for_itself() {
        let mut reports = Reports::default();
        reports.take(&post("one", 1, 1)).unwrap();
        reports.take(&post("two", 2, 2)).unwrap();
        assert!(reports.take(&post("three", 3, 1)).is_err(), "signed by another");
        assert!(reports.take(&post("one", 2, 2)).is_err(), "another key than before");
        assert!(reports.take(b"{}").is_err());
        assert_eq!((reports.of(Some("one")).len(), reports.of(Some("three")).len(), reports.of(None).len()), (1, 0, 2));
    }
}
