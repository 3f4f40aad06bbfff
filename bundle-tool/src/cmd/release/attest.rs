//! Results of gates as signed facts of a release, and those of releases before.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use bundle::manifest::Manifest;
use serde::{Deserialize, Serialize};

use super::state::{Outcome, Step};
use crate::gate::Gate;
use crate::gate::benchmarks::Measures;
use crate::gate::verdict::{Before, Shown};
use crate::recipe::GATES;

/// What the manifest says of one gate. No times: the same results make the same bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Attested {
    stage: String,
    outcome: Outcome,
    run: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    why: String,
    #[serde(default)]
    shown: Shown,
}

/// Writes the results of the gates into a manifest.
pub fn attest(manifest: &mut Manifest, gates: &[Gate], steps: &[Step], source: Option<&str>) -> Result<()> {
    let mut all = BTreeMap::new();
    for gate in gates {
        let step = steps.iter().find(|step| step.stage == gate.stage.name() && step.name == gate.name);
        let step = step.with_context(|| format!("gate {} has no result", gate.name))?;
        let attested = Attested {
            stage: step.stage.clone(),
            outcome: step.outcome,
            run: gate.run.clone(),
            why: step.why.clone(),
            shown: step.shown.clone(),
        };
        all.insert(&gate.name, attested);
    }
    if !all.is_empty() {
        manifest.attestations.insert(GATES.to_owned(), serde_json::to_value(all)?);
    }
    if let Some(source) = source {
        manifest.attestations.entry("source_revision".to_owned()).or_insert_with(|| source.into());
    }
    Ok(())
}

/// What an earlier release measured under that gate, if it did.
pub fn before(manifest: &Manifest, gate: &str) -> Option<Before> {
    // Field by field: a newer bundle-tool may have written more, or another shape of what is not needed here.
    let measures = manifest.attestations.get(GATES)?.get(gate)?.get("shown")?.get("benchmarks")?;
    let measures = Measures::deserialize(measures).ok().filter(|measures| !measures.is_empty())?;
    Some(Before { release: format!("{} (counter {})", manifest.version, manifest.counter), measures })
}
