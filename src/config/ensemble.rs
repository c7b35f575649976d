//! The `server.N`, `group.N` and `weight.N` lines, and who this server is among them.
//!
//! ```text
//! server.N = host:quorumPort:electionPort[:role][|host:quorumPort:electionPort[:role]]…[;client]
//! client   = [host:]port            role = participant | observer
//! ```
//!
//! One participant is a server on its own, as in Apache, unless `standaloneEnabled=false`. The
//! lines may stand in the file that `dynamicConfigFile` names instead, and then only there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Origin};
use super::properties::{Key, Properties, Written, parse_decimal};
use super::{parse_raw, raw, read_small};
use crate::wire::membership::{Membership, Role, ServerSpec, parse_server};

/// The members of an ensemble and this server's place among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ensemble {
    /// This server's id; `None` without a `myid` file.
    pub my_id: Option<i64>,
    /// Every server line, by id; at most one for a server on its own.
    pub servers: Vec<ServerSpec>,
    /// Whether the server is a member of an ensemble rather than on its own.
    pub distributed: bool,
    /// How many ticks a learner may take to connect and get in step.
    pub init_limit_ticks: u64,
    /// How many ticks a learner may lag behind.
    pub sync_limit_ticks: u64,
    /// How many ticks a learner tries to reach its leader; 0 for `init_limit_ticks`.
    pub connect_to_learner_master_limit_ticks: u64,
    /// Whether observers keep a log of their own.
    pub observers_sync: bool,
    /// Whether the quorum and election ports listen on every address of the host.
    pub listen_on_all_addresses: bool,
    /// Where followers serve observers, if they do.
    pub observer_master_port: Option<u16>,
    /// Whether a leader serves clients.
    pub leader_serves: bool,
    /// The oracle's file, in an ensemble of two that has one.
    pub oracle_path: Option<PathBuf>,
    /// Whether one server of an ensemble may serve on its own when all others are removed.
    pub standalone_enabled: bool,
    /// The version of the ensemble's configuration: the hexadecimal end of the dynamic file's name.
    pub version: u64,
    /// The file that holds the server lines, where it is not the zoo.cfg.
    pub dynamic_file: Option<PathBuf>,
    /// Whether sockets between servers have `SO_KEEPALIVE`.
    pub tcp_keep_alive: bool,
    /// How long a connection to another server's election port may take.
    pub connect_timeout_ms: u64,
}

impl Ensemble {
    /// The members, as they travel between servers.
    pub fn membership(&self) -> Membership {
        Membership { servers: self.servers.clone(), version: self.version.cast_signed() }
    }

    /// The members as Apache writes them in `/zookeeper/config`.
    pub fn text(&self) -> String {
        self.membership().text()
    }

    /// This server's own line.
    pub fn own(&self) -> Option<&ServerSpec> {
        self.servers.iter().find(|server| Some(server.id) == self.my_id)
    }
}

type Lines = BTreeMap<String, Written>;

/// Reads the ensemble's keys, its server lines and `myid`. May replace `client_address` by what
/// this server's own line says.
pub(super) fn read(
    properties: &mut Properties,
    data_dir: &Path,
    client_address: &mut Option<SocketAddr>,
) -> Result<Ensemble, ConfigError> {
    let mut ensemble = read_settings(properties)?;
    let (lines, origin) = member_lines(properties, &mut ensemble)?;
    let multi_address = read_multi_address(properties)?;
    ensemble.servers = read_servers(&lines, multi_address)?;
    read_groups(&lines, &mut ensemble.servers)?;
    decide_distributed(properties, &mut ensemble, &origin)?;
    ensemble.my_id = read_my_id(data_dir, ensemble.distributed)?;
    take_own_line(properties, &ensemble, client_address)?;
    if ensemble.distributed {
        check_distributed(properties, &ensemble, &lines)?;
    }
    Ok(ensemble)
}

fn read_settings(properties: &mut Properties) -> Result<Ensemble, ConfigError> {
    const TICKS: std::ops::RangeInclusive<u64> = 0..=i32::MAX as u64;
    let p = properties;
    let election_algorithm = p.integer(Key::Zoo("electionAlg"), "kind", 3..=3, 3)?;
    assert_eq!(election_algorithm, 3, "the range holds nothing else");
    let port = p.integer(Key::Zoo("observerMasterPort"), "port", i64::from(i32::MIN)..=65535, 0)?;
    let sync_enabled = p.boolean(Key::Zoo("syncEnabled"), true)?;
    Ok(Ensemble {
        init_limit_ticks: p.count(Key::Zoo("initLimit"), "ticks", TICKS, 0)?,
        sync_limit_ticks: p.count(Key::Zoo("syncLimit"), "ticks", TICKS, 0)?,
        connect_to_learner_master_limit_ticks: p.count(
            Key::Zoo("connectToLearnerMasterLimit"),
            "ticks",
            TICKS,
            0,
        )?,
        observers_sync: p.boolean(Key::Zk("observer.syncEnabled"), sync_enabled)?,
        listen_on_all_addresses: p.boolean(Key::Zoo("quorumListenOnAllIPs"), false)?,
        observer_master_port: u16::try_from(port).ok().filter(|&port| port > 0),
        oracle_path: p.text(Key::Zoo("oraclePath")).map(PathBuf::from),
        standalone_enabled: p.boolean(Key::Zoo("standaloneEnabled"), true)?,
        dynamic_file: p.text(Key::Zoo("dynamicConfigFile")).map(PathBuf::from),
        tcp_keep_alive: p.boolean(Key::Zk("tcpKeepAlive"), false)?,
        // As Apache compares it: any other word is a yes.
        leader_serves: p.text(Key::Zk("leaderServes")).as_deref() != Some("no"),
        connect_timeout_ms: p.count(Key::Zk("cnxTimeout"), "milliseconds", 1..=600_000, 5000)?,
        ..Ensemble::default()
    })
}

fn read_multi_address(properties: &mut Properties) -> Result<bool, ConfigError> {
    let default = properties.boolean(Key::Zk("multiAddress.enabled"), false)?;
    let enabled = properties.boolean(Key::Zoo("multiAddress.enabled"), default)?;
    for key in [Key::Zoo as fn(_) -> _, Key::Zk as fn(_) -> _] {
        properties.boolean(key("multiAddress.reachabilityCheckEnabled"), true)?;
        let key = key("multiAddress.reachabilityCheckTimeoutMs");
        properties.count(key, "milliseconds", 0..=600_000, 1000)?;
    }
    Ok(enabled)
}

/// Whether `key` names a member, its group or its weight.
fn is_member_key(key: &str) -> bool {
    key.starts_with("server.") || key.starts_with("group") || key.starts_with("weight")
}

/// The lines about members, and the file that they stand in.
fn member_lines(
    properties: &mut Properties,
    ensemble: &mut Ensemble,
) -> Result<(Lines, Origin), ConfigError> {
    let mut lines = Lines::new();
    for (key, written) in &properties.system {
        let Some(key) = key.strip_prefix("zookeeper.") else { continue };
        if !is_member_key(key) || !matches!(written.origin, Origin::File { .. }) {
            continue;
        }
        properties.read.insert(format!("zookeeper.{key}"));
        lines.insert(key.into(), written.clone());
    }
    let Some(path) = ensemble.dynamic_file.clone() else {
        return Ok((lines, properties.source.clone()));
    };
    if let Some((key, written)) = lines.first_key_value() {
        let expected = "to stand in the file of dynamicConfigFile, which is set";
        return Err(ConfigError::value(&written.origin, key, expected, &written.value));
    }
    ensemble.version = version_of(&path);
    let raw = parse_raw(&path, &read_small(&path)?)?;
    for entry in raw.entries {
        let origin = Origin::File { path: path.clone(), line: entry.line };
        if !is_member_key(&entry.key) {
            let expected = "nothing but server, group and weight lines in a dynamic file";
            return Err(ConfigError::value(&origin, &entry.key, expected, &entry.value));
        }
        let written = Written { value: entry.value, origin };
        if let Some(earlier) = lines.insert(entry.key.clone(), written.clone()) {
            let expected = format!("one line for it, and {} has it too", earlier.origin);
            return Err(ConfigError::value(&written.origin, &entry.key, expected, &written.value));
        }
    }
    Ok((lines, Origin::File { path, line: 0 }))
}

/// The hexadecimal number after the last dot of a dynamic file's name; 0 without one.
fn version_of(path: &Path) -> u64 {
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    u64::from_str_radix(end, 16).unwrap_or(0)
}

fn read_servers(lines: &Lines, multi_address: bool) -> Result<Vec<ServerSpec>, ConfigError> {
    let mut servers = BTreeMap::new();
    let mut taken = BTreeMap::new();
    for (key, written) in lines {
        if !key.starts_with("server.") {
            continue;
        }
        let fail =
            |expected: String| ConfigError::value(&written.origin, key, expected, &written.value);
        let id = read_id(key).ok_or_else(|| fail("server.N with a number N from 0".into()))?;
        let server = parse_server(id, &written.value).map_err(fail)?;
        if server.addresses.len() > 1 && !multi_address {
            return Err(fail("one address, or multiAddress.enabled=true".into()));
        }
        for address in &server.addresses {
            for port in [address.quorum_port, address.election_port] {
                if let Some(other) = taken.insert((address.host.clone(), port), id) {
                    return Err(fail(format!("a port that server.{other} does not have")));
                }
            }
        }
        if servers.insert(id, server).is_some() {
            return Err(fail(format!("one line for server {id}")));
        }
    }
    Ok(servers.into_values().collect())
}

/// The number after the first dot of `key`.
fn read_id(key: &str) -> Option<i64> {
    let (_, number) = key.split_once('.')?;
    parse_decimal(number).filter(|&id| id >= 0)
}

fn read_groups(lines: &Lines, servers: &mut [ServerSpec]) -> Result<(), ConfigError> {
    let mut hierarchical = None;
    for (key, written) in lines {
        let fail =
            |expected: &str| ConfigError::value(&written.origin, key, expected, &written.value);
        if key.starts_with("server.") {
            continue;
        }
        hierarchical = Some(written.origin.clone());
        let id = read_id(key).ok_or_else(|| fail("group.N or weight.N with a number N"))?;
        if key.starts_with("weight") {
            let weight = parse_decimal(&written.value).and_then(|weight| weight.try_into().ok());
            let weight = weight.ok_or_else(|| fail("a weight from 0"))?;
            servers.iter_mut().filter(|server| server.id == id).for_each(|s| s.weight = weight);
            continue;
        }
        for member in written.value.split(':') {
            let member = parse_decimal(raw::trim(member)).ok_or_else(|| fail("ids with ':'"))?;
            let server = servers.iter_mut().find(|server| server.id == member);
            let server = server.ok_or_else(|| fail("ids of server lines"))?;
            if server.group.replace(id).is_some() {
                return Err(fail("servers that are in no other group"));
            }
        }
    }
    let Some(origin) = hierarchical else { return Ok(()) };
    let lost = servers.iter().find(|s| s.role == Role::Participant && s.group.is_none());
    match lost {
        Some(server) => {
            let key = format!("server.{}", server.id);
            Err(ConfigError::missing(&origin, &key, "a group for every server that votes"))
        }
        None => Ok(()),
    }
}

fn decide_distributed(
    properties: &mut Properties,
    ensemble: &mut Ensemble,
    origin: &Origin,
) -> Result<(), ConfigError> {
    let voters = ensemble.servers.iter().filter(|s| s.role == Role::Participant).count();
    let observers = ensemble.servers.len() - voters;
    let missing = |expected: &str| Err(ConfigError::missing(origin, "server.N", expected));
    if voters == 0 && !ensemble.standalone_enabled {
        return missing("a participant, since standaloneEnabled=false");
    }
    if voters == 0 && observers > 0 {
        return missing("a participant besides the observers");
    }
    if voters == 1 && ensemble.standalone_enabled {
        if observers > 0 {
            return missing("a second participant, since there are observers");
        }
        properties.note("one server line: the server runs on its own");
    }
    ensemble.distributed = voters > 1 || !ensemble.standalone_enabled;
    if ensemble.distributed && voters == 2 {
        properties.note("two voting servers: neither may fail; three can lose one");
    } else if ensemble.distributed && voters > 2 && voters % 2 == 0 {
        let fewer = voters - 1;
        properties.note(format!("{voters} voting servers survive no more failures than {fewer}"));
    }
    Ok(())
}

fn read_my_id(data_dir: &Path, distributed: bool) -> Result<Option<i64>, ConfigError> {
    let path = data_dir.join("myid");
    if !path.is_file() {
        if distributed {
            let origin = Origin::File { path, line: 0 };
            return Err(ConfigError::missing(&origin, "myid", "a file with this server's number"));
        }
        return Ok(None);
    }
    let bytes = read_small(&path)?;
    let text = String::from_utf8_lossy(&bytes);
    let line = raw::trim(text.lines().next().unwrap_or_default());
    match parse_decimal(line) {
        Some(id) if id >= 0 => Ok(Some(id)),
        // Alone a server needs no number, and Apache takes any that is there.
        Some(_) if !distributed => Ok(None),
        _ => {
            let origin = Origin::File { path, line: 1 };
            let shown: String = line.chars().take(40).collect();
            Err(ConfigError::value(&origin, "myid", "this server's number", &shown))
        }
    }
}

/// This server's own line may say where clients connect; it must not contradict `clientPort`.
fn take_own_line(
    properties: &mut Properties,
    ensemble: &Ensemble,
    client_address: &mut Option<SocketAddr>,
) -> Result<(), ConfigError> {
    let own = ensemble.servers.iter().find(|server| Some(server.id) == ensemble.my_id);
    let Some(ServerSpec { id, client: Some((host, port)), .. }) = own else { return Ok(()) };
    let key = format!("server.{id}");
    let address = resolve(host, *port).ok_or_else(|| {
        let expected = "a client address that this host can resolve";
        ConfigError::value(&properties.source, &key, expected, host)
    })?;
    if let Some(fixed) = client_address {
        let wildcard = fixed.ip().is_unspecified() && fixed.port() == address.port();
        if !wildcard && *fixed != address {
            let expected = format!("the client address of clientPort, {fixed}");
            let found = address.to_string();
            return Err(ConfigError::value(&properties.source, &key, expected, &found));
        }
    }
    *client_address = Some(address);
    Ok(())
}

/// The address of `host`, which is an address or a name.
pub(super) fn resolve(host: &str, port: u16) -> Option<SocketAddr> {
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = plain.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, port));
    }
    // Java writes the interface behind any address of version 6 that it took from one; only a
    // link's own address means something by it, and that the resolver reads.
    if let Some((address, _)) = plain.split_once('%')
        && let Ok(address) = address.parse::<Ipv6Addr>()
        && !address.is_unicast_link_local()
    {
        return Some(SocketAddr::new(address.into(), port));
    }
    preferred((plain, port).to_socket_addrs().ok()?)
}

/// Which of a name's addresses is listened at: the first of version 4, if there is one, as Java
/// does by default (`java.net.preferIPv6Addresses`). The system's resolver gives `localhost` as
/// `::1` first, where no Java server would look for it.
pub fn preferred(found: impl IntoIterator<Item = SocketAddr>) -> Option<SocketAddr> {
    found.into_iter().min_by_key(SocketAddr::is_ipv6)
}

fn check_distributed(
    properties: &mut Properties,
    ensemble: &Ensemble,
    lines: &Lines,
) -> Result<(), ConfigError> {
    let source = properties.source.clone();
    for (key, ticks) in
        [("initLimit", ensemble.init_limit_ticks), ("syncLimit", ensemble.sync_limit_ticks)]
    {
        if ticks == 0 {
            let expected = "a number of ticks above 0 in an ensemble";
            return Err(ConfigError::missing(&source, key, expected));
        }
    }
    let ids: BTreeSet<i64> = ensemble.servers.iter().map(|server| server.id).collect();
    let my_id = ensemble.my_id.expect("a distributed server without myid is refused");
    if !ids.contains(&my_id) {
        let origin = lines.values().next().map_or(source, |written| written.origin.clone());
        let expected = format!("a line for this server, whose myid is {my_id}");
        return Err(ConfigError::missing(&origin, &format!("server.{my_id}"), expected));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};

    #[test]
    fn of_a_names_addresses_the_first_of_version_4_is_taken() {
        let of = |texts: &[&str]| {
            let found = texts.iter().map(|text| text.parse().unwrap());
            preferred(found).map(|it| it.to_string())
        };
        let both = ["[::1]:7", "127.0.0.1:7", "10.0.0.1:7"];
        assert_eq!(of(&both).as_deref(), Some("127.0.0.1:7"));
        assert_eq!(of(&["[fd00::2]:7", "[::1]:7"]).as_deref(), Some("[fd00::2]:7"));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_leader_serves_unless_the_word_is_no() {
        let serves = |line: &str| {
            let text = format!("dataDir=/d\nclientPort=1\n{line}\n");
            let config = Config::parse(&Sources::default(), Path::new("zoo.cfg"), text.as_bytes());
            config.expect("it is whole").ensemble.leader_serves
        };
        assert!(serves(""));
        assert!(!serves("leaderServes=no"));
        // As Apache compares it.
        assert!(serves("leaderServes=NO") && serves("leaderServes=false"));
    }

    #[test]
    fn the_interface_behind_an_address_is_only_a_links_own() {
        for host in ["::1", "[::1]", "0:0:0:0:0:0:0:1%lo", "[0:0:0:0:0:0:0:1%1]"] {
            assert_eq!(resolve(host, 7).unwrap().to_string(), "[::1]:7", "{host}");
        }
        assert_eq!(resolve("fe80::1%1", 7).unwrap().to_string(), "[fe80::1%1]:7");
    }

    #[test]
    fn a_server_alone_needs_no_number_of_its_own() {
        let home = tempfile::tempdir().unwrap();
        let check = |text: &str, distributed, expected: Result<Option<i64>, ()>| {
            std::fs::write(home.path().join("myid"), text).unwrap();
            let read = read_my_id(home.path(), distributed).map_err(drop);
            assert_eq!(read, expected, "{text:?}");
        };
        check("7\n", true, Ok(Some(7)));
        check("7\n", false, Ok(Some(7)));
        check("-1", true, Err(()));
        check("-1", false, Ok(None));
        check("x", false, Err(()));
    }
}
