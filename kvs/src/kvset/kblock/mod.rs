//! kblocks: keys, places of values, and the filter over them, in pages of 4 KiB.
//!
//! ```text
//! +-- page 0 -----+     +-----------------+     +-------------+     +-- last page --+
//! | leaf pages, in| ... | interior pages, | ... | filter pages| ... | footer        |
//! | key order     |     | root last       |     |             |     |               |
//! +---------------+     +-----------------+     +-------------+     +---------------+
//! ```
//!
//! Leaves lie in key order from page 0, so the leaf after leaf `p` is page `p + 1` and a scan reads
//! the medium forward. [`format`](mod@format) owns the footer, [`run`] the entries inside a page,
//! [`leaf`] what leaf entries say, [`walk`] the way from one to the next, [`tree`] the interior
//! pages, [`build`] the writing and [`read`] the way from the root to a leaf.

pub(crate) mod build;
pub(crate) mod format;
pub(crate) mod leaf;
pub(crate) mod read;
pub(crate) mod run;
pub(crate) mod tree;
pub(crate) mod walk;
