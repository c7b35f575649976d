//! What the servers must hold, from the journal alone.
//!
//! Each node has one writer with one operation under way, so its history is a line. After an
//! acknowledged change the node has one possible state, after an unknown one it has those before
//! and those after. An answer that fits no possible state is a finding already: the servers have
//! contradicted themselves while the journal was written.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::record::{Header, Id, Kind, Operation, Outcome, Record, SessionEvent};
use crate::wire::{ERROR_NO_NODE, ERROR_NODE_EXISTS};

/// One state in which a node may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Absent,
    Present(Node),
}

/// A node as the journal knows it; `None` is what an unknown outcome leaves open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub writer: Id,
    pub version: Option<i32>,
    pub zxid: Option<i64>,
    /// The session of an ephemeral node, else 0.
    pub owner: i64,
}

/// A multi of unknown outcome: all of it is there, or nothing.
#[derive(Clone, Debug)]
pub struct OpenMulti {
    pub id: Id,
    /// Its changes of nodes whose state before was known, and that nobody has touched since.
    pub operations: Vec<Operation>,
}

/// How many lines said what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub acknowledged: u64,
    pub failed: u64,
    pub unknown: u64,
    pub sessions: u64,
    pub expired: u64,
}

pub struct Model {
    pub header: Header,
    /// By path: every state that the journal leaves possible, `Absent` included.
    pub nodes: BTreeMap<String, Vec<State>>,
    /// Sequential creates of unknown outcome: such nodes may be there under any name.
    pub loose: BTreeSet<Id>,
    pub multis: Vec<OpenMulti>,
    /// Sessions that nobody has closed, with the last that was heard of them.
    pub open_sessions: BTreeSet<i64>,
    /// Answers that contradict earlier ones.
    pub contradictions: Vec<String>,
    pub counts: Counts,
    asked: BTreeMap<Id, Vec<Operation>>,
    sessions: HashMap<u32, i64>,
    /// Acknowledged sequential nodes: zxid and name.
    sequence: Vec<(i64, String)>,
    zxids: HashMap<i64, Id>,
}

impl Model {
    /// Reads a whole journal. A last line that was torn off is left out; any other line that is
    /// none of a journal's is an error, told with its number.
    pub fn read(text: &str) -> Result<Model, String> {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let header = Header::parse(first).ok_or("this is not a journal: its first line is not")?;
        let mut model = Model::new(header);
        let mut lines = rest.split('\n').enumerate().peekable();
        while let Some((index, line)) = lines.next() {
            let is_last = lines.peek().is_none();
            match Record::parse(line) {
                // Without its newline even a line that can be read may be half of one.
                Some(record) if !is_last => {
                    model.apply(record).map_err(|what| format!("line {}: {what}", index + 2))?
                }
                _ if is_last => {}
                _ => return Err(format!("line {} is none of a journal's: {line}", index + 2)),
            }
        }
        model.finish();
        Ok(model)
    }

    fn new(header: Header) -> Model {
        Model {
            header,
            nodes: BTreeMap::new(),
            loose: BTreeSet::new(),
            multis: Vec::new(),
            open_sessions: BTreeSet::new(),
            contradictions: Vec::new(),
            counts: Counts::default(),
            asked: BTreeMap::new(),
            sessions: HashMap::new(),
            sequence: Vec::new(),
            zxids: HashMap::new(),
        }
    }

    fn apply(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Session { worker, event, session } => self.session(worker, event, session),
            Record::Ask { id, operations } => {
                if self.asked.insert(id, operations).is_some() {
                    return Err(format!("operation {id} is asked for twice"));
                }
            }
            Record::Outcome { id, outcome } => {
                let operations = self.asked.remove(&id);
                let operations = operations.ok_or(format!("operation {id} was not asked for"))?;
                match outcome {
                    Outcome::Ok { results, .. } if results.len() != operations.len() => {
                        return Err(format!("operation {id} has results for other parts"));
                    }
                    Outcome::Ok { zxid, results } => self.ok(id, &operations, zxid, &results),
                    Outcome::Failed { code, index } => self.failed(id, &operations, code, index),
                    Outcome::Unknown => self.unknown(id, operations),
                }
            }
        }
        Ok(())
    }

    fn session(&mut self, worker: u32, event: SessionEvent, session: i64) {
        match event {
            SessionEvent::Opened => {
                self.counts.sessions += 1;
                self.sessions.insert(worker, session);
                self.open_sessions.insert(session);
            }
            SessionEvent::Resumed => {}
            SessionEvent::Closed | SessionEvent::Expired => {
                self.counts.expired += u64::from(event == SessionEvent::Expired);
                self.open_sessions.remove(&session);
                for states in self.nodes.values_mut() {
                    end_of_owner(states, session);
                }
            }
        }
    }

    fn states(&mut self, path: &str) -> &mut Vec<State> {
        self.nodes.entry(path.to_owned()).or_insert_with(|| vec![State::Absent])
    }

    fn ok(&mut self, id: Id, operations: &[Operation], zxid: i64, results: &[String]) {
        self.counts.acknowledged += 1;
        // A delete's reply has no stat, and its header tells the server's newest zxid, if a later
        // one was applied meanwhile.
        let is_own = operations.iter().any(|of| !matches!(of.kind, Kind::Delete | Kind::Check(_)));
        if let Some(other) = is_own.then(|| self.zxids.insert(zxid, id)).flatten() {
            let what = format!("operations {other} and {id} both have zxid 0x{zxid:x}");
            self.contradictions.push(what);
        }
        for (operation, result) in operations.iter().zip(results) {
            let path = match operation.kind {
                Kind::Sequential => result,
                _ => &operation.path,
            };
            self.forget_multis(path);
            let before = self.states(path).clone();
            if let Err(what) = fits(&before, operation.kind, result) {
                self.contradictions.push(format!("operation {id} on {path}: {what}"));
            }
            let owner = self.sessions.get(&id.worker).copied().unwrap_or(0);
            let after = match operation.kind {
                Kind::Check(_) => continue,
                Kind::Delete => State::Absent,
                Kind::Set => {
                    let owner = before.iter().find_map(owner_of).unwrap_or(0);
                    let version = result.parse().ok();
                    State::Present(Node { writer: id, version, zxid: Some(zxid), owner })
                }
                Kind::Create | Kind::Sequential | Kind::Ephemeral => {
                    let owner = if operation.kind == Kind::Ephemeral { owner } else { 0 };
                    if operation.kind == Kind::Sequential {
                        self.sequence.push((zxid, path.clone()));
                    }
                    State::Present(Node { writer: id, version: Some(0), zxid: Some(zxid), owner })
                }
            };
            *self.states(path) = vec![after];
        }
    }

    /// The server has refused, so nothing has changed; what it said narrows what was possible.
    fn failed(&mut self, id: Id, operations: &[Operation], code: i32, index: usize) {
        self.counts.failed += 1;
        let Some(operation) = operations.get(index) else { return };
        if operation.kind == Kind::Sequential || operation.path == self.header.root {
            return;
        }
        let (keep, what): (fn(&State) -> bool, _) = match code {
            ERROR_NO_NODE => (|state| *state == State::Absent, "there is no such node"),
            ERROR_NODE_EXISTS => (|state| *state != State::Absent, "the node exists"),
            _ => return,
        };
        let states = self.states(&operation.path);
        if states.iter().any(keep) {
            states.retain(keep);
        } else {
            let path = &operation.path;
            let what = format!("operation {id} on {path} was refused: {what}");
            self.contradictions.push(what);
        }
    }

    fn unknown(&mut self, id: Id, operations: Vec<Operation>) {
        self.counts.unknown += 1;
        let mut decided = Vec::new();
        for operation in &operations {
            if operation.kind == Kind::Sequential {
                self.loose.insert(id);
                continue;
            }
            if matches!(operation.kind, Kind::Check(_)) {
                continue;
            }
            self.forget_multis(&operation.path);
            let owner = self.sessions.get(&id.worker).copied().unwrap_or(0);
            let states = self.states(&operation.path);
            if states.len() == 1 {
                decided.push(operation.clone());
            }
            let after: Vec<State> =
                states.iter().filter_map(|state| after(state, operation.kind, id, owner)).collect();
            for state in after {
                if !states.contains(&state) {
                    states.push(state);
                }
            }
        }
        if decided.len() > 1 {
            self.multis.push(OpenMulti { id, operations: decided });
        }
    }

    /// A later change of a node hides whether an earlier multi had touched it.
    fn forget_multis(&mut self, path: &str) {
        for multi in &mut self.multis {
            multi.operations.retain(|operation| operation.path != path);
        }
        self.multis.retain(|multi| multi.operations.len() > 1);
    }

    /// What was asked for and never answered is unknown; sequential names grow with the zxid.
    fn finish(&mut self) {
        for (id, operations) in std::mem::take(&mut self.asked) {
            self.unknown(id, operations);
        }
        self.sequence.sort();
        for pair in self.sequence.windows(2) {
            let [(_, earlier), (_, later)] = pair else { continue };
            if earlier >= later {
                let what = format!("{later} was made after {earlier}, with a name that is not");
                self.contradictions.push(what);
            }
        }
    }
}

/// Whether an acknowledged change of this kind is possible in one of the states.
fn fits(before: &[State], kind: Kind, result: &str) -> Result<(), &'static str> {
    let any = |fits: &dyn Fn(&State) -> bool| before.iter().any(fits);
    let present = any(&|state| *state != State::Absent);
    let follows = |state: &State| match state {
        State::Absent => false,
        State::Present(node) => {
            let version = result.parse::<i32>().ok();
            node.version.is_none_or(|before| version == Some(before.wrapping_add(1)))
        }
    };
    match kind {
        Kind::Create | Kind::Sequential | Kind::Ephemeral if !any(&|s| *s == State::Absent) => {
            Err("created, though it was there")
        }
        Kind::Set | Kind::Delete | Kind::Check(_) if !present => {
            Err("changed, though it could not be there")
        }
        Kind::Set if !any(&follows) => Err("its version does not follow the one before"),
        _ => Ok(()),
    }
}

/// The state that a change of unknown outcome may have led to; `None` when it cannot have worked.
fn after(state: &State, kind: Kind, id: Id, owner: i64) -> Option<State> {
    let node = |version, owner| Node { writer: id, version, zxid: None, owner };
    match (kind, state) {
        (Kind::Create, State::Absent) => Some(State::Present(node(Some(0), 0))),
        (Kind::Ephemeral, State::Absent) => Some(State::Present(node(Some(0), owner))),
        (Kind::Set, State::Present(before)) => {
            let version = before.version.map(|version| version.wrapping_add(1));
            Some(State::Present(node(version, before.owner)))
        }
        (Kind::Delete, State::Present(_)) => Some(State::Absent),
        _ => None,
    }
}

fn owner_of(state: &State) -> Option<i64> {
    match state {
        State::Absent => None,
        State::Present(node) => Some(node.owner),
    }
}

/// The nodes of a session that has ended are gone.
fn end_of_owner(states: &mut Vec<State>, session: i64) {
    if states.iter().any(|state| owner_of(state) == Some(session)) {
        states.retain(|state| owner_of(state) != Some(session));
        if !states.contains(&State::Absent) {
            states.push(State::Absent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(lines: &str) -> Model {
        Model::read(&format!("ringkeeper-journal 1 r /j/r 10000 0\n{lines}")).unwrap()
    }

    /// Asserts which states `/j/r/w1/a` may be in after `lines`: versions, or -1 for absent.
    fn check(lines: &str, states: &[i32]) -> Model {
        let model = model(lines);
        let version = |state: &State| match state {
            State::Absent => -1,
            State::Present(node) => node.version.unwrap(),
        };
        let mut found: Vec<i32> = model.nodes["/j/r/w1/a"].iter().map(version).collect();
        found.sort_unstable();
        assert_eq!(found, states, "{lines}");
        model
    }

    const MADE: &str = "session 1 opened 5\nask 1 1 create:/j/r/w1/a\nok 1 1 10 0\n";

    #[test]
    fn an_unknown_change_leaves_both_states_and_the_next_answer_decides() {
        check(MADE, &[0]);
        let unknown = format!("{MADE}ask 1 2 set:/j/r/w1/a\nunknown 1 2\n");
        check(&unknown, &[0, 1]);
        // The writer of the journal was killed: no outcome at all, and half a line.
        check(&format!("{MADE}ask 1 2 set:/j/r/w1/a\nok 1 2 11"), &[0, 1]);
        for version in [1, 2] {
            let lines = format!("{unknown}ask 1 3 set:/j/r/w1/a\nok 1 3 12 {version}\n");
            assert_eq!(check(&lines, &[version]).contradictions, Vec::<String>::new());
        }
        let lines = format!("{MADE}ask 1 2 delete:/j/r/w1/a\nunknown 1 2\n");
        check(&lines, &[-1, 0]);
        let gone = format!("{lines}ask 1 3 set:/j/r/w1/a\nfailed 1 3 -101 0\n");
        assert!(check(&gone, &[-1]).contradictions.is_empty());
        let there = format!("{lines}ask 1 3 create:/j/r/w1/a\nfailed 1 3 -110 0\n");
        assert!(check(&there, &[0]).contradictions.is_empty());
    }

    #[test]
    fn answers_that_contradict_earlier_ones_are_found() {
        for lines in [
            "ask 1 2 set:/j/r/w1/a\nfailed 1 2 -101 0\n",
            "ask 1 2 create:/j/r/w1/a\nok 1 2 11 0\n",
            "ask 1 2 set:/j/r/w1/a\nok 1 2 11 2\n",
            "ask 1 2 set:/j/r/w1/a\nok 1 2 10 1\n",
            "ask 1 2 delete:/j/r/w1/b\nok 1 2 11 -\n",
            "ask 1 2 sequential:/j/r/q/n-\nok 1 2 12 /j/r/q/n-5\n\
             ask 1 3 sequential:/j/r/q/n-\nok 1 3 13 /j/r/q/n-4\n",
        ] {
            let model = model(&format!("{MADE}{lines}"));
            assert_eq!(model.contradictions.len(), 1, "{lines} {:?}", model.contradictions);
        }
    }

    #[test]
    fn ephemeral_nodes_end_with_their_session_and_others_do_not() {
        let lines = "session 1 opened 5\nask 1 1 ephemeral:/j/r/w1/a\nok 1 1 10 0\n";
        assert_eq!(check(lines, &[0]).open_sessions.len(), 1);
        check(&format!("{lines}session 1 resumed 5\n"), &[0]);
        for end in ["closed", "expired"] {
            let model = check(&format!("{lines}session 1 {end} 5\n"), &[-1]);
            assert!(model.open_sessions.is_empty());
        }
        check(&format!("{MADE}session 1 closed 5\n"), &[0]);
    }

    #[test]
    fn an_open_multi_is_remembered_until_its_nodes_are_touched() {
        let multi = "ask 1 2 set:/j/r/w1/a create:/j/r/w1/b\nunknown 1 2\n";
        assert_eq!(check(&format!("{MADE}{multi}"), &[0, 1]).multis.len(), 1);
        let touched = format!("{MADE}{multi}ask 1 3 set:/j/r/w1/a\nok 1 3 12 1\n");
        assert_eq!(check(&touched, &[1]).multis.len(), 0);
    }

    #[test]
    fn a_line_that_is_none_is_refused_unless_it_is_the_last() {
        let bad = "ringkeeper-journal 1 r /j/r 10000 0\nok 1 1 10 0\n";
        assert!(Model::read(bad).is_err_and(|what| what.contains("line 2")));
        let bad = "ringkeeper-journal 1 r /j/r 10000 0\nnonsense\nunknown 1 1\n";
        assert!(Model::read(bad).is_err_and(|what| what.contains("line 2")));
        assert!(Model::read("something else\n").is_err());
    }
}
