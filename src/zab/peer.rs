//! What a server is whether it leads, follows or looks for a leader: its log's end, its epochs, and
//! what it asks of its surroundings.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::wire::quorum::ServerId;
use crate::zab::ensemble::{Ensemble, NextConfig};
use crate::zab::history::History;
use crate::zab::output::{Action, Event, Output, Recovered, Role, Standing};
use crate::zxid::Zxid;

/// The part of [`super::Zab`] that outlives a leadership.
#[derive(Debug)]
pub(super) struct Peer {
    pub ensemble: Arc<Ensemble>,
    /// Which members are proposed that this server has not, as others say.
    pub said: BTreeMap<ServerId, NextConfig>,
    pub history: History,
    /// How far the log is durable; never beyond its end.
    pub persisted: Zxid,
    /// How far the state is published.
    pub committed: Zxid,
    /// The last transaction that is known to be committed for certain (R10).
    pub certain: Zxid,
    /// The highest epoch that it has promised itself to; all that is known of it, which may be more
    /// than what is left on a damaged disk.
    pub accepted_epoch: u32,
    /// What `acceptedEpoch` on the disk says.
    pub accepted_epoch_saved: u32,
    pub current_epoch: u32,
    pub standing: Standing,
    pub role: Role,
    /// The log is being cut.
    pub is_truncating: bool,
    /// A snapshot is being taken in.
    pub is_receiving: bool,
    /// The file `currentEpoch` may not say what is known here.
    pub is_current_doubtful: bool,
    /// `acceptedEpoch` is being saved.
    pub saving_accepted: Option<u32>,
    /// `currentEpoch` is being saved.
    pub saving_current: Option<u32>,
    pub is_stopped: bool,
    outputs: VecDeque<Output>,
}

impl Peer {
    pub fn new(ensemble: Ensemble, recovered: Recovered) -> Peer {
        assert!(recovered.committed <= recovered.last, "the log ends before what is committed");
        let is_damaged = recovered.standing == Standing::Damaged;
        Peer {
            ensemble: Arc::new(ensemble),
            said: BTreeMap::new(),
            history: History::new(recovered.last),
            persisted: recovered.last,
            committed: recovered.committed,
            // An epoch's start is no transaction: a leader whose log ends before it may have all.
            certain: match recovered.committed.counter() {
                0 => Zxid::ZERO,
                _ => recovered.committed,
            },
            // Whose transactions it has, and in whose epoch it lives, it has accepted; where the
            // file that says so is lost, this is what is left of it.
            accepted_epoch: recovered
                .accepted_epoch
                .max(recovered.current_epoch)
                .max(recovered.last.epoch()),
            // After damage the files are written anew, even where the number stays.
            accepted_epoch_saved: if is_damaged { 0 } else { recovered.accepted_epoch },
            is_current_doubtful: is_damaged,
            current_epoch: recovered.current_epoch,
            standing: recovered.standing,
            role: Role::Looking,
            is_truncating: false,
            is_receiving: false,
            saving_accepted: None,
            saving_current: None,
            is_stopped: false,
            outputs: VecDeque::new(),
        }
    }

    pub fn me(&self) -> ServerId {
        self.ensemble.me
    }

    /// The end of the log.
    pub fn last(&self) -> Zxid {
        self.history.last()
    }

    pub fn init_limit(&self) -> Duration {
        self.ensemble.tick * self.ensemble.init_limit_ticks
    }

    pub fn sync_limit(&self) -> Duration {
        self.ensemble.tick * self.ensemble.sync_limit_ticks
    }

    /// Whether nothing is under way to the disk: a vote speaks of what is durable.
    pub fn is_settled_on_disk(&self) -> bool {
        self.persisted == self.last()
            && !self.is_truncating
            && !self.is_receiving
            && self.saving_accepted.is_none()
            && self.saving_current.is_none()
    }

    pub fn perform(&mut self, action: Action) {
        self.outputs.push_back(Output::Perform(action));
    }

    pub fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Tell(event));
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn set_role(&mut self, role: Role) {
        if self.role != role {
            self.role = role;
            self.tell(Event::Role(role));
        }
    }

    /// Appends what this server's leader has proposed, to the tree and to the log.
    pub fn accept(&mut self, zxid: Zxid, txn: Arc<[u8]>) {
        self.history.push(zxid, Arc::clone(&txn));
        self.note_proposed(zxid, &txn);
        self.tell(Event::Apply { zxid, txn: Arc::clone(&txn) });
        self.perform(Action::Append { zxid, txn });
    }

    /// Publishes everything up to `through`, which is committed for certain.
    pub fn commit(&mut self, through: Zxid, catches_up: bool) {
        assert!(through <= self.last(), "{through} is committed and not in the log");
        if through.counter() != 0 {
            self.certain = self.certain.max(through);
        }
        if through > self.committed {
            self.committed = through;
            self.tell(Event::Commit { through });
        }
        self.activate(through);
        self.prune(catches_up);
    }

    /// Keeps the history within its bounds. What is not on this server's disk stays: the log could
    /// not give it to a learner.
    fn prune(&mut self, catches_up: bool) {
        let (count, bytes) = (self.ensemble.commit_log_count, self.ensemble.commit_log_bytes_max);
        self.history.prune(self.committed.min(self.persisted), count, bytes, catches_up);
    }

    /// The log ends with `after` from here on, and the tree with it.
    pub fn truncate(&mut self, after: Zxid) {
        self.history.truncate(after);
        self.persisted = self.persisted.min(after);
        self.committed = self.committed.min(after);
        self.forget_config_after(after);
    }

    /// The state was replaced by that at `zxid`, durably.
    pub fn replace(&mut self, zxid: Zxid) {
        self.history = History::new(zxid);
        self.persisted = zxid;
        self.committed = zxid;
        // What was proposed here is gone with the log; the leader says what its state has of it.
        self.forget_config_after(Zxid::ZERO);
    }

    pub fn save_accepted_epoch(&mut self, epoch: u32) {
        assert!(epoch >= self.accepted_epoch, "a promise is not taken back");
        assert!(epoch > self.accepted_epoch_saved, "an epoch is accepted once");
        self.saving_accepted = Some(epoch);
        self.perform(Action::SaveAcceptedEpoch { epoch });
    }

    pub fn save_current_epoch(&mut self, epoch: u32) {
        assert!(epoch >= self.current_epoch, "epochs do not go back");
        assert!(epoch <= self.accepted_epoch, "an epoch is accepted before it is lived in");
        self.saving_current = Some(epoch);
        self.perform(Action::SaveCurrentEpoch { epoch });
    }

    /// Says loudly that going on would be wrong.
    pub fn stop(&mut self, reason: String) {
        tracing::error!(%reason, "the server stops");
        self.is_stopped = true;
        self.perform(Action::Stop { reason });
    }
}
