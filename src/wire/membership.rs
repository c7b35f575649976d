//! The members of an ensemble as text: in `/zookeeper/config`, in notifications, in NEWLEADER and
//! in dynamic configuration files (`QuorumMaj.java`, `QuorumHierarchical.java`, `QuorumServer`).
//!
//! ```text
//! server.N = host:quorumPort:electionPort[:role][|host:quorumPort:electionPort[:role]]…[;client]
//! client   = [host:]port            role = participant | observer
//! group.N  = id:id:…                weight.N = number          version = hexadecimal
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The members of an ensemble at one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// By ascending id, each once.
    pub servers: Vec<ServerSpec>,
    /// The zxid that made it; 0 as long as no leader has given it one.
    pub version: i64,
}

/// Why a change of the members is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// It asks for what cannot be; why.
    Bad(String),
    /// A number cannot be read, which Apache takes for a request that cannot be.
    Unreadable,
}

/// What a server of an ensemble does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It votes.
    Participant,
    /// It follows without a vote.
    Observer,
}

/// One address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// A name or an address, without brackets.
    pub host: String,
    /// Where a leader takes its learners' connections.
    pub quorum_port: u16,
    /// Where election messages go.
    pub election_port: u16,
}

/// A `server.N` line with its group and weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// N.
    pub id: i64,
    /// At least one.
    pub addresses: Vec<ServerAddress>,
    /// What it does.
    pub role: Role,
    /// Where it serves clients, if the line says so.
    pub client: Option<(String, u16)>,
    /// Its group in a hierarchical quorum.
    pub group: Option<i64>,
    /// Its weight in its group; 0 never votes.
    pub weight: u64,
}

/// Spaces and control characters, as Java's `trim` has them.
fn trim(text: &str) -> &str {
    text.trim_matches(|letter: char| letter <= ' ')
}

impl Membership {
    /// Reads a configuration. The error is what is wrong with it.
    ///
    /// # Errors
    /// It is no text, has an unknown key, or a line that cannot be read.
    pub fn parse(text: &[u8]) -> Result<Membership, String> {
        let text = std::str::from_utf8(text).map_err(|_| "it is no text".to_owned())?;
        let mut lines = BTreeMap::new();
        for line in text.lines().map(trim) {
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            let (key, value) =
                line.split_once('=').ok_or_else(|| format!("{line:?} has no '='"))?;
            lines.insert(trim(key), trim(value));
        }
        Membership::from_lines(&lines).map_err(|error| match error {
            ChangeError::Bad(reason) => reason,
            ChangeError::Unreadable => "a number cannot be read".to_owned(),
        })
    }

    fn from_lines(lines: &BTreeMap<&str, &str>) -> Result<Membership, ChangeError> {
        let mut members = Membership::default();
        for (key, value) in lines {
            if *key == "version" {
                let version = u64::from_str_radix(value, 16);
                members.version = version.map_err(|_| ChangeError::Unreadable)?.cast_signed();
            } else if let Some(id) = key.strip_prefix("server.") {
                let id = read_id(id)?;
                members.servers.push(parse_server(id, value).map_err(ChangeError::Bad)?);
            } else if !key.starts_with("group") && !key.starts_with("weight") {
                return Err(ChangeError::Bad(format!("{key:?} is no key of a member")));
            }
        }
        members.servers.sort_by_key(|server| server.id);
        members.read_groups(lines)?;
        Ok(members)
    }

    fn read_groups(&mut self, lines: &BTreeMap<&str, &str>) -> Result<(), ChangeError> {
        let bad = |reason: &str| ChangeError::Bad(reason.to_owned());
        let mut is_hierarchical = false;
        for (key, value) in lines {
            let is_group = key.starts_with("group");
            if !is_group && !key.starts_with("weight") {
                continue;
            }
            is_hierarchical = true;
            let (_, number) = key.split_once('.').ok_or(ChangeError::Unreadable)?;
            let number = read_id(number)?;
            if !is_group {
                let weight = value.parse().map_err(|_| ChangeError::Unreadable)?;
                let weighed = self.servers.iter_mut().filter(|server| server.id == number);
                weighed.for_each(|server| server.weight = weight);
                continue;
            }
            for id in value.split(':').map(trim) {
                let id = read_id(id)?;
                let Some(server) = self.servers.iter_mut().find(|server| server.id == id) else {
                    continue;
                };
                if server.group.replace(number).is_some() {
                    return Err(bad("a server is in two groups"));
                }
            }
        }
        let is_lost = |server: &ServerSpec| server.is_voter() && server.group.is_none();
        if is_hierarchical && self.servers.iter().any(is_lost) {
            return Err(bad("a voter is in no group"));
        }
        Ok(())
    }

    /// The text: one line each by ascending id, groups and weights where there are any, then the
    /// version.
    pub fn text(&self) -> String {
        self.lines().into_iter().chain([format!("version={:x}", self.version)]).fold(
            String::new(),
            |mut text, line| {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(&line);
                text
            },
        )
    }

    /// The lines of a dynamic configuration file, which has its version in its name.
    pub fn lines(&self) -> Vec<String> {
        let mut servers: Vec<&ServerSpec> = self.servers.iter().collect();
        servers.sort_by_key(|server| server.id);
        let mut lines: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let mut groups: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for server in &servers {
            if let Some(group) = server.group {
                groups.entry(group).or_default().push(server.id.to_string());
            }
        }
        if groups.is_empty() {
            return lines;
        }
        let line = |(group, ids): (i64, Vec<String>)| format!("group.{group}={}", ids.join(":"));
        lines.extend(groups.into_iter().map(line));
        let grouped = servers.iter().filter(|server| server.group.is_some());
        lines.extend(grouped.map(|server| format!("weight.{}={}", server.id, server.weight)));
        lines
    }

    /// The server with this id.
    pub fn server(&self, id: i64) -> Option<&ServerSpec> {
        self.servers.iter().find(|server| server.id == id)
    }

    /// How many servers vote.
    pub fn voter_count(&self) -> usize {
        self.servers.iter().filter(|server| server.is_voter()).count()
    }

    /// Whether quorums are made of groups and weights.
    pub fn is_hierarchical(&self) -> bool {
        self.servers.iter().any(|server| server.group.is_some())
    }

    /// The version at the end of a configuration's text, without reading the rest of it.
    pub fn version_of(text: &[u8]) -> Option<i64> {
        let text = std::str::from_utf8(text).ok()?;
        let line = text.lines().rev().find_map(|line| trim(line).strip_prefix("version="))?;
        u64::from_str_radix(trim(line), 16).ok().map(u64::cast_signed)
    }
}

// ── Changes that a client asks for (`PrepRequestProcessor.java`) ──
impl Membership {
    /// All members anew: lines that are separated by commas or line ends.
    ///
    /// # Errors
    /// Apache's, in its order.
    pub fn replaced(&self, members: &str, is_standalone: bool) -> Result<Membership, ChangeError> {
        let mut lines = BTreeMap::new();
        for line in members.split([',', '\n', '\r']).map(trim) {
            if let Some((key, value)) = line.split_once('=') {
                lines.insert(trim(key), trim(value));
            } else if !line.is_empty() {
                return Err(ChangeError::Bad(format!("{line:?} has no '='")));
            }
        }
        let next = Membership::from_lines(&lines)?;
        let (voters, observers) = (next.voter_count(), next.servers.len() - next.voter_count());
        let is_empty = voters == 0 && (!is_standalone || observers > 0);
        if is_empty || (voters == 1 && is_standalone && observers > 0) {
            return Err(ChangeError::Unreadable);
        }
        Ok(next)
    }

    /// Some leave, then some join or change: ids, and `server.N=…`, separated by commas.
    ///
    /// # Errors
    /// Apache's, in its order.
    pub fn changed(
        &self,
        joining: Option<&str>,
        leaving: Option<&str>,
    ) -> Result<Membership, ChangeError> {
        let bad = |reason: &str| ChangeError::Bad(reason.to_owned());
        let parts = |text: &'_ str| -> Vec<String> {
            let parts = text.split(',').map(trim).filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        };
        if self.is_hierarchical() {
            return Err(bad("members with groups are replaced as a whole"));
        }
        let mut next = self.clone();
        for id in leaving.map(parts).unwrap_or_default() {
            let id = read_id(&id)?;
            next.servers.retain(|server| server.id != id);
        }
        for line in joining.map(parts).unwrap_or_default() {
            let sides: Vec<&str> = line.split('=').map(trim).filter(|it| !it.is_empty()).collect();
            let [key, value] = sides[..] else { return Err(bad("a server is server.N=…")) };
            let id = read_id(key.rsplit('.').next().unwrap_or_default())?;
            let server = parse_server(id, value).map_err(ChangeError::Bad)?;
            if server.client.is_none() {
                return Err(bad("a server has three ports, that for clients among them"));
            }
            next.servers.retain(|other| other.id != id);
            if next.servers.iter().any(|other| server.collides(other)) {
                return Err(bad("two servers have one address"));
            }
            next.servers.push(server);
        }
        next.servers.sort_by_key(|server| server.id);
        Ok(next)
    }
}

impl ServerSpec {
    /// Whether it votes.
    pub fn is_voter(&self) -> bool {
        self.role == Role::Participant
    }

    /// Its hosts and ports, but those that every host has for itself
    /// (`QuorumServer.checkAddressDuplicate`).
    fn ports(&self) -> BTreeSet<(&str, u16)> {
        let own = self.addresses.iter().flat_map(|it| {
            [(it.host.as_str(), it.quorum_port), (it.host.as_str(), it.election_port)]
        });
        let client = self.client.iter().map(|(host, port)| (host.as_str(), *port));
        let is_shared = |host: &str| match host.parse::<core::net::IpAddr>() {
            Ok(address) => address.is_unspecified() || address.is_loopback(),
            Err(_) => host == "localhost",
        };
        own.chain(client).filter(|(host, _)| !is_shared(host)).collect()
    }

    fn collides(&self, other: &ServerSpec) -> bool {
        !self.ports().is_disjoint(&other.ports())
    }
}

/// A server's or group's number.
fn read_id(text: &str) -> Result<i64, ChangeError> {
    text.parse().map_err(|_| ChangeError::Unreadable)
}

impl fmt::Display for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        addresses.sort();
        let role = match self.role {
            Role::Participant => "participant",
            Role::Observer => "observer",
        };
        write!(f, "server.{}={}:{role}", self.id, addresses.join("|"))?;
        match &self.client {
            Some((host, port)) => write!(f, ";{}:{port}", in_brackets(host)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", in_brackets(&self.host), self.quorum_port, self.election_port)
    }
}

/// A host as it stands before a port: IPv6 addresses in brackets.
fn in_brackets(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

const SERVER_FORM: &str =
    "host:quorumPort:electionPort[:participant|observer][;[clientHost:]clientPort]";

/// Parses the value of a `server.N` line. The error is what was expected.
pub fn parse_server(id: i64, value: &str) -> Result<ServerSpec, String> {
    let mut parts = value.split(';');
    let addresses_text = parts.next().unwrap_or_default();
    let client = match (parts.next().map(trim), parts.next()) {
        (None | Some(""), None) => None,
        (Some(client), None) => Some(parse_client(client)?),
        (_, Some(_)) => return Err(format!("at most one ';' in {SERVER_FORM}")),
    };
    let mut addresses = Vec::new();
    let mut role = None;
    for text in addresses_text.split('|') {
        let (address, own_role) = parse_address(trim(text))?;
        if let Some(own_role) = own_role
            && own_role != *role.get_or_insert(own_role)
        {
            return Err("the same role for every address".into());
        }
        addresses.push(address);
    }
    let role = role.unwrap_or(Role::Participant);
    Ok(ServerSpec { id, addresses, role, client, group: None, weight: 1 })
}

fn parse_client(text: &str) -> Result<(String, u16), String> {
    let (host, rest) = split_host(text)?;
    let (host, port) = match rest {
        Some(port) => (host, port),
        None => ("0.0.0.0", host),
    };
    let port = port.parse().map_err(|_| "a client port from 0 to 65535 after ';'".to_string())?;
    Ok((host.into(), port))
}

fn parse_address(text: &str) -> Result<(ServerAddress, Option<Role>), String> {
    let form = || SERVER_FORM.to_string();
    let (host, rest) = split_host(text)?;
    let mut parts = rest.ok_or_else(form)?.split(':');
    let mut port = || -> Result<u16, String> {
        let text = parts.next().ok_or_else(form)?;
        let port = text.parse().ok().filter(|&port| port > 0);
        port.ok_or_else(|| format!("a port from 1 to 65535 where {text:?} stands"))
    };
    let (quorum_port, election_port) = (port()?, port()?);
    let role = match parts.next().map(|role| trim(role).to_ascii_lowercase()) {
        None => None,
        Some(role) if role == "participant" => Some(Role::Participant),
        Some(role) if role == "observer" => Some(Role::Observer),
        Some(_) => return Err("the role participant or observer after the ports".into()),
    };
    if parts.next().is_some() || host.is_empty() {
        return Err(form());
    }
    if quorum_port == election_port {
        return Err("a quorum port and an election port that differ".into());
    }
    Ok((ServerAddress { host: host.into(), quorum_port, election_port }, role))
}

/// Splits `host:rest` or `[v6]:rest` after the host.
fn split_host(text: &str) -> Result<(&str, Option<&str>), String> {
    let Some(bracketed) = text.strip_prefix('[') else {
        return Ok(match text.split_once(':') {
            Some((host, rest)) => (host, Some(rest)),
            None => (text, None),
        });
    };
    let closing = || "a ']' and a ':' after the IPv6 address".to_string();
    let (host, rest) = bracketed.split_once(']').ok_or_else(closing)?;
    Ok((host, Some(rest.strip_prefix(':').ok_or_else(closing)?)))
}

#[cfg(test)]
mod tests;
