//! Volumes that the pool's journal names and that cannot be had: which, where they were, what lies
//! on them, and what can be done.

use crate::{
    address::VolumeId,
    chores::Tidy,
    device::Access,
    error::{Error, Result},
    journal::{anchor::Anchor, pool_journal::Journal, record::Change},
    missing::is_denied,
    options::{Create, Options},
    pool::{Pool, open::new_volume},
    site::{
        self, VOLUME_FILE,
        devices::{open_device, open_root},
        elect::elected,
        with_path,
    },
};
use std::{path::Path, sync::Arc};

impl Pool {
    /// Takes a volume out of the pool in DIR that is lost and on which nothing lies, so that the
    /// pool opens without it. A volume that can be had is emptied and removed in the usual way.
    pub fn forget_volume(dir: &Path, id: VolumeId, options: &Options) -> Result<()> {
        options.validate()?;
        site::survey(dir, Create::Never)?;
        let path = dir.join(VOLUME_FILE);
        let volumes = new_volume(open_root(&path, options, Access::Write)?, options);
        volumes.flush()?;
        let superblock = elected(&volumes, Some(dir)).map_err(|error| with_path(error, &path))?;
        let anchor = Arc::new(Anchor::new(&volumes, superblock));
        let tidy = Tidy::start(false, || ())?;
        let journal = Journal::open(&volumes, &anchor, tidy.bell())?;
        let known = journal.read(|catalog| catalog.volumes.get(&id).cloned());
        let record = known.filter(|_| id != VolumeId::ROOT).ok_or_else(|| Error::no_such(id))?;
        let holds = journal.read(|catalog| catalog.held_by(id));
        if !holds.is_nothing() {
            return Err(Error::Options(format!("{id} cannot be given up: {holds}")));
        }
        match open_device(&dir.join(&record.path), &record, options, Access::Read) {
            // Whoever may not look cannot say that it is lost.
            Err(Error::Unusable { reason, .. }) if !is_denied(&reason) => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let text = format!("{id} is there; evacuate it, and remove it without --lost");
                return Err(Error::Options(text));
            }
        }
        journal.commit(&[Change::VolumeRemoved(id)], |_| Ok(()), || ())
    }
}
