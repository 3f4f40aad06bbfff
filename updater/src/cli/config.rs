//! `flipside config show` and `config check`: offline, what the files say.

use std::path::Path;

use bundle::json;
use serde_json::json;

use super::args::ConfigCommand;
use super::exit::Exit;
use super::output::Output;
use super::text;
use crate::config::{self, Finding, Loaded, Severity};
use crate::daemon::http_settings;
use crate::http::Client;
use crate::system::chain;

/// Runs it.
pub fn run(what: ConfigCommand, root: &Path, simulated: bool, output: &Output) -> Exit {
    let mut loaded = config::load(root);
    match what {
        ConfigCommand::Show { origin } => {
            let document = json!({"values": json::to_value(&loaded.values).unwrap_or_default(), "origins": loaded.origins,
                "findings": json::to_value(&loaded.findings).unwrap_or_default()});
            output.page(|| show(&loaded, origin), &document);
            Exit::Ok
        }
        ConfigCommand::Check => {
            loaded.findings.extend(server(&loaded, root, simulated));
            output.page(
                || check(&loaded.findings),
                &json!({"findings": json::to_value(&loaded.findings).unwrap_or_default()}),
            );
            let broken = loaded.findings.iter().any(|f| f.severity == Severity::Error);
            if broken { Exit::Failed } else { Exit::Ok }
        }
    }
}

/// What the words of the files do not show: whether the files they name hold what they should.
fn server(loaded: &Loaded, root: &Path, simulated: bool) -> Option<Finding> {
    let error = Client::new(&http_settings(&loaded.config, root, simulated)).err()?;
    let message = format!("[source] can not be used, nothing is fetched over https: {}", chain(&error));
    Some(Finding { severity: Severity::Error, file: None, message })
}

fn show(loaded: &Loaded, origin: bool) -> String {
    if loaded.values.is_empty() {
        return "# Nothing is set: all defaults, mode = \"off\".".to_owned();
    }
    let rows: Vec<_> = loaded
        .values
        .iter()
        .map(|(key, value)| {
            // Texts, numbers and lists look the same in JSON; a writer of TOML is too large for this one page.
            let value = serde_json::to_string(value).unwrap_or_default();
            let mut row = vec![format!("{key} = {value}")];
            if let Some(file) = loaded.origins.get(key).filter(|_| origin) {
                row.push(format!("# {}", file.display()));
            }
            row
        })
        .collect();
    text::table(&rows)
}

fn check(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "The configuration is right.".to_owned();
    }
    let mut page = String::new();
    for finding in findings {
        let word = match finding.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let file = finding.file.as_ref().map(|f| format!("{}: ", f.display())).unwrap_or_default();
        page.push_str(&format!("{word}: {file}{}\n", finding.message));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_their_origin_and_findings_with_their_file() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/flipside")).unwrap();
        std::fs::write(root.path().join("etc/flipside/flipside.toml"), "channel = \"beta\"\ntypo = 1\n").unwrap();
        let loaded = config::load(root.path());
        assert_eq!(show(&loaded, true), "channel = \"beta\"  # /etc/flipside/flipside.toml\n");
        assert_eq!(show(&loaded, false), "channel = \"beta\"\n");
        assert_eq!(server(&loaded, root.path(), false), None);
        assert_eq!(check(&loaded.findings), "warning: /etc/flipside/flipside.toml: unknown key \"typo\" ignored\n");
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/flipside")).unwrap();
        let text = "[source]\nidentity_file = \"/etc/flipside/me.pem\"\n";
        std::fs::write(root.path().join("etc/flipside/flipside.toml"), text).unwrap();
        let found = server(&config::load(root.path()), root.path(), false).unwrap();
        assert_eq!(found.severity, Severity::Error);
        assert!(found.message.contains("me.pem"), "{}", found.message);
    }
}
