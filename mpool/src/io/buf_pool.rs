//! Bounded recycling of [`IoBuf`]s.
//!
//! Large allocations cost a system call and a page fault per page; the writer and the journals ask
//! for the same few lengths again and again. The pool keeps what is given back, per length, up to a
//! total; beyond it everything idle is freed and recycling starts anew, so that lengths nobody asks
//! for any more do not stay for ever. It never blocks and never refuses.

use mpool_device::IoBuf;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Idle memory that the pool may hold: enough for a few mblock writers at full speed.
const IDLE_BYTES_MAX: usize = 32 << 20;

#[derive(Default)]
pub(crate) struct BufPool {
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    by_len: BTreeMap<usize, Vec<IoBuf>>,
    bytes: usize,
}

impl BufPool {
    /// A buffer of exactly `len` bytes with arbitrary contents: the caller overwrites all of it.
    pub(crate) fn take(&self, len: usize) -> IoBuf {
        let recycled = {
            let mut idle = self.idle.lock();
            let buf = idle.by_len.get_mut(&len).and_then(Vec::pop);
            if buf.is_some() {
                idle.bytes -= len;
            }
            buf
        };
        recycled.unwrap_or_else(|| IoBuf::zeroed(len))
    }

    /// Gives a buffer back.
    pub(crate) fn put(&self, buf: IoBuf) {
        let mut idle = self.idle.lock();
        let overflow = if idle.bytes + buf.len() > IDLE_BYTES_MAX {
            std::mem::take(&mut *idle)
        } else {
            Idle::default()
        };
        idle.bytes += buf.len();
        idle.by_len.entry(buf.len()).or_default().push(buf);
        drop(idle);
        // Freed without the lock.
        drop(overflow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpool_device::IO_ALIGN;

    #[test]
    fn buffers_come_back_by_length() {
        let pool = BufPool::default();
        let buf = pool.take(2 * IO_ALIGN);
        let address = buf.as_ptr().addr();
        pool.put(buf);
        assert_ne!(pool.take(IO_ALIGN).as_ptr().addr(), address);
        assert_eq!(pool.take(2 * IO_ALIGN).as_ptr().addr(), address);
    }

    #[test]
    fn idle_memory_is_bounded_and_follows_what_is_in_use() {
        let pool = BufPool::default();
        let many: Vec<_> = (0..32).map(|_| pool.take(1 << 20)).collect();
        for buf in many {
            pool.put(buf);
        }
        assert_eq!(pool.idle.lock().bytes, IDLE_BYTES_MAX);
        pool.put(IoBuf::zeroed(IO_ALIGN));
        assert_eq!(pool.idle.lock().bytes, IO_ALIGN);
    }
}
