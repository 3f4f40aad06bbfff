//! GRUB: slots and tries in the environment block that `grub.cfg` reads and counts down.
//!
//! | state of slot X | `X_OK` | `X_TRY` | `X_LEFT` | in `ORDER` |
//! |---|---|---|---|---|
//! | confirmed | 1 | 0 | 0 | yes; booted without being counted |
//! | trying | 0 | 1 | n | yes; GRUB writes n-1 before it boots it |
//! | out of tries | 0 | 1 | 0 | yes, skipped |
//! | rejected | 0 | 0 | 0 | yes, last, skipped |
//! | empty | 0 | 0 | 0 | no |
//!
//! The block is overwritten in place by one write of its first 512 bytes: truncating it first, or renaming a new one
//! over it, has left appliances without a boot loader (the file's place on disk is what GRUB itself writes to).

use updater_core::facts::SlotBoot;
use updater_core::slot::{PerSlot, SlotId};

use super::error::BootError;
use super::files::{Files, replace};
use super::grubenv::{BLOCK, GrubEnv, SECTOR};
use super::loader::{Loader, check_tries, expect};

/// Our variables, in the order they are written.
const OURS: [&str; 7] = ["ORDER", "A_OK", "A_TRY", "A_LEFT", "B_OK", "B_TRY", "B_LEFT"];

/// The backend.
#[derive(Debug)]
pub struct Grub<F> {
    files: F,
    path: String,
    temp: String,
}

/// Upper-case letter of a slot, as in the variables.
const fn letter(slot: SlotId) -> &'static str {
    match slot {
        SlotId::A => "A",
        SlotId::B => "B",
    }
}

impl<F: Files> Grub<F> {
    /// The block at `path` below `files`, for instance `grub/grubenv`.
    pub fn new(files: F, path: impl Into<String>) -> Self {
        let path = path.into();
        Self { files, temp: format!("{path}.new"), path }
    }

    fn env(&self) -> Result<GrubEnv, BootError> {
        let block = self.files.read(&self.path).map_err(BootError::read(&self.path))?;
        // A missing block is as damaged as a torn one: GRUB can not make one by itself.
        let block = block.ok_or_else(|| BootError::Damaged(format!("{} is missing", self.path)))?;
        GrubEnv::parse(&block).map_err(|error| BootError::Damaged(error.to_string()))
    }

    /// Changes the variables of one slot and its place in `ORDER`, in one write.
    fn change(&mut self, slot: SlotId, record: SlotBoot, place: Place) -> Result<(), BootError> {
        // A block that can not be read is made anew: whatever it said is lost, and the caller's record of one slot is
        // all that is known. The other slot counts as confirmed, because a device that runs has one that boots.
        let (mut env, repair) = match self.env() {
            Ok(env) => (env, false),
            Err(BootError::Damaged(_)) => (initial(slot.other()), true),
            Err(error) => return Err(error),
        };
        let order = place.order(slot, env.variables.get("ORDER").map_or("", String::as_str));
        set(&mut env, slot, record);
        env.variables.insert("ORDER".into(), order);
        let block = env.render(&OURS).map_err(|error| BootError::Refused(error.to_string()))?;
        self.write(&block, repair)?;
        let back = self.env()?;
        if back == env { Ok(()) } else { Err(BootError::ReadBack("the variables differ".into())) }
    }

    fn write(&mut self, block: &[u8; BLOCK], repair: bool) -> Result<(), BootError> {
        if repair {
            return replace(&mut self.files, &self.temp, &self.path, block).map_err(BootError::write(&self.path));
        }
        // The second sector is padding already: `render` refuses more than the first one holds, and `env` parsed it.
        let sector = block.get(..SECTOR).unwrap_or(block);
        let old = self.files.read(&self.path).map_err(BootError::read(&self.path))?.unwrap_or_default();
        if old.get(SECTOR..).is_some_and(|rest| rest.iter().any(|byte| *byte != b'#')) {
            // Somebody else's variables reached into the second sector. They now fit into the first; the whole block
            // is one file system block and goes in one write, too.
            self.files.overwrite(&self.path, block).map_err(BootError::write(&self.path))?;
        } else {
            self.files.overwrite(&self.path, sector).map_err(BootError::write(&self.path))?;
        }
        self.files.sync(&self.path).map_err(BootError::write(&self.path))
    }
}

/// Where a slot goes in `ORDER`.
enum Place {
    First,
    Last,
    Out,
}

impl Place {
    fn order(&self, slot: SlotId, order: &str) -> String {
        let mine = letter(slot);
        let known = |name: &&str| matches!(*name, "A" | "B");
        let others = order.split_ascii_whitespace().filter(known).filter(|name| *name != mine);
        match self {
            Self::First => std::iter::once(mine).chain(others).collect::<Vec<_>>(),
            Self::Last => others.chain([mine]).collect(),
            Self::Out => others.collect(),
        }
        .join(" ")
    }
}

/// A block in which only `slot` is known, and good.
fn initial(slot: SlotId) -> GrubEnv {
    let mut env = GrubEnv::default();
    env.variables.insert("ORDER".into(), letter(slot).into());
    set(&mut env, slot, SlotBoot::Confirmed);
    set(&mut env, slot.other(), SlotBoot::Empty);
    env
}

fn set(env: &mut GrubEnv, slot: SlotId, record: SlotBoot) {
    let (ok, trying, left) = match record {
        SlotBoot::Confirmed => (1, 0, 0),
        SlotBoot::Trying { left, .. } => (0, 1, left),
        SlotBoot::Exhausted { .. } | SlotBoot::Empty => (0, 0, 0),
    };
    for (name, value) in [("OK", ok), ("TRY", trying), ("LEFT", left)] {
        env.variables.insert(format!("{}_{name}", letter(slot)), value.to_string());
    }
}

fn record(env: &GrubEnv, slot: SlotId) -> Result<SlotBoot, BootError> {
    let number = |name: &str| {
        let name = format!("{}_{name}", letter(slot));
        let value = env.variables.get(&name).map_or("0", String::as_str);
        value.parse::<u8>().map_err(|_| BootError::Damaged(format!("{name}={value}")))
    };
    let order = env.variables.get("ORDER").map_or("", String::as_str);
    let listed = order.split_ascii_whitespace().any(|name| name == letter(slot));
    Ok(match (number("OK")?, number("TRY")?, number("LEFT")?) {
        _ if !listed => SlotBoot::Empty,
        // RAUC's grub.cfg sets TRY on a good slot, too; it still boots.
        (1.., _, _) => SlotBoot::Confirmed,
        (0, 1.., 0) => SlotBoot::Exhausted { done: 1 },
        (0, 1.., left) => SlotBoot::Trying { left, done: 0 },
        (0, 0, _) => SlotBoot::Exhausted { done: 0 },
    })
}

impl<F: Files> Loader for Grub<F> {
    fn records(&self) -> Result<PerSlot<SlotBoot>, BootError> {
        let env = self.env()?;
        Ok(PerSlot { a: record(&env, SlotId::A)?, b: record(&env, SlotId::B)? })
    }

    fn clear(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.change(slot, SlotBoot::Empty, Place::Out)?;
        expect(*self.records()?.get(slot), SlotBoot::Empty)
    }

    fn arm(&mut self, slot: SlotId, tries: u8) -> Result<(), BootError> {
        check_tries(tries)?;
        let wanted = SlotBoot::Trying { left: tries, done: 0 };
        self.change(slot, wanted, Place::First)?;
        expect(*self.records()?.get(slot), wanted)
    }

    fn confirm(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.change(slot, SlotBoot::Confirmed, Place::First)?;
        expect(*self.records()?.get(slot), SlotBoot::Confirmed)
    }

    fn reject(&mut self, slot: SlotId) -> Result<(), BootError> {
        match self.records() {
            Ok(records) if *records.get(slot) == SlotBoot::Empty => return Ok(()),
            Ok(_) | Err(BootError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        let wanted = SlotBoot::Exhausted { done: 0 };
        self.change(slot, wanted, Place::Last)?;
        expect(*self.records()?.get(slot), wanted)
    }

    fn self_test(&mut self) -> Result<(), BootError> {
        let env = self.env()?;
        record(&env, SlotId::A)?;
        record(&env, SlotId::B)?;
        // Writable? Write back what is there: the same sector, so a power loss now changes nothing.
        let block = env.render(&OURS).map_err(|error| BootError::Refused(error.to_string()))?;
        self.write(&block, false)
    }
    fn repair(&mut self, booted: SlotId, tries: u8) -> Result<(), BootError> {
        let mut env = initial(booted);
        set(&mut env, booted, SlotBoot::Trying { left: tries, done: 0 });
        set(&mut env, booted.other(), SlotBoot::Exhausted { done: 0 });
        env.variables.insert("ORDER".into(), format!("{} {}", letter(booted), letter(booted.other())));
        let block = env.render(&OURS).map_err(|error| BootError::Refused(error.to_string()))?;
        self.write(&block, true)
    }
}
