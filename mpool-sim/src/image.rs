//! Directories of sparse files as a few bytes: pools that are kept as test data.
//!
//! [`pack`] takes the files of a directory, [`unpack`] puts them back where tests may open them.
//! What is left out is what repeats itself: zeros above all, and runs of any byte. So keep the
//! contents of objects in such pools simple. One image:
//!
//! ```text
//! "MILLPIMG", then for each file, in order of the names
//!   name_len 1, name, len 8
//!   ops, until the one that is 0; what is left of the file is zeros
//!     0                    end of the file
//!     1  count 4, bytes    these bytes
//!     2  count 4, byte     this byte so often
//! ```
//!
//! Integers are little-endian. Directories within the directory are refused.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

const MAGIC: &[u8; 8] = b"MILLPIMG";
const END: u8 = 0;
const BYTES: u8 = 1;
const RUN: u8 = 2;
/// Shorter runs are kept as they are.
const RUN_MIN: usize = 16;

/// The files of `dir` as one image.
pub fn pack(dir: &Path) -> io::Result<Vec<u8>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        paths.push(entry?.path());
    }
    paths.sort();
    let mut image = MAGIC.to_vec();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| odd(&path))?;
        let file = File::open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(odd(&path));
        }
        image.push(u8::try_from(name.len()).map_err(|_| odd(&path))?);
        image.extend_from_slice(name.as_bytes());
        image.extend_from_slice(&file.metadata()?.len().to_le_bytes());
        Packer::default().file(file, &mut image)?;
    }
    Ok(image)
}

fn odd(path: &Path) -> io::Error {
    let text = format!("{} cannot be part of an image: files with short names can", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// What has been read of a file and not been packed yet: bytes, and the run at their end.
#[derive(Default)]
struct Packer {
    bytes: Vec<u8>,
    run: Option<(u8, u32)>,
}

impl Packer {
    fn file(mut self, mut file: File, image: &mut Vec<u8>) -> io::Result<()> {
        let mut chunk = vec![0; 1 << 16];
        loop {
            let len = file.read(&mut chunk)?;
            if len == 0 {
                break;
            }
            for part in chunk[..len].chunk_by(|a, b| a == b) {
                self.push(part[0], u32::try_from(part.len()).expect("of a chunk"), image);
            }
        }
        // The zeros at the end need no op.
        if self.run.is_some_and(|(byte, _)| byte == 0) {
            self.run = None;
        }
        self.end_run(image);
        self.end_bytes(image);
        image.push(END);
        Ok(())
    }

    fn push(&mut self, byte: u8, count: u32, image: &mut Vec<u8>) {
        if let Some((same, so_far)) = &mut self.run
            && *same == byte
            && let Some(sum) = so_far.checked_add(count)
        {
            *so_far = sum;
            return;
        }
        self.end_run(image);
        self.run = Some((byte, count));
    }

    fn end_run(&mut self, image: &mut Vec<u8>) {
        let Some((byte, count)) = self.run.take() else { return };
        let len = usize::try_from(count).expect("32 bits");
        if len < RUN_MIN {
            self.bytes.resize(self.bytes.len() + len, byte);
            return;
        }
        self.end_bytes(image);
        image.push(RUN);
        image.extend_from_slice(&count.to_le_bytes());
        image.push(byte);
    }

    fn end_bytes(&mut self, image: &mut Vec<u8>) {
        if !self.bytes.is_empty() {
            image.push(BYTES);
            let count = u32::try_from(self.bytes.len()).expect("an image is small");
            image.extend_from_slice(&count.to_le_bytes());
            image.append(&mut self.bytes);
        }
    }
}

/// Writes the files of an image into `dir`, sparse.
pub fn unpack(image: &[u8], dir: &Path) -> io::Result<()> {
    unpacked(image, |name, len| {
        let file = File::create_new(dir.join(name))?;
        file.set_len(len)?;
        Ok(file)
    })
    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no image"))?
}

/// `None` if the image is none.
fn unpacked(
    image: &[u8],
    create: impl Fn(&str, u64) -> io::Result<File>,
) -> Option<io::Result<()>> {
    let mut rest = image.strip_prefix(MAGIC)?;
    while let Some((name_len, after)) = rest.split_first() {
        let (name, after) = after.split_at_checked(usize::from(*name_len))?;
        let (len, after) = after.split_first_chunk()?;
        rest = after;
        let name = std::str::from_utf8(name).ok().filter(|name| !name.contains('/'))?;
        let file = match create(name, u64::from_le_bytes(*len)) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        let mut at = 0;
        loop {
            match op(&mut rest)? {
                Op::End => break,
                Op::Zeros(count) => at += count,
                Op::Bytes(bytes) => {
                    if let Err(error) = file.write_all_at(&bytes, at) {
                        return Some(Err(error));
                    }
                    at += bytes.len() as u64;
                }
            }
        }
    }
    Some(Ok(()))
}

/// What comes next in a file.
enum Op {
    End,
    Bytes(Vec<u8>),
    /// Left out.
    Zeros(u64),
}

/// The next op; `None` if there is none.
fn op(rest: &mut &[u8]) -> Option<Op> {
    let (kind, after) = rest.split_first()?;
    if *kind == END {
        *rest = after;
        return Some(Op::End);
    }
    let (count, after) = after.split_first_chunk()?;
    let count = u32::from_le_bytes(*count);
    let len = usize::try_from(count).expect("32 bits");
    match *kind {
        BYTES => {
            let (bytes, after) = after.split_at_checked(len)?;
            *rest = after;
            Some(Op::Bytes(bytes.to_vec()))
        }
        RUN => {
            let (byte, after) = after.split_first()?;
            *rest = after;
            Some(if *byte == 0 { Op::Zeros(count.into()) } else { Op::Bytes(vec![*byte; len]) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seeded;

    #[test]
    fn what_is_packed_is_unpacked_and_small() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut random = Seeded::new(5);
        let mut mixed = Vec::new();
        while mixed.len() < 300_000 {
            let byte = u8::try_from(random.below(3)).unwrap();
            let most = [4, 40, 100_000][usize::try_from(random.below(3)).unwrap()];
            let len = usize::try_from(1 + random.below(most)).unwrap();
            mixed.resize(mixed.len() + len, byte);
        }
        let sparse = [&vec![0; 10 << 20][..], b"a", &vec![0; 5000][..]].concat();
        let files = [("empty", Vec::new()), ("mixed", mixed), ("sparse", sparse)];
        for (name, bytes) in &files {
            fs::write(from.path().join(name), bytes).unwrap();
        }
        let image = pack(from.path()).unwrap();
        assert!(image.len() < 20_000, "{} bytes", image.len());
        unpack(&image, to.path()).unwrap();
        for (name, bytes) in &files {
            assert!(fs::read(to.path().join(name)).unwrap() == *bytes, "{name}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("within")).unwrap();
        assert!(pack(dir.path()).unwrap_err().to_string().contains("within"));
        let scratch = tempfile::tempdir().unwrap();
        let file = b"MILLPIMG\x01f\x09\0\0\0\0\0\0\0\x01\x02\0\0\0ab\0";
        unpack(file, scratch.path()).unwrap();
        assert_eq!(fs::read(scratch.path().join("f")).unwrap(), b"ab\0\0\0\0\0\0\0");
        for len in [0, 7, 9, 12, file.len() - 1] {
            let other = tempfile::tempdir().unwrap();
            let refused = unpack(&file[..len], other.path());
            assert!(refused.is_err(), "{len} bytes of it");
        }
    }
}
