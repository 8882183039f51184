//! Finding a key in a kblock: filter, then root to leaf.
//!
//! Where pages come from is the caller's: the map, blocking or not, or direct reads. [`Kblock`] is
//! what must be known to ask for the right ones; it is checked when the kvset opens and stays in
//! memory (about 100 bytes and two keys).

use super::super::filter;
use super::super::page::{PageHead, PageKind, Place, Reason};
use super::format::{Footer, owner};
use super::leaf::Leaf;
use super::tree;
use crate::entry::op::Op;
use crate::entry::version::ValuePtr;
use crate::key::Revision;
use std::ops::Deref;

/// A kblock of an open kvset.
#[derive(Debug)]
pub(crate) struct Kblock {
    footer: Footer,
    owner: u32,
}

/// Why a search ended without an answer.
#[derive(Debug)]
pub(crate) enum Stop<E> {
    /// The page could not be had.
    Fetch(E),
    /// The page does not say what it must.
    Bad { page: u32, reason: Reason },
}

impl Kblock {
    pub(crate) fn new(footer: Footer) -> Self {
        let owner = owner(footer.kblock);
        Self { footer, owner }
    }

    pub(crate) const fn footer(&self) -> &Footer {
        &self.footer
    }

    pub(crate) const fn place(&self, page: u32) -> Place {
        Place { owner: self.owner, page }
    }

    /// Page of the filter that `hash` is looked up in.
    #[inline]
    pub(crate) fn filter_page(&self, hash: u64) -> u32 {
        self.footer.filter_start() + self.footer.filter.locate(hash).0
    }

    /// Asks the filter. `bytes` are the page [`filter_page`](Self::filter_page) named.
    #[inline]
    pub(crate) fn may_hold<E>(&self, bytes: &[u8], hash: u64) -> Result<bool, Stop<E>> {
        let (page, block) = self.footer.filter.locate(hash);
        let page = self.footer.filter_start() + page;
        filter::may_hold(bytes, self.place(page), block, hash)
            .map_err(|reason| Stop::Bad { page, reason })
    }

    /// Number of the leaf that holds `key` if anything does.
    #[inline]
    pub(crate) fn leaf_of<E, P: Deref<Target = [u8]>>(
        &self,
        key: &[u8],
        mut fetch: impl FnMut(u32) -> Result<P, E>,
    ) -> Result<u32, Stop<E>> {
        let mut page = self.footer.root();
        let mut end = self.footer.filter_start();
        for level in (1..=self.footer.levels).rev() {
            let bytes = fetch(page).map_err(Stop::Fetch)?;
            let child = tree::child(&bytes, self.place(page), level, key)
                .map_err(|reason| Stop::Bad { page, reason })?;
            // Children lie before their parents, and only the lowest level points at leaves.
            end = if level == 1 { self.footer.leaf_pages } else { end.min(page) };
            if child >= end {
                return Err(Stop::Bad { page, reason: "child is not below its parent" });
            }
            page = child;
        }
        Ok(page)
    }

    /// What the leaf `page` holds for `key`; `see` gets it, as it borrows from the page.
    #[inline]
    pub(crate) fn find<E, T>(
        &self,
        (page, bytes): (u32, &[u8]),
        key: &[u8],
        see: impl FnOnce(Option<(Revision, Op<'_, ValuePtr>)>) -> T,
    ) -> Result<T, Stop<E>> {
        Leaf::decode(bytes, self.place(page))
            .and_then(|leaf| leaf.find(key))
            .map(see)
            .map_err(|reason| Stop::Bad { page, reason })
    }

    /// The trailer of leaf `page`.
    pub(crate) fn leaf_head<E>(&self, page: u32, bytes: &[u8]) -> Result<PageHead, Stop<E>> {
        PageHead::decode(bytes, self.place(page), PageKind::Leaf)
            .map_err(|reason| Stop::Bad { page, reason })
    }
}
