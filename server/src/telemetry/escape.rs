//! Text from outside in lines for people: control characters are shown, not obeyed. PURE.

use std::fmt::{self, Display, Formatter, Write};

/// Shows `T` with its control characters escaped, line breaks among them, and what turns the
/// direction of writing.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(Escaping { out, keep: None }, "{}", self.0)
    }
}

/// The same for text of several lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines<'a>(pub(super) &'a str);

impl Display for Lines<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        Escaping { out, keep: Some('\n') }.write_str(self.0)
    }
}

struct Escaping<'a, 'b> {
    out: &'a mut Formatter<'b>,
    keep: Option<char>,
}

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            if is_plain(c) || self.keep == Some(c) {
                continue;
            }
            self.out.write_str(&text[plain..at])?;
            write!(self.out, "{}", c.escape_default())?;
            plain = at + c.len_utf8();
        }
        self.out.write_str(&text[plain..])
    }
}

/// Neither a control character nor one that changes how the rest of the line is shown.
fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown() {
        for (text, want) in [
            ("plain \u{e9}\u{1f41f}", "plain \u{e9}\u{1f41f}"),
            ("a\nWARN forged", "a\\nWARN forged"),
            ("\u{1b}[31mred\r\t", "\\u{1b}[31mred\\r\\t"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("\u{202e}gpj.exe\u{2028}", "\\u{202e}gpj.exe\\u{2028}"),
            ("", ""),
        ] {
            assert_eq!(Escaped(text).to_string(), want);
            assert_eq!(Escaped(format_args!("{text}{text}")).to_string(), want.repeat(2));
        }
        assert_eq!(Lines("a\nb\u{7}").to_string(), "a\nb\\u{7}");
    }
}
