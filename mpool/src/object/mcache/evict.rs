//! How pages leave memory, and how the books follow what the kernel does on its own.
//!
//! Whole objects go by `MADV_DONTNEED` and `FADV_DONTNEED`, which takes tens of microseconds for
//! large folios; single pages go by `MADV_PAGEOUT` in batches. In each case the page is owned
//! before the call and left absent after it, so no reader uses a page that is on its way out and
//! none is believed resident that has just gone.
//!
//! The kernel evicts pages too: reclaim when the cgroup is full, or housekeeping of the platform
//! for pages that nobody has mapped. [`Mcache::resync`] compares its count with ours, object by
//! object, and lists the pages only where they differ. Until it comes by, a page that the kernel
//! took is believed resident: reading it costs its reader a fault (correct, but a wait), and an
//! index page is not verified again. Pages found cached that nobody admitted (left by an earlier
//! process, or by a page-out that failed) are adopted if there is room and dropped if not.

use super::{
    Mcache,
    mapping::Mapping,
    object::Object,
    pages::{Leave, Owned, PAGE_BYTES, Take},
    region::Span,
};
use crate::sys::cachestat;
use std::ops::Range;

/// Differences up to this many pages are not worth a listing: fills under way look like that.
const RESYNC_SLACK_PAGES: u64 = 8;
/// The kernel may pass over a page that another core holds for a moment.
const DROP_TRIES: u32 = 3;

/// Pages on their way out, gathered over several objects and evicted by few system calls.
pub(crate) struct Batch<'a> {
    /// By volume.
    spans: Vec<(&'a Mapping, Vec<Span>)>,
    owners: Vec<Owned<'a>>,
}

impl<'a> Batch<'a> {
    pub(crate) fn with_capacity(pages: usize) -> Self {
        Self { spans: Vec::new(), owners: Vec::with_capacity(pages) }
    }

    pub(crate) fn pages(&self) -> usize {
        self.owners.len()
    }

    /// Adds a page if it is still resident and free.
    pub(crate) fn add(&mut self, object: &'a Object, page: u32) {
        let Some(mapping) = object.mapping.as_deref() else { return };
        let Some(owner) = object.states.own(page, Take::Resident) else { return };
        let span = object.page(page);
        let known = self.spans.iter().position(|(other, _)| std::ptr::eq(*other, mapping));
        let known = known.unwrap_or_else(|| {
            self.spans.push((mapping, Vec::new()));
            self.spans.len() - 1
        });
        let spans = &mut self.spans[known].1;
        match spans.last_mut() {
            Some(last) if last.offset + last.len == span.offset => last.len += span.len,
            _ => spans.push(span),
        }
        self.owners.push(owner);
    }
}

impl Mcache {
    /// Evicts the pages of `batch` and returns their bytes.
    pub(crate) fn evict(&self, batch: Batch<'_>) -> u64 {
        for (mapping, spans) in &batch.spans {
            if let Err(error) = mapping.region.page_out(spans) {
                tracing::debug!(%error, "paging out failed; dropping the pages instead");
                for span in spans {
                    mapping.drop_span(*span);
                }
            }
        }
        let bytes = batch.owners.len() as u64 * PAGE_BYTES;
        drop(batch.owners);
        self.metrics.evicted_bytes.add(bytes);
        bytes
    }

    /// Drops a deleted object that readers may still hold.
    pub(crate) fn drop_dead(&self, object: &Object) -> u64 {
        let bytes = drop_object(object);
        self.metrics.dead_bytes.add(bytes);
        self.dead.lock().retain(|dead| dead.key() != object.key());
        bytes
    }

    /// Drops an object that nobody holds any more, and repairs the mapping under it. On return
    /// none of its pages is in memory, and none gets there: whoever is at work on one (the reaper
    /// knows objects without holding them) has been waited for, and finds the object closed.
    pub(super) fn bury(&self, object: &Object) {
        let resident = u64::from(object.states.close());
        self.metrics.dead_bytes.add(resident * PAGE_BYTES);
        let Some(mapping) = &object.mapping else { return };
        for _ in 0..DROP_TRIES {
            if cached_pages(object) == Some(0) {
                break;
            }
            object.pages(0..object.states.len()).for_each(|span| mapping.drop_span(span));
        }
        for page in (0..object.states.len()).filter(|page| object.states.state(*page).is_lost()) {
            let span = object.page(page);
            if let Err(error) = mapping.restore(span) {
                // The next object here would show zeros, which its checksums reject.
                tracing::error!(offset = span.offset, %error, "a lost page could not be mapped again");
            }
        }
    }

    /// Brings the states of one object in line with the page cache. Returns whether they differed.
    pub(crate) fn resync(&self, object: &Object) -> bool {
        let ours = u64::from(object.states.resident());
        let Some(cached) = cached_pages(object) else { return false };
        let slack = RESYNC_SLACK_PAGES.min(u64::from(object.states.len()) / 2);
        cached.abs_diff(ours) > slack && self.resync_pages(object)
    }

    /// The same without asking whether there is a difference.
    pub(super) fn resync_pages(&self, object: &Object) -> bool {
        let Some(mapping) = &object.mapping else { return false };
        let (mut listed, mut part) = (Vec::new(), Vec::new());
        for span in object.pages(0..object.states.len()) {
            if let Err(error) = mapping.region.list_resident(span, &mut part) {
                tracing::debug!(%error, "residency cannot be listed");
                return false;
            }
            listed.append(&mut part);
        }
        for (page, listed) in (0..object.states.len()).zip(&listed) {
            let state = object.states.state(page);
            match (state.is_resident(), listed & 1 == 1) {
                (true, false) if object.states.forget(page) => {
                    self.metrics.kernel_evicted_pages.add(1);
                }
                (false, true) => self.settle_stray(mapping, object, page),
                _ => {}
            }
        }
        true
    }

    /// A cached page that nobody has admitted: adopted if there is room, else dropped.
    fn settle_stray(&self, mapping: &Mapping, object: &Object, page: u32) {
        let Some(owner) = object.states.own(page, Take::Absent) else { return };
        let span = object.page(page);
        self.metrics.stray_pages.add(1);
        let wanted = object.class_of(page).is_index() || self.room.take(PAGE_BYTES);
        if wanted && !object.is_dead() && mapping.region.populate(span).is_ok() {
            owner.release(Leave::Resident);
        } else {
            mapping.drop_span(span);
        }
    }
}

/// Drops everything of `object` that nobody is at work on; returns the bytes we believed resident.
pub(crate) fn drop_object(object: &Object) -> u64 {
    drop_range(object, 0..object.states.len())
}

/// The same of some of its pages.
pub(crate) fn drop_range(object: &Object, pages: Range<u32>) -> u64 {
    let Some(mapping) = &object.mapping else { return 0 };
    // There may be pages that an earlier process left, but states are not made for nothing.
    if !object.states.is_touched() && cached_pages(object) == Some(0) {
        return 0;
    }
    let mut dropped = 0;
    let mut run: Vec<Owned<'_>> = Vec::new();
    for page in pages {
        match object.states.own(page, Take::Any) {
            Some(owner) => run.push(owner),
            None => dropped += drop_run(mapping, object, &mut run),
        }
    }
    dropped + drop_run(mapping, object, &mut run)
}

/// Bytes of the object in the page cache: as the kernel counts, else as we do.
pub(crate) fn cached_bytes(object: &Object) -> u64 {
    cached_pages(object).map_or_else(|| object.resident_bytes(), |pages| pages * PAGE_BYTES)
}

/// Drops pages that follow each other, and gives them up.
fn drop_run(mapping: &Mapping, object: &Object, run: &mut Vec<Owned<'_>>) -> u64 {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return 0 };
    object.pages(first.page()..last.page() + 1).for_each(|span| mapping.drop_span(span));
    let resident = run.iter().filter(|owner| owner.was().is_resident()).count();
    run.clear();
    resident as u64 * PAGE_BYTES
}

/// Pages of the object in the page cache, if the kernel can tell.
pub(super) fn cached_pages(object: &Object) -> Option<u64> {
    let file = object.mapping.as_ref()?.file();
    let count = |span: Span| cachestat::cached_pages(file, span.offset, span.len).ok();
    object.pages(0..object.states.len()).map(count).sum()
}
