//! What a recovery cuts or deletes, copied as files before it does: whoever looks at the damage
//! later has its bytes.
//!
//! A piece of an object is a file, as it lies on the medium; `KEPT.txt` says of each what it is and
//! where it was, and what the recovery has left out. Everything is on stable storage before the
//! recovery begins. It is for its owner alone, as the volumes are: it holds keys and values.

use crate::client::Failure;
use kvs::Loss;
use mpool::{Pool, RawPiece, ScrubPart, ScrubTarget};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The file that says what the others are.
const TEXT: &str = "KEPT.txt";

/// Refuses a directory in which something is.
pub(super) fn check_empty(dir: &Path) -> Result<(), Failure> {
    let refused = |why: &str| {
        let dir = dir.display();
        Err(Failure::Refused(format!("--keep {dir}: {why}; name an empty or a new directory")))
    };
    match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => refused("it is not empty"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => refused(&error.to_string()),
    }
}

/// Copies all pieces of `targets` into `dir`.
pub(super) fn copy(
    pool: &Pool,
    targets: &[ScrubTarget],
    losses: &[Loss],
    dir: &Path,
) -> Result<(), Failure> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| {
            Failure::Refused(format!("{path}: {error}; nothing is recovered, and nothing changed"))
        }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
    let mut text = "Copied before a recovery cut or deleted it; see docs/pool.md of Millpond.\n\n\
                    file, what it is, bytes, where it was\n"
        .to_owned();
    for target in targets {
        for (number, piece) in pool.raw_pieces(*target).iter().enumerate() {
            let name = name(piece, number);
            let path = dir.join(&name);
            let unreadable = copy_piece(pool, piece, &path).map_err(failed(&path))?;
            let RawPiece { part, volume, volume_offset, len_bytes, .. } = piece;
            // Writing to a string cannot fail, here and below.
            let _ = write!(
                text,
                "{name}  {target}, {}  {len_bytes}  {volume} at {volume_offset}",
                part.name()
            );
            if unreadable > 0 {
                let _ = write!(text, "; {unreadable} pages could not be read and are zeros");
            }
            text.push('\n');
        }
    }
    text.push_str("\nleft out by the recovery\n");
    for loss in losses {
        let _ = writeln!(text, "{loss}");
    }
    let path = dir.join(TEXT);
    let written = create_new(&path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| File::open(dir)?.sync_all()).map_err(failed(&path))
}

fn create_new(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

fn copy_piece(pool: &Pool, piece: &RawPiece, path: &Path) -> io::Result<u64> {
    let mut file = create_new(path)?;
    let unreadable = pool.read_raw(piece, &mut |bytes| file.write_all(bytes))?;
    file.sync_all()?;
    Ok(unreadable)
}

/// "segment-seg-3.bin", "journal-mdc-2-copy-1-of-log-a.bin", "journal-mdc-2-copy-2-of-log-a.bin",
/// "mblock-mb-1f.bin".
fn name(piece: &RawPiece, number: usize) -> String {
    let (kind, target) = match piece.target {
        ScrubTarget::Segment(id) => ("segment", id.to_string()),
        ScrubTarget::Journal(id) => ("journal", id.to_string()),
        ScrubTarget::Mblock(id) => ("mblock", id.to_string()),
        other => ("part", other.to_string().replace(' ', "-")),
    };
    match (piece.part, number) {
        (ScrubPart::LogA | ScrubPart::LogB | ScrubPart::LogACopy | ScrubPart::LogBCopy, _) => {
            let log = piece.part.name().replace(' ', "-").to_lowercase();
            format!("{kind}-{target}-{log}.bin")
        }
        (_, 0) => format!("{kind}-{target}.bin"),
        (_, more) => format!("{kind}-{target}-{more}.bin"),
    }
}
