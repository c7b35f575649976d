//! Who has asked the leader through a follower that serves observers: its own clients, or one of
//! the observers.
//!
//! A leader answers the syncs that came on one connection in their order, and so the questions
//! whether a session lives; neither answer says whose it is.

use std::collections::VecDeque;

use crate::zab::output::LinkId;

/// So many answers may be awaited for observers and own clients, of either kind. Who asks for more
/// is disconnected.
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

    /// A sync goes to the leader; false if too many do.
    pub fn push_sync(&mut self, link: Option<LinkId>) -> bool {
        if self.is_serving {
            self.syncs.push_back(link);
        }
        self.syncs.len() <= COUNT_MAX
    }

    /// A question about a session goes to the leader; false if too many do.
    pub fn push_revalidation(&mut self, session: i64, link: Option<LinkId>) -> bool {
        if self.is_serving {
            self.revalidations.push_back((session, link));
        }
        self.revalidations.len() <= COUNT_MAX
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
    }
}
