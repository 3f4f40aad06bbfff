//! The device: boot loader, disk, clocks, power, operator.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use updater_core::effect::{Effect, Ticket, Work};
use updater_core::event::{Command, Event, Failure, SeenApproval, Surroundings};
use updater_core::facts::{Boot, BootFacts, BootId};
use updater_core::journal::{self, Journal, Phase};
use updater_core::machine::{Machine, Setup};
use updater_core::now::Now;
use updater_core::policy::{Device, HealthPolicy, Mode, Policy, RetryPolicy};
use updater_core::release::{Intent, Source};
use updater_core::sim::SimLoader;
use updater_core::slot::{PerSlot, SlotId};

use super::action::{Action, Fate, Op, Quality};
use super::region::{Region, release};
use super::{Violation, invariants};

/// Between two checks of the timer.
pub const TIMER: Duration = Duration::from_secs(3600);

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Nothing,
    /// Writing has begun and not ended.
    Partial,
    /// All of that release.
    Whole(u64),
}

/// Work that the machine ordered.
pub struct Job {
    pub ticket: Ticket,
    pub work: Work,
    pub begun: bool,
    pub stopped: bool,
    /// Ends only when stopped.
    pub hangs: bool,
}

/// Everything.
pub struct World {
    pub loader: SimLoader,
    pub disk: PerSlot<Content>,
    /// Read back since it was last written.
    pub read_back: PerSlot<bool>,
    pub durable: Option<Vec<u8>>,
    /// What was durable before.
    pub older: Option<Vec<u8>>,
    /// What `durable` says, so that not every look decodes it.
    pub known: Journal,
    pub disk_broken: bool,
    /// What is written is kept, and said not to be.
    pub disk_lies: bool,
    /// The boot loader's state can be read only.
    pub boot_broken: bool,
    /// It can not even be read.
    pub blind: bool,
    /// Nor can the boot loader write it: it does not count a boot that comes up.
    pub uncounted: bool,
    /// The last journal was not vital and could not be written: the boot loader alone tells the story.
    pub untold: bool,
    pub booted: SlotId,
    pub boots: u64,
    pub uptime: Duration,
    /// Uptime at which the timer that checks comes round.
    pub timer: Duration,
    /// True time.
    pub time: Timestamp,
    pub clock_hours: i32,
    pub clock_trusted: bool,
    pub region: Region,
    pub around: Surroundings,
    pub policy: Policy,
    pub machine: Machine,
    pub effects: VecDeque<Effect>,
    pub jobs: VecDeque<Job>,
    pub dice: u64,
    /// Counters the device fell back from and knows it.
    pub given_up: BTreeSet<u64>,
    /// Every required check passed at the last look of this boot.
    pub well: bool,
    /// Counters that the last documents handed to this process let in.
    pub let_in: BTreeSet<u64>,
    /// Whether this process went on from a journal that says armed (at its start, or because what followed could not be
    /// written): arming again needs no new answer.
    pub found_armed: bool,
    /// The newest approval fetched, as the shell keeps it on the data partition, and the region's key then.
    pub copy: Option<(u32, SeenApproval)>,
    /// Reboots the machine asked for since the world last interfered.
    pub reboots: u32,
    pub violation: Option<Violation>,
    pub story: Vec<String>,
    pub passages: BTreeMap<(updater_core::status::StateName, updater_core::status::StateName), u64>,
}

impl World {
    pub fn new() -> Self {
        let time: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let facts = Err(Failure::new(bundle::reason::Reason::Internal, "not started"));
        let policy = policy();
        let boot = Boot { id: BootId(String::new()), slot: Some(SlotId::A) };
        let now = Now { wall: time, wall_trusted: true, uptime: Duration::ZERO, random: 0 };
        let (machine, _) = Machine::start(setup(&policy, 1, boot), Journal::default(), facts, &now);
        let mut world = Self {
            loader: SimLoader::factory(SlotId::A),
            disk: PerSlot { a: Content::Whole(1), b: Content::Nothing },
            read_back: PerSlot { a: true, b: false },
            durable: None,
            older: None,
            known: Journal::default(),
            disk_broken: false,
            disk_lies: false,
            boot_broken: false,
            blind: false,
            uncounted: false,
            untold: false,
            booted: SlotId::A,
            boots: 0,
            uptime: Duration::ZERO,
            timer: TIMER,
            time,
            clock_hours: 0,
            clock_trusted: true,
            region: Region::new(),
            around: Surroundings::default(),
            policy,
            machine,
            effects: VecDeque::new(),
            jobs: VecDeque::new(),
            dice: 1,
            given_up: BTreeSet::new(),
            well: false,
            let_in: BTreeSet::new(),
            found_armed: false,
            copy: None,
            reboots: 0,
            violation: None,
            story: Vec::new(),
            passages: BTreeMap::new(),
        };
        world.boot(None);
        world
    }

    pub fn now(&mut self) -> Now {
        // Any sequence does, as long as it is the same every time (Knuth's MMIX generator).
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wall = self.time + SignedDuration::from_hours(i64::from(self.clock_hours));
        Now { wall, wall_trusted: self.clock_trusted, uptime: self.uptime, random: self.dice >> 16 }
    }

    pub fn facts(&self) -> BootFacts {
        BootFacts {
            boot_id: BootId(format!("boot-{}", self.boots)),
            booted: Some(self.booted),
            slots: self.loader.records(),
        }
    }

    /// The same, as far as they can be read.
    pub fn read_facts(&self) -> Result<BootFacts, Failure> {
        if self.blind {
            return Err(Failure::new(bundle::reason::Reason::BootControlError, "no such file"));
        }
        Ok(self.facts())
    }

    pub fn stored(&self) -> &Journal {
        &self.known
    }

    pub fn store(&mut self, bytes: Option<Vec<u8>>) {
        self.known = bytes.as_deref().map(|bytes| journal::decode(bytes).journal).unwrap_or_default();
        self.older = std::mem::replace(&mut self.durable, bytes);
        self.untold = false;
    }

    pub fn quality(&self, slot: SlotId) -> Option<Quality> {
        match self.disk.get(slot) {
            Content::Whole(counter) => self.region.releases.get(counter).copied(),
            Content::Nothing | Content::Partial => None,
        }
    }

    pub fn running(&self) -> u64 {
        match self.disk.get(self.booted) {
            Content::Whole(counter) => *counter,
            Content::Nothing | Content::Partial => 0,
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.uptime += time;
        self.time += SignedDuration::try_from(time).unwrap();
    }

    pub fn violate(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    /// One line about everything.
    pub fn line(&self) -> String {
        format!(
            "{} (journal {}), boot {} of {} {:?}, loader a {:?} b {:?}, disk a {:?} b {:?}, newest {} {:?}",
            self.machine.state(),
            phase_name(&self.stored().phase),
            self.boots,
            self.booted,
            self.uptime,
            self.loader.slots.a.boot,
            self.loader.slots.b.boot,
            self.disk.a,
            self.disk.b,
            self.region.newest(),
            self.region.weather,
        )
    }

    pub fn act(&mut self, action: &Action) -> Result<(), Violation> {
        if !matches!(action, Action::Go(_)) {
            self.reboots = 0;
        }
        match action {
            Action::Go(steps) => (0..*steps).try_for_each(|_| {
                self.go();
                invariants::all(self)
            })?,
            Action::Fail(fault) => self.fail_work(*fault),
            Action::PowerCut { landed, journal } => self.power_cut(*landed, *journal, None),
            Action::BootMenu(other) => {
                let slot = if *other { self.booted.other() } else { self.booted };
                self.power_cut(false, Fate::Kept, Some(slot));
            }
            Action::Restart => self.start_daemon(),
            Action::RestartLanded => {
                self.land_work();
                self.start_daemon();
            }
            Action::Operator(op) => self.operator(*op),
            Action::Clock { hours, trusted } => (self.clock_hours, self.clock_trusted) = (*hours, *trusted),
            Action::Offer(quality) => self.region.offer(*quality, self.time),
            Action::Region(weather) => self.region.set(*weather, self.time),
            Action::Recall { back } => self.region.recall(*back, self.time),
            Action::Inhibit(on) => {
                self.around.inhibitors = on.then(|| "player".to_owned()).into_iter().collect();
                self.event(Event::Tick);
            }
            Action::Metered(on) => self.around.metered = *on,
            Action::Mode(mode) => {
                let modes = [Mode::Off, Mode::Notify, Mode::Stage, Mode::Apply];
                self.policy.mode = modes[usize::from(*mode) % 4];
                let policy = Box::new(self.policy.clone());
                self.event(Event::Policy(policy));
            }
            Action::DiskBroken(broken) => self.disk_broken = *broken,
            Action::DiskLies(lies) => self.disk_lies = *lies,
            Action::BootBroken(broken) => self.boot_broken = *broken,
            Action::Blind(blind) => self.blind = *blind,
            Action::Sleep { minutes } => self.pass(Duration::from_secs(u64::from(*minutes) * 60)),
        }
        self.violation.take().map_or(Ok(()), Err)
    }

    fn operator(&mut self, op: Op) {
        let slot = |other: bool| if other { self.booted.other() } else { self.booted };
        let command = match op {
            Op::Check => Command::Check { by_operator: true },
            Op::Install { force } => Command::Install {
                source: force.then(|| Source::Urls(vec!["x.bundle".into()])),
                intent: Intent { activate: true, reboot: true, force, ..Intent::default() },
            },
            Op::Activate(other) => Command::Activate { slot: slot(other) },
            Op::Reboot => Command::Reboot,
            Op::Confirm => Command::Confirm,
            Op::Rollback => Command::Rollback { reason: "I say so".into() },
            Op::Reject(other) => Command::Reject { slot: slot(other), reason: "I say so".into() },
            Op::Retry => {
                self.given_up.clear();
                Command::Retry { manifest: None }
            }
            Op::Cancel => Command::Cancel,
        };
        self.event(Event::Command(command));
    }
}

pub fn setup(policy: &Policy, running: u64, boot: Boot) -> Setup {
    Setup {
        boot,
        device: Device {
            compatible: "demo".into(),
            hardware: "rev-a".into(),
            id: "dev-0001".into(),
            ring: None,
            labels: BTreeMap::new(),
            build_time: "2026-01-01T00:00:00Z".parse().unwrap(),
            image_counter: Some(release(running).counter),
        },
        policy: policy.clone(),
        version: "test".into(),
    }
}

fn policy() -> Policy {
    Policy {
        mode: Mode::Apply,
        region: "eu".into(),
        tries: 3,
        health: HealthPolicy {
            deadline: Duration::from_secs(60),
            soak: Duration::from_secs(6),
            interval: Duration::from_secs(2),
            strikes: 3,
            network_required: true,
        },
        retry: RetryPolicy { base: Duration::from_secs(60), cap: Duration::from_secs(3600) },
        ..Policy::default()
    }
}

pub fn phase_name(phase: &Phase) -> String {
    let text = format!("{phase:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or("").to_owned()
}
