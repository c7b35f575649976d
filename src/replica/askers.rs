//! Who has asked the leader through a follower that serves observers: its own clients, or one of
//! the observers.
//!
//! A leader answers the syncs that came on one connection in their order, and so the questions
//! whether a session lives; neither answer says whose it is.

use std::collections::VecDeque;

use crate::replica::Replica;
use crate::wire::opcode::OpCode;
use crate::wire::quorum::{FromLeader, FromLearner};
use crate::zab::Zab;
use crate::zab::output::{Action, Event, LinkId, Role};

/// So many answers of either kind may be awaited. An observer that asks for more is disconnected;
/// own clients are bounded elsewhere.
const COUNT_MAX: usize = 200_000;

/// Whose the awaited answers are, oldest first: an observer's, or, where there is none, those of
/// this server itself.
#[derive(Debug, Default)]
pub(super) struct Askers {
    /// This server serves observers; without them nothing is kept.
    is_serving: bool,
    syncs: VecDeque<Option<LinkId>>,
    revalidations: VecDeque<(i64, Option<LinkId>)>,
}

impl Askers {
    /// The role has changed: what was asked before is not answered any more.
    pub fn begin(&mut self, is_serving: bool) {
        *self = Askers { is_serving, ..Askers::default() };
    }

    /// A sync goes to the leader; false if it must not, since too many for observers do.
    pub fn push_sync(&mut self, link: Option<LinkId>) -> bool {
        if link.is_some() && self.syncs.len() >= COUNT_MAX {
            return false;
        }
        if self.is_serving {
            self.syncs.push_back(link);
        }
        true
    }

    /// A question about a session goes to the leader; false as for a sync.
    pub fn push_revalidation(&mut self, session: i64, link: Option<LinkId>) -> bool {
        if link.is_some() && self.revalidations.len() >= COUNT_MAX {
            return false;
        }
        if self.is_serving {
            self.revalidations.push_back((session, link));
        }
        true
    }

    /// The oldest sync is answered: whose it was, if an observer's.
    pub fn pop_sync(&mut self) -> Option<LinkId> {
        self.syncs.pop_front().flatten()
    }

    /// The oldest question, about this session, is answered: whose it was, if an observer's.
    pub fn pop_revalidation(&mut self, session: i64) -> Option<LinkId> {
        self.revalidations.pop_front_if(|(asked, _)| *asked == session)?.1
    }
}

impl Replica {
    /// Passes on what an observer has to say.
    pub(super) fn take_observers(&mut self, event: Event) {
        match event {
            Event::Request { link, request, .. } => {
                let is_sync = request.op == OpCode::Sync.raw();
                let is_noted = !is_sync || self.askers.push_sync(Some(link));
                self.ask_leader(link, FromLearner::Request(request), is_noted);
            }
            Event::Revalidate { link, session, timeout_ms, .. } => {
                let is_noted = self.askers.push_revalidation(session, Some(link));
                let message = FromLearner::Revalidate { session, timeout_ms };
                self.ask_leader(link, message, is_noted);
            }
            Event::Touched { sessions, .. } => self.pipeline.handle_passed_on(&sessions),
            _ => unreachable!("learners say nothing else"),
        }
    }

    fn ask_leader(&mut self, link: LinkId, message: FromLearner, is_noted: bool) {
        let Role::Following { link: leader, .. } = self.role else { return };
        if is_noted {
            self.actions.push_back(Action::ToLeader { link: leader, message });
        } else {
            self.drop_learner(link);
        }
    }

    /// The leader has answered the oldest sync.
    pub(super) fn take_synced(&mut self) {
        match self.askers.pop_sync() {
            Some(link) => self.tell_observer(link, FromLeader::Sync),
            None => self.pipeline.handle_synced(),
        }
    }

    /// The leader has said whether a session lives.
    pub(super) fn take_revalidated(&mut self, session: i64, is_valid: bool) {
        match self.askers.pop_revalidation(session) {
            Some(link) => self.tell_observer(link, FromLeader::Revalidated { session, is_valid }),
            None => self.pipeline.handle_revalidated(session, is_valid, self.now),
        }
    }

    /// Passes on the leader's answer to an observer, unless that is gone.
    fn tell_observer(&mut self, link: LinkId, message: FromLeader) {
        let mut learners = self.zab.iter().flat_map(Zab::learners);
        if learners.any(|learner| learner.link == link) {
            self.actions.push_back(Action::ToLearner { link, message });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LinkId = LinkId(1);
    const B: LinkId = LinkId(2);

    #[test]
    fn answers_go_to_who_has_asked_in_order() {
        let mut askers = Askers::default();
        askers.begin(true);
        for link in [Some(A), None, Some(B)] {
            assert!(askers.push_sync(link));
            assert!(askers.push_revalidation(7, link));
        }
        assert_eq!([(); 4].map(|()| askers.pop_sync()), [Some(A), None, Some(B), None]);
        assert_eq!(askers.pop_revalidation(8), None, "an answer that nobody has asked for");
        assert_eq!([(); 3].map(|()| askers.pop_revalidation(7)), [Some(A), None, Some(B)]);
    }

    #[test]
    fn nothing_is_kept_without_observers_nor_from_one_leader_to_the_next() {
        let mut askers = Askers::default();
        assert!(askers.push_sync(Some(A)));
        assert_eq!(askers.pop_sync(), None);
        askers.begin(true);
        askers.push_sync(Some(A));
        askers.begin(true);
        assert_eq!(askers.pop_sync(), None);
    }

    #[test]
    fn their_number_is_bounded() {
        let mut askers = Askers::default();
        askers.begin(true);
        assert!((0..COUNT_MAX).all(|_| askers.push_sync(Some(A))));
        assert!(!askers.push_sync(Some(A)));
        assert!(askers.push_sync(None), "an own client's goes to the leader in any case");
        let noted = std::iter::from_fn(|| askers.syncs.pop_front());
        assert_eq!(noted.count(), COUNT_MAX + 1, "what was refused is not answered either");
    }
}
