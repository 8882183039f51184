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
    object::Object,
    pages::{Leave, Owned, PAGE_BYTES, Take},
    region::{Region, Span},
};
use crate::sys::cachestat;

/// Differences up to this many pages are not worth a listing: fills under way look like that.
const RESYNC_SLACK_PAGES: u64 = 8;

/// Pages on their way out, gathered over several objects and evicted by few system calls.
pub(crate) struct Batch<'a> {
    spans: Vec<Span>,
    owners: Vec<Owned<'a>>,
}

impl<'a> Batch<'a> {
    pub(crate) fn with_capacity(pages: usize) -> Self {
        Self { spans: Vec::with_capacity(pages), owners: Vec::with_capacity(pages) }
    }

    pub(crate) fn pages(&self) -> usize {
        self.owners.len()
    }

    /// Adds a page if it is still resident and free.
    pub(crate) fn add(&mut self, object: &'a Object, page: u32) {
        let Some(owner) = object.states.own(page, Take::Resident) else { return };
        let span = object.pages(page, 1);
        match self.spans.last_mut() {
            Some(last) if last.offset + last.len == span.offset => last.len += span.len,
            _ => self.spans.push(span),
        }
        self.owners.push(owner);
    }
}

impl Mcache {
    /// Evicts the pages of `batch` and returns their bytes.
    pub(crate) fn evict(&self, batch: Batch<'_>) -> u64 {
        let Some(region) = &self.region else { return 0 };
        if let Err(error) = region.page_out(&batch.spans) {
            tracing::debug!(%error, "paging out failed; dropping the pages instead");
            batch.spans.iter().for_each(|span| self.drop_span(region, *span));
        }
        let bytes = batch.owners.len() as u64 * PAGE_BYTES;
        drop(batch.owners);
        self.metrics.evicted_bytes.add(bytes);
        bytes
    }

    /// Drops everything of `object` that nobody is at work on; returns the bytes we believed
    /// resident.
    pub(crate) fn drop_object(&self, object: &Object) -> u64 {
        let Some(region) = self.region.as_ref().filter(|_| object.is_mapped()) else { return 0 };
        let mut dropped = 0;
        let mut run: Vec<Owned<'_>> = Vec::new();
        for page in 0..object.states.len() {
            match object.states.own(page, Take::Any) {
                Some(owner) => run.push(owner),
                None => dropped += self.drop_run(region, object, &mut run),
            }
        }
        dropped + self.drop_run(region, object, &mut run)
    }

    /// Drops pages that follow each other, and gives them up.
    fn drop_run(&self, region: &Region, object: &Object, run: &mut Vec<Owned<'_>>) -> u64 {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return 0 };
        let span = object.pages(first.page(), last.page() - first.page() + 1);
        self.drop_span(region, span);
        let resident = run.iter().filter(|owner| owner.was().is_resident()).count();
        run.clear();
        resident as u64 * PAGE_BYTES
    }

    /// Drops a deleted object that readers may still hold.
    pub(crate) fn drop_dead(&self, object: &Object) -> u64 {
        let bytes = self.drop_object(object);
        self.metrics.dead_bytes.add(bytes);
        self.dead.lock().retain(|dead| dead.id != object.id);
        bytes
    }

    /// Drops an object that nobody holds any more, and repairs the mapping under it.
    pub(super) fn bury(&self, object: &Object) {
        self.metrics.dead_bytes.add(self.drop_object(object));
        let Some(region) = self.region.as_ref().filter(|_| object.is_mapped()) else { return };
        let Some(file) = self.file() else { return };
        for page in (0..object.states.len()).filter(|page| object.states.state(*page).is_lost()) {
            let span = object.pages(page, 1);
            if let Err(error) = region.restore(file, span) {
                // The next object here would show zeros, which its checksums reject.
                tracing::error!(offset = span.offset, %error, "a lost page could not be mapped again");
            }
        }
    }

    pub(super) fn drop_span(&self, region: &Region, span: Span) {
        let Some(file) = self.file() else { return };
        if let Err(error) = region.drop_span(file, span) {
            tracing::warn!(offset = span.offset, len = span.len, %error, "pages could not be dropped");
        }
    }

    /// Bytes of the object in the page cache: as the kernel counts, else as we do.
    pub(crate) fn cached_bytes(&self, object: &Object) -> u64 {
        match self.cached_pages(object) {
            Some(pages) => pages * PAGE_BYTES,
            None => object.resident_bytes(),
        }
    }

    fn cached_pages(&self, object: &Object) -> Option<u64> {
        let file = self.file().filter(|_| object.is_mapped())?;
        cachestat::cached_pages(file, object.span.offset, object.span.len).ok()
    }

    /// Brings the states of one object in line with the page cache. Returns whether they differed.
    pub(crate) fn resync(&self, object: &Object) -> bool {
        let Some(region) = self.region.as_ref().filter(|_| object.is_mapped()) else {
            return false;
        };
        let ours = u64::from(object.states.resident());
        let Some(cached) = self.cached_pages(object) else { return false };
        if cached.abs_diff(ours) <= RESYNC_SLACK_PAGES.min(u64::from(object.states.len()) / 2) {
            return false;
        }
        let mut listed = Vec::new();
        if let Err(error) = region.list_resident(object.span, &mut listed) {
            tracing::debug!(%error, "residency cannot be listed");
            return false;
        }
        for (page, listed) in (0..object.states.len()).zip(&listed) {
            let state = object.states.state(page);
            match (state.is_resident(), listed & 1 == 1) {
                (true, false) if object.states.forget(page) => {
                    self.metrics.kernel_evicted_pages.add(1);
                }
                (false, true) => self.settle_stray(region, object, page),
                _ => {}
            }
        }
        true
    }

    /// A cached page that nobody has admitted: adopted if there is room, else dropped.
    fn settle_stray(&self, region: &Region, object: &Object, page: u32) {
        let Some(owner) = object.states.own(page, Take::Absent) else { return };
        let span = object.pages(page, 1);
        self.metrics.stray_pages.add(1);
        let wanted = object.class().is_index() || self.room.take(PAGE_BYTES);
        if wanted && !object.is_dead() && region.populate(span).is_ok() {
            owner.release(Leave::Resident);
        } else {
            self.drop_span(region, span);
        }
    }
}
