//! What a member of an ensemble is made of, from its configuration.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;

use crate::io::wake::Waker;
use crate::pipeline::reconfig::CONFIG_PATH;
use crate::server::keeper::Keeper;
use crate::server::member::Member;
use crate::server::members_file::MembersFiles;
use crate::server::peers::election::{ElectionPort, ElectionSettings};
use crate::server::peers::listen::{self, ListenError};
use crate::server::peers::quorum::{QuorumPort, QuorumSettings};
use crate::time::{Time, WallMs};
use crate::tree::writer::{TreeConfig, Writer};
use crate::wire::membership::{Membership, ServerAddress, ServerSpec};
use crate::wire::quorum::{Extensions, ServerId};
use crate::zab::ensemble::{Ensemble, members};
use crate::zxid::Zxid;

/// Committed transactions that are kept in memory for learners, in bytes at most.
const COMMIT_LOG_BYTES_MAX: usize = 32 << 20;

/// Connections to the quorum port in all and from one address: several times what the largest
/// ensemble has, since a learner that comes back may be there twice.
const LINKS_MAX: usize = 256;
const LINKS_PER_ADDRESS_MAX: usize = 64;

/// Where the election port's tokens begin: a client's connection has the number of its slot in a
/// token's low half, which is never that high, and the quorum port's have another two bits there.
const ELECTION_TOKENS: u64 = 0xC000_0000;

/// A transaction may be longer than any client's request: a session's end names all its
/// ephemerals. Who refused one would refuse it for ever.
const FROM_LEADER_BYTES_MIN: usize = 64 << 20;

/// What a packet has besides the transaction or request in it, in bytes: header, identities.
const PACKET_OVERHEAD: usize = 64 << 10;

/// This server's number in a configuration of several servers.
///
/// # Panics
/// If the configuration is of a server on its own.
pub fn my_id(config: &Config) -> ServerId {
    ServerId(config.ensemble.my_id.expect("a member's configuration has its id"))
}

/// The ensemble as agreement knows it: from the configuration, or, where members may change, from
/// the tree, if that has newer ones. They are in force if they are `committed`, and otherwise
/// proposed.
pub fn ensemble(config: &Config, writer: &Writer, committed: Zxid) -> Ensemble {
    let from = &config.ensemble;
    let ticks = |ticks: u64| u32::try_from(ticks).unwrap_or(u32::MAX);
    let ensemble = Ensemble {
        me: my_id(config),
        members: members(&from.membership()),
        config: Arc::from(from.text().into_bytes()),
        config_version: from.version.cast_signed(),
        next: None,
        heard: None,
        is_dynamic: config.features.reconfig,
        tick: tick(config),
        init_limit_ticks: ticks(from.init_limit_ticks),
        sync_limit_ticks: ticks(from.sync_limit_ticks),
        commit_log_count: usize::try_from(config.log.commit_log_count).unwrap_or(usize::MAX),
        commit_log_bytes_max: COMMIT_LOG_BYTES_MAX,
        extensions: Extensions::ALL,
        has_observer_masters: from.observer_master_port.is_some(),
    };
    let node = writer.node(CONFIG_PATH);
    ensemble.in_tree(node.as_ref().and_then(|node| node.data()), committed)
}

/// Puts the configuration where clients can read it, unless newer members stand there already.
pub fn put_config(writer: &mut Writer, config: &Config, wall: WallMs) {
    let own = config.ensemble.version.cast_signed();
    let node = writer.node(CONFIG_PATH).filter(|_| config.features.reconfig);
    let stored = node.as_ref().and_then(|node| node.data()).and_then(Membership::version_of);
    if stored.is_some_and(|stored| stored > own) {
        return;
    }
    let version = Zxid::from_raw(config.ensemble.version.cast_signed());
    writer.put_config(config.ensemble.text().as_bytes(), version, wall);
}

fn tick(config: &Config) -> Duration {
    Duration::from_millis(config.tick_time_ms)
}

/// One of a server's ports.
pub type Port = fn(&ServerAddress) -> u16;

fn addresses(server: &ServerSpec, port: Port) -> Vec<(String, u16)> {
    server.addresses.iter().map(|address| (address.host.clone(), port(address))).collect()
}

/// Hosts and ports, by server.
pub type Addresses = Vec<(ServerId, Vec<(String, u16)>)>;

/// The other servers' addresses at one of their ports: those in force, then those proposed.
pub fn others(me: ServerId, memberships: &[Membership], port: Port) -> Addresses {
    let mut others: Addresses = Vec::new();
    for server in memberships.iter().flat_map(|it| &it.servers) {
        let (id, found) = (ServerId(server.id), addresses(server, port));
        match others.iter_mut().find(|(known, _)| *known == id) {
            _ if id == me => {}
            None => others.push((id, found)),
            Some((_, known)) => {
                let newer: Vec<_> = found.into_iter().filter(|it| !known.contains(it)).collect();
                known.extend(newer);
            }
        }
    }
    others
}

/// The members that an ensemble has and may get: in force, proposed, heard of.
pub fn memberships(texts: [Option<&[u8]>; 3]) -> Vec<Membership> {
    let texts = texts.into_iter().flatten();
    texts.filter_map(|text| Membership::parse(text).ok()).collect()
}

/// Opens the ports of a member and starts the threads beside them; `waker` is that of the
/// pipeline's core.
///
/// # Errors
/// A port cannot be opened.
pub fn open(
    config: &Config,
    data_dir: &Path,
    ensemble: &Ensemble,
    tree: TreeConfig,
    waker: &Waker,
    now: Time,
) -> Result<Member, ListenError> {
    let next = ensemble.next.as_ref().map(|next| &*next.config);
    let known = memberships([Some(&ensemble.config), next, None]);
    let own = config.ensemble.own().expect("a member's configuration has its own line");
    let on_all = config.ensemble.listen_on_all_addresses;
    let ticks = |ticks: u64| u32::try_from(ticks).unwrap_or(u32::MAX);
    let listen_on = |port: Port| listen::addresses(&addresses(own, port), on_all);
    let packet_bytes_max = config.limits.jute_bytes_max as usize
        + config.limits.jute_extra_bytes as usize
        + PACKET_OVERHEAD;
    let observer_port = config.ensemble.observer_master_port;
    let quorum = QuorumPort::open(
        QuorumSettings {
            listen: listen_on(|it| it.quorum_port)?,
            listen_for_observers: match observer_port {
                Some(port) => {
                    let hosts: Vec<_> =
                        own.addresses.iter().map(|it| (it.host.clone(), port)).collect();
                    listen::addresses(&hosts, on_all)?
                }
                None => Vec::new(),
            },
            observer_port,
            peers: others(my_id(config), &known, |it| it.quorum_port),
            tick: tick(config),
            init_limit_ticks: ticks(config.ensemble.init_limit_ticks),
            sync_limit_ticks: ticks(config.ensemble.sync_limit_ticks),
            connect_limit_ticks: ticks(config.ensemble.connect_to_learner_master_limit_ticks),
            keep_alive: config.ensemble.tcp_keep_alive,
            from_learner_bytes_max: packet_bytes_max,
            from_leader_bytes_max: packet_bytes_max.max(FROM_LEADER_BYTES_MIN),
            links_max: LINKS_MAX,
            links_per_address_max: LINKS_PER_ADDRESS_MAX,
        },
        waker.clone(),
    )?;
    let settings = ElectionSettings {
        me: my_id(config),
        addresses: addresses(own, |it| it.election_port),
        connect_timeout: Duration::from_millis(config.ensemble.connect_timeout_ms),
        keep_alive: config.ensemble.tcp_keep_alive,
    };
    let listen = listen_on(|it| it.election_port)?.into_iter();
    let listeners = listen.map(|address| listen::open(address, None)).collect::<Result<_, _>>()?;
    let election = ElectionPort::new(
        settings,
        &others(my_id(config), &known, |it| it.election_port),
        listeners,
        ELECTION_TOKENS,
        waker.clone(),
        now,
    );
    let files = config.file.as_ref().map(|it| MembersFiles::new(it, my_id(config).0));
    let keeper = Keeper::start(data_dir, files, waker.clone()).map_err(ListenError::Threads)?;
    let membership = known.into_iter().next().expect("the members in force were read once");
    Ok(Member::new(election, quorum, keeper, data_dir.to_owned(), (tree, membership)))
}
