//! Power: what a cut leaves, which slot comes up, and the daemon's start.

use std::time::Duration;

use updater_core::effect::Effect;
use updater_core::facts::{Boot, BootFacts, SlotBoot};
use updater_core::journal::{self, Phase};
use updater_core::machine::Machine;
use updater_core::slot::SlotId;

use super::action::{Fate, Quality};
use super::device::{TIMER, World, setup};

impl World {
    /// Power goes, and comes back. `menu`: somebody chooses that slot.
    pub fn power_cut(&mut self, landed: bool, fate: Fate, menu: Option<SlotId>) {
        if landed {
            self.land();
        }
        match fate {
            Fate::Kept => {}
            Fate::Lost => {
                self.store(None);
                self.given_up.clear();
            }
            Fate::Future => self.make_future(),
            Fate::Older => {
                let older = self.older.take();
                self.store(older);
                // What only the lost copy knew.
                self.given_up.clear();
            }
        }
        self.boot(menu);
    }

    /// What was in the middle of being written makes it all the same.
    fn land(&mut self) {
        if let Some(Effect::Persist { journal, .. }) = self.effects.front() {
            if !self.disk_broken {
                let bytes = journal::encode(journal).unwrap();
                self.store(Some(bytes));
            }
        } else {
            self.land_work();
        }
    }

    pub fn land_work(&mut self) {
        if let Some(job) = self.jobs.front().filter(|job| job.begun) {
            let work = job.work.clone();
            self.do_boot_control(&work);
        }
    }

    /// The journal of a newer updater, of which only the state is beyond us.
    fn make_future(&mut self) {
        let Some(bytes) = &self.durable else { return };
        let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes).unwrap();
        fields.insert("phase".into(), serde_json::json!({"pondering": {}}));
        fields.insert("quorum".into(), serde_json::json!(3));
        self.store(Some(serde_json::to_vec(&fields).unwrap()));
    }

    /// The boot loader's turn, until something comes up.
    pub fn boot(&mut self, menu: Option<SlotId>) {
        let mut menu = menu.filter(|slot| self.loader.slots.get(*slot).boot != SlotBoot::Empty);
        for _ in 0..20 {
            let before = self.loader.clone();
            let slot = match menu.take() {
                Some(slot) => {
                    self.loader.count(slot);
                    Some(slot)
                }
                None => self.loader.boot(),
            };
            let Some(slot) = slot else { break };
            self.boots += 1;
            let comes_up = self.quality(slot).is_some_and(|quality| quality != Quality::NoBoot);
            self.story.push(format!("boot {} of slot {slot}: {}", self.boots, if comes_up { "up" } else { "hangs" }));
            if comes_up {
                if self.uncounted {
                    self.loader = before;
                }
                return self.came_up(slot);
            }
        }
        self.violate("invariant_4_something_boots: no slot comes up");
    }

    fn came_up(&mut self, slot: SlotId) {
        self.booted = slot;
        self.uptime = Duration::from_secs(10);
        self.timer = self.uptime + TIMER;
        self.well = false;
        self.note_fallback();
        self.start_daemon();
    }

    /// What the device can know about a release it came back from, it must not forget.
    fn note_fallback(&mut self) {
        let (journal, left) = (self.stored().clone(), self.booted.other());
        let tried = match &journal.phase {
            Phase::Armed { update, .. } => update.target == left,
            Phase::Trying(trial) => trial.slot == left,
            Phase::Reverting(reversal) => reversal.slot == left,
            _ => false,
        };
        let record = journal.slots.get(left).as_ref().map(|record| record.release.counter);
        let counter = journal.phase.update().map(|update| update.release.counter).or(record);
        let exhausted = matches!(self.loader.slots.get(left).boot, SlotBoot::Exhausted { .. });
        if let Some(counter) = counter.filter(|_| tried && exhausted) {
            self.given_up.insert(counter);
        }
    }

    pub fn start_daemon(&mut self) {
        self.effects.clear();
        // What was begun goes on a little and ends without anybody hearing of it.
        self.jobs.clear();
        self.untold = false;
        self.let_in.clear();
        let journal = self.stored().clone();
        self.found_armed = matches!(journal.phase, Phase::Armed { .. });
        let (now, facts) = (self.now(), self.read_facts());
        let BootFacts { boot_id: id, booted: slot, .. } = self.facts();
        let setup = setup(&self.policy, self.running(), Boot { id, slot });
        let (machine, effects) = Machine::start(setup, journal, facts, &now);
        self.machine = machine;
        self.take(effects);
    }
}
