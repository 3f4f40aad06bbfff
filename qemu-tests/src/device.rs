//! What an appliance says about itself, asked from inside the guest.
//!
//! Two sources on purpose: facts of the system (kernel command line, boot entries, the version installed in it) do not
//! pass through the updater; what the updater says (D-Bus, `flipside … --json`) is compared with them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent::{Agent, Output};
use crate::bootstate;
use crate::entries::Entry;

/// How long one question may take in an emulated guest that is also writing an image.
const ANSWER: Duration = Duration::from_secs(120);

/// One command that tells most facts, sections marked: a call through the agent costs more than the command. The shell
/// starts no program; each would cost an emulated guest as much as all the rest.
const FACTS: &str = r#"
say() { while IFS= read -r line || [ -n "$line" ]; do printf '%s%s\n' "$1" "$line"; done < "$2"; }
say "boot " /proc/sys/kernel/random/boot_id
read -r words < /proc/cmdline
for word in $words; do case $word in flipside.slot=*) echo "slot ${word#*=}";; esac; done
for file in /efi/loader/entries/*.conf; do
    [ -e "$file" ] || continue
    echo "entry ${file##*/}"
    say "| " "$file"
done
for file in grub/grubenv flipside/uboot.env flipside/uboot-redund.env; do
    [ -e "/efi/$file" ] && echo "state $file"
done
say "version " /usr/lib/demo-app/version
while read -r name count; do case $name in oom_kill) echo "oom_kills $count"; break;; esac; done < /proc/vmstat
"#;

/// Facts of the booted system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Kernel's id of this boot.
    pub boot_id: String,
    /// Slot on the kernel command line.
    pub slot: String,
    /// The slots' boot entries.
    pub entries: Vec<Entry>,
    /// Version of the booted system.
    pub version: String,
    /// Programs that the kernel killed in this boot because a limit of memory was reached, the updater's included.
    pub oom_kills: u64,
}

impl Facts {
    /// Asks a running guest.
    ///
    /// # Errors
    /// It does not answer (now).
    pub fn ask(agent: &Agent) -> Result<Self> {
        let text = agent.shell(FACTS, ANSWER)?.ok()?;
        let mut facts = Self::parse(&text)?;
        // As files: U-Boot's has zero bytes, which no shell can hold.
        let mut state = BTreeMap::new();
        for name in text.lines().filter_map(|line| line.strip_prefix("state ")) {
            state.insert(name, agent.read_file(&format!("/efi/{name}"))?);
        }
        facts.entries.extend(in_state_files(&state)?);
        Ok(facts)
    }

    fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            let found = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
            found.map(str::to_owned).with_context(|| format!("the guest does not tell its {key}"))
        };
        let mut entries = Vec::new();
        for block in text.split("\nentry ").skip(1) {
            let (name, rest) = block.split_once('\n').unwrap_or((block, ""));
            let content: Vec<_> = rest.lines().map_while(|l| l.strip_prefix("| ")).collect();
            entries.extend(Entry::parse(name, &content.join("\n")));
        }
        let (boot_id, slot, version) = (value("boot")?, value("slot")?, value("version")?);
        let oom_kills = value("oom_kills")?.parse().context("the count of killed programs")?;
        Ok(Self { boot_id, slot, version, entries, oom_kills })
    }

    /// Has the booted slot an entry without a counter?
    #[must_use]
    pub fn confirmed(&self) -> bool {
        self.entries.iter().any(|e| e.slot == self.slot && e.confirmed())
    }
}

/// The slots in the files of a boot loader that keeps its state in some; none for systemd-boot.
fn in_state_files(files: &BTreeMap<&str, Vec<u8>>) -> Result<Vec<Entry>> {
    if let Some(block) = files.get(bootstate::GRUBENV) {
        return bootstate::grub(block);
    }
    let copies = bootstate::UBOOT_ENV.map(|name| files.get(name).map(Vec::as_slice));
    if copies == [None, None] {
        return Ok(Vec::new());
    }
    bootstate::uboot(copies.map(Option::unwrap_or_default))
}

/// Runs `flipside` in the guest, as root.
///
/// # Errors
/// No answer from the agent in time.
pub fn flipside(agent: &Agent, args: &[&str], within: Duration) -> Result<Output> {
    let mut argv = vec!["/usr/bin/flipside"];
    argv.extend(args);
    agent.exec(&argv, within)
}

/// `flipside status --json`.
///
/// # Errors
/// No answer, a bad exit code, or not JSON.
pub fn status(agent: &Agent) -> Result<Value> {
    json(flipside(agent, &["status", "--json"], ANSWER)?)
}

/// States in which nothing is under way. `good` is shown until the daemon leaves, `idle` after.
#[must_use]
pub fn settled(state: &str) -> bool {
    matches!(state, "idle" | "good" | "rolled_back")
}

/// `flipside history --json`.
///
/// # Errors
/// No answer, a bad exit code, or not JSON.
pub fn history(agent: &Agent) -> Result<Value> {
    json(flipside(agent, &["history", "--json"], ANSWER)?)
}

/// Where the settings of the harness are, see `seed`.
const SETTINGS: &str = "/var/lib/flipside-config/99-harness.toml";

/// Tells an appliance that went on from a kept state what has changed in the world since: where the server is, and what
/// time it is. The timer stands still meanwhile, or the leap in time would fire it.
///
/// # Errors
/// No answer.
pub fn adjust(agent: &Agent, settings: &str) -> Result<()> {
    agent.wait(ANSWER)?;
    agent.write_file(SETTINGS, settings.as_bytes())?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let script =
        format!("systemctl stop flipside-check.timer; date -s @{now}; systemctl try-restart flipside.service; true");
    agent.shell(&script, ANSWER)?.ok().context("adjust the guest")?;
    Ok(())
}

/// A drop-in that makes the shipped timer fire soon and often. Under /run: gone with the boot.
const TIMER: &str = "[Timer]\nOnCalendar=\nOnActiveSec=1\nOnUnitInactiveSec=@s\nRandomizedDelaySec=0\nAccuracySec=1\n";

/// Makes the appliance's own timer look for updates every `seconds`, until the next boot.
///
/// # Errors
/// No answer, or systemd refuses.
pub fn set_timer(agent: &Agent, seconds: u64) -> Result<()> {
    let drop_in = TIMER.replace('@', &seconds.to_string());
    agent.write_file("/run/systemd/system/flipside-check.timer.d/soon.conf", drop_in.as_bytes())?;
    agent.shell("systemctl daemon-reload && systemctl restart flipside-check.timer", ANSWER)?.ok()?;
    Ok(())
}

/// Is there an outcome of this kind for this version, with this reason when one is wanted?
#[must_use]
pub fn told(value: &Value, version: &str, kind: &str, reason: Option<&str>) -> bool {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let matches = text("/kind") == Some(kind)
        && text("/release/version") == Some(version)
        && reason.is_none_or(|r| text("/reason") == Some(r));
    matches
        || match value {
            Value::Array(list) => list.iter().any(|v| told(v, version, kind, reason)),
            Value::Object(map) => map.values().any(|v| told(v, version, kind, reason)),
            _ => false,
        }
}

fn json(output: Output) -> Result<Value> {
    let text = output.ok()?;
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as value;

    #[test]
    fn facts_are_read_from_the_marked_sections() {
        let text = "boot 12-34\nslot b\nentry flipside-a.conf\n| title x\n| version 0000000001\n\
                    entry flipside-b+2-1.conf\n| version 0000000002\nversion 2.0.0\noom_kills 1\n";
        let facts = Facts::parse(text).unwrap();
        assert_eq!((facts.slot.as_str(), facts.version.as_str()), ("b", "2.0.0"));
        assert_eq!((facts.entries.len(), facts.oom_kills), (2, 1));
        assert!(!facts.confirmed());
        let confirmed = Facts::parse(&text.replace("b+2-1", "b")).unwrap();
        assert!(confirmed.confirmed());
        assert!(Facts::parse("boot 1\nversion 2").unwrap_err().to_string().contains("slot"));
    }

    #[test]
    fn a_state_file_is_read_like_entries() {
        let block = format!("{:#<1024}", "# GRUB Environment Block\nORDER=B A\nA_OK=1\nB_OK=0\nB_LEFT=2\n");
        let only = |name, content: &str| in_state_files(&[(name, content.as_bytes().to_vec())].into());
        let entries = only(bootstate::GRUBENV, &block).unwrap();
        assert_eq!((entries[0].slot.as_str(), entries[0].tries_left), ("b", Some(2)));
        assert!(only(bootstate::GRUBENV, &format!("{block}#")).is_err());
        assert!(only(bootstate::UBOOT_ENV[1], "torn").unwrap_err().to_string().contains("U-Boot"));
        assert_eq!(in_state_files(&BTreeMap::new()).unwrap(), []);
    }

    #[test]
    fn outcomes_are_found_wherever_they_stand() {
        let line = value!({"kind": "rolled_back", "release": {"version": "3.0.0"}, "reason": "health_failed"});
        for history in [value!([line]), value!({"format": 1, "history": [line]})] {
            assert!(told(&history, "3.0.0", "rolled_back", Some("health_failed")));
            assert!(told(&history, "3.0.0", "rolled_back", None));
            assert!(!told(&history, "3.0.0", "rolled_back", Some("did_not_boot")));
            assert!(!told(&history, "2.0.0", "rolled_back", None));
        }
    }
}
