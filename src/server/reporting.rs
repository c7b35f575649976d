//! The pipeline's part of what the server says of itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::config::ensemble::Ensemble;
use crate::pipeline::session::Sessions;
use crate::replica::stats::ProposalBytes;
use crate::server::answering::AnswerJob;
use crate::server::four_letter::Word;
use crate::server::questions::Asked;
use crate::server::report::{
    ClientReport, ConfReport, EnsembleConf, EnsembleReport, LeaderReport, LogCounters, Mode,
    PipelineCounters, Question, ServerReport, SessionReport,
};
use crate::server::summary::{Sizes, SizesSeen};
use crate::server::word::wall_at;
use crate::server::writer::PipelineCore;
use crate::time::Time;
use crate::wire::membership::{Membership, ServerAddress};
use crate::zab::Zab;
use crate::zab::output::Role;
use crate::zab::status::LearnerStatus;

impl PipelineCore {
    /// The answer to a question, with every core's part, to be written out elsewhere.
    pub(super) fn answer_job(&mut self, asked: Asked) -> AnswerJob {
        let question = asked.question;
        let writer = self.replica.pipeline().writer();
        let owners = match question.wants_sessions() {
            true => writer.owners().map(|(session, _)| session).collect(),
            false => Vec::new(),
        };
        let tree = Arc::clone(writer.tree());
        let report = Box::new(self.report(question, asked.reports));
        AnswerJob { asker: asked.asker, question, report, owners, tree }
    }

    /// What the cores know; the kernel and the files are not asked.
    fn report(&mut self, question: Question, clients: Vec<ClientReport>) -> ServerReport {
        if let Word::Stmk { mask } = question.word {
            self.trace_mask = mask;
        }
        let totals = self.replica.pipeline().writer().totals();
        let mut report = ServerReport {
            serving: self.is_serving(),
            clients,
            mode: self.mode(),
            last_zxid: self.last_zxid(),
            node_count: usize::try_from(totals.node_count).unwrap_or(usize::MAX),
            approximate_data_size: totals.data_size,
            ephemerals_count: usize::try_from(totals.ephemeral_count).unwrap_or(usize::MAX),
            local_sessions: self.replica.pipeline().local_session_count(),
            global_sessions: self.replica.pipeline().sessions().count(),
            last_snapshot: self.snapshots.last(),
            started_wall_ms: wall_at(self.started, self.now, self.wall),
            uptime_ms: u64::try_from(self.now.since(self.started).as_millis()).unwrap_or(u64::MAX),
            conf: self.conf(),
            pipeline: self.pipeline_counters(),
            log: LogCounters {
                writes: self.disk.writes,
                bytes: self.disk.bytes,
                batch_txns: self.disk.batch_txns,
                slow_syncs: self.disk.slow_syncs,
                sync_ms: self.disk.sync_ms.clone(),
            },
            startup: Some(self.startup),
            ensemble: self.replica.zab().map(|zab| self.ensemble_report(zab)),
            tree_digest: self.replica.pipeline().writer().digest(),
            trace_mask: self.trace_mask,
            ..ServerReport::default()
        };
        if question.word == Word::Envi {
            report.environment = environment(&self.config.properties);
        }
        if question.wants_sessions() {
            self.put_sessions(&mut report);
        }
        if question.wants_digests() {
            report.digests = self.replica.pipeline().digests().collect();
        }
        if question.wants_stages() {
            report.pipeline_stages = self.stages.report();
        }
        if question.resets_statistics() {
            self.disk.reset_statistics();
            self.stages.reset();
        }
        report
    }

    fn pipeline_counters(&self) -> PipelineCounters {
        let stats = self.replica.pipeline().stats();
        PipelineCounters {
            txns: stats.txns,
            errors: stats.errors,
            refused_no_room: stats.refused_no_room,
            sessions_expired: stats.sessions_expired,
            connections_revalidated: stats.connections_revalidated,
            snapshots_taken: self.snapshots.taken,
            snapshot_errors: self.snapshots.failed,
            snapshot_time_ms: self.snapshots.durations_ms,
            digest_mismatches: 0,
        }
    }

    fn conf(&self) -> ConfReport {
        let config = &self.config;
        let version_dir = |dir: &Path| dir.join("version-2").to_string_lossy().into_owned();
        ConfReport {
            client_port: Some(self.port.address().port()),
            secure_client_port: None,
            data_dir: version_dir(&config.data_dir),
            log_dir: version_dir(&config.data_log_dir),
            tick_time_ms: config.tick_time_ms,
            connections_per_address_max: config.limits.connections_per_address_max.unwrap_or(0),
            session_timeout_ms_min: config.session_timeout_ms_min,
            session_timeout_ms_max: config.session_timeout_ms_max,
            listen_backlog: config.client_listen_backlog,
            server_id: config.ensemble.my_id.filter(|_| !self.replica.is_alone()).unwrap_or(0),
            ensemble: self
                .member
                .as_ref()
                .map(|it| ensemble_conf(&config.ensemble, &it.membership)),
        }
    }

    fn ensemble_report(&self, zab: &Zab) -> EnsembleReport {
        let stats = self.replica.stats();
        let is_leading = matches!(self.replica.role(), Role::Leading { .. });
        EnsembleReport {
            quorum_size: zab.ensemble().voters().count(),
            elections_begun: stats.elections,
            election_ms: self.elections_ms,
            proposals_received: stats.proposals_received,
            commits_received: stats.commits_received,
            leading: is_leading.then(|| self.leader_report(zab)),
            my_id: zab.ensemble().me.0,
            leader: zab.leader().map(|leader| leader.0),
            phase: phase(zab),
            members: self.member.as_ref().map(|it| it.membership.clone()).unwrap_or_default(),
            observers: observers(zab),
            is_observer_master: zab.is_observer_master(),
            observer_master: match zab.role() {
                Role::Observing { .. } => zab.master().map(|master| master.0),
                _ => None,
            },
        }
    }

    fn leader_report(&self, zab: &Zab) -> LeaderReport {
        let stats = self.replica.stats();
        let count = |counts: &dyn Fn(&LearnerStatus) -> bool| zab.learners().filter(counts).count();
        let votes = |learner: &LearnerStatus| zab.ensemble().is_voter(learner.server);
        let led_for = stats.leading_since.map_or(0, |since| self.now.since(since).as_millis());
        LeaderReport {
            leading_ms: u64::try_from(led_for).unwrap_or(u64::MAX),
            learners: zab.learners().count(),
            synced_followers: count(&|it| it.is_synced && !it.is_observer && votes(it)),
            synced_observers: count(&|it| it.is_synced && it.is_observer),
            synced_non_voting_followers: count(&|it| it.is_synced && !it.is_observer && !votes(it)),
            pending_syncs: self.replica.pipeline().pending_syncs(),
            proposal_sizes: Sizes { seen: sizes_seen(stats.proposal_bytes) },
            proposals: stats.proposals,
            commits: stats.commits,
            diffs_sent: stats.diffs_sent,
            snapshots_sent: stats.snapshots_sent,
        }
    }

    fn is_serving(&self) -> bool {
        match self.replica.role() {
            _ if self.replica.is_alone() => true,
            Role::Looking => self.replica.pipeline().is_read_only(),
            Role::Leading { .. } => self.config.ensemble.leader_serves,
            Role::Following { .. } | Role::Observing { .. } => true,
        }
    }

    fn mode(&self) -> Mode {
        if self.replica.is_alone() {
            return Mode::Standalone;
        }
        match self.replica.role() {
            Role::Leading { .. } => Mode::Leader,
            Role::Observing { .. } => Mode::Observer,
            Role::Looking if self.replica.pipeline().is_read_only() => Mode::ReadOnly,
            // A server that looks for a leader answers no word that shows its mode.
            Role::Following { .. } | Role::Looking => Mode::Follower,
        }
    }

    fn put_sessions(&self, report: &mut ServerReport) {
        let pipeline = self.replica.pipeline();
        report.sessions = self.session_reports(pipeline.sessions());
        let may_be_local = self.config.local_sessions && !self.replica.is_alone();
        report.own_sessions = may_be_local.then(|| self.session_reports(pipeline.local_sessions()));
    }

    fn session_reports(&self, sessions: &Sessions) -> Vec<SessionReport> {
        let mut reports = Vec::new();
        for (expires_ms, ids) in sessions.expiries() {
            let expires = Time::from_nanos(expires_ms.saturating_mul(1_000_000));
            reports.extend(ids.into_iter().map(|session| SessionReport {
                session,
                timeout_ms: sessions.timeout_ms(session).unwrap_or(0),
                expires_wall_ms: wall_at(expires, self.now, self.wall),
            }));
        }
        reports
    }
}

/// The phase of Zab, in Apache's words (`QuorumPeer.ZabState`).
fn phase(zab: &Zab) -> &'static str {
    match (zab.role(), zab.leader()) {
        (Role::Leading { .. } | Role::Following { .. } | Role::Observing { .. }, _) => "broadcast",
        (Role::Looking, None) => "election",
        (Role::Looking, Some(_)) if zab.epoch().is_none() => "discovery",
        (Role::Looking, Some(_)) => "synchronization",
    }
}

fn observers(zab: &Zab) -> Vec<i64> {
    let in_step = zab.learners().filter(|it| it.is_synced && it.is_observer);
    in_step.map(|it| it.server.0).collect()
}

fn sizes_seen(bytes: Option<ProposalBytes>) -> Option<SizesSeen> {
    bytes.map(|ProposalBytes { last, min, max }| SizesSeen { last, min, max })
}

fn ensemble_conf(ensemble: &Ensemble, members: &Membership) -> EnsembleConf {
    let ticks = |ticks: u64| u32::try_from(ticks).unwrap_or(u32::MAX);
    let own = ensemble.my_id.and_then(|id| members.server(id));
    let port =
        |port: fn(&ServerAddress) -> u16| own.and_then(|own| own.addresses.first()).map_or(0, port);
    EnsembleConf {
        init_limit_ticks: ticks(ensemble.init_limit_ticks),
        sync_limit_ticks: ticks(ensemble.sync_limit_ticks),
        election_algorithm: 3,
        election_port: port(|address| address.election_port),
        quorum_port: port(|address| address.quorum_port),
        is_observer: own.is_some_and(|own| !own.is_voter()),
        membership: members.text(),
    }
}

/// The system, in the words of Java's properties, and the properties in force.
fn environment(properties: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let uname = rustix::system::uname();
    let text = |it: &std::ffi::CStr| it.to_string_lossy().into_owned();
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let dir = std::env::current_dir().unwrap_or_default().to_string_lossy().into_owned();
    let mut environment = properties.clone();
    for (name, value) in [
        ("host.name", text(uname.nodename())),
        ("os.name", text(uname.sysname())),
        ("os.arch", text(uname.machine())),
        ("os.version", text(uname.release())),
        ("user.name", variable("USER")),
        ("user.home", variable("HOME")),
        ("user.dir", dir),
    ] {
        environment.insert(name.to_owned(), value);
    }
    environment
}
