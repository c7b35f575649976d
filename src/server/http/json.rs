//! The fields of the administration server's answers, in Apache's names and order.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::server::answer::{self, full_version};
use crate::server::metrics;
use crate::server::report::{ConnectionReport, Mode, ServerReport};
use crate::server::summary::{Sizes, Summary};
use crate::wire::membership::{ServerAddress, ServerSpec};
use crate::zxid::Zxid;

/// An answer's fields, in order.
pub(super) type Body = serde_json::Map<String, Value>;

/// An answer with what every one ends with. A field `error` of its own comes first, and stays.
pub(super) fn finished(command: &str, mut fields: Body) -> Body {
    fields.insert("command".into(), command.into());
    fields.entry("error").or_insert(Value::Null);
    fields
}

/// The answer to a command that is not carried out.
pub(super) fn failed(command: &str, error: &str) -> Body {
    let mut fields = Body::new();
    fields.insert("command".into(), command.into());
    fields.insert("error".into(), error.into());
    fields
}

/// The answer to a command whose argument is wrong: Apache's own `error` comes first there.
pub(super) fn refused(command: &str, error: &str) -> Body {
    finished(command, fields(json!({ "error": error })))
}

/// The fields of an object that `json!` made.
fn fields(object: Value) -> Body {
    match object {
        Value::Object(fields) => fields,
        other => unreachable!("{other} is no object"),
    }
}

pub(super) fn configuration(report: &ServerReport) -> Body {
    let conf = &report.conf;
    let or_none = |value: Option<u32>| value.map_or(-1, i64::from);
    fields(json!({
        "client_port": or_none(conf.client_port.map(u32::from)),
        "data_dir": conf.data_dir,
        "data_log_dir": conf.log_dir,
        "tick_time": conf.tick_time_ms,
        "max_client_cnxns": conf.connections_per_address_max,
        "min_session_timeout": conf.session_timeout_ms_min,
        "max_session_timeout": conf.session_timeout_ms_max,
        "server_id": conf.server_id,
        "client_port_listen_backlog": or_none(conf.listen_backlog),
    }))
}

pub(super) fn connections(report: &ServerReport, is_brief: bool) -> Body {
    let all = report.clients.iter().flat_map(|client| &client.connection_reports);
    let all: Vec<Value> = all.map(|it| connection(it, is_brief)).collect();
    fields(json!({ "connections": all, "secure_connections": [] }))
}

/// One connection (`NIOServerCnxn.getConnectionInfo`).
fn connection(it: &ConnectionReport, is_brief: bool) -> Value {
    let mut body = fields(json!({
        "remote_socket_address": it.peer.to_string(),
        "interest_ops": it.interest,
        "outstanding_requests": it.queued,
        "packets_received": it.received,
        "packets_sent": it.sent,
    }));
    if !is_brief && it.session != 0 {
        let average = it.latency_ms.sum.checked_div(it.latency_ms.count).unwrap_or(0);
        body.extend(fields(json!({
            "session_id": it.session,
            "last_operation": it.last_op.map_or("NA", answer::operation),
            "established": it.established_wall_ms,
            "session_timeout": it.timeout_ms,
        })));
        if it.last_xid >= 0 {
            body.insert("last_cxid".into(), it.last_xid.into());
        }
        body.extend(fields(json!({
            "last_zxid": it.last_zxid,
            "last_response_time": it.last_response_wall_ms,
            "last_latency": it.last_latency_ms,
            "min_latency": it.latency_ms.min(),
            "avg_latency": average,
            "max_latency": it.latency_ms.max(),
        })));
    }
    Value::Object(body)
}

pub(super) fn directories(report: &ServerReport) -> Body {
    fields(json!({
        "datadir_size": report.data_dir_size,
        "logdir_size": report.log_dir_size,
    }))
}

/// Sessions by when they expire, in milliseconds since 1970 (Apache's are since its host's start).
pub(super) fn dump(report: &ServerReport) -> Body {
    let mut expiring: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    let own = report.own_sessions.as_deref().unwrap_or_default();
    for session in report.sessions.iter().chain(own) {
        expiring.entry(session.expires_wall_ms).or_default().push(session.session);
    }
    let owners: BTreeMap<i64, &Vec<String>> =
        report.ephemerals.iter().map(|(session, paths)| (*session, paths)).collect();
    fields(json!({
        "expiry_time_to_session_ids": expiring,
        "session_id_to_ephemeral_paths": owners,
    }))
}

pub(super) fn environment(report: &ServerReport) -> Body {
    answer::environment(report).map(|(name, value)| (name.to_owned(), value.into())).collect()
}

pub(super) fn trace_mask(report: &ServerReport) -> Body {
    fields(json!({ "tracemask": report.trace_mask }))
}

pub(super) fn digests(report: &ServerReport) -> Body {
    let each = |(zxid, digest): &(Zxid, u64)| {
        let (zxid, digest) = (zxid.raw(), digest.cast_signed());
        json!({ "zxid": zxid, "digest_version": 2, "digest": digest })
    };
    let digests: Vec<Value> = report.digests.iter().map(each).collect();
    fields(json!({ "digests": digests }))
}

/// The file's text on a server on its own; a member of an ensemble has none (`null`).
pub(super) fn initial_configuration(report: &ServerReport, written: &str) -> Body {
    let text = report.ensemble.is_none().then_some(written);
    fields(json!({ "initial_configuration": text }))
}

pub(super) fn read_only(report: &ServerReport) -> Body {
    fields(json!({ "read_only": report.mode == Mode::ReadOnly }))
}

/// The newest snapshot: hexadecimal zxid, seconds since 1970 (-1 where the file does not say).
pub(super) fn last_snapshot(report: &ServerReport) -> Body {
    fields(json!({
        "zxid": format!("{:x}", report.last_snapshot.raw()),
        "timestamp": report.last_snapshot_wall_seconds.unwrap_or(-1),
    }))
}

pub(super) fn leader(report: &ServerReport) -> Body {
    let Some(ensemble) = &report.ensemble else {
        return fields(json!({ "error": "server is not initialized" }));
    };
    let leader = ensemble.leader.and_then(|id| ensemble.members.server(id));
    let host = leader.and_then(|it| it.addresses.first()).map_or("", |address| &address.host);
    fields(json!({
        "is_leader": ensemble.leading.is_some(),
        "leader_id": ensemble.leader.unwrap_or(-1),
        "leader_ip": host,
    }))
}

/// The metrics under the names of `mntr`, without its prefix.
pub(super) fn monitor(report: &ServerReport) -> Body {
    let mut body = fields(json!({
        "version": full_version(),
        "server_state": report.mode.name(),
    }));
    if let Some(state) = metrics::peer_state(report.mode) {
        body.insert("peer_state".into(), state.into());
    }
    metrics::visit(report, &mut |name, value| {
        let mut put = |name: String, value: Value| {
            body.insert(name, value);
        };
        match value {
            metrics::Value::Gauge(value) | metrics::Value::Counter(value) => {
                put(name.to_owned(), value.into());
            }
            metrics::Value::GaugeReal(value) => put(name.to_owned(), value.into()),
            metrics::Value::Basic(summary) => put_summary(name, summary, &mut put),
            metrics::Value::Advanced(percentiles) => {
                put_summary(name, &percentiles.summary, &mut put);
                for (prefix, quantile) in metrics::QUANTILES {
                    put(format!("{prefix}_{name}"), percentiles.quantile(quantile).into());
                }
            }
        }
    });
    body
}

fn put_summary(name: &str, summary: &Summary, put: &mut impl FnMut(String, Value)) {
    put(format!("avg_{name}"), summary.average().into());
    put(format!("min_{name}"), summary.min().into());
    put(format!("max_{name}"), summary.max().into());
    put(format!("cnt_{name}"), summary.count.into());
    put(format!("sum_{name}"), summary.sum.into());
}

/// The observers in step. Apache's counters of each one's link are left out.
pub(super) fn observers(report: &ServerReport) -> Body {
    let observers = report.ensemble.as_ref().map_or(&[][..], |it| &it.observers);
    let list: Vec<Value> = observers.iter().map(|id| json!({ "sid": id })).collect();
    fields(json!({ "synced_observers": list.len(), "observers": list }))
}

pub(super) fn server_stats(report: &ServerReport) -> Body {
    let stats = report.stats();
    let responses = sizes(&stats.response_sizes);
    let mut body = fields(json!({
        "version": full_version(),
        "read_only": report.mode == Mode::ReadOnly,
        "server_stats": {
            "packets_sent": stats.packets_sent,
            "packets_received": stats.packets_received,
            "fsync_threshold_exceed_count": report.log.slow_syncs,
            "client_response_stats": responses,
            "provider_null": false,
            "data_dir_size": report.data_dir_size,
            "log_dir_size": report.log_dir_size,
            "last_processed_zxid": report.last_zxid.raw(),
            "outstanding_requests": report.outstanding(),
            "server_state": report.mode.name(),
            "avg_latency": stats.latency_ms.average(),
            "max_latency": stats.latency_ms.max(),
            "min_latency": stats.latency_ms.min(),
            "num_alive_client_connections": report.connections(),
            "auth_failed_count": stats.auth_failed,
            "uptime": report.uptime_ms,
        },
        "client_response": responses,
    }));
    if let Some(leading) = report.ensemble.as_ref().and_then(|all| all.leading.as_ref()) {
        body.insert("proposal_stats".into(), sizes(&leading.proposal_sizes));
    }
    body.insert("node_count".into(), report.node_count.into());
    body
}

/// Sizes in bytes, -1 before the first (`BufferStats`).
fn sizes(sizes: &Sizes) -> Value {
    match sizes.seen {
        None => json!({ "last_buffer_size": -1, "min_buffer_size": -1, "max_buffer_size": -1 }),
        Some(seen) => json!({
            "last_buffer_size": seen.last,
            "min_buffer_size": seen.min,
            "max_buffer_size": seen.max,
        }),
    }
}

pub(super) fn system_properties(properties: &BTreeMap<String, String>) -> Body {
    properties.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect()
}

/// The voters, by their numbers.
pub(super) fn voting_view(report: &ServerReport) -> Body {
    let members = report.ensemble.as_ref().map_or(&[][..], |it| &it.members.servers);
    let voters = members.iter().filter(|it| it.is_voter()).map(|server| {
        let client = server.client.as_ref().map(|(host, port)| format!("{host}:{port}"));
        let view = json!({
            "server_addresses": quorum_addresses(server),
            "election_addresses": election_addresses(server),
            "client_address": client.unwrap_or_default(),
            "learner_type": "participant",
        });
        (server.id.to_string(), view)
    });
    fields(json!({ "current_config": voters.collect::<Body>() }))
}

fn quorum_addresses(server: &ServerSpec) -> Vec<String> {
    server.addresses.iter().map(|it| format!("{}:{}", it.host, it.quorum_port)).collect()
}

fn election_addresses(server: &ServerSpec) -> Vec<String> {
    server.addresses.iter().map(|it| format!("{}:{}", it.host, it.election_port)).collect()
}

pub(super) fn watch_summary(report: &ServerReport) -> Body {
    let counts = report.watch_counts();
    fields(json!({
        "num_connections": counts.connections,
        "num_paths": counts.paths,
        "num_total_watches": counts.watches,
    }))
}

pub(super) fn watches(report: &ServerReport) -> Body {
    let sessions = report.clients.iter().flat_map(|client| &client.watches_by_session);
    let watched: BTreeMap<i64, &Vec<String>> = sessions.map(|(id, paths)| (*id, paths)).collect();
    fields(json!({ "session_id_to_watched_paths": watched }))
}

/// A path may be watched on several cores.
pub(super) fn watches_by_path(report: &ServerReport) -> Body {
    let mut watching: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for (path, sessions) in report.clients.iter().flat_map(|client| &client.watches_by_path) {
        watching.entry(path).or_default().extend(sessions);
    }
    fields(json!({ "path_to_session_ids": watching }))
}

pub(super) fn zab_state(report: &ServerReport) -> Body {
    let Some(ensemble) = &report.ensemble else {
        return fields(json!({ "voting": false, "zabstate": "" }));
    };
    let own = ensemble.members.server(ensemble.my_id);
    let client = own.and_then(|it| it.client.as_ref());
    let addresses = own.map_or(&[][..], |it| &it.addresses);
    let zxid = report.last_zxid;
    fields(json!({
        "myid": ensemble.my_id,
        "is_leader": ensemble.leading.is_some(),
        "quorum_address": multiple(addresses, |it| it.quorum_port),
        "election_address": multiple(addresses, |it| it.election_port),
        "client_address": client.map_or(String::new(), |(host, port)| format!("{host}:{port}")),
        "voting": own.is_some_and(ServerSpec::is_voter),
        "last_zxid": format!("0x{:x}", zxid.raw()),
        "zab_epoch": zxid.epoch(),
        "zab_counter": zxid.counter(),
        "zabstate": ensemble.phase,
    }))
}

/// The addresses of one port. What Apache says of those that it can reach just now is left out.
fn multiple(addresses: &[ServerAddress], port: impl Fn(&ServerAddress) -> u16) -> Value {
    let all: Vec<String> = addresses.iter().map(|it| format!("{}:{}", it.host, port(it))).collect();
    let wildcards: Vec<String> =
        addresses.iter().map(|it| format!("0.0.0.0:{}", port(it))).collect();
    json!({
        "empty": addresses.is_empty(),
        "one": all.first(),
        "all_addresses": all,
        "wildcard_addresses": wildcards,
        "all_ports": addresses.iter().map(port).collect::<Vec<_>>(),
        "all_host_strings": addresses.iter().map(|it| it.host.as_str()).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::report::{EnsembleReport, LeaderReport};
    use crate::wire::membership::Membership;

    const MEMBERS: &[u8] = b"server.1=10.0.0.1:2888:3888:participant;10.0.0.1:2181\n\
        server.2=10.0.0.2:2888:3888:participant\n\
        server.3=10.0.0.3:2889:3889:observer\nversion=0";

    fn member(my_id: i64, leader: Option<i64>) -> ServerReport {
        let ensemble = EnsembleReport {
            my_id,
            leader,
            leading: (leader == Some(my_id)).then(LeaderReport::default),
            phase: "broadcast",
            members: Membership::parse(MEMBERS).unwrap(),
            observers: vec![3],
            ..EnsembleReport::default()
        };
        ServerReport {
            serving: true,
            ensemble: Some(ensemble),
            last_zxid: Zxid::new(2, 7),
            ..ServerReport::default()
        }
    }

    #[test]
    fn a_member_says_who_leads_and_what_it_is() {
        let leads = leader(&member(2, Some(2)));
        assert_eq!(
            Value::Object(leads),
            json!({
                "is_leader": true, "leader_id": 2, "leader_ip": "10.0.0.2",
            })
        );
        let follows = leader(&member(1, Some(2)));
        assert_eq!(follows["is_leader"], json!(false));
        assert_eq!(follows["leader_ip"], json!("10.0.0.2"));
        let observes = zab_state(&member(3, Some(2)));
        assert_eq!(observes["voting"], json!(false));
        assert_eq!(observes["last_zxid"], json!("0x200000007"));
        assert_eq!((&observes["zab_epoch"], &observes["zab_counter"]), (&json!(2), &json!(7)));
        assert_eq!(observes["quorum_address"]["all_addresses"], json!(["10.0.0.3:2889"]));
        assert_eq!(observes["election_address"]["all_ports"], json!([3889]));
        assert_eq!(zab_state(&member(1, None))["client_address"], json!("10.0.0.1:2181"));
    }

    #[test]
    fn the_voting_view_has_the_voters() {
        let view = voting_view(&member(1, Some(2)));
        let voters = view["current_config"].as_object().unwrap();
        assert_eq!(voters.keys().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(
            voters["2"],
            json!({
                "server_addresses": ["10.0.0.2:2888"],
                "election_addresses": ["10.0.0.2:3888"],
                "client_address": "",
                "learner_type": "participant",
            })
        );
        assert_eq!(observers(&member(2, Some(2)))["synced_observers"], json!(1));
    }
}
