//! Packs the files of a pool into an image for tests, and unpacks it again:
//!
//! ```sh
//! cargo run -p millpond-mpool --example pool_image -- pack DIR IMAGE
//! cargo run -p millpond-mpool --example pool_image -- unpack IMAGE DIR
//! ```

use mpool_sim::image;
use std::{env::args_os, fs, io, path::PathBuf};

fn main() -> io::Result<()> {
    let args: Vec<PathBuf> = args_os().skip(1).map(PathBuf::from).collect();
    match &args[..] {
        [what, dir, file] if what.as_os_str() == "pack" => fs::write(file, image::pack(dir)?),
        [what, file, dir] if what.as_os_str() == "unpack" => {
            fs::create_dir_all(dir)?;
            image::unpack(&fs::read(file)?, dir)
        }
        _ => Err(io::Error::other("usage: pool_image pack DIR IMAGE | unpack IMAGE DIR")),
    }
}
