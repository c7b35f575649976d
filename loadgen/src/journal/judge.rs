//! A server's nodes held against the model of a journal: what is missing, wrong or too much.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::model::{Model, Node, OpenMulti, State};
use super::record::{Id, Kind};
use super::session::Stat;

/// A node as a server has it.
#[derive(Clone, Debug)]
pub struct Found {
    pub value: Vec<u8>,
    pub stat: Stat,
}

/// What a server has below the run's root, the root included.
pub type Tree = BTreeMap<String, Found>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Acknowledged and not there.
    Missing,
    /// There, but not in a state that the journal allows.
    Wrong,
    /// There, though its delete was acknowledged or nobody asked for it.
    Surplus,
    /// A multi of which a part is there and a part is not.
    Torn,
    /// An ephemeral node of a session that must be over.
    Outlived,
    /// An answer that does not fit the answers before it.
    Contradiction,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub fault: Fault,
    pub path: String,
    pub what: String,
}

/// How strictly a node is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Value, version, zxid and owner: what a crash, a failover or an import keeps.
    Whole,
    /// The value alone: what a tool that copies node by node keeps.
    Values,
}

/// Everything in which `tree` differs from what `model` allows, by path.
pub fn judge(model: &Model, tree: &Tree, strictness: Strictness) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, states) in &model.nodes {
        let finding = match tree.get(path) {
            None => missing(model, states),
            Some(found) => wrong(model, states, found, strictness),
        };
        findings.extend(finding.map(|(fault, what)| Finding { fault, path: path.clone(), what }));
    }
    let mut loose: BTreeSet<Id> = model.loose.clone();
    for (path, found) in tree {
        if model.nodes.contains_key(path) {
            continue;
        }
        let writer = model.header.writer(&found.value);
        // A sequential create of unknown outcome made one node, or none.
        if path.starts_with(&format!("{}/queue/", model.header.root))
            && writer.is_some_and(|writer| loose.remove(&writer))
        {
            continue;
        }
        let what = format!("nobody has asked for it; it holds {}", told(model, &found.value));
        findings.push(Finding { fault: Fault::Surplus, path: path.clone(), what });
    }
    findings.extend(model.multis.iter().filter_map(|multi| torn(model, multi, tree)));
    findings.sort_by(|left, right| (&left.path, left.fault).cmp(&(&right.path, right.fault)));
    findings
}

fn missing(model: &Model, states: &[State]) -> Option<(Fault, String)> {
    let mut nodes = Vec::new();
    for state in states {
        match state {
            State::Absent => return None,
            // Its session may have expired since; nobody would have told us.
            State::Present(node) if model.open_sessions.contains(&node.owner) => return None,
            State::Present(node) => nodes.push(node),
        }
    }
    let node = nodes.first()?;
    Some((Fault::Missing, format!("acknowledged: {}", expected(node))))
}

fn wrong(
    model: &Model,
    states: &[State],
    found: &Found,
    strictness: Strictness,
) -> Option<(Fault, String)> {
    let mut present = states.iter().filter_map(|state| match state {
        State::Absent => None,
        State::Present(node) => Some(node),
    });
    let writer = model.header.writer(&found.value);
    let fits = |node: &Node| {
        let stat = &found.stat;
        writer == Some(node.writer)
            && (strictness == Strictness::Values
                || node.version.is_none_or(|version| version == stat.version)
                    && node.zxid.is_none_or(|zxid| zxid == stat.modified_zxid)
                    && node.owner == stat.owner)
    };
    let mut nodes = present.clone();
    if nodes.any(fits) {
        return None;
    }
    let is = format!(
        "it holds {}, version {}, zxid 0x{:x}",
        told(model, &found.value),
        found.stat.version,
        found.stat.modified_zxid,
    );
    let Some(node) = present.next_back() else {
        let what = format!("its end was acknowledged, and it is there: {is}");
        return Some((if found.stat.owner == 0 { Fault::Surplus } else { Fault::Outlived }, what));
    };
    Some((Fault::Wrong, format!("acknowledged: {}; {is}", expected(node))))
}

fn expected(node: &Node) -> String {
    let mut text = format!("the value of operation {}", node.writer);
    if let Some(version) = node.version {
        text += &format!(", version {version}");
    }
    if let Some(zxid) = node.zxid {
        text += &format!(", zxid 0x{zxid:x}");
    }
    text
}

fn told(model: &Model, value: &[u8]) -> String {
    match model.header.writer(value) {
        Some(writer) => format!("the value of operation {writer}"),
        None => format!("{} bytes that this run has not written", value.len()),
    }
}

fn torn(model: &Model, multi: &OpenMulti, tree: &Tree) -> Option<Finding> {
    let done = multi.operations.iter().filter(|operation| {
        let found = tree.get(&operation.path);
        match operation.kind {
            Kind::Delete => found.is_none(),
            _ => found.is_some_and(|found| model.header.writer(&found.value) == Some(multi.id)),
        }
    });
    let (done, all) = (done.count(), multi.operations.len());
    let what = format!("{done} of {all} parts of the multi {} are done", multi.id);
    let path = multi.operations[0].path.clone();
    (done != 0 && done != all).then_some(Finding { fault: Fault::Torn, path, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOURNAL: &str = "ringkeeper-journal 1 r /j/r 10000 0\n\
        session 1 opened 5\n\
        ask 1 1 create:/j/r/w1/a\nok 1 1 10 0\n\
        ask 1 2 create:/j/r/w1/b\nok 1 2 11 0\n\
        ask 1 3 set:/j/r/w1/a\nok 1 3 12 1\n\
        ask 1 4 create:/j/r/w1/c\nok 1 4 13 0\n\
        ask 1 5 delete:/j/r/w1/c\nok 1 5 14 -\n\
        ask 1 6 sequential:/j/r/queue/n-\nunknown 1 6\n\
        ask 1 7 ephemeral:/j/r/w1/e\nok 1 7 15 0\n";

    fn found(writer: &str, version: i32, zxid: i64, owner: i64) -> Found {
        Found { value: writer.into(), stat: Stat { modified_zxid: zxid, version, owner } }
    }

    fn whole() -> Tree {
        Tree::from([
            ("/j/r/w1/a".to_owned(), found("r.1.3", 1, 0x12, 0)),
            ("/j/r/w1/b".to_owned(), found("r.1.2", 0, 0x11, 0)),
        ])
    }

    /// Asserts what is found in a whole tree after `change`.
    fn check(more: &str, change: impl FnOnce(&mut Tree), faults: &[(Fault, &str)]) {
        let model = Model::read(&format!("{JOURNAL}{more}")).unwrap();
        let mut tree = whole();
        change(&mut tree);
        let findings = judge(&model, &tree, Strictness::Whole);
        let found: Vec<_> = findings.iter().map(|of| (of.fault, of.path.as_str())).collect();
        assert_eq!(found, faults, "{findings:#?}");
    }

    #[test]
    fn each_fault_is_found_and_a_whole_tree_has_none() {
        let put = |path: &'static str, node| {
            move |tree: &mut Tree| drop(tree.insert(path.to_owned(), node))
        };
        check("", |_| (), &[]);
        check("", |tree| drop(tree.remove("/j/r/w1/b")), &[(Fault::Missing, "/j/r/w1/b")]);
        let wrong = [
            found("r.1.1", 0, 0x10, 0),
            found("r.1.3", 2, 0x12, 0),
            found("r.1.3", 1, 0x13, 0),
            found("r.1.3", 1, 0x12, 5),
            found("x", 1, 0x12, 0),
        ];
        for node in wrong {
            check("", put("/j/r/w1/a", node), &[(Fault::Wrong, "/j/r/w1/a")]);
        }
        let deleted = found("r.1.4", 0, 0x13, 0);
        check("", put("/j/r/w1/c", deleted), &[(Fault::Surplus, "/j/r/w1/c")]);
        check("", put("/j/r/w2", found("", 0, 1, 0)), &[(Fault::Surplus, "/j/r/w2")]);
    }

    #[test]
    fn a_sequential_create_of_unknown_outcome_made_one_node_at_most() {
        let node = || found("r.1.6", 0, 0x20, 0);
        let first = "/j/r/queue/n-0000000001".to_owned();
        let second = "/j/r/queue/n-0000000002".to_owned();
        check("", |tree| drop(tree.insert(first.clone(), node())), &[]);
        check(
            "",
            |tree| tree.extend([(first, node()), (second.clone(), node())]),
            &[(Fault::Surplus, &second)],
        );
    }

    #[test]
    fn an_ephemeral_node_may_stand_while_its_session_is_open_and_not_after() {
        let insert = |tree: &mut Tree| {
            tree.insert("/j/r/w1/e".to_owned(), found("r.1.7", 0, 0x15, 5));
        };
        check("", insert, &[]);
        check("session 1 closed 5\n", |_| (), &[]);
        check("session 1 closed 5\n", insert, &[(Fault::Outlived, "/j/r/w1/e")]);
    }

    #[test]
    fn half_a_multi_is_found() {
        let multi = "ask 1 8 set:/j/r/w1/a delete:/j/r/w1/b\nunknown 1 8\n";
        check(multi, |_| (), &[]);
        let half = |tree: &mut Tree| drop(tree.remove("/j/r/w1/b"));
        check(multi, half, &[(Fault::Torn, "/j/r/w1/a")]);
        check(
            multi,
            |tree| {
                half(tree);
                tree.insert("/j/r/w1/a".to_owned(), found("r.1.8", 2, 0x30, 0));
            },
            &[],
        );
    }

    #[test]
    fn a_copy_is_judged_by_its_values() {
        let model = Model::read(JOURNAL).unwrap();
        let mut tree = whole();
        tree.insert("/j/r/w1/a".to_owned(), found("r.1.3", 0, 0x99, 0));
        assert_eq!(judge(&model, &tree, Strictness::Whole).len(), 1);
        assert_eq!(judge(&model, &tree, Strictness::Values), Vec::new());
    }
}
