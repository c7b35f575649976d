//! What servers must not do, whatever happens around them.

use std::collections::BTreeMap;

use ringkeeper::wire::quorum::ServerId;
use ringkeeper::zab::output::Role;
use ringkeeper::zxid::Zxid;

use crate::checker::check;
use crate::checker::history::History;
use crate::storage::Storage;

/// What is remembered of the servers.
#[derive(Debug, Default)]
pub struct Servers {
    leaders: BTreeMap<u32, usize>,
    /// How often a leadership was established.
    pub elections: u64,
}

impl Servers {
    /// A server's role has changed to `role`.
    pub fn handle_role(&mut self, server: usize, role: Role, log: &Storage, history: &mut History) {
        if let Role::Leading { epoch } = role {
            self.elections += 1;
            self.leadership(server, epoch);
            history.handle_established(server, log.starts_after);
            primary_integrity(server, epoch, log, history);
        }
    }

    /// Leadership1, Leadership2: an epoch has one leader, ever.
    fn leadership(&mut self, server: usize, epoch: u32) {
        let known = *self.leaders.entry(epoch).or_insert(server);
        check(known == server, "Leadership", || {
            format!("servers {known} and {server} both led epoch {epoch}")
        });
    }
}

/// PrimaryIntegrity: a primary has delivered all that was committed of epochs before its own when
/// it broadcasts. One that was frozen may be established behind a later one: it has no quorum left
/// to commit anything with.
fn primary_integrity(server: usize, epoch: u32, log: &Storage, history: &History) {
    let held = |zxid: Zxid| {
        let index = log.txns.partition_point(|(it, _)| *it < zxid);
        log.txns.get(index).filter(|(it, _)| *it == zxid).map(|(_, txn)| txn)
    };
    for (zxid, txn) in history.txns_between(log.starts_after, epoch) {
        check(held(zxid) == Some(txn), "PrimaryIntegrity", || {
            format!("server {server} leads epoch {epoch} and does not have {zxid}")
        });
    }
}

/// An ACK speaks of the disk.
pub fn acks_are_durable(server: usize, zxid: Zxid, durable: Zxid, epoch_on_disk: u32) {
    if zxid.counter() == 0 {
        check(epoch_on_disk == zxid.epoch(), "AcksAreDurable", || {
            format!("server {server} acks NEWLEADER {zxid} with currentEpoch {epoch_on_disk}")
        });
    } else {
        check(zxid <= durable, "AcksAreDurable", || {
            format!("server {server} acks {zxid} with a disk up to {durable}")
        });
    }
}

/// Votes speak of the disk.
pub fn votes_are_durable(server: usize, leader: ServerId, vote: Zxid, durable: Zxid) {
    let mine = leader.0 == server as i64 + 1;
    check(!mine || vote <= durable, "VotesAreDurable", || {
        format!("server {server} votes for itself with {vote}, its disk ends at {durable}")
    });
}
