//! The journal's file: one line for each thing that happened, words parted by one space.
//!
//! ```text
//! ringkeeper-journal 1 RUN ROOT SESSION_TIMEOUT_MS VALUE_BYTES   the first line
//! session WORKER opened|resumed|closed|expired ID                ID in hex
//! ask     WORKER NUMBER OPERATION...                             before it is sent
//! ok      WORKER NUMBER ZXID RESULT...                           acknowledged; one result for each
//! failed  WORKER NUMBER CODE INDEX                               refused: nothing was changed
//! unknown WORKER NUMBER                                          sent, and no answer came
//! ```
//!
//! An operation is `create:PATH`, `set:PATH`, `delete:PATH`, `check:PATH@VERSION`, `ephemeral:PATH`
//! or `sequential:PREFIX`; several in one line are one multi. A result is the node's version after
//! it, `-` where there is none, and the whole path for a sequential node. INDEX says which part of
//! a multi was refused. An `ask` without an outcome is as good as `unknown`: the journal's writer
//! was killed. A value is the text `RUN.WORKER.NUMBER` and dots up to VALUE_BYTES, so each node
//! tells which operation wrote it.

use std::fmt;

/// What the first line starts with; the number is the format's version.
const HEAD: &str = "ringkeeper-journal 1";

/// What every line of one file shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Names the run: a word of letters and digits.
    pub run: String,
    /// The directory that holds the run's nodes, and nothing else.
    pub root: String,
    pub session_timeout_ms: i32,
    pub value_bytes: usize,
}

/// The operation of a worker: its number counts up from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub worker: u32,
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Create,
    Set,
    Delete,
    /// A condition of a multi: the node has this version.
    Check(i32),
    Ephemeral,
    Sequential,
}

/// One operation, or one part of a multi.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub kind: Kind,
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    Opened,
    Resumed,
    Closed,
    Expired,
}

/// What came of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok { zxid: i64, results: Vec<String> },
    Failed { code: i32, index: usize },
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Session { worker: u32, event: SessionEvent, session: i64 },
    Ask { id: Id, operations: Vec<Operation> },
    Outcome { id: Id, outcome: Outcome },
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { run, root, session_timeout_ms, value_bytes } = self;
        write!(f, "{HEAD} {run} {root} {session_timeout_ms} {value_bytes}")
    }
}

impl Header {
    pub fn parse(line: &str) -> Option<Header> {
        let mut words = line.strip_prefix(HEAD)?.strip_prefix(' ')?.split(' ');
        let header = Header {
            run: words.next()?.to_owned(),
            root: words.next().filter(|root| root.starts_with('/'))?.to_owned(),
            session_timeout_ms: words.next()?.parse().ok()?,
            value_bytes: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(header)
    }

    /// What operation `id` writes into its nodes.
    pub fn value(&self, id: Id) -> String {
        let mut value = format!("{}.{}.{}", self.run, id.worker, id.number);
        while value.len() < self.value_bytes {
            value.push('.');
        }
        value
    }

    /// Which operation of this run wrote `value`; `None` when none did.
    pub fn writer(&self, value: &[u8]) -> Option<Id> {
        let text = std::str::from_utf8(value).ok()?;
        let mut words = text.strip_prefix(self.run.as_str())?.strip_prefix('.')?.split('.');
        let (worker, number) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let id = Id { worker, number };
        (self.value(id) == text).then_some(id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.worker, self.number)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match self.kind {
            Kind::Create => write!(f, "create:{path}"),
            Kind::Set => write!(f, "set:{path}"),
            Kind::Delete => write!(f, "delete:{path}"),
            Kind::Check(version) => write!(f, "check:{path}@{version}"),
            Kind::Ephemeral => write!(f, "ephemeral:{path}"),
            Kind::Sequential => write!(f, "sequential:{path}"),
        }
    }
}

impl Operation {
    fn parse(word: &str) -> Option<Operation> {
        let (kind, path) = word.split_once(':')?;
        let (kind, path) = match kind {
            "create" => (Kind::Create, path),
            "set" => (Kind::Set, path),
            "delete" => (Kind::Delete, path),
            "ephemeral" => (Kind::Ephemeral, path),
            "sequential" => (Kind::Sequential, path),
            "check" => {
                let (path, version) = path.rsplit_once('@')?;
                (Kind::Check(version.parse().ok()?), path)
            }
            _ => return None,
        };
        path.starts_with('/').then(|| Operation { kind, path: path.to_owned() })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::Session { worker, event, session } => {
                let event = match event {
                    SessionEvent::Opened => "opened",
                    SessionEvent::Resumed => "resumed",
                    SessionEvent::Closed => "closed",
                    SessionEvent::Expired => "expired",
                };
                write!(f, "session {worker} {event} {session:x}")
            }
            Record::Ask { id, operations } => {
                write!(f, "ask {id}")?;
                operations.iter().try_for_each(|operation| write!(f, " {operation}"))
            }
            Record::Outcome { id, outcome: Outcome::Ok { zxid, results } } => {
                write!(f, "ok {id} {zxid:x}")?;
                results.iter().try_for_each(|result| write!(f, " {result}"))
            }
            Record::Outcome { id, outcome: Outcome::Failed { code, index } } => {
                write!(f, "failed {id} {code} {index}")
            }
            Record::Outcome { id, outcome: Outcome::Unknown } => write!(f, "unknown {id}"),
        }
    }
}

impl Record {
    /// `None` when the line is none of a journal's.
    pub fn parse(line: &str) -> Option<Record> {
        let mut words = line.split(' ');
        let verb = words.next()?;
        let worker: u32 = words.next()?.parse().ok()?;
        if verb == "session" {
            let event = match words.next()? {
                "opened" => SessionEvent::Opened,
                "resumed" => SessionEvent::Resumed,
                "closed" => SessionEvent::Closed,
                "expired" => SessionEvent::Expired,
                _ => return None,
            };
            let session = u64::from_str_radix(words.next()?, 16).ok()?.cast_signed();
            return words.next().is_none().then_some(Record::Session { worker, event, session });
        }
        let id = Id { worker, number: words.next()?.parse().ok()? };
        let outcome = match verb {
            "ask" => {
                let operations: Vec<_> = words.map(Operation::parse).collect::<Option<_>>()?;
                return (!operations.is_empty()).then_some(Record::Ask { id, operations });
            }
            "ok" => Outcome::Ok {
                zxid: i64::from_str_radix(words.next()?, 16).ok()?,
                results: words.by_ref().map(str::to_owned).collect(),
            },
            "failed" => Outcome::Failed {
                code: words.next()?.parse().ok()?,
                index: words.next()?.parse().ok()?,
            },
            "unknown" => Outcome::Unknown,
            _ => return None,
        };
        words.next().is_none().then_some(Record::Outcome { id, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 10] = [
        "session 3 opened 10007f0a0001",
        "session 3 expired ffffffffffffffff",
        "ask 3 1 create:/j/a/w3/00000001",
        "ask 3 2 check:/j/a/w3/00000001@4 set:/j/a/w3/00000001 delete:/j/a/w3/00000002",
        "ask 3 3 sequential:/j/a/queue/n-",
        "ok 3 1 200000001 0",
        "ok 3 2 200000002 - 5 -",
        "ok 3 3 200000003 /j/a/queue/n-0000000007",
        "failed 3 4 -110 0",
        "unknown 3 5",
    ];

    #[test]
    fn lines_go_in_and_out_again() {
        for line in LINES {
            let record = Record::parse(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(record.to_string(), line);
        }
    }

    #[test]
    fn a_torn_line_is_none() {
        for bad in ["", "ask 3", "ask 3 1", "ask 3 1 crea", "ok 3", "ok 3 1", "failed 3 4 -11"] {
            assert_eq!(Record::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_value_tells_its_writer() {
        let header = Header::parse("ringkeeper-journal 1 r5f /j/r5f 10000 40").unwrap();
        assert_eq!(Header::parse(&header.to_string()).as_ref(), Some(&header));
        let id = Id { worker: 7, number: 1234 };
        let value = header.value(id);
        assert_eq!(value.len(), 40);
        assert_eq!(header.writer(value.as_bytes()), Some(id));
        assert_eq!(header.writer(&value.as_bytes()[..39]), None);
        assert_eq!(header.writer(b"r5f.7"), None);
        assert_eq!(Header::parse("ringkeeper-journal 2 r5f /j/r5f 10000 40"), None);
    }
}
