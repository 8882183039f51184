//! Manual pages, one for each command, from the declarations of the command line.
//!
//! What a command says after its options is set line by line: examples are to be copied, and a
//! comment that runs into the next line is none.

use clap::Command;
use clap::builder::Resettable;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes a page for each command into a directory, but none for the help of each.
pub fn write(line: Command, dir: &Path) -> io::Result<()> {
    fn without_help(command: Command) -> Command {
        command.disable_help_subcommand(true).mut_subcommands(without_help)
    }
    let mut line = without_help(line);
    line.build();
    std::fs::create_dir_all(dir)?;
    pages(&line, dir)
}

fn pages(command: &Command, dir: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, dir)?;
    }
    let notes = command.get_after_help().map(ToString::to_string);
    let page = clap_mangen::Man::new(command.clone().after_help(Resettable::Reset));
    let mut file = BufWriter::new(File::create(dir.join(page.get_filename()))?);
    page.render(&mut file)?;
    if let Some(notes) = notes {
        file.write_all(verbatim(&notes).as_bytes())?;
    }
    file.flush()
}

/// A section in which lines stay as they are.
fn verbatim(text: &str) -> String {
    let mut out = ".SH NOTES\n.nf\n".to_owned();
    for line in text.lines() {
        // What begins with a dot or an apostrophe is a request to roff.
        if line.starts_with(['.', '\'']) {
            out.push_str("\\&");
        }
        out.push_str(&line.replace('\\', "\\e").replace('-', "\\-"));
        out.push('\n');
    }
    out + ".fi\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_as_they_are() {
        let want = ".SH NOTES\n.nf\nmillpond get \\-\\-k64 a   # one\n\\&.x \\e\n.fi\n";
        assert_eq!(verbatim("millpond get --k64 a   # one\n.x \\"), want);
    }
}
