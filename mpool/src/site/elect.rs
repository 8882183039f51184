//! The superblock that a pool is opened by, or what is there instead of a pool.

use super::unusable;
use crate::{
    device::{
        self,
        contents::{Contents, foreign_on},
        signature::Signature,
    },
    error::{Error, Result},
    heads::superblock::{self, Election, Superblock},
    io::volumes::Volumes,
    site, space,
};
use std::path::Path;

/// The superblock that counts; a copy that is damaged or old is written again.
pub(crate) fn elected(volume: &Volumes, dir: Option<&Path>) -> Result<Superblock> {
    match superblock::read(volume, dir.and_then(site::named_in)) {
        Ok(Election::Elected(superblock)) => {
            superblock.check_writable()?;
            check_len(volume, &superblock)?;
            heal(volume, &superblock)?;
            Ok(superblock)
        }
        Ok(Election::Begun) => Err(unusable(CUT_SHORT)),
        Ok(Election::Blank) | Err(Error::Unusable { .. }) => Err(no_pool(volume)),
        Err(error) => Err(error),
    }
}

/// Writes the copies again that are damaged or old, unless somebody else has taken the place.
fn heal(volume: &Volumes, superblock: &Superblock) -> Result<()> {
    for copy in 0..superblock::COPY_OFFSETS.len() {
        let found = superblock::read_page(volume, copy);
        if found.as_ref() == Some(superblock) {
            continue;
        }
        // An older copy of this pool is what a crash leaves.
        if found.is_none_or(|found| found.uuid != superblock.uuid) {
            let device = volume.root();
            let foreign = foreign_on(&**device.device());
            if let Some(Signature { what, offset }) =
                foreign.map_err(|source| Error::io("read", 0, 0, source))?
            {
                return Err(unusable(&format!(
                    "carries {what} (its signature is at byte {offset}), and copy {} of the \
                     superblock is damaged; if that is not wanted, keep a copy of the volume and \
                     wipe that signature (wipefs), and the next start puts the superblock right",
                    copy + 1
                )));
            }
        }
        tracing::warn!(
            copy = copy + 1,
            "a copy of the superblock is damaged or old; {}",
            volume.remedy()
        );
        superblock.write_copy(volume, copy)?;
    }
    Ok(())
}

/// Whether the pool's journal can lie whole on a root volume of this length.
pub(crate) fn check_len(volume: &Volumes, superblock: &Superblock) -> Result<()> {
    let root = volume.root();
    let device = &**root.device();
    let end = superblock.logs.iter().map(|log| log.extent().end()).max().unwrap_or(0);
    if end <= device.geometry().len_bytes {
        return Ok(());
    }
    Err(space::volume::short(Path::new("volume"), device, end))
}

/// A creation that ended before there was a pool.
pub(crate) const CUT_SHORT: &str = "holds no pool, as its creation was cut short; create it again";

/// That there is no pool on the root volume, and what is there instead.
pub(crate) fn no_pool(volumes: &Volumes) -> Error {
    match device::contents::of_device(&**volumes.root().device()) {
        Ok(Contents::Blank) => unusable(
            "is blank and holds no pool; if there was one, restore it from a backup; if not, have one \
             made (`millpond pool create`, or serve with --create always)",
        ),
        Ok(Contents::Taken(taken)) => unusable(&format!(
            "holds no pool: {taken}; restore it from a backup, or choose another"
        )),
        Err(source) => Error::io("read", 0, 0, source),
    }
}
