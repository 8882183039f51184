//! Splits Rust source into what is code and what is comment.
//!
//! Checks look for words, and a word means different things in code, in a comment and in a string.
//! [`split`] returns two texts of the same length and the same lines as the source: in `code`,
//! comments and the contents of string and character literals are blank; in `comments`, everything
//! else is. It is a scanner, not a parser: it knows nested block comments, raw strings and the
//! difference between a lifetime and a character, and no more.

/// The two faces of one source text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) code: String,
    pub(crate) comments: String,
}

/// Blanks comments and literals out of `code`, and all but comments out of `comments`.
pub(crate) fn split(text: &str) -> Split {
    let mut scanner = Scanner {
        bytes: text.as_bytes(),
        at: 0,
        code: blank(text.as_bytes()),
        comments: blank(text.as_bytes()),
    };
    while scanner.at < scanner.bytes.len() {
        scanner.step();
    }
    Split {
        code: String::from_utf8_lossy(&scanner.code).into_owned(),
        comments: String::from_utf8_lossy(&scanner.comments).into_owned(),
    }
}

/// True if `word` stands in `line` as a whole word (letters, digits and `_` continue a word).
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let continues = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        !continues(line[..at].chars().next_back())
            && !continues(line[at + word.len()..].chars().next())
    })
}

fn blank(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }).collect()
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    code: Vec<u8>,
    comments: Vec<u8>,
}

impl Scanner<'_> {
    fn step(&mut self) {
        let rest = &self.bytes[self.at..];
        if rest.starts_with(b"//") {
            let len = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
            self.comment(len);
        } else if rest.starts_with(b"/*") {
            self.comment(block_comment_len(rest));
        } else if let Some((open, len)) = self.raw_string_len() {
            self.literal(open, len);
        } else if rest[0] == b'"' {
            self.literal(1, quoted_len(rest, b'"'));
        } else if let Some(len) = char_len(rest) {
            self.literal(1, len);
        } else {
            self.code[self.at] = rest[0];
            self.at += 1;
        }
    }

    fn comment(&mut self, len: usize) {
        let range = self.at..self.at + len;
        self.comments[range.clone()].copy_from_slice(&self.bytes[range]);
        self.at += len;
    }

    /// Passes a literal; its opening and its last byte stay visible, its contents do not.
    fn literal(&mut self, open: usize, len: usize) {
        let end = self.at + len;
        let range = self.at..self.at + open;
        self.code[range.clone()].copy_from_slice(&self.bytes[range]);
        self.code[end - 1] = self.bytes[end - 1];
        self.at = end;
    }

    /// Lengths of the opening and of the whole raw string that starts here, if one does.
    fn raw_string_len(&self) -> Option<(usize, usize)> {
        let rest = &self.bytes[self.at..];
        let prefix = match rest {
            [b'r', ..] => 1,
            [b'b', b'r', ..] => 2,
            _ => return None,
        };
        let inside_word = self.at > 0 && is_word(self.bytes[self.at - 1]);
        let hashes = rest[prefix..].iter().take_while(|&&byte| byte == b'#').count();
        let open = prefix + hashes + 1;
        if inside_word || rest.get(open - 1) != Some(&b'"') {
            return None;
        }
        let mut close = vec![b'#'; hashes + 1];
        close[0] = b'"';
        let body = rest[open..].windows(close.len()).position(|window| window == close);
        Some((open, body.map_or(rest.len(), |at| open + at + close.len())))
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (2, 1);
    while at < rest.len() && depth > 0 {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
    }
    at
}

/// Length of a literal with escapes that starts and ends with `quote`.
fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Length of the character literal that starts here; None for a lifetime or anything else.
fn char_len(rest: &[u8]) -> Option<usize> {
    match rest {
        [b'\'', b'\\', ..] => Some(quoted_len(rest, b'\'')),
        [b'\'', byte, b'\'', ..] if *byte != b'\'' => Some(3),
        // One character of several bytes in UTF-8.
        [b'\'', 0x80..=0xff, ..] => {
            rest[1..].iter().take(5).position(|&b| b == b'\'').map(|at| at + 2)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: source, the words that must be visible as code, the words that must not.
    const ROWS: &[(&str, &[&str], &[&str])] = &[
        ("let a = 1; // unsafe", &["a"], &["unsafe"]),
        ("/* unsafe /* nested */ unsafe */ b", &["b"], &["unsafe", "nested"]),
        ("f(\"unsafe \\\" unsafe\", c)", &["f", "c"], &["unsafe"]),
        ("f(r#\"unsafe \" unsafe\"#, d)", &["f", "d"], &["unsafe"]),
        ("f(br\"unsafe\\\", e)", &["e"], &["unsafe"]),
        ("let q = '\"'; unsafe { g('\\'') } let s = \"x\";", &["unsafe", "g", "s"], &["x"]),
        ("fn h<'a>(x: &'a str) -> &'a str { i(x) }", &["str", "i"], &[]),
    ];

    #[test]
    fn comments_and_literals_are_not_code() {
        for &(source, seen, hidden) in ROWS {
            let code = split(source).code;
            for word in seen {
                assert!(has_word(&code, word), "{word} is code in {source}: {code}");
            }
            for word in hidden {
                assert!(!has_word(&code, word), "{word} is not code in {source}: {code}");
            }
        }
    }

    #[test]
    fn lines_and_lengths_are_kept() {
        let source = "a // b\n/* c\n d */ \"e\nf\" 'g'\n";
        let split = split(source);
        assert_eq!(split.code.len(), source.len());
        assert_eq!(split.code.lines().count(), source.lines().count());
        assert_eq!(split.comments.lines().nth(1), Some("/* c"));
    }

    #[test]
    fn unterminated_literals_end_with_the_file() {
        for source in ["\"abc", "r#\"abc", "/* abc", "'\\", "b\"\\"] {
            assert_eq!(split(source).code.len(), source.len(), "{source}");
        }
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("unsafe {", "unsafe"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe"));
        assert!(!has_word("not_unsafe", "unsafe"));
    }
}
