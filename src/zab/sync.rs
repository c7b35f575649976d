//! How a learner is brought into step with its leader (`LearnerHandler.syncFollower`).

use crate::zab::history::{History, Place};
use crate::zxid::Zxid;

/// How the leader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// What follows the end of the learner's log, from memory.
    Diff,
    /// The learner's log goes beyond what the two have in common, which ends with `after`: it
    /// loses the rest, and gets what follows.
    Trunc { after: Zxid },
    /// What follows the end of the learner's log, which lies before what memory holds: from the
    /// log, if it reaches so far, and a snapshot otherwise.
    Log,
    /// The whole state.
    Snap,
}

/// Chooses for a learner whose log ends with `peer_last`, under a leader that brings its learners
/// up to `through` (what is committed, or its initial history until that is).
pub fn choose(history: &History, through: Zxid, peer_last: Zxid) -> Opening {
    if peer_last == through {
        return Opening::Diff;
    }
    // Who claims nothing may hold something that it cannot take back: only a snapshot replaces it.
    if peer_last == Zxid::ZERO {
        return Opening::Snap;
    }
    // An epoch's start is no transaction: there is nothing that could be cut off behind it.
    let is_epoch_start = peer_last.counter() == 0;
    if peer_last > through {
        // Proposals have been made in an epoch only once a quorum had the history that it began
        // with, so the learner has everything up to `through`.
        return if is_epoch_start { Opening::Snap } else { Opening::Trunc { after: through } };
    }
    match history.locate(peer_last) {
        Place::Before(_) => Opening::Diff,
        // Apache's learners do not cut back into an earlier epoch.
        Place::Foreign { branch } if branch.epoch() == peer_last.epoch() => {
            Opening::Trunc { after: branch }
        }
        Place::Foreign { .. } => Opening::Snap,
        Place::Older => Opening::Log,
        Place::Newer => Opening::Snap,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn z(epoch: u32, counter: u32) -> Zxid {
        Zxid::new(epoch, counter)
    }

    /// Base (2, 5); then (2, 6) (2, 7) (4, 1) (4, 2) (4, 3), the last of which is not committed.
    fn check(peer_last: Zxid, expected: Opening) {
        let mut history = History::new(z(2, 5));
        for zxid in [z(2, 6), z(2, 7), z(4, 1), z(4, 2), z(4, 3)] {
            history.push(zxid, Arc::from(&[][..]));
        }
        assert_eq!(choose(&history, z(4, 2), peer_last), expected, "{peer_last}");
    }

    #[test]
    fn each_end_of_a_log_gets_what_apache_would_send() {
        check(z(4, 2), Opening::Diff);
        check(z(2, 5), Opening::Diff);
        check(z(2, 7), Opening::Diff);
        check(z(4, 0), Opening::Diff);
        check(z(3, 0), Opening::Diff);
        check(z(2, 8), Opening::Trunc { after: z(2, 7) });
        check(z(4, 3), Opening::Trunc { after: z(4, 2) });
        check(z(5, 1), Opening::Trunc { after: z(4, 2) });
        check(z(3, 1), Opening::Snap);
        check(z(5, 0), Opening::Snap);
        check(Zxid::ZERO, Opening::Snap);
        check(z(2, 4), Opening::Log);
        check(z(1, 9), Opening::Log);
    }

    #[test]
    fn nothing_is_in_step_with_nothing() {
        let history = History::new(Zxid::ZERO);
        assert_eq!(choose(&history, Zxid::ZERO, Zxid::ZERO), Opening::Diff);
        assert_eq!(choose(&history, Zxid::ZERO, z(1, 1)), Opening::Trunc { after: Zxid::ZERO });
    }
}
