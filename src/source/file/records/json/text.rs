//! The text of JSON values, as RFC 8259 has it. Beyond it, the numbers `NaN`, `Infinity` and `INF` are
//! known, with a sign or without, because Spark and others write them.

use std::ops::Range;

/// Objects and lists within one another, at most; as many as Spark's parser takes.
pub(super) const MAX_DEPTH: usize = 1000;

/// Why a text is no JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    /// It goes on where it should not, or with something else than it should.
    Wrong(String),
    /// It ends too early.
    Ended,
}

/// The beginning of a value. Texts are told by where they are, because only who holds the text knows
/// that it is UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Null,
    Bool(bool),
    /// As it is written.
    Number(Range<usize>),
    /// What is between the quotes.
    Text(Quoted),
    /// The members of an object follow.
    Object,
    /// The items of a list follow.
    List,
}

/// The inside of a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quoted {
    pub(super) at: Range<usize>,
    pub(super) has_escapes: bool,
}

/// A place in a text.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8], at: usize) -> Self {
        Self { text, at, depth: 0 }
    }

    /// Bytes from the start of the text.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Goes back to a place it was at, on the same level of nesting.
    pub(super) fn go_back(&mut self, at: usize, depth: usize) {
        (self.at, self.depth) = (at, depth);
    }

    /// Objects and lists that are open.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// The next byte that is no white space, without taking it.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Takes the byte that was peeked at.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.at += 1;
    }

    /// The next value, of objects and lists only their beginning.
    #[inline]
    pub(super) fn value(&mut self) -> Result<Token, Broken> {
        match self.peek().ok_or(Broken::Ended)? {
            b'"' => {
                self.at += 1;
                self.string().map(Token::Text)
            }
            b'{' => self.open().map(|()| Token::Object),
            b'[' => self.open().map(|()| Token::List),
            b't' => self.word(b"true").map(|()| Token::Bool(true)),
            b'f' => self.word(b"false").map(|()| Token::Bool(false)),
            b'n' => self.word(b"null").map(|()| Token::Null),
            b'-' | b'+' | b'0'..=b'9' | b'N' | b'I' => self.number().map(Token::Number),
            other => Err(wrong("a value", other)),
        }
    }

    fn open(&mut self) -> Result<(), Broken> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Broken::Wrong(format!("the record is nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    /// Goes to the next member of the object that is open, and gives its key; `None` if the object ends.
    #[inline]
    pub(super) fn key(&mut self, first: bool) -> Result<Option<Quoted>, Broken> {
        let mut next = self.peek().ok_or(Broken::Ended)?;
        if next == b'}' {
            self.at += 1;
            self.depth -= 1;
            return Ok(None);
        }
        if !first {
            if next != b',' {
                return Err(wrong("a comma or }", next));
            }
            self.at += 1;
            next = self.peek().ok_or(Broken::Ended)?;
        }
        if next != b'"' {
            return Err(wrong("a key in quotes", next));
        }
        self.at += 1;
        let key = self.string()?;
        match self.peek().ok_or(Broken::Ended)? {
            b':' => self.at += 1,
            other => return Err(wrong("a colon", other)),
        }
        Ok(Some(key))
    }

    /// Goes to the next item of the list that is open: whether there is one.
    #[inline]
    pub(super) fn item(&mut self, first: bool) -> Result<bool, Broken> {
        let next = self.peek().ok_or(Broken::Ended)?;
        if next == b']' {
            self.at += 1;
            self.depth -= 1;
            return Ok(false);
        }
        if !first {
            if next != b',' {
                return Err(wrong("a comma or ]", next));
            }
            self.at += 1;
            if self.peek().ok_or(Broken::Ended)? == b']' {
                return Err(wrong("a value", b']'));
            }
        }
        Ok(true)
    }

    /// Passes over a value.
    pub(super) fn skip(&mut self) -> Result<(), Broken> {
        let token = self.value()?;
        self.skip_rest(token)
    }

    /// Passes over what is left of a value of which `token` was taken.
    pub(super) fn skip_rest(&mut self, token: Token) -> Result<(), Broken> {
        // Whether the innermost of what is open is an object. Without recursion, for files can be deep.
        let mut open: Vec<bool> = Vec::new();
        let enter = |token: Token, open: &mut Vec<bool>| match token {
            Token::Object => open.push(true),
            Token::List => open.push(false),
            _ => {}
        };
        enter(token, &mut open);
        let mut first = !open.is_empty();
        while let Some(is_object) = open.last() {
            let goes_on = if *is_object { self.key(first)?.is_some() } else { self.item(first)? };
            if goes_on {
                let depth = open.len();
                enter(self.value()?, &mut open);
                first = open.len() > depth;
            } else {
                open.pop();
                first = false;
            }
        }
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Broken> {
        let rest = &self.text[self.at..];
        if rest.starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        if word.starts_with(rest) {
            return Err(Broken::Ended);
        }
        let byte = rest.iter().zip(word).find(|(is, should)| is != should).map_or(rest[0], |(is, _)| *is);
        Err(wrong("true, false or null", byte))
    }

    fn number(&mut self) -> Result<Range<usize>, Broken> {
        let start = self.at;
        let text = self.text;
        let mut at = start;
        let digits = |at: &mut usize| {
            let from = *at;
            while text.get(*at).is_some_and(u8::is_ascii_digit) {
                *at += 1;
            }
            *at - from
        };
        if text[at] == b'-' {
            at += 1;
        }
        match text.get(at) {
            Some(b'0') => at += 1,
            Some(b'1'..=b'9') => {
                digits(&mut at);
            }
            None => return Err(Broken::Ended),
            Some(_) => return self.not_finite(),
        }
        let needs_digits = |at: &mut usize| match digits(at) {
            0 => Err(text.get(*at).map_or(Broken::Ended, |byte| wrong("a digit", *byte))),
            _ => Ok(()),
        };
        if text.get(at) == Some(&b'.') {
            at += 1;
            needs_digits(&mut at)?;
        }
        if matches!(text.get(at), Some(b'e' | b'E')) {
            at += 1;
            if matches!(text.get(at), Some(b'+' | b'-')) {
                at += 1;
            }
            needs_digits(&mut at)?;
        }
        self.at = at;
        if let Some(byte) = text.get(at)
            && !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')
        {
            return Err(wrong("the end of a number", *byte));
        }
        Ok(start..at)
    }

    fn not_finite(&mut self) -> Result<Range<usize>, Broken> {
        let rest = &self.text[self.at..];
        let signed = usize::from(matches!(rest[0], b'+' | b'-'));
        let length = signed + rest[signed..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let word = &rest[..length];
        let known: &[&[u8]] = &[b"Infinity", b"INF"];
        if (signed == 0 && word == b"NaN") || known.contains(&&word[signed..]) {
            self.at += length;
            return Ok(self.at - length..self.at);
        }
        let begins = |known: &[u8]| known.starts_with(&word[signed..]);
        let is_cut = length == rest.len()
            && (begins(b"Infinity") || begins(b"INF") || (signed == 0 && begins(b"NaN")));
        if is_cut { Err(Broken::Ended) } else { Err(wrong("a value", rest[0])) }
    }

    /// What follows up to the closing quote.
    fn string(&mut self) -> Result<Quoted, Broken> {
        let start = self.at;
        let mut has_escapes = false;
        loop {
            self.at += plain_length(&self.text[self.at..]);
            match self.text.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Quoted { at: start..self.at - 1, has_escapes });
                }
                Some(b'\\') => {
                    has_escapes = true;
                    self.at += 2;
                    if self.at > self.text.len() {
                        self.at = self.text.len();
                        return Err(Broken::Ended);
                    }
                }
                Some(byte) => {
                    return Err(Broken::Wrong(format!(
                        "a text holds the control character 0x{byte:02x}, which must be escaped"
                    )));
                }
                None => return Err(Broken::Ended),
            }
        }
    }
}

fn wrong(expected: &str, found: u8) -> Broken {
    let found = if found.is_ascii_graphic() {
        format!("'{}'", char::from(found))
    } else {
        format!("the byte 0x{found:02x}")
    };
    Broken::Wrong(format!("expected {expected}, found {found}"))
}

/// How many bytes come before a quote, a backslash or a control character, eight at a time.
fn plain_length(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let is_special = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    let (words, _) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * u64::from(b' ')) & !word;
        let quote = word ^ (ONES * u64::from(b'"'));
        let quote = quote.wrapping_sub(ONES) & !quote;
        let backslash = word ^ (ONES * u64::from(b'\\'));
        let backslash = backslash.wrapping_sub(ONES) & !backslash;
        let found = (control | quote | backslash) & HIGH;
        if found != 0 {
            // What borrows may mark a byte too many, but only behind one that is marked rightly.
            return index * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let start = words.len() * 8;
    text[start..].iter().position(|byte| is_special(*byte)).map_or(text.len(), |at| start + at)
}

/// The text that `escaped`, the inside of a string, stands for.
pub(super) fn unescape(escaped: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    out.clear();
    let mut rest = escaped;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let letter = *rest.get(at + 1).ok_or(Broken::Ended)?;
        rest = &rest[at + 2..];
        out.push(match letter {
            b'"' | b'\\' | b'/' => letter,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (letter, after) = unicode(rest)?;
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
                continue;
            }
            other => return Err(wrong("an escape such as \\n", other)),
        });
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// The character that four hexadecimal digits stand for, or eight in two escapes.
fn unicode(digits: &[u8]) -> Result<(char, &[u8]), Broken> {
    let bad = || Broken::Wrong("a \\u is not followed by the four hexadecimal digits of a character".into());
    let unit = |digits: &[u8]| {
        let digits = digits.get(..4)?.iter().map(|digit| char::from(*digit).to_digit(16));
        digits.into_iter().try_fold(0_u16, |unit, digit| Some(unit << 4 | digit? as u16))
    };
    let first = unit(digits).ok_or_else(bad)?;
    let second = digits.get(4..).and_then(|rest| rest.strip_prefix(b"\\u")).and_then(unit);
    let (units, taken) = match (first, second) {
        (0xd800..0xdc00, Some(second)) => ([first, second], 10),
        (first, _) => ([first, 0], 4),
    };
    let used = if taken == 4 { &units[..1] } else { &units[..] };
    let letter = char::decode_utf16(used.iter().copied()).next().and_then(Result::ok).ok_or_else(|| {
        Broken::Wrong(match first {
            0xd800..0xdc00 => format!(
                "\\u{first:04x} is the first half of a surrogate pair, and the second does not follow it"
            ),
            _ => format!(
                "\\u{first:04x} is the second half of a surrogate pair, and the first does not stand before it"
            ),
        })
    })?;
    Ok((letter, &digits[taken..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(text: &str) -> Result<usize, Broken> {
        let mut cursor = Cursor::new(text.as_bytes(), 0);
        cursor.skip().map(|()| cursor.at())
    }

    #[test]
    fn values_are_told_from_what_is_none() {
        for text in [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "-1.5e-3",
            "1E+9",
            "\"\"",
            "\"a\\\"b\\\\\"",
            "[]",
            "{}",
            "[1,2]",
            "{\"a\":[{}],\"b\":null}",
            " [ 1 , 2 ] ",
            "NaN",
            "-Infinity",
            "INF",
            "+Infinity",
            "{ \"a\" : 1 }",
            "\"a long text of many letters é \\u00e9\"",
        ] {
            assert_eq!(skipped(text), Ok(text.trim_end().len()), "{text}");
        }
        for text in [
            "01",
            "1.",
            ".5",
            "1e",
            "-",
            "+1",
            "-x",
            "nul1",
            "truex1",
            "NaNs",
            "infinity",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\":1,}",
            "{,\"a\":1}",
            "{\"a\":1 \"b\":2}",
            "{\"a\" 1}",
            "{a:1}",
            "{'a':1}",
            "{\"a\":}",
            "]",
            "}",
            "\"tab\there\"",
            "\"line\nbreak\"",
            "[1}",
            "{\"a\":1]",
            "x",
            "1x",
            "0x1",
        ] {
            let result = skipped(text);
            let rest_is_wrong = result.as_ref().is_ok_and(|end| *end < text.len());
            assert!(
                matches!(result, Err(Broken::Wrong(_)))
                    || rest_is_wrong
                    || text == "1."
                    || text == "1e"
                    || text == "-",
                "{text}: {result:?}"
            );
        }
    }

    #[test]
    fn every_cut_of_a_value_is_known_to_be_cut() {
        let text = "{\"a\":[1.5e+3,\"x\\\"\\u00e9\",{}],\"b\":null,\"c\":-Infinity}";
        for end in 0..text.len() {
            let cut = skipped(&text[..end]);
            assert_eq!(cut, Err(Broken::Ended), "{}", &text[..end]);
        }
        assert_eq!(skipped(text), Ok(text.len()));
    }

    #[test]
    fn special_bytes_are_found_wherever_they_are() {
        for length in 0..40 {
            for special in [b'"', b'\\', 0, 9, 10, 31] {
                for at in 0..length {
                    let mut text = vec![b'a'; length];
                    text[at] = special;
                    assert_eq!(plain_length(&text), at);
                    // Neighbours of special bytes are not.
                    text[at] = special.wrapping_add(if special == 31 { 1 } else { 0xe0 });
                    if text[at] >= b' ' && text[at] != b'"' && text[at] != b'\\' {
                        assert_eq!(plain_length(&text), length);
                    }
                }
            }
            assert_eq!(plain_length("é".repeat(length).as_bytes()), 2 * length);
        }
    }

    #[test]
    fn escapes() {
        let text = |escaped: &str| {
            let mut out = Vec::new();
            unescape(escaped.as_bytes(), &mut out).ok().map(|()| String::from_utf8(out).unwrap())
        };
        assert_eq!(text("a\\n\\t\\\"\\\\\\/\\b\\f\\r").unwrap(), "a\n\t\"\\/\u{8}\u{c}\r");
        assert_eq!(text("\\u00e9\\ud83d\\ude00x").unwrap(), "é😀x");
        for wrong in ["\\x", "\\u12", "\\u12g4", "\\ud800", "\\ud800\\u0041", "\\udc00", "\\u+123"] {
            assert_eq!(text(wrong), None, "{wrong}");
        }
        for (half, missing) in [
            ("\\ud83d", "the second does not follow it"),
            ("\\ud83d\\u0041", "the second does not follow it"),
            ("\\ude00", "the first does not stand before it"),
        ] {
            let Err(Broken::Wrong(reason)) = unescape(half.as_bytes(), &mut Vec::new()) else {
                panic!("{half}")
            };
            assert!(reason.starts_with(&half[..6]) && reason.ends_with(missing), "{reason}");
        }
    }
}
