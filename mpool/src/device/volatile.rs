//! File systems that forget: what is written there is gone with the power, or with a container.
//!
//! They take `O_DIRECT`, flush and answer as any other, so only their type tells them apart. The
//! kernel's numbers are in `linux/magic.h`.

use crate::error::{Error, Result};
use std::{fs::File, path::Path};

const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58F6;
const OVERLAYFS: u64 = 0x794C_7630;

const MEMORY: &str = "which is memory: everything is gone after a restart of the machine";
const LAYER: &str = "as a container's own layer is: everything is gone with the container";

/// Refuses a file on such a file system, and says what would be lost and what to do.
pub(super) fn check(file: &File, path: &Path) -> Result<()> {
    // A file system that does not say is none of them.
    let Ok(stat) = rustix::fs::fstatfs(file) else { return Ok(()) };
    // The type's sign differs between machines; its 32 bits do not.
    match refusal(u64::try_from(stat.f_type).unwrap_or_default() & 0xFFFF_FFFF) {
        Some(reason) => Err(Error::Unusable { path: path.to_owned(), reason }),
        None => Ok(()),
    }
}

fn refusal(kind: u64) -> Option<String> {
    let (name, means) = match kind {
        TMPFS => ("tmpfs", MEMORY),
        RAMFS => ("ramfs", MEMORY),
        OVERLAYFS => ("overlayfs", LAYER),
        _ => return None,
    };
    Some(format!(
        "is on {name}, {means}; choose a directory on a disk (in a container: mount a volume or a \
         directory of the host there), or accept the loss by the option allow_volatile (--allow-volatile)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_forgets_is_refused_with_what_it_means() {
        for (kind, parts) in [
            (TMPFS, ["is on tmpfs", "restart of the machine", "--allow-volatile"]),
            (RAMFS, ["is on ramfs", "restart of the machine", "--allow-volatile"]),
            (OVERLAYFS, ["is on overlayfs", "mount a volume", "--allow-volatile"]),
        ] {
            let text = refusal(kind).unwrap();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
        let (ext4, xfs, btrfs) = (0xEF53, 0x5846_5342, 0x9123_683E);
        for kind in [ext4, xfs, btrfs, 0] {
            assert_eq!(refusal(kind), None, "{kind:x}");
        }
    }
}
