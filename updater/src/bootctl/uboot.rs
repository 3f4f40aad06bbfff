//! U-Boot: slots and tries in a CRC-checked environment file, kept twice on the ESP.
//!
//! | state of slot X | `BOOT_X_OK` | `BOOT_X_LEFT` | `BOOT_X_BAD` | in `BOOT_ORDER` |
//! |---|---|---|---|---|
//! | confirmed | 1 | 0 | 0 | yes; booted without being counted |
//! | trying | 0 | n | 0 | yes; the script writes n-1 before it boots it |
//! | out of tries | 0 | 0 | 0 | yes, skipped |
//! | rejected | 0 | 0 | 1 | yes, last, skipped |
//! | empty | 0 | 0 | 0 | no |
//!
//! Readers take the first copy whose CRC is right. Writers write the first, make it durable, then the second: a power
//! loss in the first leaves the old state in the second, one in the second leaves the new state in the first. All
//! variables are one write; two calls of `fw_setenv` would leave half a change.

use std::collections::BTreeMap;

use updater_core::facts::SlotBoot;
use updater_core::slot::{PerSlot, SlotId};

use super::error::BootError;
use super::files::{Files, replace};
use super::loader::{Loader, check_tries, expect};
use super::uboot_env::{parse, render};

/// The backend.
#[derive(Debug)]
pub struct UBoot<F> {
    files: F,
    copies: [String; 2],
}

type Variables = BTreeMap<String, String>;

const fn letter(slot: SlotId) -> &'static str {
    match slot {
        SlotId::A => "A",
        SlotId::B => "B",
    }
}

impl<F: Files> UBoot<F> {
    /// The two copies, below `files`, for instance `flipside/uboot.env` and `flipside/uboot-redund.env`.
    pub fn new(files: F, first: impl Into<String>, second: impl Into<String>) -> Self {
        Self { files, copies: [first.into(), second.into()] }
    }

    fn variables(&self) -> Result<Variables, BootError> {
        let (mut damage, mut unreadable) = (Vec::new(), None);
        for path in &self.copies {
            match self.files.read(path).map(|file| file.map(|file| parse(&file))) {
                Ok(Some(Ok(variables))) => return Ok(variables),
                Ok(Some(Err(error))) => damage.push(format!("{path}: {error}")),
                Ok(None) => damage.push(format!("{path}: missing")),
                // A bad sector under one copy is what the other is for.
                Err(error) => unreadable = Some(BootError::read(path)(error)),
            }
        }
        // What can not be read now may be whole: it is not made anew, as damage is.
        Err(unreadable.unwrap_or_else(|| BootError::Damaged(damage.join("; "))))
    }

    fn write(&mut self, variables: &Variables) -> Result<(), BootError> {
        let file = render(variables).map_err(|error| BootError::Refused(error.to_string()))?;
        // A first copy that is damaged is not what anybody reads; but one that is right must stay until the second
        // holds the same, or a power loss in the first would fall back to a state older than the present one.
        let present = self.variables();
        let [first, second] = &self.copies;
        if let Ok(present) = present {
            let old = render(&present).map_err(|error| BootError::Refused(error.to_string()))?;
            put(&mut self.files, second, &old)?;
        }
        put(&mut self.files, first, &file)?;
        put(&mut self.files, second, &file)
    }

    fn change(&mut self, slot: SlotId, record: SlotBoot, first: bool) -> Result<(), BootError> {
        let mut variables = match self.variables() {
            Ok(variables) => variables,
            Err(BootError::Damaged(_)) => initial(slot.other(), SlotBoot::Confirmed),
            Err(error) => return Err(error),
        };
        set(&mut variables, slot, record, first);
        self.write(&variables)?;
        expect(*self.records()?.get(slot), record)
    }
}

/// Makes one copy hold `file`: in place when it is there, so that its place on disk stays; anew when not, or when it can
/// not be read where it is.
fn put(files: &mut impl Files, path: &str, file: &[u8]) -> Result<(), BootError> {
    let present = files.read(path).ok().flatten();
    if present.as_deref() == Some(file) {
        return Ok(());
    }
    if present.is_some_and(|present| present.len() == file.len()) {
        files.overwrite(path, file).and_then(|()| files.sync(path)).map_err(BootError::write(path))
    } else {
        replace(files, &format!("{path}.new"), path, file).map_err(BootError::write(path))
    }
}

/// Variables in which only `slot` can boot.
fn initial(slot: SlotId, record: SlotBoot) -> Variables {
    let mut variables = Variables::new();
    set(&mut variables, slot.other(), SlotBoot::Empty, false);
    set(&mut variables, slot, record, true);
    variables
}

fn set(variables: &mut Variables, slot: SlotId, record: SlotBoot, first: bool) {
    let (ok, left, bad) = match record {
        SlotBoot::Confirmed => (1, 0, 0),
        SlotBoot::Trying { left, .. } => (0, left, 0),
        SlotBoot::Exhausted { .. } => (0, 0, 1),
        SlotBoot::Empty => (0, 0, 0),
    };
    let mine = letter(slot);
    for (name, value) in [("OK", ok), ("LEFT", left), ("BAD", bad)] {
        variables.insert(format!("BOOT_{mine}_{name}"), value.to_string());
    }
    let order = variables.get("BOOT_ORDER").cloned().unwrap_or_default();
    let mut order: Vec<&str> =
        order.split_ascii_whitespace().filter(|name| *name != mine && matches!(*name, "A" | "B")).collect();
    match record {
        SlotBoot::Empty => {}
        _ if first => order.insert(0, mine),
        _ => order.push(mine),
    }
    variables.insert("BOOT_ORDER".into(), order.join(" "));
}

fn record(variables: &Variables, slot: SlotId) -> Result<SlotBoot, BootError> {
    let number = |name: &str| {
        let name = format!("BOOT_{}_{name}", letter(slot));
        // `setexpr` writes hexadecimal; up to MAX_TRIES that is the same.
        let value = variables.get(&name).map_or("0", String::as_str);
        value.parse::<u8>().map_err(|_| BootError::Damaged(format!("{name}={value}")))
    };
    let listed =
        variables.get("BOOT_ORDER").is_some_and(|order| order.split_ascii_whitespace().any(|n| n == letter(slot)));
    Ok(match (number("OK")?, number("LEFT")?, number("BAD")?) {
        _ if !listed => SlotBoot::Empty,
        (1.., _, _) => SlotBoot::Confirmed,
        (0, 0, 0) => SlotBoot::Exhausted { done: 1 },
        (0, 0, _) => SlotBoot::Exhausted { done: 0 },
        (0, left, _) => SlotBoot::Trying { left, done: 0 },
    })
}

impl<F: Files> Loader for UBoot<F> {
    fn records(&self) -> Result<PerSlot<SlotBoot>, BootError> {
        let variables = self.variables()?;
        Ok(PerSlot { a: record(&variables, SlotId::A)?, b: record(&variables, SlotId::B)? })
    }

    fn clear(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.change(slot, SlotBoot::Empty, false)
    }

    fn arm(&mut self, slot: SlotId, tries: u8) -> Result<(), BootError> {
        check_tries(tries)?;
        self.change(slot, SlotBoot::Trying { left: tries, done: 0 }, true)
    }

    fn confirm(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.change(slot, SlotBoot::Confirmed, true)
    }

    fn reject(&mut self, slot: SlotId) -> Result<(), BootError> {
        match self.records() {
            Ok(records) if *records.get(slot) == SlotBoot::Empty => Ok(()),
            Ok(_) | Err(BootError::Damaged(_)) => self.change(slot, SlotBoot::Exhausted { done: 0 }, false),
            Err(error) => Err(error),
        }
    }

    fn self_test(&mut self) -> Result<(), BootError> {
        let variables = self.variables()?;
        record(&variables, SlotId::A)?;
        record(&variables, SlotId::B)?;
        // Writes what is there; heals a torn copy.
        self.write(&variables)
    }

    fn repair(&mut self, booted: SlotId, tries: u8) -> Result<(), BootError> {
        let mut variables = initial(booted, SlotBoot::Trying { left: tries, done: 0 });
        set(&mut variables, booted.other(), SlotBoot::Exhausted { done: 0 }, false);
        self.write(&variables)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::bootctl::powerloss::Recorder;

    /// A disk on which some files can not be read until they are made anew.
    struct Worn(Recorder, Vec<&'static str>);

    impl Files for Worn {
        fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
            if self.1.contains(&path) { Err(io::Error::other("a bad sector")) } else { self.0.read(path) }
        }
        fn list(&self, dir: &str) -> io::Result<Vec<String>> {
            self.0.list(dir)
        }
        fn make_dir(&mut self, dir: &str) -> io::Result<()> {
            self.0.make_dir(dir)
        }
        fn create(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
            self.0.create(path, bytes)
        }
        fn overwrite(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
            self.0.overwrite(path, bytes)
        }
        fn sync(&mut self, path: &str) -> io::Result<()> {
            self.0.sync(path)
        }
        fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
            self.1.retain(|path| *path != to);
            self.0.rename(from, to)
        }
        fn remove(&mut self, path: &str) -> io::Result<()> {
            self.0.remove(path)
        }
        fn sync_dir(&mut self, dir: &str) -> io::Result<()> {
            self.0.sync_dir(dir)
        }
    }

    #[test]
    fn a_bad_sector_under_one_copy_costs_nothing() {
        for worn in ["env", "env2"] {
            let files = Recorder::default();
            UBoot::new(files.clone(), "env", "env2").repair(SlotId::A, 3).unwrap();
            let mut loader = UBoot::new(Worn(files.clone(), vec![worn]), "env", "env2");
            assert_eq!(loader.records().unwrap().a, SlotBoot::Trying { left: 3, done: 0 }, "{worn}");
            loader.confirm(SlotId::A).unwrap();
            loader.self_test().unwrap();
            assert!(loader.files.1.is_empty(), "it was not made anew");
            let disk = files.disk();
            assert_eq!(disk["env"], disk["env2"]);
        }
    }

    #[test]
    fn state_that_can_not_be_read_at_all_is_not_made_anew() {
        let files = Recorder::default();
        UBoot::new(files.clone(), "env", "env2").repair(SlotId::A, 3).unwrap();
        let loader = UBoot::new(Worn(files, vec!["env", "env2"]), "env", "env2");
        assert!(matches!(loader.records(), Err(BootError::Read { .. })));
    }
}
