//! What has been changed and what was there before: the file that makes a revert exact.
//!
//! It is written before anything is changed, as a new file that takes the old one's place:
//!
//! ```text
//! ringkeeper tuning 1
//! knob vm.stat_interval
//! path proc/sys/vm/stat_interval
//! form words
//! old 1
//! ours 10
//! knob unit.file
//! path etc/systemd/system/ringkeeper.service
//! form text
//! absent
//! ours [Unit]\nDescription=…
//! made etc/systemd/system
//! crc32c 5d0b5a2f
//! ```
//!
//! `old` or `absent` is what was there before the first change, `ours` each value that may have
//! been left there, `beside` another file that changes along and what it held, `begun` says that
//! it is being put back, `made` a directory that was made. Line ends and backslashes are escaped.
//! The checksum covers all lines above it.

use std::fmt::Write as _;
use std::io;

use crate::form::Form;
use crate::system::{System, directory_of};

const HEAD: &str = "ringkeeper tuning 1";
/// The name of the file in the state directory.
const NAME: &str = "state";

/// One file that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The knob, by its id.
    pub knob: String,
    /// The file, without a leading slash.
    pub path: String,
    /// How it spells its value.
    pub form: Form,
    /// What it held before; `None` where it was not there.
    pub old: Option<String>,
    /// What may have been left in it; the last is what was wanted last.
    pub ours: Vec<String>,
    /// Files that the kernel changes along with it, and what they held before.
    pub beside: Vec<(String, String)>,
    /// Whether it is being put back: then those beside it may be yet to follow.
    pub begun: bool,
}

/// Everything that a revert puts back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// In the order in which the files were changed.
    pub records: Vec<Record>,
    /// Directories that were made, the outer ones first.
    pub made: Vec<String>,
}

/// Why the state is not at hand.
#[derive(Debug)]
pub enum StateError {
    /// The file system refuses.
    Io { path: String, source: io::Error },
    /// The file is there and is not what was written.
    Damaged { path: String, why: String },
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StateError::Io { path, source } => write!(f, "/{path}: {source}"),
            StateError::Damaged { path, why } => write!(
                f,
                "/{path} is damaged ({why}): it says what to put back, so nothing is changed; \
                 move it away to begin anew"
            ),
        }
    }
}

impl std::error::Error for StateError {}

impl State {
    /// Whether there is nothing to put back.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.made.is_empty()
    }

    /// The record of a file.
    pub fn record(&self, path: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.path == path)
    }

    /// The state in a directory; empty where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn load(system: &dyn System, directory: &str) -> Result<State, StateError> {
        let path = format!("{directory}/{NAME}");
        match system.read(&path) {
            Ok(text) => State::parse(&text).map_err(|why| StateError::Damaged { path, why }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(source) => Err(StateError::Io { path, source }),
        }
    }

    /// Makes this the state in a directory, durably; the file goes when there is nothing to keep.
    ///
    /// # Errors
    /// The state there is then the old one or this one.
    pub fn save(&self, system: &mut dyn System, directory: &str) -> Result<(), StateError> {
        let path = format!("{directory}/{NAME}");
        let saved = match self.is_empty() {
            true => remove(system, &path),
            false => make_directories(system, directory)
                .and_then(|()| replace(system, &path, &self.text())),
        };
        saved.map_err(|source| StateError::Io { path, source })
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = format!("{HEAD}\n");
        let mut line = |key: &str, value: &str| {
            writeln!(text, "{key} {}", escaped(value)).expect("a string takes it all");
        };
        for record in &self.records {
            line("knob", &record.knob);
            line("path", &record.path);
            line("form", record.form.name());
            match &record.old {
                Some(old) => line("old", old),
                None => line("absent", ""),
            }
            record.ours.iter().for_each(|value| line("ours", value));
            for (path, value) in &record.beside {
                line("beside", &format!("{path} {value}"));
            }
            if record.begun {
                line("begun", "");
            }
        }
        self.made.iter().for_each(|directory| line("made", directory));
        let sum = crc32c::crc32c(text.as_bytes());
        writeln!(text, "crc32c {sum:08x}").expect("a string takes it all");
        text
    }

    /// The inverse of [`State::text`]; an error says what is wrong.
    pub fn parse(text: &str) -> Result<State, String> {
        let body = text.trim_end_matches('\n');
        let at = body.rfind('\n').ok_or("it is not whole")? + 1;
        let (body, sum) = (&text[..at], body[at..].strip_prefix("crc32c "));
        let sum = sum.and_then(|sum| u32::from_str_radix(sum, 16).ok());
        if sum != Some(crc32c::crc32c(body.as_bytes())) {
            return Err("its checksum is wrong".to_owned());
        }
        let mut lines = body.lines();
        if lines.next() != Some(HEAD) {
            return Err("another version wrote it".to_owned());
        }
        let mut state = State::default();
        for line in lines {
            let (key, value) = line.split_once(' ').ok_or_else(|| format!("a line {line:?}"))?;
            let value = unescaped(value).ok_or_else(|| format!("a line {line:?}"))?;
            state.take(key, value).ok_or_else(|| format!("a line {line:?}"))?;
        }
        let whole = |record: &Record| !record.path.is_empty() && !record.ours.is_empty();
        if state.records.iter().all(whole) { Ok(state) } else { Err("a record ends early".into()) }
    }

    /// Takes a line. `None` where it has no place here.
    fn take(&mut self, key: &str, value: String) -> Option<()> {
        if key == "knob" {
            let empty = Record {
                knob: value,
                path: String::new(),
                form: Form::Words,
                old: None,
                ours: Vec::new(),
                beside: Vec::new(),
                begun: false,
            };
            self.records.push(empty);
            return Some(());
        }
        if key == "made" {
            self.made.push(value);
            return Some(());
        }
        let record = self.records.last_mut()?;
        match key {
            "path" => record.path = value,
            "form" => record.form = Form::named(&value)?,
            "old" => record.old = Some(value),
            "absent" => record.old = None,
            "ours" => record.ours.push(value),
            "beside" => {
                let (path, value) = value.split_once(' ')?;
                record.beside.push((path.to_owned(), value.to_owned()));
            }
            "begun" => record.begun = true,
            _ => return None,
        }
        Some(())
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescaped(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (letter, false) => plain.push(letter),
            (_, true) => plain.push(match letters.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            }),
        }
    }
    Some(plain)
}

/// Makes `text` the content of a file, durably: a crash leaves the old content or the new one.
///
/// # Errors
/// The file system refuses.
pub fn replace(system: &mut dyn System, path: &str, text: &str) -> io::Result<()> {
    let unfinished = unfinished(path);
    system.stage(&unfinished, text)?;
    system.rename(&unfinished, path)?;
    system.sync_directory(directory_of(path))
}

/// Removes a file and what an interrupted [`replace`] has left of it, durably. Neither need be
/// there.
///
/// # Errors
/// The file system refuses.
pub fn remove(system: &mut dyn System, path: &str) -> io::Result<()> {
    remove_unfinished(system, path)?;
    match system.remove(path) {
        Ok(()) => system.sync_directory(directory_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes what an interrupted [`replace`] has left beside a file. It need not be there.
///
/// # Errors
/// The file system refuses.
pub fn remove_unfinished(system: &mut dyn System, path: &str) -> io::Result<()> {
    match system.remove(&unfinished(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn unfinished(path: &str) -> String {
    format!("{path}.tmp")
}

/// Makes a directory and those above it, durably. They may be there.
///
/// # Errors
/// The file system refuses.
pub fn make_directories(system: &mut dyn System, path: &str) -> io::Result<()> {
    for missing in missing_directories(system, path) {
        system.make_directory(&missing)?;
        system.sync_directory(directory_of(&missing))?;
    }
    Ok(())
}

/// Of a directory and those above it the ones that are not there, the outer ones first.
pub fn missing_directories(system: &dyn System, path: &str) -> Vec<String> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    let all = ends.map(|end| path[..end].to_owned()).filter(|path| !path.is_empty());
    all.filter(|path| system.resolved(path).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = State> {
        let form = prop_oneof![Just(Form::Words), Just(Form::Text), Just(Form::Dirty)];
        let text = "[a-z\\\\\n\r é]{0,12}";
        let ours = prop::collection::vec(text, 1..4);
        let beside = prop::collection::vec(("[a-z/]{1,8}", text), 0..2);
        let old = prop::option::of(text);
        let names = ("[a-z.]{1,8}", "[a-z/]{1,12}");
        let record = (names, form, old, ours, beside, any::<bool>()).prop_map(
            |((knob, path), form, old, ours, beside, begun)| Record {
                knob,
                path,
                form,
                old,
                ours,
                beside,
                begun,
            },
        );
        let made = prop::collection::vec("[a-z/]{1,8}", 0..3);
        (prop::collection::vec(record, 0..5), made)
            .prop_map(|(records, made)| State { records, made })
    }

    proptest! {
        #[test]
        fn a_state_is_read_as_it_was_written(state in records()) {
            prop_assert_eq!(State::parse(&state.text()), Ok(state));
        }

        #[test]
        fn a_flipped_bit_is_seen(state in records(), at: prop::sample::Index, bit in 0..7u8) {
            let mut bytes = state.text().into_bytes();
            let at = at.index(bytes.len() - 1);
            bytes[at] ^= 1 << bit;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let same_sum = text.to_lowercase() == state.text().to_lowercase();
            prop_assert!(State::parse(&text).is_err() || same_sum, "{}", text);
        }
    }

    #[test]
    fn what_is_no_state_is_refused() {
        for text in ["", "\n", "crc32c 0", "ringkeeper tuning 1\n", "a\ncrc32c zz\n"] {
            assert!(State::parse(text).is_err(), "{text:?}");
        }
        let sealed = |body: &str| format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
        assert_eq!(State::parse(&sealed(&format!("{HEAD}\n"))), Ok(State::default()));
        for body in ["ringkeeper tuning 2\n", "ringkeeper tuning 1\nknob a\n"] {
            assert!(State::parse(&sealed(body)).is_err(), "{body:?}");
        }
        for line in ["path a", "old", "what a", "knob a\\x", "ours a"] {
            let body = format!("{HEAD}\n{line}\n");
            assert!(State::parse(&sealed(&body)).is_err(), "{body:?}");
        }
    }
}
