//! Text of strangers as it may be shown.

use std::borrow::Cow;

/// Whether the character does something to a line, or to a terminal, rather than being seen: control characters, line and
/// paragraph separators, and those that turn the direction of what follows.
pub(crate) fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

/// `text` on one line, with characters that act rather than being seen as they are written in programs: a name that data
/// brings can neither end a line of a log nor reach the terminal.
///
/// ```
/// assert_eq!(tidemill::visible("a\nb\u{1b}[0m\u{202e}"), "a\\nb\\u{1b}[0m\\u{202e}");
/// assert_eq!(tidemill::visible("größe"), "größe");
/// ```
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match acts(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}
