//! The story, in order.

use std::fs;
use std::io::{self, BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use qemu_tests::accel::Accel;
use qemu_tests::agent::Output;
use qemu_tests::device::{self, Facts};
use qemu_tests::evidence;
use qemu_tests::machine::Machine;
use qemu_tests::scenario::{Approve, Publish};
use qemu_tests::scratch::Scratch;
use qemu_tests::seed;
use qemu_tests::server::Server;
use qemu_tests::site::Site;
use qemu_tests::wait::{Look, until, until_slowly};
use qemu_tests::workshop::Workshop;

use crate::progress::{Moment, Progress, seconds};

/// Longest time for one chapter; under emulation on a busy machine a reboot alone can take two minutes.
const CHAPTER: Duration = Duration::from_secs(900);
/// Time for one question to the appliance.
const ANSWER: Duration = Duration::from_secs(60);

/// How an appliance ends a chapter.
struct Ending<'e> {
    slot: &'e str,
    version: &'e str,
}

struct Demo<'a> {
    workshop: Workshop<'a>,
    site: &'a Site,
    machine: Machine,
    // Serves until the end.
    _server: Server,
    start: Instant,
    /// What to tell at the end.
    summary: Vec<String>,
}

/// Tells it.
pub fn tell(variant: &str, keep: bool) -> Result<()> {
    let site = Site::find(variant)?;
    let dir = Scratch::new("flipside-demo-")?;
    println!(
        "Flipside: a virtual appliance (boot loader: {variant}) updates itself, then meets a bad release and comes back.\n"
    );
    let start = Instant::now();
    let told = switch_on(&site, dir.path(), start).and_then(|mut demo| match demo.chapters() {
        Ok(()) => demo.ending(keep),
        Err(e) => {
            evidence::of_machine(&demo.machine, &evidence::folder(&site.evidence, "demo")?);
            Err(e)
        }
    });
    told.map_err(|e| {
        // The machine is off by now: its disk and its console tell the rest.
        let (folder, machine) = (site.evidence.join("demo"), dir.path().join("m"));
        let saved = fs::create_dir_all(&folder);
        evidence::of_disk(&machine, &machine.join("disk.qcow2"), &folder);
        let kept =
            saved.map_or_else(|e| format!("and no evidence: {e}"), |()| format!("evidence: {}", folder.display()));
        e.context(kept)
    })
}

fn switch_on<'a>(site: &'a Site, dir: &std::path::Path, start: Instant) -> Result<Demo<'a>> {
    let www = dir.join("www");
    let workshop = Workshop::new(site, &www)?;
    let server = Server::start(&www)?;
    let url = server.guest_url();
    let settings =
        format!("[source]\nurl = \"{url}\"\n[approval]\nurls = [\"{url}\"]\n[health]\ndeadline_seconds = 600\n");
    let seeded = seed::make(&site.factory_disk(), dir, &settings)?;
    heading(1, "The appliance is switched on, as it left the factory");
    if Accel::choose() == Accel::Tcg {
        say("It is emulated in software, so everything takes some ten times longer than on a real one.");
    }
    let mut machine = Machine::start(site.spec("flipside-demo", &dir.join("m"), &seeded))?;
    machine.wait_boot(None, CHAPTER)?;
    Ok(Demo { workshop, site, machine, _server: server, start, summary: Vec::new() })
}

impl Demo<'_> {
    fn chapters(&mut self) -> Result<()> {
        let factory = Ending { slot: "a", version: &self.version("v1")? };
        self.follow(&factory, "the appliance to be ready")?;
        self.show("flipside status", 0)?;
        self.good_release(&factory)?;
        self.bad_release()
    }

    fn good_release(&mut self, from: &Ending) -> Result<()> {
        let version = self.version("v2")?;
        heading(2, &format!("Release {version} is published, and the region approves it"));
        self.release("v2")?;
        heading(3, "The appliance finds it on its timer, and nobody touches anything");
        self.impatient()?;
        let began = Instant::now();
        self.follow(&Ending { slot: "b", version: &version }, "the update to be confirmed")?;
        let took = seconds(began.elapsed().as_secs());
        say(&format!(
            "It restarted into slot b, proved itself healthy, and was confirmed, {took} after it was offered."
        ));
        self.show("flipside status", 0)?;
        self.summary.push(format!(
            "The appliance went from {} in slot {} to {version} in slot b by itself, in {took}. It fetched and wrote the \
             other slot while the old system ran, read everything back, restarted, checked its health, and only then \
             kept the new system.",
            from.version, from.slot
        ));
        Ok(())
    }

    fn bad_release(&mut self) -> Result<()> {
        let (good, bad) = (self.version("v2")?, self.version("v3")?);
        heading(4, &format!("Release {bad} is published: signed, approved, and broken (its application is unhealthy)"));
        self.release("v3")?;
        heading(5, "The appliance takes it, finds out, and goes back");
        self.impatient()?;
        let began = Instant::now();
        if self.follow_to_slot("a", &bad)? {
            say(&format!(
                "It runs {bad} from slot a now. The application does not say that it is healthy, so it is not kept."
            ));
        }
        self.follow(&Ending { slot: "b", version: &good }, "the fallback")?;
        let took = seconds(began.elapsed().as_secs());
        say(&format!("It is back on {good} in slot b, {took} after the bad release was offered."));
        self.show("flipside history", 0)?;
        say("It will not try that release again, whoever asks:");
        let refused = self.show("flipside check --wait", 3)?;
        ensure!(refused.stderr.contains("blocked_after_fallback"), "it was refused for another reason");
        self.summary.push(format!(
            "Release {bad} was genuine and approved, but its application was broken. The new system noticed, refused \
             itself, and {good} was running again {took} after. The device remembers the release and why it failed."
        ));
        Ok(())
    }

    fn version(&self, release: &str) -> Result<String> {
        Ok(self.site.release(release)?.version.clone())
    }

    fn release(&mut self, name: &str) -> Result<()> {
        let release = self.site.release(name)?;
        say("building and signing the bundle (once; it is kept) ...");
        let published = self.workshop.publish(release, &Publish::of(name))?;
        say(&format!("published: {} ({} MiB)", published.path, published.size >> 20));
        self.workshop.approve(release, &Approve::of(name))?;
        say("approved for all appliances of region eu-west");
        Ok(())
    }

    /// Lets the shipped timer fire every few seconds. Under /run: gone with the next boot.
    fn impatient(&mut self) -> Result<()> {
        until("the timer to be set", CHAPTER, || Look::from(device::set_timer(self.machine.agent(), 5).map(Look::Done)))
    }

    /// Shows progress until the appliance runs this version, confirmed and idle.
    fn follow(&mut self, ending: &Ending, what: &str) -> Result<()> {
        let mut progress = Progress::new();
        let outcome = until_slowly(what, CHAPTER, || {
            if let Err(e) = self.machine.alive() {
                return Look::Hopeless(e);
            }
            let agent = self.machine.agent();
            // Where it runs is asked when nothing is under way any more: until then the progress is what counts.
            let asked = device::status(agent).and_then(|status| {
                let idle = status.get("state").and_then(Value::as_str).is_some_and(device::settled);
                Ok((idle.then(|| Facts::ask(agent)).transpose()?, status))
            });
            let Ok((facts, status)) = asked else {
                progress.show(Moment { phase: "restarting".into(), ..Moment::default() });
                return Look::NotYet("restarting".into());
            };
            progress.show(Moment::of(&status));
            match facts {
                Some(f) if f.confirmed() && f.slot == ending.slot && f.version == ending.version => Look::Done(()),
                facts => Look::NotYet(format!("{:?}, {facts:?}", status.get("state"))),
            }
        });
        progress.end();
        outcome
    }

    /// Shows progress until the appliance runs from this slot; `false` when it has been there and come back from this
    /// version already: on a busy host the visit can be shorter than the time between two looks.
    fn follow_to_slot(&mut self, slot: &str, bad: &str) -> Result<bool> {
        let mut progress = Progress::new();
        let outcome = until_slowly(format!("a boot of slot {slot}"), CHAPTER, || {
            if let Err(e) = self.machine.alive() {
                return Look::Hopeless(e);
            }
            match Facts::ask(self.machine.agent()) {
                Ok(facts) if facts.slot == slot => Look::Done(true),
                Ok(facts) => {
                    if let Ok(status) = device::status(self.machine.agent()) {
                        progress.show(Moment::of(&status));
                        if self.came_back(&status, bad) {
                            return Look::Done(false);
                        }
                    }
                    Look::NotYet(format!("slot {}", facts.slot))
                }
                Err(_) => {
                    progress.show(Moment { phase: "restarting".into(), ..Moment::default() });
                    Look::NotYet("restarting".into())
                }
            }
        });
        progress.end();
        outcome
    }

    /// Is nothing under way, and does the history tell of a fallback from this version?
    fn came_back(&self, status: &Value, bad: &str) -> bool {
        let settled = status.get("state").and_then(Value::as_str).is_some_and(device::settled);
        settled && device::history(self.machine.agent()).is_ok_and(|h| device::told(&h, bad, "rolled_back", None))
    }

    /// Runs a command on the appliance, which must end with this code, and shows it as on a terminal.
    fn show(&self, command: &str, code: i64) -> Result<Output> {
        let output = self.machine.agent().shell(command, ANSWER).with_context(|| command.to_owned())?;
        println!("\n     appliance# {command}");
        for line in output.stdout.lines().chain(output.stderr.lines()) {
            println!("     {}", format!("| {line}").trim_end());
        }
        println!();
        ensure!(output.code == Some(code), "{command} ended with {:?}, not with {code}", output.code);
        Ok(output)
    }

    fn ending(mut self, keep: bool) -> Result<()> {
        println!("\nWhat happened");
        for line in &self.summary {
            println!("  * {}", wrap(line));
        }
        println!("\nAll of it took {}.", seconds(self.start.elapsed().as_secs()));
        if keep {
            return self.keep();
        }
        println!(
            "\nLook around: on a terminal `make demo` leaves the appliance running, and says how to reach its console.\n\
             Other boot loaders: `make demo VARIANT=grub`, `VARIANT=uboot`.\nRead on: docs/src/how-it-works.md. All scenarios: `make vm-test`."
        );
        self.machine.power_off()?;
        Ok(())
    }

    fn keep(&mut self) -> Result<()> {
        println!("\nThe appliance goes on running. Its console (you are root there):");
        println!(
            "  socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{}     (leave with Ctrl-])",
            self.machine.console().display()
        );
        println!("Try: flipside status; flipside explain; flipside rollback; journalctl -u flipside");
        print!("\nPress Enter to switch it off. ");
        io::stdout().flush()?;
        let read = io::stdin().lock().read_line(&mut String::new())?;
        if read == 0 {
            bail!("--keep needs a terminal: nobody can press Enter");
        }
        Ok(())
    }
}

fn heading(number: u32, text: &str) {
    println!("\n{number}. {text}");
}

fn say(text: &str) {
    println!("     {}", wrap(text).replace("\n    ", "\n     "));
}

/// Breaks a line at 100 characters, continuation indented as a list item.
fn wrap(text: &str) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        if column + word.chars().count() > 100 {
            out.push_str("\n    ");
            column = 0;
        } else if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        column += word.chars().count() + 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn long_lines_are_broken_between_words() {
        let text = wrap(&"word ".repeat(40));
        assert!(text.lines().count() > 1 && text.lines().all(|l| l.chars().count() <= 106), "{text}");
        assert_eq!(wrap("short"), "short");
    }
}
