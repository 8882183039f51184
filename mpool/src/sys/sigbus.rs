//! A drive error under a mapped page becomes a count instead of a crash.
//!
//! When the kernel cannot read a page of a file mapping (the drive failed, or the file became
//! shorter), the thread that touched it gets SIGBUS. One process-wide handler, installed once and
//! chained to whatever was there before, looks the address up among the registered regions. If it
//! finds it there, it puts an anonymous page of zeros in the place of the lost one, writes the
//! address down, counts, and lets the thread go on. The thread then holds void bytes, and learns so
//! by comparing [`Registration::faults`] before and after.
//!
//! The order within the handler makes that comparison sound:
//!
//! ```text
//!   write the address into the ring     readers that start now drain it and avoid the page
//!   faults += 1                         readers under way see the change afterwards
//!   map the page of zeros               no reader can see zeros before this
//! ```
//!
//! Everything the handler calls is async-signal-safe: atomics on static memory and `mmap`. What it
//! does not do: mark the page lost in the page states (the reader of the count does, by
//! [`Registration::drain`]), and put the file's page back (`Region::restore` does).

use std::{
    ffi::c_void,
    io, mem, ptr,
    sync::{
        Once, OnceLock,
        atomic::{
            AtomicBool, AtomicI32, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
    },
};

use super::advise::AddressRange;

/// Regions that one process can register at a time.
const REGIONS_MAX: usize = 128;
/// Lost pages that a region remembers between two drains; more than that poison the region.
const RING_LEN: usize = 64;
/// Granularity of the repair. Regions exist only where it is the system's page size.
const PAGE_BYTES: usize = 4096;

/// A registered region, as the handler sees it. Start 0 = free.
struct Slot {
    claimed: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    faults: AtomicU64,
    overflowed: AtomicBool,
    ring: [AtomicUsize; RING_LEN],
}

static SLOTS: [Slot; REGIONS_MAX] = [const {
    Slot {
        claimed: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        faults: AtomicU64::new(0),
        overflowed: AtomicBool::new(false),
        ring: [const { AtomicUsize::new(0) }; RING_LEN],
    }
}; REGIONS_MAX];

/// The disposition found at installation, to be chained to.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// A region under the handler's care until dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    slot: usize,
}

/// Pages lost since the last drain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Addresses of the pages.
    Pages(Vec<usize>),
    /// More than the ring holds: nothing in the region can be trusted.
    Everything,
}

impl Registration {
    /// Installs the handler if this is the first call, and puts `range` under its care.
    pub(crate) fn new(range: AddressRange) -> io::Result<Self> {
        install()?;
        assert!(range.start > 0 && range.start.is_multiple_of(PAGE_BYTES));
        let free = |s: &Slot| s.claimed.compare_exchange(false, true, SeqCst, Relaxed).is_ok();
        let slot = SLOTS.iter().position(free).ok_or_else(|| {
            io::Error::other("more than 128 mapped volumes in one process; close some pools")
        })?;
        let s = &SLOTS[slot];
        s.faults.store(0, Relaxed);
        s.overflowed.store(false, Relaxed);
        s.ring.iter().for_each(|page| page.store(0, Relaxed));
        s.end.store(range.start + range.len, Relaxed);
        // Release pairs with the Acquire in `Slot::holds`: a handler that sees the start sees the
        // end.
        s.start.store(range.start, Release);
        Ok(Self { slot })
    }

    /// Pages of this region lost so far.
    pub(crate) fn faults(&self) -> u64 {
        SLOTS[self.slot].faults.load(SeqCst)
    }

    /// Takes the addresses of the pages lost since the last call.
    pub(crate) fn drain(&self) -> Lost {
        let s = &SLOTS[self.slot];
        if s.overflowed.load(SeqCst) {
            return Lost::Everything;
        }
        Lost::Pages(s.ring.iter().map(|page| page.swap(0, SeqCst)).filter(|&a| a != 0).collect())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let s = &SLOTS[self.slot];
        s.start.store(0, SeqCst);
        s.claimed.store(false, SeqCst);
    }
}

impl Slot {
    fn holds(&self, address: usize) -> bool {
        let start = self.start.load(Acquire);
        start != 0 && address >= start && address < self.end.load(Relaxed)
    }

    /// Signal context: atomics only.
    fn record(&self, page: usize) {
        let put = |p: &AtomicUsize| p.compare_exchange(0, page, SeqCst, SeqCst).is_ok();
        if !self.ring.iter().any(put) {
            self.overflowed.store(true, SeqCst);
        }
        self.faults.fetch_add(1, SeqCst);
    }
}

fn install() -> io::Result<()> {
    static ONCE: Once = Once::new();
    static ERRNO: AtomicI32 = AtomicI32::new(0);
    ONCE.call_once(|| {
        // SAFETY: all-zero bytes are a valid `sigaction` (default disposition, empty mask).
        let mut previous: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: a null new action only queries.
        unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) };
        // Stored before the handler goes live, so that it never finds it missing.
        let set = PREVIOUS.set(previous);
        assert!(set.is_ok(), "installed once");
        // SAFETY: as above.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
        action.sa_sigaction = handler as *const () as usize;
        // ONSTACK: threads of the standard library have an alternate stack.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler is async-signal-safe and has the signature SA_SIGINFO asks for.
        let rc = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
        if rc != 0 {
            ERRNO.store(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL), SeqCst);
        }
    });
    match ERRNO.load(SeqCst) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The handler. Runs in signal context: no allocation, no locks, no formatting.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
    let info_ref = unsafe { &*info };
    // SAFETY: `si_addr` is set for SIGBUS.
    let address = unsafe { info_ref.si_addr() }.addr();
    if let Some(slot) = SLOTS.iter().find(|s| s.holds(address)) {
        let page = address & !(PAGE_BYTES - 1);
        slot.record(page);
        if replace_by_zeros(page) {
            return;
        }
    }
    chain(signal, info, context);
}

/// Signal context. Keeps `errno`, which the interrupted code may be about to read.
fn replace_by_zeros(page: usize) -> bool {
    // SAFETY: returns the address of this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: that address is valid for the life of the thread.
    let saved = unsafe { errno.read() };
    // SAFETY: `page` lies in a registered region, a read-only mapping that its owner keeps until
    // after deregistration; replacing a page whose bytes could not be read loses nothing.
    let mapped = unsafe {
        libc::mmap(
            ptr::with_exposed_provenance_mut(page),
            PAGE_BYTES,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    // SAFETY: as the read above.
    unsafe { errno.write(saved) };
    mapped != libc::MAP_FAILED
}

/// Hands a fault that is not ours to the previous disposition. Signal context.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.get().expect("stored before the handler is installed");
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // Back to the default: the instruction faults again and the process ends as it would
            // have without us. (A fault cannot be ignored; it would repeat for ever.)
            // SAFETY: `signal` is an async-signal-safe call.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Action = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void);
            // SAFETY: the previous owner installed it with SA_SIGINFO, so it has this signature.
            let action = unsafe { mem::transmute::<usize, Action>(handler) };
            action(signal, info, context);
        }
        handler => {
            // SAFETY: the previous owner installed it without SA_SIGINFO, so it has this signature.
            let action = unsafe { mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler) };
            action(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::process::ExitStatusExt,
        process::{Command, Stdio},
    };

    use memmap2::{MmapOptions, MmapRaw};

    use super::*;

    const CHILD: &str = "MILLPOND_TEST_SIGBUS_CHILD";

    /// A mapping of an empty file: touching it is a bus error.
    fn empty() -> (File, MmapRaw) {
        let file = tempfile::tempfile().unwrap();
        let map = MmapOptions::new().len(PAGE_BYTES).map_raw_read_only(&file).unwrap();
        (file, map)
    }

    fn touch(map: &MmapRaw) -> u8 {
        // SAFETY: the mapping is a page long and alive; whether its bytes can be read is what the
        // tests are about.
        unsafe { ptr::read_volatile(map.as_ptr()) }
    }

    fn register(map: &MmapRaw) -> Registration {
        let range = AddressRange { start: map.as_ptr().expose_provenance(), len: map.len() };
        Registration::new(range).unwrap()
    }

    #[test]
    fn slots_are_used_again_and_start_clean() {
        for _ in 0..2 * REGIONS_MAX {
            let (_file, map) = empty();
            let guard = register(&map);
            assert_eq!((guard.faults(), touch(&map), guard.faults()), (0, 0, 1));
            let Lost::Pages(pages) = guard.drain() else { panic!("one page fits the ring") };
            assert_eq!(pages, [map.as_ptr().addr()]);
        }
    }

    /// The child touches a mapping that is nobody's, and must die of it.
    #[test]
    fn a_foreign_fault_still_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            let (ours, foreign) = (empty(), empty());
            let _guard = register(&ours.1);
            assert_eq!(touch(&ours.1), 0);
            touch(&foreign.1);
            return;
        }
        let name = "sys::sigbus::tests::a_foreign_fault_still_ends_the_process";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(CHILD, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{status:?}");
    }
}
