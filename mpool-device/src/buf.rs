//! Buffers fit for direct IO.
//!
//! The only file that allocates by hand. Everything above it sees `&[u8]`.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

/// Alignment of buffers, offsets and lengths of direct IO: 4,096 bytes, a page. Covers the logical
/// block of every device.
pub const IO_ALIGN: usize = 4096;

/// Zeroed, page-aligned heap memory; its length is a multiple of [`IO_ALIGN`].
pub struct IoBuf {
    ptr: NonNull<u8>,
    len: usize,
}

impl IoBuf {
    /// A buffer of `len` zero bytes.
    ///
    /// # Panics
    ///
    /// If `len` is zero, not a multiple of [`IO_ALIGN`], or beyond `isize::MAX`.
    pub fn zeroed(len: usize) -> Self {
        assert!(len > 0, "a buffer has at least one page");
        assert!(len.is_multiple_of(IO_ALIGN), "{len} is not a multiple of {IO_ALIGN}");
        let layout = Self::layout(len);
        // SAFETY: `layout` has non-zero size, by the first assertion.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout) };
        Self { ptr, len }
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, IO_ALIGN).expect("a buffer is shorter than isize::MAX")
    }
}

impl Drop for IoBuf {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from `alloc_zeroed` with this same layout, and is freed once.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.len)) }
    }
}

impl Deref for IoBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `len` bytes, initialised by `alloc_zeroed`, and borrowed for
        // as long as `self` is.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuf({} bytes)", self.len)
    }
}

// SAFETY: `IoBuf` owns its bytes like `Box<[u8]>`; the pointer is never shared.
unsafe impl Send for IoBuf {}
// SAFETY: `&IoBuf` gives only `&[u8]`.
unsafe impl Sync for IoBuf {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_zeroed_aligned_and_writable() {
        for pages in [1, 3, 16] {
            let mut buf = IoBuf::zeroed(pages * IO_ALIGN);
            assert_eq!(buf.as_ptr().addr() % IO_ALIGN, 0);
            assert_eq!(buf[..], vec![0; pages * IO_ALIGN]);
            buf[pages * IO_ALIGN - 1] = 7;
            assert_eq!(buf[pages * IO_ALIGN - 1], 7);
        }
    }

    #[test]
    fn a_buffer_moves_between_threads() {
        let mut buf = IoBuf::zeroed(IO_ALIGN);
        buf[0] = 1;
        let back = std::thread::spawn(move || {
            buf[1] = 2;
            buf
        });
        let buf = back.join().unwrap();
        assert_eq!(&buf[..3], &[1, 2, 0]);
    }

    #[test]
    #[should_panic(expected = "not a multiple")]
    fn an_odd_length_is_refused() {
        drop(IoBuf::zeroed(IO_ALIGN + 1));
    }
}
