//! How what is under way arrives, and how what a server asks for is done.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::wire::quorum::{FromLeader, FromLearner, ServerId};
use crate::zab::Zab;
use crate::zab::output::{Action, CannotTruncate, Event, LinkId, LogGap, Output, Role, Standing};
use crate::zab::tests::cluster::{Cluster, Link, Log, Mail, Node, Queue, Txn, Work};
use crate::zab::tests::invariants::LinkChecker;
use crate::zxid::Zxid;

// ── Deliveries ──
impl Cluster {
    pub fn take(&mut self, queue: Queue) {
        match queue {
            Queue::Notification(from, to) => {
                let notification = self.notifications.remove(&(from, to)).expect("listed");
                let (doing, vote) = (notification.doing, notification.vote);
                let round = notification.round;
                self.trace
                    .push(format!("{:?} {to} <- {from}: {doing:?} {round} {vote:?}", self.now));
                if self.nodes[&to].is_up() {
                    self.with(to, |zab, now| zab.handle_notification(now, from, notification));
                }
            }
            Queue::ToLeader(id) => {
                let link = self.links.get_mut(&id).expect("listed");
                let (to, mail) = (link.leader, link.to_leader.pop_front().expect("listed"));
                self.trace.push(format!("{:?} {} <- {}: {mail:?}", self.now, to, link.learner));
                if link.is_open[0] || matches!(mail, Mail::Connect { .. }) {
                    self.deliver_to_leader(id, to, mail);
                }
            }
            Queue::ToLearner(id) => {
                let link = self.links.get_mut(&id).expect("listed");
                let (to, mail) = (link.learner, link.to_learner.pop_front().expect("listed"));
                if !matches!(mail, Mail::Snapshot(..)) {
                    self.trace.push(format!("{:?} {} <- {}: {mail:?}", self.now, to, link.leader));
                }
                if link.is_open[1] {
                    self.deliver_to_learner(id, to, mail);
                }
            }
            Queue::Disk(id) => self.finish_work(id),
            Queue::ReadLog(id, link) => self.read_log(id, link),
        }
    }

    fn deliver_to_leader(&mut self, id: LinkId, to: ServerId, mail: Mail) {
        match mail {
            Mail::Connect { is_for_observers } => {
                let node = &self.nodes[&to];
                let is_open = match is_for_observers {
                    true => node.is_accepting_observers,
                    false => node.is_accepting,
                };
                if !node.is_up() || !is_open {
                    let link = self.links.remove(&id).expect("listed");
                    let learner = link.learner;
                    self.with(learner, |zab, now| zab.handle_connect_failed(now, to));
                    return;
                }
                let link = self.links.get_mut(&id).expect("listed");
                link.is_open = [true, true];
                link.to_learner.push_back(Mail::Connected);
                self.with(to, |zab, now| zab.handle_accepted(now, id));
            }
            Mail::Learner(message) => {
                self.with(to, |zab, now| zab.handle_from_learner(now, id, message));
            }
            Mail::Closed => {
                self.close(id, to);
                self.with(to, |zab, now| zab.handle_disconnected(now, id));
            }
            Mail::Connected | Mail::Leader(_) | Mail::Snapshot(..) => panic!("not to a leader"),
        }
    }

    fn deliver_to_learner(&mut self, id: LinkId, to: ServerId, mail: Mail) {
        match mail {
            Mail::Connected => self.with(to, |zab, now| zab.handle_connected(now, id)),
            Mail::Leader(message) => {
                let node = self.nodes.get_mut(&to).expect("a member");
                match &message {
                    FromLeader::Diff { .. } => node.synced_by = Some("DIFF"),
                    FromLeader::Trunc { .. } => node.synced_by = Some("TRUNC"),
                    FromLeader::Snap { .. } => node.synced_by = Some("SNAP"),
                    _ => {}
                }
                self.links.get_mut(&id).expect("listed").checker.note_heard(&message);
                self.with(to, |zab, now| zab.handle_from_leader(now, id, message));
            }
            Mail::Snapshot(zxid, state) => {
                let link = self.links.get_mut(&id).expect("listed");
                let (leader, is_open) = (link.leader, link.is_open[0]);
                if std::mem::take(&mut link.is_receiving) {
                    let node = self.nodes.get_mut(&to).expect("a member");
                    node.disk.works.push_back(Work::Replace { link: id, zxid, state });
                }
                if is_open {
                    self.with(leader, |zab, now| zab.handle_snapshot_sent(now, id));
                }
            }
            Mail::Closed => {
                self.close(id, to);
                self.with(to, |zab, now| zab.handle_disconnected(now, id));
            }
            Mail::Connect { .. } | Mail::Learner(_) => panic!("not to a learner"),
        }
    }

    /// The disk does the next thing; appends that stand together are one write.
    pub fn finish_work(&mut self, id: ServerId) {
        let node = self.nodes.get_mut(&id).expect("a member");
        let Some(work) = node.disk.works.pop_front() else { return };
        self.trace.push(format!("{:?} {id} disk: {}", self.now, work.name()));
        match work {
            Work::Append(txn) => {
                let zxid = txn.0;
                node.disk.log.txns.push(txn.clone());
                node.disk.state.push(txn);
                self.with(id, |zab, now| zab.handle_persisted(now, zxid));
            }
            Work::Truncate(after) => {
                node.disk.log.truncate(after);
                node.disk.state.retain(|(zxid, _)| *zxid <= after);
                self.with(id, |zab, now| zab.handle_truncated(now, Ok(after)));
            }
            Work::AcceptedEpoch(epoch) => {
                node.disk.accepted_epoch = epoch;
                self.with(id, |zab, now| zab.handle_accepted_epoch_saved(now, epoch));
            }
            Work::CurrentEpoch(epoch) => {
                node.disk.current_epoch = epoch;
                self.with(id, |zab, now| zab.handle_current_epoch_saved(now, epoch));
            }
            Work::Replace { link, zxid, state } => {
                node.disk.log = Log { base: zxid, txns: Vec::new() };
                node.disk.state = state.clone();
                node.tree = state;
                node.published = zxid;
                node.journal_floor = zxid;
                self.with(id, |zab, now| zab.handle_snapshot_received(now, link, zxid));
            }
            Work::Sound => node.disk.standing = Standing::Sound,
        }
    }

    fn read_log(&mut self, id: ServerId, link: LinkId) {
        let (after, bytes) = self.reads.remove(&(id, link)).expect("listed");
        let log = &self.nodes[&id].disk.log;
        let is_here = after == log.base
            || log.txns.iter().any(|(zxid, _)| *zxid == after)
            || (after.counter() == 0 && after > log.base);
        // Reads are short, so that it takes many of them.
        let count = (bytes / 8).min(7);
        let later = log.txns.iter().filter(|(zxid, _)| *zxid > after).take(count).cloned();
        let result = if is_here { Ok(later.collect()) } else { Err(LogGap) };
        self.with(id, |zab, now| zab.handle_log_read(now, link, result));
    }
}

impl Work {
    fn name(&self) -> String {
        match self {
            Work::Append((zxid, _)) => format!("append {zxid}"),
            Work::Truncate(after) => format!("truncate {after}"),
            Work::AcceptedEpoch(epoch) => format!("acceptedEpoch {epoch}"),
            Work::CurrentEpoch(epoch) => format!("currentEpoch {epoch}"),
            Work::Replace { zxid, .. } => format!("snapshot {zxid}"),
            Work::Sound => "sound".to_string(),
        }
    }
}

// ── What servers ask for ──
impl Cluster {
    pub fn drain(&mut self, id: ServerId) {
        loop {
            let node = self.nodes.get_mut(&id).expect("a member");
            let Some(output) = node.zab.as_mut().and_then(Zab::poll_output) else { return };
            match output {
                Output::Perform(action) => self.perform(id, action),
                Output::Tell(event) => self.tell(id, event),
            }
        }
    }

    fn perform(&mut self, id: ServerId, action: Action) {
        self.oracle.check_action(&self.nodes[&id], &action, &self.links);
        let node = self.nodes.get_mut(&id).expect("a member");
        let is_for_observers = matches!(action, Action::ConnectMaster { .. });
        match action {
            Action::Notify { to, notification } => {
                let is_up = self.nodes.get(&to).is_some_and(Node::is_up);
                if is_up {
                    self.notifications.insert((id, to), notification);
                }
            }
            Action::Connect { to } | Action::ConnectMaster { to } => {
                self.next_link += 1;
                let link = Link {
                    learner: id,
                    leader: to,
                    to_leader: VecDeque::from([Mail::Connect { is_for_observers }]),
                    to_learner: VecDeque::new(),
                    is_open: [false, true],
                    checker: LinkChecker::default(),
                    is_receiving: false,
                };
                self.links.insert(LinkId(self.next_link), link);
            }
            Action::Accept(is_accepting) => node.is_accepting = is_accepting,
            Action::AcceptObservers(is_accepting) => node.is_accepting_observers = is_accepting,
            Action::ToLeader { link, message } => {
                let link = self.links.get_mut(&link).expect("an open link");
                link.checker.check_from_learner(&message);
                link.to_leader.push_back(Mail::Learner(message));
            }
            Action::ToLearner { link, message } => {
                let link = self.links.get_mut(&link).expect("an open link");
                link.checker.check_from_leader(&message);
                link.to_learner.push_back(Mail::Leader(message));
            }
            Action::Close { link } => self.close(link, id),
            Action::Append { zxid, txn } => node.disk.works.push_back(Work::Append((zxid, txn))),
            Action::Truncate { after } => {
                let reaches = node.journal_floor <= after
                    && (node.disk.log.base == after || node.disk.log.zxids().contains(&after));
                if reaches {
                    node.disk.works.push_back(Work::Truncate(after));
                } else {
                    self.with(id, |zab, now| zab.handle_truncated(now, Err(CannotTruncate)));
                }
            }
            Action::SaveAcceptedEpoch { epoch } => node.work(Work::AcceptedEpoch(epoch)),
            Action::SaveCurrentEpoch { epoch } => node.work(Work::CurrentEpoch(epoch)),
            Action::SendSnapshot { link, zxid, .. } => {
                check_snapshot(node, zxid);
                let is_in = |(txn, _): &&Txn| *txn <= zxid;
                let state = node.tree.iter().filter(is_in).cloned().collect();
                let link = self.links.get_mut(&link).expect("an open link");
                link.to_learner.push_back(Mail::Snapshot(zxid, state));
            }
            Action::ReceiveSnapshot { link, .. } => {
                self.links.get_mut(&link).expect("an open link").is_receiving = true;
            }
            Action::ReadLog { link, after, bytes } => {
                self.reads.insert((id, link), (after, bytes));
            }
            Action::SaveSound => node.work(Work::Sound),
            Action::Resigned => node.has_resigned = true,
            Action::Members { current, .. } => node.disk.members = Some(current),
            Action::Stop { reason } => node.stopped = Some(reason),
        }
    }

    fn tell(&mut self, id: ServerId, event: Event) {
        self.trace.push(format!("{:?} {id} {event:?}", self.now));
        self.oracle.check_event(&self.nodes[&id], &event);
        let node = self.nodes.get_mut(&id).expect("a member");
        match &event {
            Event::Role(role) => {
                node.role = *role;
                node.next_counter = 1;
            }
            Event::Apply { zxid, txn } => node.tree.push((*zxid, Arc::clone(txn))),
            Event::Pop { after } if node.journal_floor <= *after => {
                node.tree.retain(|(zxid, _)| zxid <= after);
                node.published = node.published.min(*after);
            }
            Event::Commit { through } => {
                node.published = *through;
                node.disk.committed = *through;
            }
            Event::Pinged { link, zxid } => {
                let (link, zxid) = (*link, *zxid);
                let link = self.links.get_mut(&link).expect("an open link");
                let message = FromLearner::Ping { zxid, touched: vec![(id.0, 1)] };
                link.checker.check_from_learner(&message);
                link.to_leader.push_back(Mail::Learner(message));
                return;
            }
            Event::Confirmed { token } => {
                // `sync` is linearizable.
                let asked = node.asked[token];
                assert!(node.published >= asked, "{id} has confirmed and does not have {asked}");
                node.confirmed.push(*token);
            }
            _ => {}
        }
        self.nodes.get_mut(&id).expect("a member").events.push(event);
    }

    /// Checks what holds after every step.
    pub fn check(&mut self) {
        for node in self.nodes.values() {
            self.oracle.check_node(node);
        }
        // Where members change, each transaction has its own quorum.
        if let Some(id) = self.nodes.keys().next().filter(|_| !self.is_dynamic) {
            self.oracle.durability(&self.nodes, &self.ensemble(*id));
        }
    }
}

/// What a leader is established with is committed; all that it has before that may be.
fn check_snapshot(node: &Node, zxid: Zxid) {
    let is_established = matches!(node.role, Role::Leading { .. });
    let whole = node.tree.last().map_or(node.disk.log.base, |(last, _)| *last);
    let is_whole = zxid == whole && !is_established;
    assert!(is_whole || zxid == node.published, "{zxid}");
}
