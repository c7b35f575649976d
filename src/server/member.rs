//! The pipeline's core as a member of an ensemble: it performs what agreement asks for, and tells
//! agreement what came of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::io::ring::{Completion, Ring, Token};
use crate::log::LogError;
use crate::replica::ReceivedState;
use crate::server::background::Errand;
use crate::server::client_port::{MoveError, Moved};
use crate::server::ensemble;
use crate::server::keeper::{Keeper, Keeping, Kept};
use crate::server::message::ToClients;
use crate::server::peers::election::ElectionPort;
use crate::server::peers::election::contacts::ElectionEvent;
use crate::server::peers::quorum::{PeerEvent, QuorumPort};
use crate::server::writer::PipelineCore;
use crate::snapshot::load::LoadOptions;
use crate::snapshot::transfer::{self, Form, Incoming, Received};
use crate::time::Time;
use crate::tree::writer::TreeConfig;
use crate::wire::membership::{Membership, ServerSpec};
use crate::wire::quorum::Extensions;
use crate::zab::output::{Action, LinkId, LogGap, Role};
use crate::zxid::Zxid;

/// What a member of an ensemble has besides a server on its own.
pub struct Member {
    pub election: ElectionPort,
    pub quorum: QuorumPort<Received>,
    pub keeper: Keeper,
    /// Where snapshots are kept.
    pub snapshot_dir: PathBuf,
    pub tree: TreeConfig,
    /// The members in force, as they were kept last.
    pub membership: Membership,
    /// The change of the log's past that is under way.
    turning: Option<Turning>,
    /// Whether it is staged in the log.
    is_staged: bool,
    /// When links were last heard of, what was sent and what was queued, and when to look again.
    progress: BTreeMap<LinkId, (Time, u64, usize)>,
    progress_due: Time,
    /// A snapshot of a leader's that may hold parts of later transactions, until the leader has
    /// sent all of those.
    fuzzy: Option<Zxid>,
    /// Whether it takes no part in elections any more.
    is_leaving: bool,
    /// Why the server must stop.
    pub stopped: Option<String>,
}

/// A change of the log's past: it waits until the log is idle, and everything waits for it.
enum Turning {
    /// What is after this never happened.
    Cut(Zxid),
    /// The log goes on behind a state that a leader has sent.
    Reset(LinkId, Box<ReceivedState>),
}

impl Member {
    /// With its ports and the thread that keeps its small files.
    pub fn new(
        election: ElectionPort,
        quorum: QuorumPort<Received>,
        keeper: Keeper,
        snapshot_dir: PathBuf,
        (tree, membership): (TreeConfig, Membership),
    ) -> Member {
        Member {
            election,
            quorum,
            keeper,
            snapshot_dir,
            tree,
            membership,
            turning: None,
            is_staged: false,
            progress: BTreeMap::new(),
            progress_due: Time::default(),
            fuzzy: None,
            is_leaving: false,
            stopped: None,
        }
    }

    /// When something is due next.
    pub fn poll_timeout(&self) -> Option<Time> {
        [self.election.poll_timeout(), self.quorum.poll_timeout()].into_iter().flatten().min()
    }

    /// Whether a completion is for one of the ports.
    pub fn owns(&self, completion: &Completion<'_>) -> bool {
        self.quorum.owns(completion) || self.is_of_election(completion)
    }

    fn is_of_election(&self, completion: &Completion<'_>) -> bool {
        socket_of(completion).is_some_and(|token| self.election.owns(token))
    }

    /// Takes a completion of one of the ports.
    pub fn handle(&mut self, completion: Completion<'_>, now: Time) {
        if self.is_of_election(&completion) {
            self.election.handle(completion, now);
        } else {
            self.quorum.handle(completion, now);
        }
    }

    /// Sends what is to be sent.
    pub fn finish_turn(&mut self, ring: &mut Ring, now: Time) {
        if std::mem::take(&mut self.is_leaving) {
            // The others need not wait for the vote of one that they cannot reach.
            self.election.close(ring);
        }
        self.election.finish_turn(ring, now);
        self.quorum.finish_turn(ring, now);
    }
}

impl PipelineCore {
    /// Passes on what the ports and threads of a member have to say, and performs what follows.
    pub(super) fn hear_peers(&mut self) {
        let Some(member) = &mut self.member else { return };
        member.election.deliver(self.now);
        member.quorum.deliver(self.now);
        if member.quorum.poll_timeout().is_some_and(|due| due <= self.now) {
            member.quorum.handle_timeout(self.now);
        }
        self.note_progress();
        while let Some(event) = self.member.as_mut().and_then(|it| it.election.poll_event()) {
            match event {
                ElectionEvent::Notification { from, notification } => {
                    self.replica.handle_notification(self.now, from, notification);
                }
                ElectionEvent::Reachable(peer, is_reachable) => {
                    self.replica.handle_reachable(self.now, peer, is_reachable);
                }
            }
            self.perform_all();
        }
        while let Some(event) = self.member.as_mut().and_then(|it| it.quorum.poll_event()) {
            self.take_peer_event(event);
            self.perform_all();
        }
        while let Some(kept) = self.member.as_mut().and_then(|it| it.keeper.poll()) {
            self.take_kept(kept);
            self.perform_all();
        }
    }

    /// Lets agreement know on which links bytes have come or gone since the last look, now and
    /// then: what takes long is bounded by that.
    fn note_progress(&mut self) {
        let Some(member) = &mut self.member else { return };
        if self.now < member.progress_due {
            return;
        }
        member.progress_due = self.now + Duration::from_millis(self.config.tick_time_ms / 8);
        let seen = std::mem::take(&mut member.progress);
        for info in member.quorum.links() {
            let state = (info.received_at, info.packets_sent, info.queued_bytes);
            if seen.get(&info.link).is_some_and(|seen| *seen != state) {
                self.replica.handle_progress(self.now, info.link);
            }
            member.progress.insert(info.link, state);
        }
    }

    fn take_peer_event(&mut self, event: PeerEvent<Received>) {
        let (now, wall) = (self.now, self.wall);
        match event {
            PeerEvent::Accepted { link } => self.replica.handle_accepted(now, link),
            PeerEvent::Connected { link, .. } => self.replica.handle_connected(now, link),
            PeerEvent::ConnectFailed { to } => self.replica.handle_connect_failed(now, to),
            PeerEvent::FromLearner { link, message } => {
                self.replica.handle_from_learner(now, wall, link, message);
            }
            PeerEvent::FromLeader { link, message } => {
                self.replica.handle_from_leader(now, wall, link, message);
            }
            PeerEvent::Disconnected { link } => self.replica.handle_disconnected(now, link),
            PeerEvent::SnapshotSent { link } => self.replica.handle_snapshot_sent(now, link),
            PeerEvent::SnapshotReceived { link, received } => {
                let Received { mut writer, sessions, zxid, is_fuzzy, .. } = received;
                if !self.config.features.reconfig {
                    ensemble::put_config(&mut writer, &self.config, wall);
                }
                if let Some(member) = &mut self.member {
                    member.fuzzy = is_fuzzy.then_some(zxid);
                }
                let state = Box::new(ReceivedState { writer, sessions, zxid });
                self.turn_log(Turning::Reset(link, state));
            }
            PeerEvent::SnapshotFailed { link, reason } => {
                tracing::warn!("a snapshot between servers failed: {reason}");
                self.replica.handle_snapshot_failed(now, link);
            }
            PeerEvent::LogRead { link, result } => {
                let txns = result.map_err(|error| {
                    tracing::warn!("the log cannot be read for a learner: {error}");
                    LogGap
                });
                self.replica.handle_log_read(now, link, txns);
            }
        }
    }

    fn take_kept(&mut self, kept: Kept) {
        match kept {
            Kept::AcceptedEpoch(epoch) => {
                self.replica.handle_accepted_epoch_saved(self.now, epoch);
            }
            Kept::CurrentEpoch(epoch) => self.replica.handle_current_epoch_saved(self.now, epoch),
            Kept::Failed(reason) => self.stop_for(reason),
        }
    }

    /// Performs what agreement asks for until it asks for nothing more.
    pub(super) fn perform_all(&mut self) {
        while let Some(action) = self.replica.poll_action() {
            self.perform(action);
        }
        self.settle_fuzzy();
        if let Some(took) = self.replica.poll_election() {
            self.elections_ms.add(took.as_millis() as u64);
        }
    }

    /// A leader's snapshot is exact once the leader has sent everything of which it may hold parts;
    /// where that was nothing, the snapshot itself is.
    fn settle_fuzzy(&mut self) {
        let Some(member) = self.member.as_mut().filter(|member| member.fuzzy.is_some()) else {
            return;
        };
        if let Role::Following { .. } | Role::Observing { .. } = self.replica.role()
            && let Some(zxid) = member.fuzzy.take()
            && self.replica.pipeline().prepared() == zxid
        {
            member.keeper.keep(Keeping::Exact(zxid));
        }
    }

    fn perform(&mut self, action: Action) {
        let Some(member) = &mut self.member else { return };
        match action {
            Action::Append { zxid, txn } => self.disk.append(zxid, &txn),
            Action::Notify { to, notification } => {
                member.election.notify(to, &notification, self.now);
            }
            Action::Truncate { after } => self.turn_log(Turning::Cut(after)),
            Action::SaveAcceptedEpoch { epoch } => {
                member.keeper.keep(Keeping::AcceptedEpoch(epoch));
            }
            Action::SaveCurrentEpoch { epoch } => {
                member.keeper.keep(Keeping::CurrentEpoch(epoch));
            }
            Action::Members { current, next, heard } => {
                self.take_members(&current, next.as_deref(), heard.as_deref());
            }
            Action::SaveSound => member.keeper.keep(Keeping::Sound),
            Action::SendSnapshot { link, extensions, .. } => self.send_snapshot(link, extensions),
            Action::ReceiveSnapshot { link, zxid, extensions } => {
                self.receive_snapshot(link, zxid, extensions);
            }
            Action::Resigned => {
                member.is_leaving = true;
                self.stop_clients(false);
            }
            Action::Stop { reason } => self.stop_for(reason),
            action => {
                let left = member.quorum.perform(action, self.now);
                assert_eq!(left, None, "every action is somebody's");
            }
        }
    }

    /// Connects to whoever is a member or is about to be, and keeps the members in force.
    fn take_members(&mut self, current: &[u8], next: Option<&[u8]>, heard: Option<&[u8]>) {
        let me = ensemble::my_id(&self.config);
        let Some(member) = &mut self.member else { return };
        let known = ensemble::memberships([Some(current), next, heard]);
        let quorum = ensemble::others(me, &known, |it| it.quorum_port);
        member.quorum.handle_members(quorum);
        let election = ensemble::others(me, &known, |it| it.election_port);
        member.election.handle_members(&election, self.now);
        // What is only heard of is not kept: the log is to say it.
        let mut known = ensemble::memberships([Some(current), next, None]).into_iter();
        let Some(in_force) = known.next() else { return };
        let is_new = in_force.version > member.membership.version;
        if is_new {
            tracing::info!("members in force: {}", in_force.text().replace('\n', " "));
            let own = |it: &Membership| it.server(me.0).cloned();
            let (old, new) = (own(&member.membership), own(&in_force));
            let ports = |it: &Option<ServerSpec>| it.as_ref().map(|it| it.addresses.clone());
            if new.is_some() && ports(&new) != ports(&old) {
                tracing::warn!(
                    "this server's own ports for peers are taken from its next start on"
                );
            }
            member.membership.clone_from(&in_force);
            let client = new.and_then(|new| new.client);
            if let Some((host, port)) =
                client.filter(|it| old.and_then(|it| it.client).as_ref() != Some(it))
            {
                let errand = Errand::MovePort { from: self.port, host, port };
                self.background
                    .errands
                    .send(errand)
                    .expect("the background ends after the pipeline");
            }
        }
        let current = is_new.then_some(in_force);
        member.keeper.keep(Keeping::Members { current, next: known.next() });
    }

    /// The clients' port has moved, or could not.
    pub(super) fn hear_moved(&mut self, moved: Result<Moved, MoveError>) {
        match moved {
            Ok((port, listeners)) => {
                let (old, new) = (self.port.address(), port.address());
                tracing::info!("clients are taken at {new} from now on, and no longer at {old}");
                self.port = port;
                for (client, listener) in self.clients.iter_mut().zip(listeners) {
                    client.send(ToClients::Listen { listener });
                }
            }
            Err(error) => {
                let here = self.port.address();
                tracing::error!("{error}: clients are taken at {here} as before");
            }
        }
    }

    /// The server stops as soon as this turn is over: nothing more is acknowledged.
    fn stop_for(&mut self, reason: String) {
        tracing::error!("the server stops: {reason}");
        if let Some(member) = &mut self.member {
            member.stopped.get_or_insert(reason);
        }
    }

    fn send_snapshot(&mut self, link: LinkId, extensions: Extensions) {
        let Some(state) = self.replica.state_to_send(link).cloned() else {
            return self.replica.handle_snapshot_failed(self.now, link);
        };
        let form = form(extensions);
        let member = self.member.as_mut().expect("a member has learners");
        member.quorum.send_snapshot(link, extensions, move |out| {
            transfer::send(&state.tree, state.zxid, state.digest, &state.sessions, form, out)
        });
    }

    fn receive_snapshot(&mut self, link: LinkId, zxid: Zxid, extensions: Extensions) {
        let form = form(extensions);
        let load = LoadOptions { tree: self.tree_config(), now: self.now, threads: 0 };
        let member = self.member.as_mut().expect("a member has a leader");
        let dir = member.snapshot_dir.clone();
        member.quorum.receive_snapshot(link, extensions, move |input| {
            transfer::receive(input, &Incoming { dir: &dir, zxid, form, load })
        });
    }

    fn tree_config(&self) -> TreeConfig {
        self.member.as_ref().expect("a member receives trees").tree
    }

    fn turn_log(&mut self, turning: Turning) {
        let member = self.member.as_mut().expect("a member's leader turns its log");
        assert!(member.turning.is_none(), "agreement waits for each turn of the log");
        member.turning = Some(turning);
        member.is_staged = false;
    }

    /// Gets on with a change of the log's past: stages it once the log is idle, and says so when it
    /// is durable.
    ///
    /// # Errors
    /// What the log says.
    pub(super) fn advance_turn(&mut self) -> Result<(), LogError> {
        let Some(member) = &mut self.member else { return Ok(()) };
        if member.turning.is_none() || self.disk.is_busy() || !self.disk.log.is_idle() {
            return Ok(());
        }
        if !member.is_staged {
            member.is_staged = true;
            match member.turning.as_ref().expect("it was just seen") {
                Turning::Cut(after) => match self.disk.log.truncate_after(*after) {
                    Ok(()) => {}
                    Err(LogError::Gap { .. }) => {
                        member.turning = None;
                        self.replica.handle_truncate_failed(self.now);
                        self.perform_all();
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                },
                Turning::Reset(_, state) => self.disk.log.reset_after(state.zxid),
            }
            if !self.disk.log.is_idle() {
                return Ok(());
            }
        }
        match member.turning.take().expect("it is staged") {
            Turning::Cut(after) => self.replica.handle_truncated(self.now, after),
            Turning::Reset(link, state) => {
                let zxid = state.zxid;
                self.snapshots.handle_replaced(zxid);
                self.replica.handle_snapshot_received(self.now, link, *state);
                self.perform_all();
                let member = self.member.as_mut().expect("it was there before");
                member.keeper.keep(Keeping::Settled(zxid));
                member.quorum.resume(link);
            }
        }
        self.perform_all();
        Ok(())
    }

    /// Why the server must stop at once, if it must.
    pub fn poll_fault(&mut self) -> Option<String> {
        self.member.as_mut()?.stopped.take()
    }

    /// Sends what other servers wait for.
    pub(super) fn send_to_peers(&mut self, ring: &mut Ring) {
        if let Some(member) = &mut self.member {
            member.quorum.send_urgent(ring, self.now);
        }
    }

    /// Gives the reads of the log that are due to their thread, and sends what is to be sent.
    pub(super) fn finish_peers(&mut self, ring: &mut Ring) {
        let Some(member) = &mut self.member else { return };
        while let Some(wanted) = member.quorum.poll_log_wanted() {
            member.quorum.read_log(wanted, self.disk.log.reader());
        }
        member.finish_turn(ring, self.now);
    }
}

/// The socket that a completion is of.
fn socket_of(completion: &Completion<'_>) -> Option<Token> {
    match completion {
        Completion::Accepted { listener: token, .. }
        | Completion::AcceptFailed { listener: token, .. }
        | Completion::Received { token, .. }
        | Completion::Closed { token, .. }
        | Completion::Sent { token, .. }
        | Completion::SendFailed { token, .. } => Some(*token),
        Completion::Written { .. } | Completion::Synced { .. } | Completion::Woken => None,
    }
}

/// In which form a snapshot travels.
fn form(extensions: Extensions) -> Form {
    if extensions.chunked_snapshot { Form::Checked } else { Form::Java }
}
