//! From the words of the command line to what is wanted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg;

use super::help;
use super::words::{Flag, GLOBAL, SHAPES, Shape};

/// What is wanted.
#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    /// Print JSON instead of text.
    pub json: bool,
    /// Look at the system below this folder instead of /.
    pub root: Option<PathBuf>,
    /// Use a simulated device in this folder.
    pub sim: Option<PathBuf>,
    /// What to do.
    pub command: Command,
}

/// What to do; `words` tells what each is for.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is explained, for people, in the table of words")]
pub enum Command {
    Status { follow: bool },
    Check { wait: bool, unattended: bool },
    Install { source: Option<String>, activate: bool, reboot: bool, force: bool, no_wait: bool },
    Activate { slot: Option<String>, no_wait: bool },
    Reboot { no_wait: bool },
    Confirm { boot: bool },
    Rollback { reason: String },
    Reject { slot: String, reason: String },
    Cancel,
    Retry { manifest: Option<String> },
    Explain,
    History,
    Config { what: ConfigCommand },
    SelfTest { slot: Option<String>, state: Option<PathBuf>, etc: Option<PathBuf> },
    Daemon { idle_exit: u64, debug: bool },
    Sim { what: SimCommand },
}

/// `flipside config …`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is explained, for people, in the table of words")]
pub enum ConfigCommand {
    Show { origin: bool },
    Check,
}

/// `flipside sim …`
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is explained, for people, in the table of words")]
pub enum SimCommand {
    Init { trust: Option<PathBuf>, url: Option<String> },
    Reboot,
}

/// What came of reading the words.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Do this.
    Run(Args),
    /// Only print this.
    Print(String),
}

/// Words that make no sense; for standard error.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("error: {what}\n\nUsage: {usage}\n\nFor more information, try '--help'.")]
pub struct Wrong {
    what: String,
    usage: String,
}

/// How long the daemon stays without anything to do, seconds.
const IDLE_EXIT: u64 = 30;

/// Reads the words behind the program's name.
///
/// # Errors
/// [`Wrong`].
pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Read, Wrong> {
    let mut parser = lexopt::Parser::from_args(words);
    let mut said = Said::default();
    loop {
        let argument = parser.next().map_err(|e| said.wrong(e.to_string()))?;
        let name = match argument {
            None => return said.finish().map(Read::Run),
            Some(Arg::Short('h') | Arg::Long("help")) => return Ok(Read::Print(help::of(&said.words()))),
            Some(Arg::Short('V') | Arg::Long("version")) => {
                return Ok(Read::Print(format!("flipside {}\n", env!("CARGO_PKG_VERSION"))));
            }
            Some(Arg::Value(word)) if said.shape.is_none() && said.group.is_empty() && word == "help" => {
                let words: Vec<_> = std::iter::from_fn(|| parser.value().ok()).collect();
                let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
                return Ok(Read::Print(help::of(&words.join(" "))));
            }
            Some(Arg::Value(word)) => {
                said.word(word)?;
                continue;
            }
            Some(Arg::Short(letter)) => return Err(said.wrong(format!("there is no option '-{letter}' here"))),
            Some(Arg::Long(name)) => name.to_owned(),
        };
        let flag = said.flag(&name)?;
        let value = if flag.value.is_empty() { Ok(OsString::new()) } else { parser.value() };
        let value = value.map_err(|_| said.wrong(format!("--{name} needs a value: {}", flag.value)))?;
        if said.flags.insert(flag.name, value).is_some() {
            return Err(said.wrong(format!("--{name} is there twice")));
        }
    }
}

/// What was said so far.
#[derive(Default)]
struct Said {
    /// First word of a command of two.
    group: String,
    shape: Option<&'static Shape>,
    flags: BTreeMap<&'static str, OsString>,
    operands: Vec<OsString>,
}

impl Said {
    fn words(&self) -> String {
        self.shape.map_or_else(|| self.group.clone(), |shape| shape.name.to_owned())
    }

    fn wrong(&self, what: impl Into<String>) -> Wrong {
        let usage = self.shape.map_or_else(|| help::usage_of_group(&self.group), help::usage);
        Wrong { what: what.into(), usage }
    }

    fn word(&mut self, word: OsString) -> Result<(), Wrong> {
        if let Some(shape) = self.shape {
            if self.operands.len() == shape.operands.len() {
                return Err(self.wrong(format!("unexpected argument '{}'", word.to_string_lossy())));
            }
            self.operands.push(word);
            return Ok(());
        }
        let said = format!("{} {}", self.group, word.to_string_lossy());
        let said = said.trim_start();
        self.shape = SHAPES.iter().find(|shape| shape.name == said);
        if self.shape.is_some() {
            return Ok(());
        }
        if !self.group.is_empty() || !SHAPES.iter().any(|shape| shape.name.starts_with(&format!("{said} "))) {
            return Err(self.wrong(format!("there is no command '{said}'{}", likely(said))));
        }
        said.clone_into(&mut self.group);
        Ok(())
    }

    fn flag(&self, name: &str) -> Result<&'static Flag, Wrong> {
        let own = self.shape.map_or(&[][..], |shape| shape.flags);
        let found = own.iter().chain(GLOBAL).find(|flag| flag.name == name);
        found.ok_or_else(|| self.wrong(format!("there is no option '--{name}' here")))
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.contains_key(flag)
    }

    fn path(&self, flag: &str) -> Option<PathBuf> {
        self.flags.get(flag).map(PathBuf::from)
    }

    fn text(&self, value: Option<&OsString>) -> Result<Option<String>, Wrong> {
        let text = |value: &OsString| value.to_str().map(str::to_owned);
        value.map(|v| text(v).ok_or_else(|| self.wrong(format!("{} is not UTF-8", v.display())))).transpose()
    }

    fn operand(&self, place: usize) -> Result<Option<String>, Wrong> {
        self.text(self.operands.get(place))
    }

    fn finish(mut self) -> Result<Args, Wrong> {
        if self.shape.is_none() && !self.group.is_empty() {
            return Err(self.wrong("a command is missing"));
        }
        let shape = self.shape.or_else(|| SHAPES.first());
        self.shape = shape;
        let missing =
            shape.and_then(|shape| shape.operands.get(self.operands.len())).filter(|operand| operand.required);
        if let Some(missing) = missing {
            return Err(self.wrong(format!("{} is missing", missing.name)));
        }
        if self.has("root") && self.has("sim") {
            return Err(self.wrong("--root and --sim are two devices; name one"));
        }
        let command = self.command(shape.map_or("", |shape| shape.name))?;
        Ok(Args { json: self.has("json"), root: self.path("root"), sim: self.path("sim"), command })
    }

    fn command(&self, name: &str) -> Result<Command, Wrong> {
        let reason = |place| Ok(self.operand(place)?.unwrap_or_else(|| "by an operator".to_owned()));
        let no_wait = self.has("no-wait");
        Ok(match name {
            "status" => Command::Status { follow: self.has("follow") },
            "check" => Command::Check { wait: self.has("wait"), unattended: self.has("unattended") },
            "install" => {
                let [activate, reboot, force] = ["activate", "reboot", "force"].map(|flag| self.has(flag));
                Command::Install { source: self.operand(0)?, activate, reboot, force, no_wait }
            }
            "activate" => Command::Activate { slot: self.operand(0)?, no_wait },
            "reboot" => Command::Reboot { no_wait },
            "confirm" => Command::Confirm { boot: self.has("boot") },
            "rollback" => Command::Rollback { reason: reason(0)? },
            "reject" => Command::Reject { slot: self.operand(0)?.unwrap_or_default(), reason: reason(1)? },
            "cancel" => Command::Cancel,
            "retry" => Command::Retry { manifest: self.operand(0)? },
            "explain" => Command::Explain,
            "history" => Command::History,
            "config show" => Command::Config { what: ConfigCommand::Show { origin: self.has("origin") } },
            "config check" => Command::Config { what: ConfigCommand::Check },
            "self-test" => Command::SelfTest {
                slot: self.text(self.flags.get("slot"))?,
                state: self.path("state"),
                etc: self.path("etc"),
            },
            "daemon" => Command::Daemon { idle_exit: self.idle_exit()?, debug: self.has("debug") },
            "sim init" => {
                let url = self.text(self.flags.get("url"))?;
                Command::Sim { what: SimCommand::Init { trust: self.path("trust"), url } }
            }
            "sim reboot" => Command::Sim { what: SimCommand::Reboot },
            other => return Err(self.wrong(format!("{other} is not built into this program"))),
        })
    }

    fn idle_exit(&self) -> Result<u64, Wrong> {
        let Some(text) = self.text(self.flags.get("idle-exit"))? else { return Ok(IDLE_EXIT) };
        text.parse().map_err(|_| self.wrong(format!("--idle-exit takes seconds, not '{text}'")))
    }
}

/// The command that was probably meant: one that begins alike.
fn likely(said: &str) -> String {
    let alike = |name: &str| name.chars().zip(said.chars()).take_while(|(a, b)| a == b).count();
    let best = SHAPES.iter().map(|shape| (alike(shape.name), shape.name)).max_by_key(|(alike, _)| *alike);
    best.filter(|(alike, _)| *alike >= 2).map_or_else(String::new, |(_, name)| format!("; did you mean '{name}'?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Result<Read, Wrong> {
        read(line.split_whitespace().map(OsString::from))
    }

    fn command(line: &str) -> Command {
        match said(line) {
            Ok(Read::Run(args)) => args.command,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_command_of_the_table_can_be_said() {
        for shape in SHAPES {
            let required = shape.operands.iter().filter(|operand| operand.required).map(|_| "x");
            command(&format!("{} {}", shape.name, required.collect::<Vec<_>>().join(" ")));
        }
    }

    #[test]
    fn no_command_is_status_and_global_options_stand_anywhere() {
        assert_eq!(command(""), Command::Status { follow: false });
        for line in ["--json history", "history --json"] {
            assert!(matches!(said(line), Ok(Read::Run(Args { json: true, command: Command::History, .. }))), "{line}");
        }
    }

    #[test]
    fn options_and_operands_arrive() {
        let install = |source: &str, reboot, force, no_wait| Command::Install {
            source: (!source.is_empty()).then(|| source.to_owned()),
            activate: false,
            reboot,
            force,
            no_wait,
        };
        assert_eq!(command("install - --reboot"), install("-", true, false, false));
        assert_eq!(command("install --force --no-wait"), install("", false, true, true));
        assert_eq!(command("daemon --idle-exit=0 --debug"), Command::Daemon { idle_exit: 0, debug: true });
        assert_eq!(command("daemon"), Command::Daemon { idle_exit: 30, debug: false });
        let reject = Command::Reject { slot: "b".into(), reason: "by an operator".into() };
        assert_eq!(command("reject b"), reject);
        let what = SimCommand::Init { trust: Some("t.json".into()), url: Some("http://x".into()) };
        assert_eq!(command("sim init --trust t.json --url http://x"), Command::Sim { what });
        assert_eq!(command("rollback -- --odd"), Command::Rollback { reason: "--odd".into() });
    }

    #[test]
    fn nonsense_is_refused_with_the_usage() {
        for (line, says) in [
            ("histroy", "there is no command 'histroy'; did you mean 'history'?"),
            ("config", "a command is missing"),
            ("config shwo", "there is no command 'config shwo'"),
            ("history --follow", "there is no option '--follow' here"),
            ("--wait", "there is no option '--wait' here"),
            ("check -w", "there is no option '-w' here"),
            ("check --wait=yes", "unexpected"),
            ("check --wait --wait", "--wait is there twice"),
            ("daemon --idle-exit", "--idle-exit needs a value: SECONDS"),
            ("daemon --idle-exit soon", "--idle-exit takes seconds, not 'soon'"),
            ("reject", "SLOT is missing"),
            ("retry a b", "unexpected argument 'b'"),
            ("--root /x --sim /y status", "--root and --sim"),
        ] {
            let wrong = said(line).unwrap_err().to_string();
            assert!(wrong.contains(says) && wrong.contains("Usage: flipside"), "{line}: {wrong}");
        }
    }

    #[test]
    fn help_and_version_are_printed() {
        for line in ["--help", "help", "-h"] {
            assert!(matches!(said(line), Ok(Read::Print(text)) if text.contains("Commands:")), "{line}");
        }
        for line in ["config show --help", "help config show", "config show -h"] {
            assert!(matches!(said(line), Ok(Read::Print(text)) if text.contains("--origin")), "{line}");
        }
        assert!(matches!(said("--version"), Ok(Read::Print(text)) if text.starts_with("flipside ")));
    }
}
