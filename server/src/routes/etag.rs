//! Entity tags and the conditions made of them, as RFC 9110 writes them (8.8.3, 13.1). PURE.
//!
//! ```text
//!   If-Match, If-None-Match = "*" / 1#entity-tag
//!   entity-tag  = [ "W/" ] DQUOTE *etagc DQUOTE
//!   etagc       = "!" / %x23-7E / %x80-FF         (no quote, no space; commas are plain)
//! ```
//!
//! A field may come in several lines, which together are one list; `*` stands alone. What does not
//! read so is an error, never a condition that silently holds or does not.

/// An entity tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntityTag<'a> {
    weak: bool,
    /// What stands between the quotes.
    opaque: &'a [u8],
}

/// What a list may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member<'a> {
    Any,
    Tag(EntityTag<'a>),
}

/// Why a list could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("`*` stands alone; leave it out, or the tags")]
    AnyInList,
    #[error("it names no entity tag")]
    Empty,
    #[error("byte {at} does not begin an entity tag; it looks like \"1f\", in double quotes")]
    NoTag { at: usize },
    #[error("the entity tag from byte {from} has no closing quote, or a space or control in it")]
    Unclosed { from: usize },
}

/// How two tags are compared (8.8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Byte for byte the same, and both say so.
    Strong,
    /// The same for whoever asks.
    Weak,
}

impl<'a> EntityTag<'a> {
    /// Reads the tag that `text` is.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        match members(text).collect::<Result<Vec<_>, _>>().ok()?[..] {
            [Member::Tag(tag)] => Some(tag),
            _ => None,
        }
    }

    fn matches(self, other: Self, comparison: Comparison) -> bool {
        let strong_enough = match comparison {
            Comparison::Strong => !self.weak && !other.weak,
            Comparison::Weak => true,
        };
        strong_enough && self.opaque == other.opaque
    }
}

/// Whether the list in `lines` names `tag`, or is `*`; `None` where there are no lines.
pub(crate) fn names<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
    tag: EntityTag<'_>,
    comparison: Comparison,
) -> Result<Option<bool>, Malformed> {
    let (mut given, mut any, mut tags, mut found) = (false, false, 0_usize, false);
    for line in lines {
        given = true;
        for member in members(line) {
            match member? {
                Member::Any if any => return Err(Malformed::AnyInList),
                Member::Any => any = true,
                Member::Tag(listed) => {
                    tags += 1;
                    found |= listed.matches(tag, comparison);
                }
            }
        }
    }
    match (given, any, tags) {
        (false, ..) => Ok(None),
        (true, true, 0) => Ok(Some(true)),
        (true, true, _) => Err(Malformed::AnyInList),
        (true, false, 0) => Err(Malformed::Empty),
        (true, false, _) => Ok(Some(found)),
    }
}

/// The members of one line. Empty ones are skipped, as RFC 9110 asks of who reads (5.6.1.2).
fn members(line: &[u8]) -> Members<'_> {
    Members { line, at: 0, after_member: false }
}

struct Members<'a> {
    line: &'a [u8],
    at: usize,
    /// A comma must come before the next member.
    after_member: bool,
}

impl<'a> Members<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.line[self.at..]
    }

    fn next_member(&mut self) -> Result<Option<Member<'a>>, Malformed> {
        while let Some(byte) = self.line.get(self.at) {
            match byte {
                b' ' | b'\t' => {}
                b',' => self.after_member = false,
                _ => break,
            }
            self.at += 1;
        }
        let from = self.at;
        if self.rest().is_empty() {
            return Ok(None);
        }
        if self.after_member {
            return Err(Malformed::NoTag { at: from });
        }
        self.after_member = true;
        if self.rest()[0] == b'*' {
            self.at += 1;
            return Ok(Some(Member::Any));
        }
        let weak = self.rest().starts_with(b"W/");
        if weak {
            self.at += 2;
        }
        let Some(inside) = self.rest().strip_prefix(b"\"") else {
            return Err(Malformed::NoTag { at: from });
        };
        let len = inside.iter().position(|byte| !matches!(byte, 0x21 | 0x23..=0x7E | 0x80..));
        match len.map(|len| (&inside[..len], inside[len])) {
            Some((opaque, b'"')) => {
                self.at += opaque.len() + 2;
                Ok(Some(Member::Tag(EntityTag { weak, opaque })))
            }
            _ => Err(Malformed::Unclosed { from }),
        }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let member = self.next_member().transpose();
        if let Some(Err(_)) = member {
            self.at = self.line.len();
        }
        member
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tag(text: &str) -> EntityTag<'_> {
        EntityTag::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text} is a tag"))
    }

    fn asks(lines: &[&[u8]], of: &str, how: Comparison) -> Result<Option<bool>, Malformed> {
        names(lines.iter().copied(), tag(of), how)
    }

    /// RFC 9110, 8.8.3: the examples of the field.
    #[test]
    fn tags_of_the_standard_are_read() {
        for (text, weak, opaque) in
            [("\"xyzzy\"", false, "xyzzy"), ("W/\"xyzzy\"", true, "xyzzy"), ("\"\"", false, "")]
        {
            assert_eq!(tag(text), EntityTag { weak, opaque: opaque.as_bytes() });
        }
        for text in ["", "xyzzy", "w/\"xyzzy\"", "W/ \"xyzzy\"", "\"xyzzy", "\"x y\"", "*"] {
            assert_eq!(EntityTag::parse(text.as_bytes()), None, "{text}");
        }
        for text in ["\"a\"\"b\"", "\"a\", \"b\"", "\"a\" b", "W/xyzzy", "\"a\u{7f}\""] {
            assert_eq!(EntityTag::parse(text.as_bytes()), None, "{text}");
        }
    }

    /// RFC 9110, 8.8.3.2: the table of comparisons.
    #[test]
    fn tags_compare_as_in_the_table_of_the_standard() {
        for (one, two, strong, weak) in [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
        ] {
            for (one, two) in [(one, two), (two, one)] {
                assert_eq!(tag(one).matches(tag(two), Comparison::Strong), strong, "{one} {two}");
                assert_eq!(tag(one).matches(tag(two), Comparison::Weak), weak, "{one} {two}");
            }
        }
    }

    /// RFC 9110, 13.1.1 and 13.1.2: the examples of the fields.
    #[test]
    fn conditions_of_the_standard_are_evaluated() {
        let match_list: &[u8] = b"\"xyzzy\", \"r2d2xxxx\", \"c3piozzzz\"";
        let none_list: &[u8] = b"W/\"xyzzy\", W/\"r2d2xxxx\", W/\"c3piozzzz\"";
        for (lines, of, strong, weak) in [
            (&[&b"\"xyzzy\""[..]][..], "\"xyzzy\"", true, true),
            (&[b"W/\"xyzzy\""], "\"xyzzy\"", false, true),
            (&[match_list], "\"r2d2xxxx\"", true, true),
            (&[match_list], "\"r2d2\"", false, false),
            (&[none_list], "\"c3piozzzz\"", false, true),
            (&[b"*"], "\"anything\"", true, true),
        ] {
            assert_eq!(asks(lines, of, Comparison::Strong), Ok(Some(strong)), "{lines:?}");
            assert_eq!(asks(lines, of, Comparison::Weak), Ok(Some(weak)), "{lines:?}");
        }
    }

    #[test]
    fn lines_are_one_list_and_quotes_hold_commas() {
        let weak = |lines: &[&[u8]], of| asks(lines, of, Comparison::Weak);
        assert_eq!(weak(&[], "\"1\""), Ok(None));
        assert_eq!(weak(&[b"\"a\"", b"\"1\""], "\"1\""), Ok(Some(true)));
        assert_eq!(weak(&[b"\"a,\", \"1,2\""], "\"1,2\""), Ok(Some(true)));
        assert_eq!(weak(&[b"\"a, b\""], "\"a\""), Err(Malformed::Unclosed { from: 0 }));
        assert_eq!(weak(&[b"\"x,\"\t,,\"1\","], "\"1\""), Ok(Some(true)));
        let obs_text = EntityTag { weak: false, opaque: b"\xff\x80" };
        assert_eq!(names([&b"\"\xff\x80\""[..]], obs_text, Comparison::Strong), Ok(Some(true)));
    }

    #[test]
    fn what_is_no_list_of_tags_is_an_error() {
        for (lines, want) in [
            (&[&b"\"1\", *"[..]][..], Malformed::AnyInList),
            (&[b"*, \"1\""], Malformed::AnyInList),
            (&[b"*, *"], Malformed::AnyInList),
            (&[b"*", b"\"1\""], Malformed::AnyInList),
            (&[b"*", b"*"], Malformed::AnyInList),
            (&[b""], Malformed::Empty),
            (&[b" , "], Malformed::Empty),
            (&[b"1f"], Malformed::NoTag { at: 0 }),
            (&[b"\"1\" \"2\""], Malformed::NoTag { at: 4 }),
            (&[b"**"], Malformed::NoTag { at: 1 }),
            (&[b"\"1"], Malformed::Unclosed { from: 0 }),
            (&[b"\"2\", W/\"1\x01\""], Malformed::Unclosed { from: 5 }),
        ] {
            assert_eq!(asks(lines, "\"1\"", Comparison::Weak), Err(want), "{lines:?}");
        }
    }

    fn opaque() -> impl Strategy<Value = Vec<u8>> {
        let byte = any::<u8>().prop_filter("etagc", |b| matches!(b, 0x21 | 0x23..=0x7E | 0x80..));
        prop::collection::vec(byte, 0..6)
    }

    proptest! {
        #[test]
        fn any_list_is_searched_as_its_members_compare(
            tags in prop::collection::vec((any::<bool>(), opaque(), 0..3_usize), 1..8),
            wanted in any::<prop::sample::Index>(),
            breaks in prop::collection::vec(any::<bool>(), 8),
        ) {
            let mut lines = vec![Vec::new()];
            for ((weak, opaque, padding), new_line) in tags.iter().zip(breaks) {
                if new_line {
                    lines.push(Vec::new());
                }
                let line = lines.last_mut().expect("there is one");
                line.extend_from_slice(&b" ,\t,"[..=*padding]);
                line.push(b',');
                line.extend_from_slice(if *weak { b"W/\"" } else { b"\"" });
                line.extend_from_slice(opaque);
                line.push(b'"');
            }
            let wanted = EntityTag { weak: false, opaque: &wanted.get(&tags).1 };
            let lines = || lines.iter().map(Vec::as_slice);
            prop_assert_eq!(names(lines(), wanted, Comparison::Weak), Ok(Some(true)));
            let strong = tags.iter().any(|(weak, opaque, _)| !weak && opaque == wanted.opaque);
            prop_assert_eq!(names(lines(), wanted, Comparison::Strong), Ok(Some(strong)));
        }

        #[test]
        fn any_bytes_are_a_list_or_an_error(line in prop::collection::vec(any::<u8>(), 0..40)) {
            let ours = EntityTag { weak: false, opaque: b"1" };
            let read = names([&line[..]], ours, Comparison::Weak);
            prop_assert!(read != Ok(None), "a line is there");
        }
    }
}
