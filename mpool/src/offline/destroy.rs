//! The end of a pool: its labels and superblocks are wiped, its files deleted.
//!
//! Labels first, the superblock last: until then the pool can be found again, and an attempt that
//! was cut short is simply repeated. A pool that is too damaged to name its volumes loses the root
//! volume; the others keep labels that nobody honours.

use crate::{
    address::VolumeId,
    device::{self, Access, Device, zoned::sidecar_path},
    error::{Error, Result},
    heads::{
        label::{self, Found},
        session::Session,
    },
    media::VolumeKind,
    offline::heart::{find_in, heart, root_in, volumes_of},
    options::Options,
    pool::Pool,
    site::{self, VOLUME_FILE, mark::MARK_FILE},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// What became of a pool's volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// Wiped, and if they were files, deleted.
    pub wiped: Vec<PathBuf>,
    /// Left as they are, and why.
    pub left: Vec<(PathBuf, String)>,
}

impl Pool {
    /// Destroys the pool in DIR, which nobody may have open: nothing of it can be read afterwards.
    /// Files of volumes are deleted, devices are wiped where their labels are. The directory stays.
    pub fn destroy(dir: &Path, options: &Options) -> Result<Destroyed> {
        let root = root_in(dir, options, Access::Write)?;
        let mut done = Destroyed::default();
        match heart(&volumes_of(Arc::clone(&root)), Some(dir)) {
            Ok(heart) => {
                let find = find_in(dir, options, Access::Write);
                for record in heart.catalog.volumes.values() {
                    if record.id == VolumeId::ROOT {
                        continue;
                    }
                    let path = dir.join(&record.path);
                    let expected = label::Label {
                        pool: heart.superblock.uuid,
                        volume: record.uuid,
                        id: record.id,
                        session: Session::NONE,
                    };
                    let wiped = find(record).and_then(|device| wipe(&*device, &expected));
                    match wiped {
                        Ok(()) => done.finish(path, record.kind),
                        Err(error) => done.left.push((path, error.to_string())),
                    }
                }
            }
            Err(error) => {
                let text = format!("what other volumes there are is not known: {error}");
                done.left.push((dir.to_owned(), text));
            }
        }
        // The second copy of the superblock goes before the first.
        device::wipe_ends(&*root).map_err(|source| Error::io("durable write", 0, 0, source))?;
        if let Err(error) = site::remove_mark(dir) {
            done.left.push((dir.join(MARK_FILE), format!("it cannot be deleted: {error}")));
        }
        // A symbolic link to a device goes, the device stays.
        done.finish(dir.join(VOLUME_FILE), VolumeKind::File);
        Ok(done)
    }
}

impl Destroyed {
    fn finish(&mut self, path: PathBuf, kind: VolumeKind) {
        let mut files = Vec::new();
        match kind {
            VolumeKind::File => files.push(path.clone()),
            VolumeKind::EmulatedZoned => {
                files.extend([path.clone(), sidecar_path(&path)]);
            }
            VolumeKind::Block | VolumeKind::Zoned => {}
        }
        for file in files {
            if let Err(error) = std::fs::remove_file(&file) {
                let text = format!("it is wiped, but cannot be deleted: {error}");
                self.left.push((file, text));
            }
        }
        self.wiped.push(path);
    }
}

fn wipe(device: &dyn Device, expected: &label::Label) -> Result<()> {
    match label::read(device)? {
        Found::Label(found) if found.is_of_same(expected) => label::wipe(device),
        // An earlier attempt got this far.
        Found::Blank => Ok(()),
        _ => Err(Error::Options("it does not carry the label of this pool any more".to_owned())),
    }
}
