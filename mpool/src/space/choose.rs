//! PURE: on which volume something new goes.
//!
//! Rules, in order:
//!
//! 1. A volume that is being emptied takes nothing.
//! 2. Logs (journals, segments) go where bytes can be overwritten: conventional space only.
//! 3. Volumes of the class that was asked for come first, then the others: a full class is no
//!    reason to fail while another has room.
//! 4. Within a class, objects go to zones first: bytes that can be overwritten are few on a zoned
//!    drive, and logs can go nowhere else.
//! 5. Then the volume with the most free bytes comes first, then the lower id.

use crate::{address::VolumeId, media::MediaClass};

/// What is known of a volume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) id: VolumeId,
    pub(crate) class: MediaClass,
    pub(crate) evacuating: bool,
    /// Whether anything of it can be overwritten.
    pub(crate) conventional: bool,
    /// Whether it has zones, which take its objects.
    pub(crate) zoned: bool,
    /// Free for what is asked.
    pub(crate) free_bytes: u64,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Object,
    Log,
}

/// The volumes to try, in this order.
pub(crate) fn order(candidates: &[Candidate], class: MediaClass, what: What) -> Vec<VolumeId> {
    let fits = |c: &&Candidate| !c.evacuating && (what == What::Object || c.conventional);
    let mut found: Vec<&Candidate> = candidates.iter().filter(fits).collect();
    let overwritable = |c: &Candidate| what == What::Object && !c.zoned;
    found.sort_by_key(|c| {
        (c.class != class, overwritable(c), std::cmp::Reverse(c.free_bytes), c.id)
    });
    found.into_iter().map(|candidate| candidate.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use MediaClass::{Capacity, Staging};

    fn volume(id: u16, class: MediaClass, free_bytes: u64) -> Candidate {
        let id = VolumeId::new(id).unwrap();
        Candidate { id, class, evacuating: false, conventional: true, zoned: false, free_bytes }
    }

    fn ids(candidates: &[Candidate], class: MediaClass, what: What) -> Vec<u16> {
        order(candidates, class, what).into_iter().map(VolumeId::get).collect()
    }

    #[test]
    fn rules() {
        let mut volumes = [
            volume(0, Capacity, 5),
            volume(1, Capacity, 9),
            volume(2, Staging, 1),
            volume(3, Staging, 1),
        ];
        assert_eq!(ids(&volumes, Capacity, What::Object), [1, 0, 2, 3]);
        assert_eq!(ids(&volumes, Staging, What::Object), [2, 3, 1, 0]);
        volumes[1].conventional = false;
        assert_eq!(ids(&volumes, Capacity, What::Log), [0, 2, 3]);
        assert_eq!(ids(&volumes, Capacity, What::Object), [1, 0, 2, 3]);
        volumes[0].zoned = true;
        assert_eq!(ids(&volumes, Capacity, What::Object), [0, 1, 2, 3], "zones first");
        assert_eq!(ids(&volumes, Staging, What::Object), [2, 3, 0, 1], "but of the class first");
        assert_eq!(ids(&volumes, Capacity, What::Log), [0, 2, 3], "logs do not care");
        volumes[1].evacuating = true;
        assert_eq!(ids(&volumes, Capacity, What::Object), [0, 2, 3]);
    }
}
