//! A short ordered run of names in two allocations: what the nodes of a children's set hold.

/// Names in ascending order, one after another in a single string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Where each name ends in `text`.
    ends: Vec<u32>,
    text: String,
}

impl Names {
    /// How many names there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of all names together.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.ends[index - 1] as usize }
    }

    /// The name at `index`.
    pub fn name(&self, index: usize) -> &str {
        &self.text[self.start(index)..self.ends[index] as usize]
    }

    /// Where `name` stands, or where it would.
    pub fn search(&self, name: &str) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            let found = &self.text.as_bytes()[self.start(middle)..self.ends[middle] as usize];
            match found.cmp(name.as_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// Puts `name` at `index`, which must be where it belongs.
    pub fn insert(&mut self, index: usize, name: &str) {
        let start = self.start(index);
        let length = u32::try_from(name.len()).expect("frames bound names");
        // Exactly: a copy that grew by doubling would keep twice what it needs, for each leaf.
        self.text.reserve_exact(name.len());
        self.ends.reserve_exact(1);
        self.text.insert_str(start, name);
        self.ends.insert(index, start as u32);
        self.ends[index..].iter_mut().for_each(|end| *end += length);
    }

    /// Takes the name at `index` out.
    pub fn remove(&mut self, index: usize) {
        let (start, end) = (self.start(index), self.ends[index] as usize);
        self.text.replace_range(start..end, "");
        self.ends.remove(index);
        self.ends[index..].iter_mut().for_each(|later| *later -= (end - start) as u32);
    }

    /// Puts `name` in the place of the one at `index`.
    pub fn replace(&mut self, index: usize, name: &str) {
        self.remove(index);
        self.insert(index, name);
    }

    /// Cuts off the names from `index` on and returns them.
    pub fn split_off(&mut self, index: usize) -> Names {
        let start = self.start(index);
        let text = self.text.split_off(start);
        let mut ends = self.ends.split_off(index);
        ends.iter_mut().for_each(|end| *end -= start as u32);
        Names { ends, text }
    }

    /// Puts `names`, all of them greater, behind these.
    pub fn append(&mut self, names: &Names) {
        let size = u32::try_from(self.text.len() + names.text.len()).expect("frames bound names");
        let start = size - names.text.len() as u32;
        self.text.push_str(&names.text);
        self.ends.extend(names.ends.iter().map(|end| end + start));
    }

    /// Gives back what was allocated and is not used.
    pub fn shrink(&mut self) {
        self.ends.shrink_to_fit();
        self.text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &Names) -> Vec<&str> {
        (0..names.len()).map(|index| names.name(index)).collect()
    }

    #[test]
    fn names_stay_in_order_through_inserts_removals_splits_and_appends() {
        let mut names = Names::default();
        for name in ["m", "", "zz", "a", "mm"] {
            let index = names.search(name).unwrap_err();
            names.insert(index, name);
        }
        assert_eq!(list(&names), ["", "a", "m", "mm", "zz"]);
        assert_eq!(names.search("mm"), Ok(3));
        assert_eq!(names.search("b"), Err(2));
        names.remove(1);
        let tail = names.split_off(2);
        assert_eq!((list(&names), list(&tail)), (vec!["", "m"], vec!["mm", "zz"]));
        names.append(&tail);
        assert_eq!(list(&names), ["", "m", "mm", "zz"]);
        assert_eq!(names.size(), 5);
    }
}
