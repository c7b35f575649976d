//! Records that nobody needs any more, to be written over.
//!
//! A write mostly replaces a record by one of the same length. Where the tree is large, what it
//! frees lies in another page than what it allocates, and the allocator's search for a page with
//! room cost as much as the whole record (800 instructions of a set's 9,600).
//!
//! A record comes here when the last reader that could need it has moved on, which the table may
//! learn a little later: it frees what was replaced by the batch. So spares wait in line, and the
//! one that has waited longest is written over, if nobody else has it by then.

use std::collections::VecDeque;

use crate::tree::record::{RecordHeader, RecordRef};

/// Lines, by the length modulo their number: writes of several lengths do not spoil each other's.
const LINES: usize = 16;

/// The spares of a line: twice what the table frees at once.
const SPARES_MAX: usize = 64;

/// The longest spare, in bytes of path and data, so that all lines together hold a megabyte at
/// most.
const SPARE_BYTES_MAX: usize = 1024;

/// Spare records, and the room in which new ones are put together.
#[derive(Default)]
pub struct Spares {
    lines: [VecDeque<RecordRef>; LINES],
    joined: Vec<u8>,
}

impl Spares {
    /// Keeps a record that no version needs, if it may be written over.
    pub fn keep(&mut self, record: RecordRef) {
        // A tombstone has its grave, and what holds other things would keep them from being freed.
        if record.length() > SPARE_BYTES_MAX || record.is_tombstone() || !record.is_bare() {
            return;
        }
        let line = &mut self.lines[record.length() % LINES];
        if line.len() == SPARES_MAX {
            line.pop_front();
        }
        line.push_back(record);
    }

    /// A record of these parts.
    pub(super) fn make(&mut self, header: RecordHeader, path: &[u8], data: &[u8]) -> RecordRef {
        let length = path.len() + data.len();
        let line = &mut self.lines[length % LINES];
        let spare = line.pop_front_if(|longest_kept| !longest_kept.is_shared());
        if let Some(mut spare) = spare.filter(|spare| spare.length() == length) {
            spare.write_over(header, path, data);
            return spare;
        }
        self.joined.clear();
        self.joined.extend_from_slice(path);
        self.joined.extend_from_slice(data);
        RecordRef::allocate(header, &self.joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::children::Children;
    use crate::tree::record::{Meta, Parts};

    fn record(path: &str, data: &[u8], spares: &mut Spares) -> RecordRef {
        let (meta, children) = (Meta::default(), Children::EMPTY);
        let parts = Parts { path, data: Some(data), meta, children, older: None };
        RecordRef::new(parts, spares)
    }

    #[test]
    fn a_spare_is_written_over_by_one_of_its_length_once_nobody_has_it() {
        let mut spares = Spares::default();
        let first = record("/a", b"data", &mut spares);
        let address = std::ptr::from_ref(first.meta());
        let reader = first.clone();
        spares.keep(first);
        let second = record("/b", b"DATA", &mut spares);
        assert_ne!(address, std::ptr::from_ref(second.meta()));
        assert_eq!((reader.path(), reader.data()), ("/a", Some(&b"data"[..])));
        drop(reader);
        let third = record("/abc", b"xy", &mut spares);
        assert_eq!(address, std::ptr::from_ref(third.meta()));
        assert_eq!((third.path(), third.data()), ("/abc", Some(&b"xy"[..])));
    }

    #[test]
    fn spares_are_bounded_and_hold_nothing_else() {
        let mut spares = Spares::default();
        let kept: Vec<RecordRef> = (0..200).map(|_| record("/a", b"", &mut spares)).collect();
        kept.iter().cloned().for_each(|record| spares.keep(record));
        let large = record("/a", &[0; SPARE_BYTES_MAX], &mut spares);
        let (meta, mut children) = (Meta::default(), Children::EMPTY);
        children.insert("child");
        let parent = large.with(meta, children, None, &mut spares);
        let (meta, children) = (Meta::default(), Children::EMPTY);
        let parts = Parts { path: "/c", data: None, meta, children, older: Some(parent.clone()) };
        let linked = RecordRef::new(parts, &mut spares);
        [large, parent, linked].into_iter().for_each(|record| spares.keep(record));
        assert_eq!(spares.lines.iter().map(VecDeque::len).sum::<usize>(), SPARES_MAX);
    }
}
