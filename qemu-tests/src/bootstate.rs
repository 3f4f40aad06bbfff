//! What GRUB and U-Boot, with the scripts of `images/`, would do with their state on the ESP. Pure.
//!
//! Both become the same [`Entry`] list that systemd-boot's folder gives, so that conditions and invariants are written
//! once. Written from the scripts and the loaders' formats, not from the updater's code, for the reason in `entries`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::entries::Entry;

/// GRUB's environment block, from the root of the ESP.
pub const GRUBENV: &str = "grub/grubenv";
/// U-Boot's environment, the copy that is read first and the other one.
pub const UBOOT_ENV: [&str; 2] = ["flipside/uboot.env", "flipside/uboot-redund.env"];

/// Bytes of GRUB's block; its first line is the signature, `#` fills the rest (GRUB manual, "Environment block").
const GRUBENV_BYTES: usize = 1024;
const GRUBENV_SIGNATURE: &str = "# GRUB Environment Block";

/// Names of one loader's variables, with the slot's letter for `@`.
struct Names {
    order: &'static str,
    ok: &'static str,
    left: &'static str,
}

const GRUB: Names = Names { order: "ORDER", ok: "@_OK", left: "@_LEFT" };
const UBOOT: Names = Names { order: "BOOT_ORDER", ok: "BOOT_@_OK", left: "BOOT_@_LEFT" };

/// The slots in GRUB's block.
///
/// # Errors
/// GRUB would not read it either.
pub fn grub(block: &[u8]) -> Result<Vec<Entry>> {
    ensure!(block.len() == GRUBENV_BYTES, "grubenv has {} bytes", block.len());
    let text = std::str::from_utf8(block).context("grubenv is not text")?;
    let rest = text.strip_prefix(GRUBENV_SIGNATURE).context("grubenv has no signature")?;
    let lines = rest.lines().filter(|l| !l.starts_with('#'));
    let variables = lines.filter_map(|l| l.split_once('=')).collect();
    Ok(entries("grubenv", &variables, &GRUB))
}

/// The slots in the first copy of U-Boot's environment that is whole.
///
/// # Errors
/// None is.
pub fn uboot<'c>(copies: impl IntoIterator<Item = &'c [u8]>) -> Result<Vec<Entry>> {
    for copy in copies {
        let Some((sum, body)) = copy.split_first_chunk::<4>() else { continue };
        if u32::from_le_bytes(*sum) != crc32(body) {
            continue;
        }
        let texts = body.split(|b| *b == 0).take_while(|t| !t.is_empty());
        let variables = texts.filter_map(|t| std::str::from_utf8(t).ok()?.split_once('=')).collect();
        return Ok(entries("uboot.env", &variables, &UBOOT));
    }
    anyhow::bail!("no copy of U-Boot's environment is whole")
}

/// One entry for each slot in the order: the first in the order has the highest version.
fn entries(file: &str, variables: &BTreeMap<&str, &str>, names: &Names) -> Vec<Entry> {
    let order: Vec<_> = variables.get(names.order).copied().unwrap_or_default().split_ascii_whitespace().collect();
    let value = |name: &str, letter: &str| variables.get(name.replace('@', letter).as_str()).copied();
    let entry = |(place, letter): (usize, &&str)| {
        let slot = letter.to_ascii_lowercase();
        let left = value(names.left, letter).and_then(|left| left.parse().ok()).unwrap_or(0);
        let confirmed = value(names.ok, letter) == Some("1");
        Entry {
            file: format!("{file} {letter}"),
            tries_left: if confirmed { None } else { Some(left) },
            version: format!("{:010}", order.len() - place),
            sort_key: "flipside".into(),
            files: ["vmlinuz", "initrd.img"].map(|name| format!("/flipside/{slot}/{name}")).into(),
            slot,
        }
    };
    order.iter().enumerate().map(entry).collect()
}

/// CRC-32 as in IEEE 802.3, which U-Boot uses.
fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::default_entry;

    fn grubenv(variables: &str) -> Vec<u8> {
        let mut block = format!("{GRUBENV_SIGNATURE}\n{variables}").into_bytes();
        block.resize(GRUBENV_BYTES, b'#');
        block
    }

    fn environment(variables: &[&str]) -> Vec<u8> {
        let mut body: Vec<u8> = variables.iter().flat_map(|v| v.bytes().chain([0])).collect();
        body.resize(4092, 0);
        [&crc32(&body).to_le_bytes()[..], &body].concat()
    }

    fn told(entries: &[Entry]) -> (String, Vec<(String, Option<u32>)>) {
        let all = entries.iter().map(|e| (e.slot.clone(), e.tries_left)).collect();
        (default_entry(entries).map(|e| e.slot.clone()).unwrap_or_default(), all)
    }

    #[test]
    fn the_first_in_the_order_with_tries_left_boots() {
        let armed = grub(&grubenv("ORDER=B A\nA_OK=1\nB_OK=0\nB_TRY=1\nB_LEFT=3\n")).unwrap();
        assert_eq!(told(&armed), ("b".into(), vec![("b".into(), Some(3)), ("a".into(), None)]));
        let used_up = grub(&grubenv("ORDER=B A\nA_OK=1\nB_OK=0\nB_TRY=1\nB_LEFT=0\n")).unwrap();
        assert_eq!(told(&used_up).0, "a");
        assert_eq!(armed[0].files, ["/flipside/b/vmlinuz", "/flipside/b/initrd.img"]);
    }

    #[test]
    fn a_slot_outside_the_order_has_no_entry() {
        let entries = grub(&grubenv("ORDER=A\nA_OK=1\nB_OK=1\n")).unwrap();
        assert_eq!(told(&entries), ("a".into(), vec![("a".into(), None)]));
    }

    #[test]
    fn a_grubenv_that_grub_would_refuse_is_an_error() {
        assert!(grub(&[0; GRUBENV_BYTES]).is_err());
        assert!(grub(b"").is_err());
    }

    #[test]
    fn the_first_whole_copy_counts() {
        let (one, two) = (
            environment(&["BOOT_ORDER=B A", "BOOT_A_OK=1", "BOOT_B_LEFT=2"]),
            environment(&["BOOT_ORDER=A", "BOOT_A_OK=1"]),
        );
        assert_eq!(told(&uboot([&one[..], &two]).unwrap()).0, "b");
        let mut torn = one.clone();
        torn[9] ^= 1;
        assert_eq!(told(&uboot([&torn[..], &two]).unwrap()).0, "a");
        assert!(uboot([&torn[..], &[]]).is_err());
    }

    #[test]
    fn the_crc_is_that_of_ieee() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
