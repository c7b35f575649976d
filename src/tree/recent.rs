//! The newest records of the paths that the writer has been at last: a write is checked, applied
//! and answered, and each step wants the same znode or two.

use crate::tree::record::RecordRef;

/// A znode and its parent.
const PLACES: usize = 2;

/// A path's hash and its newest record, as the table has them.
type Place = Option<(u64, RecordRef)>;

/// The paths that the writer has been at last, with their newest records.
#[derive(Default)]
pub struct Recent {
    places: [Place; PLACES],
    next: usize,
}

impl Recent {
    /// The hash and the newest record of `path`, if it is one of them.
    pub fn get(&self, path: &[u8]) -> Option<(u64, &RecordRef)> {
        let mut places = self.places.iter().flatten();
        places.find(|(_, record)| record.path_bytes() == path).map(|(hash, record)| (*hash, record))
    }

    /// Takes in that `record` is the newest of its path.
    pub fn keep(&mut self, hash: u64, record: RecordRef) {
        let is_same = |place: &Place| place.as_ref().is_some_and(|(_, of)| *of == record);
        let index = self.places.iter().position(is_same).unwrap_or_else(|| {
            self.next = (self.next + 1) % PLACES;
            self.next
        });
        self.places[index] = Some((hash, record));
    }

    /// Forgets all: the table is changed by other ways.
    pub fn clear(&mut self) {
        self.places = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::record::tests::record;

    #[test]
    fn the_last_two_paths_are_known_by_their_newest_records() {
        let mut recent = Recent::default();
        let version =
            |recent: &Recent, path: &str| recent.get(path.as_bytes()).map(|it| it.1.meta().version);
        recent.keep(1, record("/a", 1));
        recent.keep(2, record("/b", 2));
        recent.keep(1, record("/a", 3));
        assert_eq!((version(&recent, "/a"), version(&recent, "/b")), (Some(3), Some(2)));
        assert_eq!(recent.get(b"/b").map(|it| it.0), Some(2));
        recent.keep(3, record("/c", 4));
        assert_eq!(version(&recent, "/c"), Some(4));
        assert_eq!([version(&recent, "/a"), version(&recent, "/b")].iter().flatten().count(), 1);
        recent.clear();
        assert_eq!(version(&recent, "/c"), None);
    }
}
