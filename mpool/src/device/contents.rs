//! What is on a file or device that carries nothing of ours, and whether that is nothing at all.
//!
//! *Blank*, so that it may be taken without being told to, is
//!
//! - a regular file of length 0, and no other;
//! - a block device without a known signature (`signature`), whose first [`HEAD_BYTES`] and last
//!   [`TAIL_BYTES`] are zeros, as far as it is that long;
//! - of a zoned drive, also every zone must be empty that can only be written in sequence.
//!
//! Everything else is somebody's, whether it is recognised or not.

use super::{
    Device, Zoned,
    signature::{self, Ends, HEAD_BYTES, Signature, TAIL_BYTES},
};
use mpool_device::{IO_ALIGN, IoBuf};
use std::{fmt, fs::File, io, os::unix::fs::FileExt};

/// How much of a text is shown.
const SAMPLE_CHARS: usize = 40;
/// How much must be text for the whole to count as text.
const TEXT_BYTES: usize = 256;

/// What is on a file or device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Blank,
    /// Something.
    Taken(Taken),
}

/// That it is not blank, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) len_bytes: u64,
    pub(crate) signature: Option<Signature>,
    /// One that is not ours.
    pub(crate) foreign: Option<Signature>,
    start: Start,
    /// Zones with something in them, of a zoned drive.
    zones: u32,
}

/// How it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Start {
    /// Zeros up to here, and then something else, if that is within what was read.
    Zeros {
        to: u64,
        all: bool,
    },
    Text(String),
    Bytes,
}

impl Taken {
    /// Why it is not taken, and the way out.
    pub(crate) fn refusal(&self) -> String {
        match self.signature {
            Some(signature) => signature.refusal(),
            None => format!(
                "is not empty: {self}; choose another place, or --force it and lose what is there"
            ),
        }
    }
}

#[cfg(test)]
impl Taken {
    /// What a file of these bytes is.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let read = |offset: u64, len: usize| {
            let at = usize::try_from(offset).unwrap();
            Ok(bytes[at..at + len].to_vec())
        };
        examine(bytes.len() as u64, &read).unwrap()
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len_bytes)?;
        match &self.start {
            Start::Zeros { to, all: true } => write!(f, ", zeros as far as it was read ({to})")?,
            Start::Zeros { to, all: false } => {
                write!(f, ", zeros up to byte {to} and then something else")?;
            }
            Start::Text(sample) => write!(f, " of text that begins with {sample:?}")?,
            Start::Bytes => f.write_str(" of no known kind")?,
        }
        if let Some(Signature { what, offset }) = self.signature {
            write!(f, ", {what} by the signature at byte {offset}")?;
        }
        if self.zones > 0 {
            write!(f, ", {} of its zones are written", self.zones)?;
        }
        Ok(())
    }
}

/// The length of a regular file; `None` for what is none.
pub(crate) fn file_len(file: &File) -> io::Result<Option<u64>> {
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then_some(metadata.len()))
}

/// What is on a device that is open.
pub(crate) fn of_device(device: &dyn Device) -> io::Result<Contents> {
    if let Some(zones) = device.zones() {
        return of_zoned(device, zones);
    }
    let regular = device.file().map_or(Ok(None), file_len)?;
    let len_bytes = regular.unwrap_or(device.geometry().len_bytes);
    let whole = device.geometry().len_bytes / IO_ALIGN as u64 * IO_ALIGN as u64;
    let read = |offset: u64, len: usize| -> io::Result<Vec<u8>> {
        let mut buf = IoBuf::zeroed(len.next_multiple_of(IO_ALIGN));
        match device.file() {
            // Shorter than what a device is read by.
            Some(file) if whole == 0 => {
                file.read_at(&mut buf, offset)?;
            }
            _ => device.read_at(offset, &mut buf)?,
        }
        Ok(buf[..len].to_vec())
    };
    let readable = if whole == 0 { len_bytes } else { whole };
    let taken = examine(readable, &read)?;
    let is_blank = match regular {
        Some(len) => len == 0,
        None => taken.signature.is_none() && matches!(taken.start, Start::Zeros { all: true, .. }),
    };
    Ok(if is_blank { Contents::Blank } else { Contents::Taken(Taken { len_bytes, ..taken }) })
}

/// The known signature of somebody else that a device which is open carries.
pub(crate) fn foreign_on(device: &dyn Device) -> io::Result<Option<Signature>> {
    Ok(match of_device(device)? {
        Contents::Blank => None,
        Contents::Taken(taken) => taken.foreign,
    })
}

/// The same of a file, or of a block device that is not opened as a volume.
pub(crate) fn of_file(file: &File, len_bytes: u64) -> io::Result<Taken> {
    examine(len_bytes, &|offset, len| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    })
}

/// Looks at both ends of what has `len_bytes`.
fn examine(len_bytes: u64, read: &dyn Fn(u64, usize) -> io::Result<Vec<u8>>) -> io::Result<Taken> {
    let end = |bytes: u64| usize::try_from(bytes.min(len_bytes)).expect("a piece of an end");
    let (head_len, tail_len) = (end(HEAD_BYTES), end(TAIL_BYTES));
    let head = if head_len == 0 { Vec::new() } else { read(0, head_len)? };
    let tail_at = len_bytes - tail_len as u64;
    let tail = if tail_len == 0 { Vec::new() } else { read(tail_at, tail_len)? };
    let ends = Ends { head: &head, tail: &tail, len_bytes };
    let (signature, foreign) = (signature::find(ends), signature::find_foreign(ends));
    let start = start_of(&head, &tail, tail_at);
    Ok(Taken { len_bytes, signature, foreign, start, zones: 0 })
}

fn start_of(head: &[u8], tail: &[u8], tail_at: u64) -> Start {
    let zeros = |bytes: &[u8]| bytes.iter().take_while(|byte| **byte == 0).count();
    let zeros_in_head = zeros(head);
    if zeros_in_head == head.len() {
        let zeros_in_tail = zeros(tail);
        return if zeros_in_tail == tail.len() {
            Start::Zeros { to: head.len() as u64, all: true }
        } else {
            Start::Zeros { to: tail_at + zeros_in_tail as u64, all: false }
        };
    }
    if zeros_in_head > 0 {
        return Start::Zeros { to: zeros_in_head as u64, all: false };
    }
    let begin = &head[..head.len().min(TEXT_BYTES)];
    // A character may be cut at the end of what is looked at.
    let text = match std::str::from_utf8(begin) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&begin[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    let printable = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    match text {
        Some(text) if text.chars().all(printable) => {
            Start::Text(text.chars().take_while(|c| *c != '\n').take(SAMPLE_CHARS).collect())
        }
        _ => Start::Bytes,
    }
}

/// Conventional zones are looked at as any device; what lies beyond a write pointer is arbitrary.
fn of_zoned(device: &dyn Device, zones: &dyn Zoned) -> io::Result<Contents> {
    let limits = zones.limits();
    let conventional = u64::from(limits.conventional_zones) * limits.zone_bytes;
    let mut taken = examine(conventional, &|offset, len| {
        let mut buf = IoBuf::zeroed(len);
        device.read_at(offset, &mut buf)?;
        Ok(buf[..].to_vec())
    })?;
    let report =
        zones.report(limits.conventional_zones, limits.zones - limits.conventional_zones)?;
    let written = report.iter().filter(|zone| zone.condition.is_written()).count();
    taken.zones = u32::try_from(written).expect("zones are counted by 32 bits");
    taken.len_bytes = device.geometry().len_bytes;
    let zeros = matches!(taken.start, Start::Zeros { all: true, .. });
    let is_blank = taken.signature.is_none() && zeros && written == 0;
    Ok(if is_blank { Contents::Blank } else { Contents::Taken(taken) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{FileDevice, FileOptions};
    use mpool_sim::SimDevice;

    fn file(bytes: &[u8]) -> Contents {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        std::fs::write(&path, bytes).unwrap();
        let options = FileOptions {
            allow_buffered: true,
            allow_volatile: true,
            len_bytes_max: 1 << 20,
            grow_step_bytes: 1 << 16,
            reserve_bytes: Some(0),
        };
        let device = FileDevice::open(&path, &options).unwrap();
        of_device(&device).unwrap()
    }

    fn shown(contents: Contents) -> String {
        match contents {
            Contents::Blank => "blank".to_owned(),
            Contents::Taken(taken) => taken.to_string(),
        }
    }

    #[test]
    fn only_a_file_of_length_zero_is_blank() {
        let noise: Vec<u8> = (0..9000_u32).map(|n| n.to_le_bytes()[0] ^ 0x80).collect();
        for (bytes, text) in [
            (vec![], "blank"),
            (b"hello\nworld".to_vec(), "11 bytes of text that begins with \"hello\""),
            (vec![0], "1 bytes, zeros as far as it was read (1)"),
            (vec![0; 4096], "4096 bytes, zeros as far as it was read (4096)"),
            (vec![0; 1 << 20], "1048576 bytes, zeros as far as it was read (262144)"),
            ([vec![0; 5000], vec![1; 5000]].concat(), "zeros up to byte 5000 and then"),
            ([vec![0; 900_000], vec![1; 148_576]].concat(), "zeros up to byte 917504 and"),
            (noise, "9000 bytes of no known kind"),
            (b"LUKS\xba\xbe".to_vec(), "an encrypted LUKS volume by the signature at byte 0"),
        ] {
            let shown = shown(file(&bytes));
            assert!(shown.contains(text), "{shown}, not {text}");
        }
    }

    #[test]
    fn a_device_is_blank_if_both_its_ends_are_and_carry_no_signature() {
        let blank = || SimDevice::new(4 << 20);
        let grown = |device: &SimDevice| device.grow(4 << 20).unwrap();
        assert_eq!(of_device(&blank()).unwrap(), Contents::Blank);
        for at in [0, 4096, 8192, HEAD_BYTES - 4096, (4 << 20) - TAIL_BYTES, (4 << 20) - 4096] {
            let device = blank();
            grown(&device);
            let mut page = IoBuf::zeroed(IO_ALIGN);
            page[4095] = 1;
            device.write_durable_at(at, &page).unwrap();
            let Contents::Taken(taken) = of_device(&device).unwrap() else { panic!("{at}") };
            assert!(taken.refusal().contains("--force"), "{}", taken.refusal());
        }
        let device = blank();
        grown(&device);
        assert_eq!(of_device(&device).unwrap(), Contents::Blank, "it is zeros");
    }
}
