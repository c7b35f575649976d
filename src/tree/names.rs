//! A short ordered run of names in one allocation: what the nodes of a children's set hold.
//!
//! ```text
//! ThinArc   count 8 │ number of names 8 │ length 8 │ where each name ends, u32 each │ names
//! ```
//! A run never changes: whoever changes a directory makes a new one, since readers of older
//! versions have the old one.

use std::cmp::Ordering;

use triomphe::{Arc, ThinArc};

/// Names in ascending order, one after another. A clone costs one count.
#[derive(Clone, Debug)]
pub struct Names(ThinArc<usize, u8>);

/// Bytes of an end.
const END_BYTES: usize = size_of::<u32>();

/// What a run of usual length is filled with before its bytes are known.
const ZEROS: [u8; 4096] = [0; 4096];

impl Names {
    /// A run of `count` names and `size` bytes of them; `fill` is given the places of the ends and
    /// of the names, all zeros.
    fn new(count: usize, size: usize, fill: impl FnOnce(&mut [End], &mut [u8])) -> Names {
        let length = count * END_BYTES + number(size) as usize;
        let mut names = match ZEROS.get(..length) {
            Some(zeros) => ThinArc::from_header_and_slice(count, zeros),
            None => ThinArc::from_header_and_slice(count, &vec![0; length]),
        };
        names.with_arc_mut(|names| {
            let names = Arc::get_mut(names).expect("it was just made");
            let (ends, text) = names.slice_mut().split_at_mut(count * END_BYTES);
            let (ends, _) = ends.as_chunks_mut();
            fill(ends, text);
        });
        Names(names)
    }

    /// The run of `names`, which are in ascending order.
    pub fn from_sorted(names: &[&str]) -> Names {
        let size = names.iter().map(|name| name.len()).sum();
        Names::new(names.len(), size, |ends, text| {
            let mut start = 0;
            for (name, end) in names.iter().zip(ends) {
                text[start..][..name.len()].copy_from_slice(name.as_bytes());
                start += name.len();
                *end = encoded(start);
            }
        })
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.header.header
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of all names together.
    pub fn size(&self) -> usize {
        self.text().len()
    }

    fn ends(&self) -> &[End] {
        self.0.slice[..self.len() * END_BYTES].as_chunks().0
    }

    fn text(&self) -> &[u8] {
        &self.0.slice[self.len() * END_BYTES..]
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { decoded(self.ends()[index - 1]) }
    }

    fn bytes(&self, index: usize) -> &[u8] {
        &self.text()[self.start(index)..decoded(self.ends()[index])]
    }

    /// The name at `index`.
    pub fn name(&self, index: usize) -> &str {
        text_of(self.bytes(index))
    }

    /// Where `name` stands, or where it would.
    pub fn search(&self, name: &str) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.bytes(middle).cmp(name.as_bytes()) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// The same names with `name` at `index`, where it belongs.
    pub fn with(&self, index: usize, name: &str) -> Names {
        let (start, length) = (self.start(index), name.len());
        Names::new(self.len() + 1, self.size() + length, |ends, text| {
            let (before, after) = self.ends().split_at(index);
            ends[..index].copy_from_slice(before);
            ends[index] = encoded(start + length);
            move_ends(&mut ends[index + 1..], after, number(length));
            let (before, after) = self.text().split_at(start);
            text[..start].copy_from_slice(before);
            text[start..start + length].copy_from_slice(name.as_bytes());
            text[start + length..].copy_from_slice(after);
        })
    }

    /// The same names but for the one at `index`.
    pub fn without(&self, index: usize) -> Names {
        let (start, stop) = (self.start(index), decoded(self.ends()[index]));
        let length = stop - start;
        Names::new(self.len() - 1, self.size() - length, |ends, text| {
            ends[..index].copy_from_slice(&self.ends()[..index]);
            move_ends(&mut ends[index..], &self.ends()[index + 1..], number(length).wrapping_neg());
            text[..start].copy_from_slice(&self.text()[..start]);
            text[start..].copy_from_slice(&self.text()[stop..]);
        })
    }

    /// The names from `from` up to `to`, by themselves.
    pub fn part(&self, from: usize, to: usize) -> Names {
        let (start, stop) = (self.start(from), self.start(to));
        Names::new(to - from, stop - start, |ends, text| {
            move_ends(ends, &self.ends()[from..to], number(start).wrapping_neg());
            text.copy_from_slice(&self.text()[start..stop]);
        })
    }

    /// The names, in ascending order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { ends: self.ends().iter(), text: text_of(self.text()), start: 0 }
    }
}

/// The names of a run, whose text is looked through once and not for each.
pub struct Iter<'a> {
    ends: std::slice::Iter<'a, End>,
    text: &'a str,
    start: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let end = decoded(*self.ends.next()?);
        let name = &self.text[self.start..end];
        self.start = end;
        Some(name)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ends.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

fn text_of(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("names are put together from strs")
}

/// An end as it stands in the run: bytes, which need no alignment.
type End = [u8; END_BYTES];

fn encoded(end: usize) -> End {
    number(end).to_ne_bytes()
}

fn decoded(end: End) -> usize {
    u32::from_ne_bytes(end) as usize
}

fn number(end: usize) -> u32 {
    u32::try_from(end).expect("frames bound names")
}

/// Ends that lie `by` bytes further on, or back by its complement. No end is beyond the size of the
/// run, so none has to be looked at for itself: several are moved by one instruction.
fn move_ends(ends: &mut [End], old: &[End], by: u32) {
    for (end, old) in ends.iter_mut().zip(old) {
        *end = u32::from_ne_bytes(*old).wrapping_add(by).to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &Names) -> Vec<&str> {
        names.iter().collect()
    }

    #[test]
    fn names_stay_in_order_and_older_runs_as_they_were() {
        let mut names = Names::from_sorted(&[]);
        assert!(names.is_empty());
        for name in ["m", "", "zz", "a", "mm"] {
            let index = names.search(name).unwrap_err();
            names = names.with(index, name);
        }
        assert_eq!(list(&names), ["", "a", "m", "mm", "zz"]);
        assert_eq!(names.search("mm"), Ok(3));
        assert_eq!(names.search("b"), Err(2));
        let fewer = names.without(1).without(0);
        assert_eq!(list(&fewer), ["m", "mm", "zz"]);
        assert_eq!((fewer.size(), names.size()), (5, 6));
        assert_eq!(list(&Names::from_sorted(&list(&names))), list(&names));
        assert_eq!(list(&names.part(1, 3)), ["a", "m"]);
        assert_eq!((list(&names.part(0, 5)), names.part(5, 5).len()), (list(&names), 0));
    }

    #[test]
    fn a_name_may_be_longer_than_a_usual_run() {
        let long = "x".repeat(ZEROS.len() + 1);
        let names = Names::from_sorted(&["a"]).with(1, &long);
        assert_eq!(list(&names), ["a", &long]);
        assert_eq!(list(&names.without(0)), [&long]);
    }
}
