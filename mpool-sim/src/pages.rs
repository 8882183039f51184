//! What a simulated medium holds.

use mpool_device::IO_ALIGN;
use std::{collections::BTreeMap, ops::Range, sync::Arc};

pub(super) const SECTOR: usize = 512;

type Page = [u8; IO_ALIGN];

/// Sparse pages; an absent one is zeros. Cloning shares the pages.
#[derive(Clone, Default)]
pub(super) struct Image {
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Image {
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        debug_assert!(bytes.len().is_multiple_of(SECTOR));
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (page_no, within) = split(at);
            let (now, later) = rest.split_at(rest.len().min(IO_ALIGN - within));
            if self.pages.contains_key(&page_no) || now.iter().any(|b| *b != 0) {
                let page = self.pages.entry(page_no).or_insert_with(|| Arc::new([0; IO_ALIGN]));
                Arc::make_mut(page)[within..within + now.len()].copy_from_slice(now);
            }
            at += now.len() as u64;
            rest = later;
        }
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        for (i, chunk) in buf.chunks_mut(IO_ALIGN).enumerate() {
            let (page_no, _) = split(offset + (i * IO_ALIGN) as u64);
            match self.pages.get(&page_no) {
                Some(page) => chunk.copy_from_slice(&page[..chunk.len()]),
                None => chunk.fill(0),
            }
        }
    }

    /// Turns one bit around.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) {
        let (page_no, within) = split(offset);
        let page = self.pages.entry(page_no).or_insert_with(|| Arc::new([0; IO_ALIGN]));
        Arc::make_mut(page)[within] ^= 1 << bit;
    }

    /// Forgets whole pages.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        let pages: Vec<u64> = self.pages.range(page_range(range)).map(|(no, _)| *no).collect();
        for page_no in pages {
            self.pages.remove(&page_no);
        }
    }

    /// Takes whole pages over from another image.
    pub(super) fn copy(&mut self, from: &Self, range: Range<u64>) {
        self.remove(range.clone());
        let pages = from.pages.range(page_range(range));
        self.pages.extend(pages.map(|(no, page)| (*no, Arc::clone(page))));
    }
}

fn page_range(bytes: Range<u64>) -> Range<u64> {
    split(bytes.start).0..split(bytes.end).0
}

/// Page number and offset within the page.
fn split(offset: u64) -> (u64, usize) {
    let page = IO_ALIGN as u64;
    (offset / page, usize::try_from(offset % page).expect("a page is small"))
}
