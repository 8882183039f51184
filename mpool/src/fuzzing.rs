//! The decoders of this crate as properties of bytes, for fuzz targets.
//!
//! Each function takes any bytes and returns, or panics if a property does not hold: decoding is
//! total, and what decodes encodes to the same bytes. The targets in `fuzz/` call these; the tests
//! of this module replay what they have found.

use crate::{
    address::ALLOC_UNIT,
    device::{Device, Geometry, check_access},
    heads::{
        label::{self, Found},
        log::{Kept, Log},
        session::Sessions,
        superblock::{self, COPY_OFFSETS, Copy, RESERVED},
    },
    io::volumes::Volumes,
    journal::{
        mdc::{
            frame::{FRAME_HEAD_LEN, FrameHead, push_record, records},
            pair::{Place, elected, replay_elected},
        },
        record,
    },
    object::sums,
    offline::heart::volumes_of,
    reaper::cgroup,
    site::mark::{self, Mark},
    verify::state::State,
};
use mpool_device::{IO_ALIGN, IoBuf};
use parking_lot::Mutex;
use std::{fs::File, io, ops::Range, path::Path, sync::Arc};

/// A device that keeps what is written to it.
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn new(len: u64) -> Self {
        Self(Mutex::new(vec![0; usize::try_from(len).expect("a few pages")]))
    }

    fn range(&self, offset: u64, len: usize) -> io::Result<Range<usize>> {
        check_access(offset, len, self.geometry().len_bytes)?;
        let start = usize::try_from(offset).expect("within the device");
        Ok(start..start + len)
    }
}

impl Device for Memory {
    fn geometry(&self) -> Geometry {
        let len_bytes = self.0.lock().len() as u64;
        Geometry { sector_bytes: 512, len_bytes, len_bytes_max: len_bytes }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let range = self.range(offset, buf.len())?;
        buf.copy_from_slice(&self.0.lock()[range]);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let range = self.range(offset, buf.len())?;
        self.0.lock()[range].copy_from_slice(buf);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn grow(&self, _len_bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn file(&self) -> Option<&File> {
        None
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}

/// A property, by the name of its target.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 11] = [
    ("superblock", superblock),
    ("label", label),
    ("mdc_frame", mdc_frame),
    ("mdc_scan", mdc_scan),
    ("record", record),
    ("sums", sums),
    ("scrub_state", scrub_state),
    ("mark", mark),
    ("session", session),
    ("cgroup", cgroup),
    ("pool", pool),
];

/// `bytes`, padded with zeros or cut, with a checksum made right where the first byte is odd: most
/// of a decoder lies behind it.
fn sealed<const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
    let (make_right, bytes) =
        bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest));
    let mut page = [0; LEN];
    let len = bytes.len().min(LEN);
    page[..len].copy_from_slice(&bytes[..len]);
    if make_right & 1 == 1 {
        let crc = crc32c::crc32c(&page[..LEN - 4]);
        page[LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    page
}

/// A copy of the superblock.
pub fn superblock(bytes: &[u8]) {
    let page = sealed::<{ superblock::LEN }>(bytes);
    if let Copy::Intact(found) = superblock::decode(&page) {
        let again = found.encode();
        assert_eq!(superblock::decode(&again), Copy::Intact(found));
    }
}

/// The label of a volume.
pub fn label(bytes: &[u8]) {
    let page = sealed::<{ label::LEN }>(bytes);
    if let Found::Label(found) = label::decode(&page) {
        assert_eq!(label::decode(&label::encode(&found)), Found::Label(found));
    }
}

/// A frame of a journal: its head, its body, its records.
pub fn mdc_frame(bytes: &[u8]) {
    let head = sealed::<FRAME_HEAD_LEN>(bytes);
    let rest = bytes.get(1 + FRAME_HEAD_LEN..).unwrap_or_default();
    if let Ok(found) = FrameHead::decode(&head) {
        assert_eq!(found.encode(), head);
        let whole = [&head[..], rest].concat();
        // The error is the answer.
        let _ = found.body(&whole);
        assert!(found.padded_len().is_multiple_of(IO_ALIGN));
    }
    if let Some(found) = records(rest) {
        let mut body = Vec::new();
        for record in found {
            push_record(&mut body, record);
        }
        assert_eq!(body, rest);
    }
}

const LOG_LEN: u64 = 2 * ALLOC_UNIT;
const OWNER: u64 = 7;

/// Two logs of a journal, kept once or twice, elected and replayed. Bytes are a script: see
/// [`script`].
pub fn mdc_scan(bytes: &[u8]) {
    let device = Memory::new(2 * LOG_LEN);
    script(bytes, &device, &[0, LOG_LEN]);
    let volumes = volumes_of(Arc::new(device));
    for kept in [Kept::Once, Kept::Twice] {
        scanned(&volumes, kept);
    }
}

fn logs(offset: u64, kept: Kept) -> [Log; 2] {
    let len = LOG_LEN / kept.copies();
    [0, 1].map(|n| Log { offset: offset + n * LOG_LEN, len, kept })
}

fn scanned(volumes: &Volumes, kept: Kept) {
    let place = Place { name: "journal".to_owned(), owner: OWNER, logs: logs(0, kept) };
    if let Ok(elected) = elected(volumes, &place) {
        assert!(elected.tail <= place.logs[0].len && elected.generation <= elected.generation_max);
        let mut count = 0;
        let replayed = replay_elected(volumes, &place, &elected, &mut |_| {
            count += 1;
            Ok(())
        });
        assert!(replayed.map_or(true, |told| told == count));
    }
}

/// Writes pages as a script says: each step is a byte that chooses a log and whether the head's
/// checksum is made right, a byte that chooses a page, a length, and that many bytes.
fn script(mut bytes: &[u8], device: &Memory, logs: &[u64]) {
    while let [how, page, len, rest @ ..] = bytes {
        let (now, later) = rest.split_at(rest.len().min(usize::from(*len)));
        bytes = later;
        let mut buf = IoBuf::zeroed(IO_ALIGN);
        buf[..now.len()].copy_from_slice(now);
        if how & 2 > 0 {
            let body_len = u32::from_le_bytes(*buf[32..].first_chunk().expect("a page"));
            let end = FRAME_HEAD_LEN + usize::try_from(body_len).unwrap_or(0).min(2048);
            let crc = crc32c::crc32c(&buf[FRAME_HEAD_LEN..end]);
            buf[36..40].copy_from_slice(&crc.to_le_bytes());
            let crc = crc32c::crc32c(&buf[..FRAME_HEAD_LEN - 4]);
            buf[FRAME_HEAD_LEN - 4..FRAME_HEAD_LEN].copy_from_slice(&crc.to_le_bytes());
        }
        let pages = LOG_LEN / IO_ALIGN as u64;
        let log = logs[usize::from(how & 1) % logs.len()];
        let at = log + u64::from(*page) % pages * IO_ALIGN as u64;
        device.write_at(at, &buf).expect("within the device");
    }
}

/// A record of the pool's journal.
pub fn record(bytes: &[u8]) {
    if let Ok(changes) = record::decode(bytes) {
        assert_eq!(record::encode(&changes), bytes, "{changes:?}");
    }
}

/// A table of page checksums.
pub fn sums(bytes: &[u8]) {
    let found = sums::decode(bytes);
    let mut table = vec![0; bytes.len()];
    sums::encode(&found, &mut table);
    let whole = bytes.len() / 4 * 4;
    assert_eq!(table[..whole], bytes[..whole]);
}

/// The place of a scrub.
pub fn scrub_state(bytes: &[u8]) {
    if let Some(state) = State::decode(bytes) {
        assert_eq!(state.encode(), bytes, "{state:?}");
    }
}

/// The mark beside a root volume: what is read of it is as it was written.
pub fn mark(bytes: &[u8]) {
    if let Mark::Of(pool) = mark::decode(bytes) {
        let text = mark::encode(pool);
        let read = text.lines().take(3).map(|line| line.len() + 1).sum();
        assert_eq!(bytes.get(..read), text.as_bytes().get(..read));
    }
}

/// The sessions of a pool.
pub fn session(bytes: &[u8]) {
    if let Some(sessions) = Sessions::decode(bytes) {
        assert_eq!(sessions.encode(), bytes, "{sessions:?}");
    }
}

/// The texts of the kernel that tell how much memory there is.
pub fn cgroup(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (first, second) = text.split_once('\0').unwrap_or((&text, ""));
    let groups = cgroup::groups(first, second);
    for group in &groups {
        assert!(group.dir.starts_with(&group.root), "{group:?}");
    }
    let read = |_: &Path| Some(first.to_owned());
    if let Some(limit) = cgroup::binding_limit(&groups, &read) {
        assert!(limit.bytes > 0);
    }
    cgroup::parse_stalled_us(first);
    cgroup::parse_statm_pages(first);
    cgroup::parse_meminfo(first, "MemAvailable");
}

/// A whole pool: superblocks and the frames of its journal, elected, replayed, opened.
pub fn pool(bytes: &[u8]) {
    for kept in [Kept::Once, Kept::Twice] {
        pool_with(bytes, logs(RESERVED.end(), kept));
    }
}

fn pool_with(bytes: &[u8], logs: [Log; 2]) {
    let len = RESERVED.len + 2 * LOG_LEN;
    let device = Memory::new(len);
    let superblock = superblock::Superblock::new([0; 16], logs);
    let mut page = IoBuf::zeroed(IO_ALIGN);
    page[..superblock::LEN].copy_from_slice(&superblock.encode());
    for at in COPY_OFFSETS {
        device.write_at(at, &page).expect("within the device");
    }
    script(bytes, &device, &logs.map(|log| log.offset));
    let report = crate::Pool::check_on(Arc::new(device), &[], crate::CheckOptions { data: true });
    if let Ok(report) = report {
        assert!(report.findings.len() < 1000, "a small device has few damaged places");
    }
}

/// What the targets have kept, replayed on the stable toolchain: a decoder that once fell stays up.
/// `fuzz/corpus/TARGET/` has the inputs, `fuzz/fuzz_targets/TARGET.rs` the target.
#[cfg(test)]
mod tests {
    #![allow(clippy::print_stdout, reason = "a failure says which input it was")]

    use super::*;
    use std::collections::BTreeSet;

    fn names(dir: &Path) -> BTreeSet<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn every_kept_input_holds_the_properties_of_its_target() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        for (name, target) in TARGETS {
            let corpus = fuzz.join("corpus").join(name);
            let inputs = names(&corpus);
            assert!(!inputs.is_empty(), "{} is empty", corpus.display());
            for input in inputs {
                // A failure says which.
                println!("{name}/{input}");
                target(&std::fs::read(corpus.join(input)).unwrap());
            }
        }
    }

    #[test]
    fn every_target_has_its_file_and_its_corpus() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let targets: BTreeSet<String> =
            TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names(&fuzz.join("corpus")), targets);
        let files = names(&fuzz.join("fuzz_targets"));
        assert_eq!(files, targets.iter().map(|name| format!("{name}.rs")).collect());
    }
}
