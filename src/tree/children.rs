//! The names of a znode's children: a persistent ordered set.
//!
//! A B-tree whose nodes are shared between versions. A clone costs one count; a change of a clone
//! copies the path from the root to one leaf, and changes in place what nobody shares. So the cost
//! grows with the tree's height: one leaf, and for each level one inner node with its counts. A
//! leaf's copy is a `memcpy`, while an inner node's touches each child's count: leaves are large
//! and inner nodes small.

use triomphe::{Arc, ThinArc};

use crate::tree::names::{self, Names};

/// The most names of a leaf: with 12 bytes a name, a leaf's copy moves about 1 KiB.
const LEAF_NAMES_MAX: usize = 64;
/// A leaf of more than one name splits beyond this many bytes, so that long names do not make
/// each change copy megabytes.
const LEAF_BYTES_MAX: usize = 2048;
/// The most children of an inner node.
const INNER_MAX: usize = 16;

/// An ordered set of names. Cloning is cheap, and the clones are independent.
#[derive(Clone)]
pub struct Children {
    root: Option<Node>,
    count: usize,
}

#[derive(Clone)]
enum Node {
    Leaf(Names),
    Inner(Inner),
}

/// One name for each child, and the children, in one allocation.
///
/// The name is not greater than any in the child, and greater than every one in the child before.
/// That of the first child is empty, below everything.
#[derive(Clone)]
struct Inner(ThinArc<Names, Node>);

impl Inner {
    fn new(firsts: Names, nodes: Vec<Node>) -> Inner {
        assert_eq!(firsts.len(), nodes.len());
        Inner(ThinArc::from_header_and_iter(firsts, nodes.into_iter()))
    }

    fn firsts(&self) -> &Names {
        &self.0.header.header
    }

    fn nodes(&self) -> &[Node] {
        &self.0.slice
    }

    /// The index of the child where `name` belongs.
    fn index_of(&self, name: &str) -> usize {
        self.firsts().search(name).unwrap_or_else(|index| index - 1)
    }

    /// Changes a child in place; what others have of this node stays as it is.
    fn change<T>(&mut self, index: usize, change: impl FnOnce(&mut Node) -> T) -> T {
        if ThinArc::strong_count(&self.0) > 1 {
            let nodes = self.nodes().iter().cloned();
            self.0 = ThinArc::from_header_and_iter(self.firsts().clone(), nodes);
        }
        self.0.with_arc_mut(|inner| {
            let inner = Arc::get_mut(inner).expect("nobody else has it");
            change(&mut inner.slice_mut()[index])
        })
    }

    /// Puts `nodes`, the first of which is that at `start` but for changes and begins with the same
    /// name, in the place of `count` children; the others begin with `firsts`.
    fn splice(&mut self, start: usize, count: usize, firsts: &[&str], nodes: Vec<Node>) {
        let mut all: Vec<Node> = self.nodes().to_vec();
        all.splice(start..start + count, nodes);
        let mut names: Vec<&str> = self.firsts().iter().collect();
        names.splice(start..start + count, firsts.iter().copied());
        if let Some(first) = names.first_mut() {
            *first = "";
        }
        *self = Inner::new(Names::from_sorted(&names), all);
    }
}

/// What an insertion did to a node.
enum Inserted {
    Present,
    Fits,
    /// The node's upper part stands apart; its names begin with this one.
    Split(String, Node),
}

impl Children {
    /// No name.
    pub const EMPTY: Children = Children { root: None, count: 0 };

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `name` is one of them.
    pub fn contains(&self, name: &str) -> bool {
        let mut node = match &self.root {
            Some(node) => node,
            None => return false,
        };
        loop {
            match node {
                Node::Leaf(names) => return names.search(name).is_ok(),
                Node::Inner(inner) => node = &inner.nodes()[inner.index_of(name)],
            }
        }
    }

    /// Adds `name`; false if it was there.
    pub fn insert(&mut self, name: &str) -> bool {
        let Some(root) = &mut self.root else {
            *self = Children { root: Some(Node::Leaf(Names::from_sorted(&[name]))), count: 1 };
            return true;
        };
        match insert(root, name) {
            Inserted::Present => return false,
            Inserted::Fits => {}
            Inserted::Split(first, upper) => {
                let firsts = Names::from_sorted(&["", &first]);
                *root = Node::Inner(Inner::new(firsts, vec![root.clone(), upper]));
            }
        }
        self.count += 1;
        true
    }

    /// Takes `name` out; false if it was not there.
    pub fn remove(&mut self, name: &str) -> bool {
        // Looked up first, because taking out copies what is shared on the way.
        if !self.contains(name) {
            return false;
        }
        self.count -= 1;
        let Some(root) = self.root.as_mut().filter(|_| self.count > 0) else {
            self.root = None;
            return true;
        };
        remove(root, name);
        while let Node::Inner(inner) = root
            && let [only] = inner.nodes()
        {
            *root = only.clone();
        }
        true
    }

    /// The set of `names`, which are in ascending order and without repetition.
    ///
    /// # Errors
    /// The first name that is not greater than the one before.
    pub fn from_sorted<'a>(names: impl Iterator<Item = &'a str>) -> Result<Children, &'a str> {
        let mut level: Vec<(String, Node)> = Vec::new();
        let mut leaf: Vec<&str> = Vec::new();
        let (mut last, mut count, mut size) = (None, 0, 0);
        for name in names {
            if last.is_some_and(|last| last >= name) {
                return Err(name);
            }
            last = Some(name);
            count += 1;
            if !leaf.is_empty() && is_full(leaf.len(), size, name) {
                level.push(leaf_of(&leaf));
                leaf.clear();
                size = 0;
            }
            leaf.push(name);
            size += name.len();
        }
        if !leaf.is_empty() {
            level.push(leaf_of(&leaf));
        }
        while level.len() > 1 {
            level = level.chunks(INNER_MAX).map(inner_of).collect();
        }
        Ok(Children { root: level.pop().map(|(_, node)| node), count })
    }

    /// The names in ascending order (of their bytes).
    pub fn iter(&self) -> Iter<'_> {
        let mut iter = Iter { inners: Vec::new(), leaf: None, left: self.count };
        if let Some(root) = &self.root {
            iter.descend(root);
        }
        iter
    }
}

fn leaf_of(names: &[&str]) -> (String, Node) {
    (names[0].to_owned(), Node::Leaf(Names::from_sorted(names)))
}

fn inner_of(chunk: &[(String, Node)]) -> (String, Node) {
    let mut firsts: Vec<&str> = chunk.iter().map(|(first, _)| first.as_str()).collect();
    firsts[0] = "";
    let nodes = chunk.iter().map(|(_, node)| node.clone()).collect();
    (chunk[0].0.clone(), Node::Inner(Inner::new(Names::from_sorted(&firsts), nodes)))
}

/// Whether `name` makes a leaf of so many names and bytes too large.
fn is_full(count: usize, size: usize, name: &str) -> bool {
    count == LEAF_NAMES_MAX || size + name.len() > LEAF_BYTES_MAX
}

/// Where to split `len` entries of which the one at `index` is new: ascending insertions leave full
/// nodes behind.
fn split_index(len: usize, index: usize) -> usize {
    if index + 1 == len { index } else { len / 2 }
}

fn insert(node: &mut Node, name: &str) -> Inserted {
    match node {
        Node::Leaf(leaf) => insert_in_leaf(leaf, name),
        Node::Inner(inner) => insert_in_inner(inner, name),
    }
}

fn insert_in_leaf(leaf: &mut Names, name: &str) -> Inserted {
    let Err(index) = leaf.search(name) else { return Inserted::Present };
    if !is_full(leaf.len(), leaf.size(), name) || leaf.is_empty() {
        *leaf = leaf.with(index, name);
        return Inserted::Fits;
    }
    if index == leaf.len() {
        // Nothing of a full leaf moves, so nothing of it is copied.
        return Inserted::Split(name.to_owned(), Node::Leaf(Names::from_sorted(&[name])));
    }
    let count = leaf.len();
    let at = split_index(count + 1, index);
    let (lower, upper) = match index < at {
        true => (leaf.part(0, at - 1).with(index, name), leaf.part(at - 1, count)),
        false => (leaf.part(0, at), leaf.part(at, count).with(index - at, name)),
    };
    *leaf = lower;
    Inserted::Split(upper.name(0).to_owned(), Node::Leaf(upper))
}

fn insert_in_inner(inner: &mut Inner, name: &str) -> Inserted {
    let index = inner.index_of(name);
    let (first, upper) = match inner.change(index, |node| insert(node, name)) {
        Inserted::Split(first, upper) => (first, upper),
        done => return done,
    };
    let firsts = inner.firsts().with(index + 1, &first);
    let mut nodes = Vec::with_capacity(INNER_MAX + 1);
    nodes.extend_from_slice(inner.nodes());
    nodes.insert(index + 1, upper);
    let count = nodes.len();
    if count <= INNER_MAX {
        *inner = Inner::new(firsts, nodes);
        return Inserted::Fits;
    }
    let at = split_index(count, index + 1);
    let upper = Inner::new(firsts.part(at, count).without(0).with(0, ""), nodes.split_off(at));
    *inner = Inner::new(firsts.part(0, at), nodes);
    Inserted::Split(firsts.name(at).to_owned(), Node::Inner(upper))
}

/// Takes out a name that is there. The node may be left empty.
fn remove(node: &mut Node, name: &str) {
    match node {
        Node::Leaf(leaf) => {
            let index = leaf.search(name).expect("the caller has found it");
            *leaf = leaf.without(index);
        }
        Node::Inner(inner) => {
            let index = inner.index_of(name);
            inner.change(index, |node| remove(node, name));
            tidy(inner, index);
        }
    }
}

/// Drops the child at `index` if it is empty, and merges it with a neighbour if both are small.
fn tidy(inner: &mut Inner, index: usize) {
    if weight(&inner.nodes()[index]) == 0 {
        inner.splice(index, 1, &[], Vec::new());
        return;
    }
    // A quarter full: well apart from where a split leaves off, so nothing flutters.
    if weight(&inner.nodes()[index]) > WEIGHT_MAX / 4 {
        return;
    }
    for left in [index.wrapping_sub(1), index] {
        let Some([lower, upper]) = inner.nodes().get(left..).and_then(<[_]>::first_chunk) else {
            continue;
        };
        if weight(lower) + weight(upper) > WEIGHT_MAX / 2 {
            continue;
        }
        let first = inner.firsts().name(left).to_owned();
        let both = merged(lower, upper, inner.firsts().name(left + 1));
        inner.splice(left, 2, &[&first], vec![both]);
        return;
    }
}

/// One node of two neighbours, of which the upper one begins with `first`.
fn merged(lower: &Node, upper: &Node, first: &str) -> Node {
    match (lower, upper) {
        (Node::Leaf(lower), Node::Leaf(upper)) => {
            let names: Vec<&str> = lower.iter().chain(upper.iter()).collect();
            Node::Leaf(Names::from_sorted(&names))
        }
        (Node::Inner(lower), Node::Inner(upper)) => {
            let rest = upper.firsts().iter().skip(1);
            let firsts: Vec<&str> = lower.firsts().iter().chain([first]).chain(rest).collect();
            let nodes = [lower.nodes(), upper.nodes()].concat();
            Node::Inner(Inner::new(Names::from_sorted(&firsts), nodes))
        }
        _ => unreachable!("all leaves stand at the same depth"),
    }
}

/// The weight of a full node, of either kind and by either measure.
const WEIGHT_MAX: usize = 1024;

/// How full a node is; 0 only if it is empty.
fn weight(node: &Node) -> usize {
    match node {
        Node::Leaf(leaf) => {
            let by_count = leaf.len() * WEIGHT_MAX / LEAF_NAMES_MAX;
            by_count.max(leaf.size() * WEIGHT_MAX / LEAF_BYTES_MAX)
        }
        Node::Inner(inner) => inner.nodes().len() * WEIGHT_MAX / INNER_MAX,
    }
}

/// The names of a set in order.
pub struct Iter<'a> {
    inners: Vec<std::slice::Iter<'a, Node>>,
    leaf: Option<names::Iter<'a>>,
    left: usize,
}

impl<'a> Iter<'a> {
    fn descend(&mut self, mut node: &'a Node) {
        loop {
            match node {
                Node::Leaf(names) => {
                    self.leaf = Some(names.iter());
                    return;
                }
                Node::Inner(inner) => {
                    let mut nodes = inner.nodes().iter();
                    node = nodes.next().expect("inner nodes have children");
                    self.inners.push(nodes);
                }
            }
        }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        loop {
            if let Some(name) = self.leaf.as_mut()?.next() {
                self.left -= 1;
                return Some(name);
            }
            self.leaf = None;
            while let Some(nodes) = self.inners.last_mut() {
                if let Some(node) = nodes.next() {
                    self.descend(node);
                    break;
                }
                self.inners.pop();
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Checks what a B-tree promises, and that it holds what `expected` does.
    fn check(children: &Children, expected: &BTreeSet<String>) {
        let names: Vec<&str> = children.iter().collect();
        assert_eq!(names, expected.iter().collect::<Vec<_>>());
        assert_eq!(children.len(), expected.len());
        assert_eq!(children.iter().len(), expected.len());
        if let Some(root) = &children.root {
            check_node(root, "", None);
        }
    }

    /// Returns the height.
    fn check_node(node: &Node, first: &str, end: Option<&str>) -> usize {
        match node {
            Node::Leaf(names) => {
                assert!(!names.is_empty() && names.len() <= LEAF_NAMES_MAX);
                assert!(names.size() <= LEAF_BYTES_MAX || names.len() == 1);
                assert!(names.name(0) >= first);
                assert!(end.is_none_or(|end| names.name(names.len() - 1) < end));
                0
            }
            Node::Inner(inner) => {
                let count = inner.nodes().len();
                assert!((1..=INNER_MAX).contains(&count) && inner.firsts().len() == count);
                assert_eq!(inner.firsts().name(0), "");
                let heights = inner.nodes().iter().enumerate().map(|(index, node)| {
                    let first = if index == 0 { first } else { inner.firsts().name(index) };
                    let end =
                        if index + 1 == count { end } else { Some(inner.firsts().name(index + 1)) };
                    check_node(node, first, end)
                });
                let heights: BTreeSet<usize> = heights.collect();
                assert_eq!(heights.len(), 1, "all leaves stand at the same depth");
                1 + heights.first().unwrap()
            }
        }
    }

    fn leaf_count(node: &Node) -> usize {
        match node {
            Node::Leaf(_) => 1,
            Node::Inner(inner) => inner.nodes().iter().map(leaf_count).sum(),
        }
    }

    #[test]
    fn ascending_names_fill_their_leaves() {
        let mut children = Children::EMPTY;
        let names: BTreeSet<String> = (0..20_000).map(|n| format!("lock-{n:010}")).collect();
        for name in &names {
            assert!(children.insert(name));
        }
        check(&children, &names);
        let leaves = leaf_count(children.root.as_ref().unwrap());
        assert!(leaves <= 20_000 / LEAF_NAMES_MAX + 1, "{leaves}");
    }

    #[test]
    fn a_queue_of_names_stays_as_small_as_what_it_holds() {
        let mut children = Children::EMPTY;
        let mut names = BTreeSet::new();
        for n in 0..20_000 {
            names.insert(format!("{n:08}"));
            assert!(children.insert(&format!("{n:08}")));
            if n >= 100 {
                names.remove(&format!("{:08}", n - 100));
                assert!(children.remove(&format!("{:08}", n - 100)));
            }
        }
        check(&children, &names);
        assert!(leaf_count(children.root.as_ref().unwrap()) <= 4);
    }

    #[test]
    fn names_of_a_megabyte_work() {
        let mut children = Children::EMPTY;
        let mut names = BTreeSet::new();
        for n in 0..12 {
            let name = format!("{n:02}{}", "x".repeat(if n % 3 == 0 { 1 << 20 } else { 700 }));
            assert!(children.insert(&name));
            assert!(!children.insert(&name));
            names.insert(name);
        }
        check(&children, &names);
        for name in names.clone() {
            assert!(children.remove(&name));
            names.remove(&name);
            check(&children, &names);
        }
    }

    #[test]
    fn what_is_not_sorted_is_refused() {
        assert_eq!(Children::from_sorted(["a", "c", "b"].into_iter()).err(), Some("b"));
        assert_eq!(Children::from_sorted(["a", "a"].into_iter()).err(), Some("a"));
        check(&Children::from_sorted([].into_iter()).unwrap(), &BTreeSet::new());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        /// Grows and shrinks in waves, so that nodes split, merge and vanish at every height;
        /// clones taken on the way keep what they had.
        #[test]
        fn a_set_is_a_set_and_its_clones_are_their_own(
            seed in any::<u64>(),
            start in 0..3000_usize,
            waves in prop::collection::vec((any::<bool>(), 0..2500_usize), 1..6),
        ) {
            let name = |n: u64| format!("{:05}", n % 5000);
            let mut state = seed | 1;
            let mut random = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20
            };
            let mut names: BTreeSet<String> = (0..start as u64).map(name).collect();
            let sorted = names.iter().map(String::as_str);
            let mut children = Children::from_sorted(sorted).unwrap();
            check(&children, &names);
            let mut clones = vec![];
            for (grows, count) in waves {
                clones.push((children.clone(), names.clone()));
                for _ in 0..count {
                    let name = match grows || random() % 4 == 0 {
                        true => name(random()),
                        // Something that is there, as a rule.
                        false => names.range(name(random())..).next().cloned().unwrap_or_default(),
                    };
                    match grows {
                        true => assert_eq!(children.insert(&name), names.insert(name)),
                        false => assert_eq!(children.remove(&name), names.remove(&name)),
                    }
                }
                check(&children, &names);
                prop_assert!(names.iter().all(|name| children.contains(name)));
                prop_assert!(!children.contains("x"));
            }
            for (children, names) in &clones {
                check(children, names);
            }
        }
    }
}
