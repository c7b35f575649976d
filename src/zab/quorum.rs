//! Which sets of voters decide, made ready for the hot path.

use std::sync::Arc;

use crate::wire::quorum::ServerId;
use crate::zab::ensemble::Ensemble;
use crate::zxid::Zxid;

/// The voters of an ensemble by index, and the test whether some of them are a quorum.
#[derive(Clone, Debug)]
pub struct Quorum {
    ensemble: Arc<Ensemble>,
    voters: Vec<ServerId>,
    /// More than half decide. Otherwise groups and weights do, or two sets of members, which costs
    /// an allocation.
    is_majority: bool,
}

impl Quorum {
    pub fn new(ensemble: &Arc<Ensemble>) -> Quorum {
        Quorum {
            voters: ensemble.voters().map(|voter| voter.id).collect(),
            is_majority: ensemble.next.is_none()
                && ensemble.voters().all(|voter| voter.group.is_none()),
            ensemble: Arc::clone(ensemble),
        }
    }

    /// How many voters there are.
    pub fn len(&self) -> usize {
        self.voters.len()
    }

    /// The index of `server`, if it votes.
    pub fn index(&self, server: ServerId) -> Option<usize> {
        self.voters.iter().position(|&voter| voter == server)
    }

    /// Whether the voter `index` is `server`.
    pub fn is(&self, index: usize, server: ServerId) -> bool {
        self.voters[index] == server
    }

    /// Whether the voters for whose index `is_in` holds are a quorum.
    pub fn contains(&self, is_in: impl Fn(usize) -> bool) -> bool {
        let inside = (0..self.voters.len()).filter(|&index| is_in(index));
        if self.is_majority {
            return inside.count() > self.voters.len() / 2;
        }
        self.ensemble.contains_quorum(inside.map(|index| self.voters[index]))
    }

    /// The latest zxid beyond `before` that a quorum has reached, where `acks` says how far each
    /// voter is; `before` if there is none.
    pub fn reached(&self, acks: &[Zxid], before: Zxid) -> Zxid {
        let mut best = before;
        for &candidate in acks {
            if candidate > best && self.contains(|index| acks[index] >= candidate) {
                best = candidate;
            }
        }
        best
    }
}
