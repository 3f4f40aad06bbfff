//! An application as an image of kind `tree`: a folder with all that a sandboxed updater could get wrong.

use std::io::{self, Write};

use tar::{Builder, EntryType, Header};

/// `vfs_cap_data` of revision 2 in little endian (capability.h of the kernel): `cap_net_bind_service`, effective.
const BIND_SERVICE: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Size of the largest file, bytes.
const DATA: usize = 3_000_000;

/// Writes a tar of version `version`: files of other owners, a set-user-id program, a folder that passes its group on, a
/// file capability, a link.
///
/// # Errors
/// As `out` says.
pub fn write(version: &str, out: impl Write) -> io::Result<()> {
    let mut tar = Builder::new(out);
    let folder = |mode| header(EntryType::Directory, mode, (0, 0));
    let file = |mode, owner| header(EntryType::Regular, mode, owner);
    tar.append_data(&mut folder(0o755), "bin", io::empty())?;
    add(&mut tar, file(0o4755, (0, 0)), "bin/raise", b"#!/bin/sh\n")?;
    tar.append_link(&mut header(EntryType::Symlink, 0o777, (0, 0)), "bin/run", "serve")?;
    tar.append_pax_extensions([("SCHILY.xattr.security.capability", BIND_SERVICE.as_slice())])?;
    add(&mut tar, file(0o755, (0, 0)), "bin/serve", b"#!/bin/sh\n")?;
    tar.append_data(&mut header(EntryType::Directory, 0o2775, (1000, 50)), "share", io::empty())?;
    let data: Vec<u8> = version.bytes().cycle().take(DATA).collect();
    add(&mut tar, file(0o640, (1000, 50)), "share/data", &data)?;
    add(&mut tar, file(0o644, (0, 0)), "version", version.as_bytes())?;
    tar.into_inner().map(drop)
}

fn header(kind: EntryType, mode: u32, owner: (u64, u64)) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.0);
    header.set_gid(owner.1);
    header.set_size(0);
    header
}

fn add(tar: &mut Builder<impl Write>, mut header: Header, path: &str, bytes: &[u8]) -> io::Result<()> {
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
}
