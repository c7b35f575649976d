//! zoo.cfg as written: Java's properties format, byte for byte, with the line of each entry.
//!
//! ```text
//! # a comment            ! another: only at the start of a line
//! key = value            the first unescaped '=', ':' or blank ends the key
//! key : value \          an odd number of backslashes at the end continues the line,
//!     and more           without the blanks that start the next one
//! k\u0065y               \u and four digits, \t \n \r \f; any other escaped character is itself
//! ```
//!
//! Keys and values are trimmed after that, as Apache's `QuorumPeerConfig` does. Java reads the
//! bytes as Latin-1; here they are UTF-8 when they are valid UTF-8 and Latin-1 otherwise, so that a
//! path with an accent means what its author saw.

use std::fmt::Write as _;

use thiserror::Error;

/// One entry of a properties file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// The line on which the entry starts, from 1.
    pub line: u32,
    /// The key, unescaped and trimmed; never empty.
    pub key: String,
    /// The value, unescaped and trimmed; empty when the line has none.
    pub value: String,
}

/// A properties file as written: every entry in order, repeated keys included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawConfig {
    /// The entries, by line.
    pub entries: Vec<RawEntry>,
}

/// A line that Java's properties format, or Apache's use of it, has no meaning for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: expected {expected}, found {found:?}")]
pub struct RawError {
    /// The line, from 1.
    pub line: u32,
    /// What would have been right.
    pub expected: &'static str,
    /// What stands there.
    pub found: String,
}

/// The most of a bad line that an error repeats, in characters.
const FOUND_CHARS_MAX: usize = 80;

impl RawConfig {
    /// Reads a properties file. Any bytes may be given; the memory used is a small multiple of
    /// their number.
    pub fn parse(bytes: &[u8]) -> Result<RawConfig, RawError> {
        let text = decode(bytes);
        let mut entries = Vec::new();
        for (line, text) in logical_lines(&text) {
            let (key, value) = split(&text);
            let key = unescape(key).map_err(|expected| fault(line, expected, &text))?;
            let value = unescape(value).map_err(|expected| fault(line, expected, &text))?;
            let key = trim(&key);
            if key.is_empty() {
                return Err(fault(line, "a key before the '='", &text));
            }
            entries.push(RawEntry { line, key: key.into(), value: trim(&value).into() });
        }
        Ok(RawConfig { entries })
    }

    /// The value that holds for `key`: the last one written.
    pub fn get(&self, key: &str) -> Option<&RawEntry> {
        self.entries.iter().rev().find(|entry| entry.key == key)
    }
}

fn fault(line: u32, expected: &'static str, found: &str) -> RawError {
    RawError { line, expected, found: found.chars().take(FOUND_CHARS_MAX).collect() }
}

fn decode(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        // A byte order mark would otherwise be part of the first key.
        Ok(text) => text.trim_start_matches('\u{feff}').into(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// Java's `String.trim`: everything up to and including the blank goes, at both ends.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|character| character <= ' ')
}

/// The blanks of the properties format.
fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\x0c')
}

/// Joins continued lines and drops blank ones and comments. Escapes are left in place.
fn logical_lines(text: &str) -> Vec<(u32, String)> {
    let mut lines = Vec::new();
    let mut current = String::new();
    let mut start = 0;
    for (index, natural) in natural_lines(text).enumerate() {
        let body = natural.trim_start_matches(is_blank);
        if current.is_empty() {
            // Also after a continuation that has brought nothing yet: so Java's reader has it.
            if body.starts_with(['#', '!']) {
                continue;
            }
            start = u32::try_from(index + 1).unwrap_or(u32::MAX);
        }
        let backslashes = body.bytes().rev().take_while(|&byte| byte == b'\\').count();
        if backslashes % 2 == 1 {
            current.push_str(&body[..body.len() - 1]);
        } else {
            current.push_str(body);
            if !current.is_empty() {
                lines.push((start, std::mem::take(&mut current)));
            }
        }
    }
    if !current.is_empty() {
        lines.push((start, current));
    }
    lines
}

/// Splits at `\n`, `\r` and `\r\n`.
fn natural_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let skip = if text[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&text[end + skip..]);
        Some(&text[..end])
    })
}

/// The key and the value of a logical line, still escaped.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|character| {
        let ends = !escaped && (is_blank(character) || matches!(character, '=' | ':'));
        escaped = !escaped && character == '\\';
        ends
    });
    let Some(end) = end else { return (line, "") };
    let value = line[end..].trim_start_matches(is_blank);
    let value = value.strip_prefix(['=', ':']).unwrap_or(value);
    (&line[..end], value.trim_start_matches(is_blank))
}

/// Resolves backslashes. The error is what was expected.
fn unescape(text: &str) -> Result<String, &'static str> {
    let mut plain = String::with_capacity(text.len());
    // A \u names a UTF-16 unit: a pair of them may make one character.
    let mut high: Option<u16> = None;
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        let unit = match character {
            '\\' => match rest.next() {
                Some('u') => Some(unicode_unit(&mut rest)?),
                Some(other) => {
                    flush(high.take(), None, &mut plain)?;
                    plain.push(escaped(other));
                    None
                }
                None => None,
            },
            other => {
                flush(high.take(), None, &mut plain)?;
                plain.push(other);
                None
            }
        };
        let Some(unit) = unit else { continue };
        match (high.take(), unit) {
            (None, 0xd800..=0xdbff) => high = Some(unit),
            (first, _) => flush(first, Some(unit), &mut plain)?,
        }
    }
    flush(high, None, &mut plain)?;
    Ok(plain)
}

fn escaped(character: char) -> char {
    match character {
        't' => '\t',
        'n' => '\n',
        'r' => '\r',
        'f' => '\x0c',
        other => other,
    }
}

fn unicode_unit(rest: &mut std::str::Chars<'_>) -> Result<u16, &'static str> {
    let mut unit = 0;
    for _ in 0..4 {
        let digit = rest.next().and_then(|digit| digit.to_digit(16));
        let digit = digit.ok_or("four hexadecimal digits after \\u")?;
        unit = unit << 4 | u16::try_from(digit).expect("a hexadecimal digit is below 16");
    }
    Ok(unit)
}

/// Appends the character of one or two UTF-16 units.
fn flush(first: Option<u16>, second: Option<u16>, plain: &mut String) -> Result<(), &'static str> {
    for character in char::decode_utf16(first.into_iter().chain(second)) {
        let character = character.map_err(|_| "a \\u escape that is a whole character")?;
        plain.write_char(character).expect("a string takes every character");
    }
    Ok(())
}
