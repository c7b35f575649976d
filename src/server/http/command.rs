//! The administration server's commands: their names, what they ask, and their answers
//! (`server/admin/Commands.java`).

use std::collections::BTreeSet;

use crate::config::Config;
use crate::server::four_letter::Word;
use crate::server::http::json::{self, Body};
use crate::server::report::ServerReport;

/// A command that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Configuration,
    ConnectionStatReset,
    Connections,
    Dirs,
    Dump,
    Environment,
    GetTraceMask,
    Hash,
    InitialConfiguration,
    IsReadOnly,
    LastSnapshot,
    Leader,
    Monitor,
    ObserverConnectionStatReset,
    Observers,
    Ruok,
    ServerStats,
    SetTraceMask,
    StatReset,
    Stats,
    SystemProperties,
    VotingView,
    WatchSummary,
    Watches,
    WatchesByPath,
    Zabstate,
}

/// The first names of the two that are no question to the cores.
pub(super) const SNAPSHOT: &str = "snapshot";
pub(super) const RESTORE: &str = "restore";

/// Every command with its names, the first of which it is listed and answered under.
const NAMES: [(Command, &[&str]); 26] = [
    (Command::Configuration, &["configuration", "conf", "config"]),
    (Command::ConnectionStatReset, &["connection_stat_reset", "crst"]),
    (Command::Connections, &["connections", "cons"]),
    (Command::Dirs, &["dirs"]),
    (Command::Dump, &["dump"]),
    (Command::Environment, &["environment", "env", "envi"]),
    (Command::GetTraceMask, &["get_trace_mask", "gtmk"]),
    (Command::Hash, &["hash"]),
    (Command::InitialConfiguration, &["initial_configuration", "icfg"]),
    (Command::IsReadOnly, &["is_read_only", "isro"]),
    (Command::LastSnapshot, &["last_snapshot", "lsnp"]),
    (Command::Leader, &["leader", "lead"]),
    (Command::Monitor, &["monitor", "mntr"]),
    (Command::ObserverConnectionStatReset, &["observer_connection_stat_reset", "orst"]),
    (Command::Observers, &["observers", "obsr"]),
    (Command::Ruok, &["ruok"]),
    (Command::ServerStats, &["server_stats", "srvr"]),
    (Command::SetTraceMask, &["set_trace_mask", "stmk"]),
    (Command::StatReset, &["stat_reset", "srst"]),
    (Command::Stats, &["stats", "stat"]),
    (Command::SystemProperties, &["system_properties", "sysp"]),
    (Command::VotingView, &["voting_view"]),
    (Command::WatchSummary, &["watch_summary", "wchs"]),
    (Command::Watches, &["watches", "wchc"]),
    (Command::WatchesByPath, &["watches_by_path", "wchp"]),
    (Command::Zabstate, &["zabstate"]),
];

/// The command wants a server that serves requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotServing;

impl NotServing {
    /// Apache's words for it.
    pub(super) const SENTENCE: &str = "This ZooKeeper instance is not currently serving requests";
}

/// The names under which commands are listed, sorted.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let names = NAMES.iter().map(|(_, names)| names[0]).chain([SNAPSHOT]);
    names.collect::<BTreeSet<_>>().into_iter()
}

impl Command {
    /// The command of this name.
    pub(super) fn named(name: &str) -> Option<Command> {
        let found = NAMES.iter().find(|(_, names)| names.contains(&name));
        found.map(|(command, _)| *command)
    }

    /// Its first name.
    pub(super) fn name(self) -> &'static str {
        let found = NAMES.iter().find(|(command, _)| *command == self);
        found.expect("every command has names").1[0]
    }

    /// The word that asks for what is answered here; a new trace mask stands in `query`.
    pub(super) fn word(self, query: &str) -> Result<Word, String> {
        Ok(match self {
            Command::Configuration => Word::Conf,
            Command::ConnectionStatReset => Word::Crst,
            Command::Connections => Word::Cons,
            Command::Dirs => Word::Dirs,
            Command::Dump => Word::Dump,
            Command::Environment => Word::Envi,
            Command::GetTraceMask => Word::Gtmk,
            Command::Hash => Word::Hash,
            Command::Monitor => Word::Mntr,
            Command::ServerStats => Word::Srvr,
            Command::SetTraceMask => Word::Stmk { mask: trace_mask(query)? },
            Command::StatReset => Word::Srst,
            Command::Stats => Word::Stat,
            Command::WatchSummary => Word::Wchs,
            Command::Watches => Word::Wchc,
            Command::WatchesByPath => Word::Wchp,
            // What every report has.
            Command::InitialConfiguration
            | Command::IsReadOnly
            | Command::LastSnapshot
            | Command::Leader
            | Command::ObserverConnectionStatReset
            | Command::Observers
            | Command::Ruok
            | Command::SystemProperties
            | Command::VotingView
            | Command::Zabstate => Word::Ruok,
        })
    }

    /// The answer from a report that was asked for by the command's word.
    pub(super) fn answer(self, report: &ServerReport, config: &Config) -> Result<Body, NotServing> {
        let needs_no_server = matches!(
            self,
            Command::Environment
                | Command::GetTraceMask
                | Command::Monitor
                | Command::SetTraceMask
                | Command::SystemProperties
        );
        if !report.serving && !needs_no_server {
            return Err(NotServing);
        }
        let fields = match self {
            Command::ConnectionStatReset
            | Command::ObserverConnectionStatReset
            | Command::Ruok
            | Command::StatReset => Body::new(),
            Command::Configuration => json::configuration(report),
            Command::Connections => json::connections(report, false),
            Command::Dirs => json::directories(report),
            Command::Dump => json::dump(report),
            Command::Environment => json::environment(report),
            Command::GetTraceMask | Command::SetTraceMask => json::trace_mask(report),
            Command::Hash => json::digests(report),
            Command::InitialConfiguration => json::initial_configuration(report, &config.written),
            Command::IsReadOnly => json::read_only(report),
            Command::LastSnapshot => json::last_snapshot(report),
            Command::Leader => json::leader(report),
            Command::Monitor => json::monitor(report),
            Command::Observers => json::observers(report),
            Command::ServerStats => json::server_stats(report),
            Command::Stats => {
                let mut fields = json::server_stats(report);
                fields.extend(json::connections(report, true));
                fields
            }
            Command::SystemProperties => json::system_properties(&config.properties),
            Command::VotingView => json::voting_view(report),
            Command::WatchSummary => json::watch_summary(report),
            Command::Watches => json::watches(report),
            Command::WatchesByPath => json::watches_by_path(report),
            Command::Zabstate => json::zab_state(report),
        };
        Ok(json::finished(self.name(), fields))
    }
}

fn trace_mask(query: &str) -> Result<i64, String> {
    let wants = "setTraceMask requires long traceMask argument";
    let written = query.split('&').find_map(|pair| pair.strip_prefix("traceMask="));
    let written = written.ok_or_else(|| wants.to_owned())?;
    written.parse().map_err(|_| format!("{wants}, got {written}"))
}
