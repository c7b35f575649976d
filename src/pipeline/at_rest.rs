//! Sessions as a start finds them: those at the end of the log, and how they came to be so since
//! what is known to be committed. A leader may take the rest back, and the sessions with it.

use std::collections::BTreeMap;

use crate::pipeline::session::Sessions;
use crate::time::Time;
use crate::wire::txn::{Txn, TxnHeader};
use crate::zxid::Zxid;

/// The beginning or the end of a session, which may be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    zxid: Zxid,
    session: i64,
    timeout_ms: i32,
    is_begin: bool,
}

/// The sessions that a snapshot and the log behind it make.
#[derive(Clone, Debug, Default)]
pub struct SessionsAtRest {
    /// What is certain, with the timeouts in milliseconds.
    certain: BTreeMap<i64, i32>,
    at_end: BTreeMap<i64, i32>,
    turns: Vec<Turn>,
}

impl SessionsAtRest {
    /// Those of a snapshot, with their timeouts in milliseconds.
    pub fn new(sessions: impl IntoIterator<Item = (i64, i32)>) -> SessionsAtRest {
        let certain: BTreeMap<i64, i32> = sessions.into_iter().collect();
        SessionsAtRest { at_end: certain.clone(), certain, turns: Vec::new() }
    }

    /// Takes in what a transaction does to sessions; `is_certain` where nobody takes it back.
    /// Nothing is certain behind something that is not.
    pub fn apply(&mut self, header: &TxnHeader, txn: &Txn<'_>, is_certain: bool) {
        let TxnHeader { session, zxid, .. } = *header;
        let turn = match *txn {
            Txn::CreateSession { timeout_ms } => {
                let is_new = self.at_end.insert(session, timeout_ms).is_none();
                is_new.then_some((timeout_ms, true))
            }
            Txn::CloseSession { .. } => {
                self.at_end.remove(&session).map(|timeout_ms| (timeout_ms, false))
            }
            _ => None,
        };
        let Some((timeout_ms, is_begin)) = turn else { return };
        if !is_certain {
            self.turns.push(Turn { zxid, session, timeout_ms, is_begin });
            return;
        }
        assert!(self.turns.is_empty(), "what is certain comes first");
        match is_begin {
            true => self.certain.insert(session, timeout_ms),
            false => self.certain.remove(&session),
        };
    }

    /// Puts them into a tracker that has none, each with its whole timeout before it.
    pub fn revive(&self, sessions: &mut Sessions, now: Time) {
        for (&id, &timeout_ms) in &self.certain {
            sessions.create(id, timeout_ms, None, Zxid::ZERO, now);
        }
        sessions.handle_committed(Zxid::ZERO);
        for turn in &self.turns {
            match turn.is_begin {
                true => sessions.create(turn.session, turn.timeout_ms, None, turn.zxid, now),
                false => assert!(sessions.close(turn.session, turn.zxid), "it was there"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(session: i64, counter: u32) -> TxnHeader {
        TxnHeader { session, cxid: 0, zxid: Zxid::new(1, counter), time_ms: 0 }
    }

    /// The sessions after the leader has taken back what is later than the counter.
    fn check(at_rest: &SessionsAtRest, counter: u32, want: &[(i64, i32)]) {
        let now = Time::from_nanos(0);
        let mut sessions = Sessions::new(2000, 1, 5000);
        at_rest.revive(&mut sessions, now);
        sessions.pop_above(Zxid::new(1, counter), now);
        assert_eq!(sessions.iter().collect::<Vec<_>>(), want);
    }

    #[test]
    fn what_a_leader_takes_back_takes_sessions_back_with_it() {
        let mut at_rest = SessionsAtRest::new([(1, 100), (2, 200)]);
        let begin = |timeout_ms| Txn::CreateSession { timeout_ms };
        at_rest.apply(&header(3, 1), &begin(300), true);
        at_rest.apply(&header(1, 2), &Txn::CloseSession { paths: None }, true);
        at_rest.apply(&header(4, 3), &begin(400), false);
        at_rest.apply(&header(2, 4), &Txn::CloseSession { paths: None }, false);
        at_rest.apply(&header(4, 5), &Txn::CloseSession { paths: None }, false);
        check(&at_rest, 9, &[(3, 300)]);
        check(&at_rest, 4, &[(3, 300), (4, 400)]);
        check(&at_rest, 3, &[(2, 200), (3, 300), (4, 400)]);
        check(&at_rest, 2, &[(2, 200), (3, 300)]);
    }
}
