//! The queue's semantics, the same for both back-ends: every test runs on `io_uring` (where it is
//! allowed) and on threads, over a file; what needs faults runs on threads over the simulated
//! device.

use super::queue::{BufWrite, IoQueue};
use crate::{
    Error,
    device::{Device, FileDevice, FileOptions},
    io::volumes::Volumes,
    media::Priority,
    metrics::PoolMetrics,
    options::IoBackend,
};
use mpool_device::{IO_ALIGN, IoBuf};
use mpool_sim::{Faults, SimDevice};
use parking_lot::{Condvar, Mutex};
use std::sync::{
    Arc, Barrier,
    atomic::{AtomicU64, Ordering::SeqCst},
    mpsc,
};

const PAGE: u64 = IO_ALIGN as u64;
const PAGES: u64 = 256;

struct Fixture {
    queue: IoQueue,
    volume: Arc<Volumes>,
    _dir: tempfile::TempDir,
}

fn fixture(backend: IoBackend, depth: u32) -> Option<Fixture> {
    let dir = tempfile::tempdir().unwrap();
    let options = FileOptions {
        allow_buffered: true,
        allow_volatile: true,
        len_bytes_max: PAGES * PAGE,
        grow_step_bytes: PAGE,
        reserve_bytes: Some(0),
    };
    let device = FileDevice::open_or_create(&dir.path().join("v"), &options).unwrap();
    device.grow(PAGES * PAGE).unwrap();
    let volume = Arc::new(Volumes::new(Arc::new(device), Arc::new(PoolMetrics::default())));
    match IoQueue::new(Arc::clone(&volume), backend, depth) {
        Ok(queue) => Some(Fixture { queue, volume, _dir: dir }),
        // A sandbox may forbid the ring; the thread back-end is then all there is to test.
        Err(Error::Options(_)) if backend == IoBackend::Uring => None,
        Err(error) => panic!("{error}"),
    }
}

fn on_both(depth: u32, test: impl Fn(&Fixture)) {
    for backend in [IoBackend::Uring, IoBackend::Threads] {
        if let Some(fixture) = fixture(backend, depth) {
            let name = if backend == IoBackend::Uring { "uring" } else { "threads" };
            assert_eq!(fixture.queue.backend(), name);
            test(&fixture);
        }
    }
}

fn page_of(byte: u8) -> IoBuf {
    let mut buf = IoBuf::zeroed(IO_ALIGN);
    buf.fill(byte);
    buf
}

/// Runs one transfer and waits for its outcome.
fn wait<T: Send + 'static>(start: impl FnOnce(mpsc::Sender<T>)) -> T {
    let (tx, rx) = mpsc::channel();
    start(tx);
    rx.recv().expect("every request ends")
}

fn write(queue: &IoQueue, offset: u64, buf: IoBuf) -> crate::Result<IoBuf> {
    let write = BufWrite { offset, len: buf.len(), buf };
    wait(|tx| {
        queue.submit_write(write, Priority::Flush, Box::new(move |end| tx.send(end).unwrap()));
    })
}

fn read(queue: &IoQueue, offset: u64, len: usize) -> crate::Result<IoBuf> {
    wait(|tx| {
        queue.submit_read(offset, len, Priority::Read, Box::new(move |end| tx.send(end).unwrap()));
    })
}

#[test]
fn what_is_written_is_read_and_counted() {
    on_both(4, |Fixture { queue, volume, .. }| {
        for page in 0..16 {
            let byte = u8::try_from(page).unwrap() + 1;
            write(queue, page * PAGE, page_of(byte)).unwrap();
        }
        for page in 0..16 {
            let buf = read(queue, page * PAGE, IO_ALIGN).unwrap();
            assert!(buf.iter().all(|b| u64::from(*b) == page + 1));
        }
        let long = read(queue, 0, 16 * IO_ALIGN).unwrap();
        assert_eq!((long.len(), long[15 * IO_ALIGN]), (16 * IO_ALIGN, 16));
        assert_eq!(volume.metrics().writes(Priority::Flush).bytes.get(), 16 * PAGE);
        assert_eq!(volume.metrics().reads(Priority::Read).bytes.get(), 32 * PAGE);
        assert_eq!(volume.metrics().reads(Priority::Read).ops.get(), 17);
    });
}

#[test]
fn mistaken_requests_end_with_an_error_and_harm_nobody() {
    on_both(2, |Fixture { queue, .. }| {
        assert!(read(queue, PAGES * PAGE, IO_ALIGN).is_err(), "beyond the end");
        assert!(read(queue, 1, IO_ALIGN).is_err(), "unaligned offset");
        assert!(read(queue, 0, 100).is_err(), "unaligned length");
        assert!(read(queue, 0, 0).is_err(), "nothing to read");
        let long = BufWrite { offset: 0, len: 2 * IO_ALIGN, buf: page_of(1) };
        let refused = wait(|tx| {
            queue.submit_write(long, Priority::Wal, Box::new(move |end| tx.send(end).unwrap()));
        });
        assert!(refused.is_err(), "longer than its buffer");
        assert!(read(queue, 0, IO_ALIGN).is_ok());
    });
}

#[test]
fn many_submitters_with_a_small_depth_all_finish() {
    const THREADS: usize = 4;
    const EACH: usize = 200;
    on_both(2, |Fixture { queue, .. }| {
        let drained = Drained::default();
        let all = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    all.wait();
                    for n in 0..EACH {
                        drained.submit(queue, Priority::ALL[n % Priority::COUNT]);
                    }
                });
            }
        });
        drained.wait(THREADS * EACH);
    });
}

/// Counts ends of requests.
#[derive(Default, Clone)]
struct Drained(Arc<(Mutex<usize>, Condvar)>);

impl Drained {
    fn submit(&self, queue: &IoQueue, priority: Priority) {
        let shared = Arc::clone(&self.0);
        let done = Box::new(move |outcome: crate::Result<IoBuf>| {
            outcome.unwrap();
            *shared.0.lock() += 1;
            shared.1.notify_all();
        });
        queue.submit_read(0, IO_ALIGN, priority, done);
    }

    fn wait(&self, count: usize) {
        let mut ended = self.0.0.lock();
        while *ended < count {
            self.0.1.wait(&mut ended);
        }
    }
}

#[test]
fn dropping_the_queue_runs_everything_that_was_accepted() {
    for backend in [IoBackend::Uring, IoBackend::Threads] {
        let Some(fixture) = fixture(backend, 2) else { continue };
        let ended = Arc::new(AtomicU64::new(0));
        let ended_jobs = Arc::new(AtomicU64::new(0));
        for n in 0..30 {
            let ended = Arc::clone(&ended);
            let done = Box::new(move |outcome: crate::Result<IoBuf>| {
                outcome.unwrap();
                ended.fetch_add(1, SeqCst);
            });
            let write = BufWrite { offset: n * PAGE, len: IO_ALIGN, buf: page_of(3) };
            fixture.queue.submit_write(write, Priority::Compaction, done);
            let ended = Arc::clone(&ended_jobs);
            let job = Box::new(move || {
                ended.fetch_add(1, SeqCst);
            });
            fixture.queue.run_blocking(Priority::Read, job);
        }
        drop(fixture.queue);
        assert_eq!((ended.load(SeqCst), ended_jobs.load(SeqCst)), (30, 30));
        let mut page = IoBuf::zeroed(IO_ALIGN);
        fixture.volume.read(29 * PAGE, &mut page, Priority::Read).unwrap();
        assert_eq!(page[0], 3);
    }
}

#[test]
fn a_callback_may_submit_without_waiting_for_itself() {
    for backend in [IoBackend::Uring, IoBackend::Threads] {
        let Some(Fixture { queue, _dir, .. }) = fixture(backend, 1) else { continue };
        let queue = Arc::new(queue);
        let drained = Drained::default();
        let (inner, counted) = (Arc::clone(&queue), drained.clone());
        // More than may wait at this depth, all from the thread that would have to make room.
        let many = Box::new(move |_: crate::Result<IoBuf>| {
            for _ in 0..100 {
                counted.submit(&inner, Priority::Read);
            }
        });
        queue.submit_read(0, IO_ALIGN, Priority::Read, many);
        drained.wait(100);
    }
}

#[test]
fn a_panic_in_a_callback_does_not_stop_the_queue() {
    on_both(1, |Fixture { queue, .. }| {
        queue.submit_read(0, IO_ALIGN, Priority::Read, Box::new(|_| panic!("planted")));
        queue.run_blocking(Priority::Read, Box::new(|| panic!("planted")));
        assert!(read(queue, 0, IO_ALIGN).is_ok());
    });
}

#[test]
fn a_job_does_not_wait_behind_one_that_blocks() {
    on_both(4, |Fixture { queue, .. }| {
        for _ in 0..50 {
            let (open, gate) = mpsc::channel::<()>();
            let (tx, rx) = mpsc::channel();
            // The first can end only when the second runs.
            let waits = Box::new(move || {
                gate.recv().unwrap();
                tx.send(()).unwrap();
            });
            queue.run_blocking(Priority::Read, waits);
            queue.run_blocking(Priority::Read, Box::new(move || open.send(()).unwrap()));
            rx.recv().unwrap();
        }
    });
}

#[test]
fn the_last_handle_may_be_dropped_on_a_queue_thread() {
    for backend in [IoBackend::Uring, IoBackend::Threads] {
        let Some(Fixture { queue, _dir, .. }) = fixture(backend, 2) else { continue };
        let queue = Arc::new(queue);
        let held = Arc::clone(&queue);
        let (go, gate) = mpsc::channel::<()>();
        let (tx, rx) = mpsc::channel();
        let done = Box::new(move |_: crate::Result<IoBuf>| {
            gate.recv().unwrap();
            drop(held);
            tx.send(()).unwrap();
        });
        queue.submit_read(0, IO_ALIGN, Priority::Read, done);
        drop(queue);
        go.send(()).unwrap();
        rx.recv().expect("it did not wait for itself");
    }
}

#[test]
fn urgent_requests_overtake_waiting_ones() {
    on_both(1, |Fixture { queue, .. }| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let (open, gate) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        // The only unit of depth is taken by a callback that waits, so the others must queue up.
        let first = Box::new(move |_: crate::Result<IoBuf>| {
            started.send(()).unwrap();
            gate.recv().unwrap();
        });
        queue.submit_read(0, IO_ALIGN, Priority::Read, first);
        running.recv().unwrap();
        let (tx, rx) = mpsc::channel();
        for priority in [Priority::Compaction, Priority::Flush, Priority::Read, Priority::Wal] {
            let (order, tx) = (Arc::clone(&order), tx.clone());
            let done = Box::new(move |_: crate::Result<IoBuf>| {
                order.lock().push(priority);
                tx.send(()).unwrap();
            });
            queue.submit_read(0, IO_ALIGN, priority, done);
        }
        open.send(()).unwrap();
        for _ in 0..4 {
            rx.recv().unwrap();
        }
        assert_eq!(*order.lock(), Priority::ALL);
    });
}

#[test]
fn a_drive_error_is_the_requests_and_the_next_one_is_served() {
    let device = SimDevice::new(1 << 20);
    device.grow(1 << 20).unwrap();
    let volume = Arc::new(Volumes::new(Arc::new(device.clone()), Arc::new(PoolMetrics::default())));
    let queue = IoQueue::new(Arc::clone(&volume), IoBackend::Auto, 4).unwrap();
    assert_eq!(queue.backend(), "threads", "a device without a file has no ring");
    let faults = Faults { read_eio_at: Some(0), write_eio_at: Some(0), ..Faults::default() };
    device.set_faults(faults);
    assert!(matches!(read(&queue, 0, IO_ALIGN), Err(Error::Io { op: "read", .. })));
    assert!(matches!(write(&queue, 0, page_of(1)), Err(Error::Io { op: "write", .. })));
    assert!(read(&queue, 0, IO_ALIGN).is_ok());
    assert!(write(&queue, 0, page_of(1)).is_ok());
    assert_eq!(volume.metrics().reads(Priority::Read).errors.get(), 1);
    volume.poison();
    assert!(matches!(write(&queue, 0, page_of(1)), Err(Error::Poisoned)));
    assert!(read(&queue, 0, IO_ALIGN).is_ok(), "reads go on");
}

#[test]
fn asking_for_a_ring_where_there_is_none_says_what_to_do() {
    let device = Arc::new(SimDevice::new(1 << 20));
    let volume = Arc::new(Volumes::new(device, Arc::new(PoolMetrics::default())));
    let refused = IoQueue::new(volume, IoBackend::Uring, 4).map(|_| ());
    assert!(refused.unwrap_err().to_string().contains("use auto or threads"));
}

#[test]
fn a_ring_that_fails_ends_its_requests_and_those_that_follow_are_served() {
    for _ in 0..20 {
        let Some(Fixture { queue, volume, _dir }) = fixture(IoBackend::Uring, 4) else { return };
        write(&queue, 0, page_of(5)).unwrap();
        let (tx, rx) = mpsc::channel();
        for n in 0..40 {
            let tx = tx.clone();
            let done = Box::new(move |end: crate::Result<IoBuf>| tx.send(end.is_ok()).unwrap());
            queue.submit_read(n * PAGE, IO_ALIGN, Priority::Read, done);
            if n == 20 {
                queue.break_ring();
            }
        }
        drop(tx);
        let ends: Vec<bool> = rx.iter().collect();
        assert_eq!(ends.len(), 40, "each ends, once");
        assert!(ends.iter().filter(|ok| !**ok).count() <= 4, "only what was in the ring is lost");
        assert_eq!(read(&queue, 0, IO_ALIGN).unwrap()[0], 5, "reads go on without the ring");
        // No write was in the ring, so none can come late.
        write(&queue, PAGE, page_of(6)).unwrap();
        let mut page = IoBuf::zeroed(IO_ALIGN);
        volume.read(PAGE, &mut page, Priority::Read).unwrap();
        assert_eq!(page[0], 6);
    }
}

#[test]
fn a_write_that_is_lost_in_a_ring_poisons_the_pool() {
    let mut lost = 0;
    for _ in 0..20 {
        let Some(Fixture { queue, volume, _dir }) = fixture(IoBackend::Uring, 4) else { return };
        let (tx, rx) = mpsc::channel();
        for n in 0..40 {
            let tx = tx.clone();
            let done = Box::new(move |end: crate::Result<IoBuf>| tx.send(end.is_ok()).unwrap());
            let write = BufWrite { offset: n * PAGE, len: IO_ALIGN, buf: page_of(9) };
            queue.submit_write(write, Priority::Flush, done);
            if n == 20 {
                queue.break_ring();
            }
        }
        drop(tx);
        if rx.iter().all(|ok| ok) {
            continue;
        }
        lost += 1;
        assert!(matches!(volume.check_writable(), Err(Error::Poisoned)));
        assert!(matches!(write(&queue, 0, page_of(1)), Err(Error::Poisoned)));
        assert!(read(&queue, 0, IO_ALIGN).is_ok(), "reads go on");
    }
    assert!(lost > 0, "not one write was in the ring when it failed");
}
