//! The administration server and the page for Prometheus, asked over raw sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::client::create;
use crate::process::Server;

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().port()
}

/// Sends a request as it stands, and reads until the server closes.
fn ask(port: u16, request: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).unwrap();
    reply
}

fn get(port: u16, path: &str) -> String {
    ask(port, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
}

/// The value of a metric on a page for Prometheus.
fn metric(page: &str, name: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn settings(admin: u16, metrics: u16) -> [String; 5] {
    [
        "admin.enableServer=true".to_owned(),
        format!("admin.serverPort={admin}"),
        "metricsProvider.className=org.apache.zookeeper.metrics.prometheus.\
         PrometheusMetricsProvider"
            .to_owned(),
        "metricsProvider.httpHost=127.0.0.1".to_owned(),
        format!("metricsProvider.httpPort={metrics}"),
    ]
}

#[test]
fn both_sites_tell_what_the_server_does() {
    let (admin, metrics) = (free_port(), free_port());
    let settings = settings(admin, metrics);
    let server = Server::serving(&settings.each_ref().map(String::as_str));
    let mut client = server.client();
    let before = metric(&get(metrics, "/metrics"), "ringkeeper_txns").unwrap();
    for path in ["/a", "/b", "/c"] {
        client.done(&create(path, b"", 0));
    }
    let page = get(metrics, "/metrics");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("\r\ncontent-type: text/plain; version=0.0.4"), "{page}");
    assert_eq!(metric(&page, "ringkeeper_txns"), Some(before + 3));
    assert_eq!(metric(&page, "num_alive_connections"), Some(1));

    let session = format!("\"session_id\": {}", client.session);
    assert!(get(admin, "/commands/connections").contains(&session));
    assert!(get(admin, "/commands").contains("<a href=\"/commands/server_stats\">"));
    // Counters start again, levels stay.
    assert!(get(admin, "/commands/stat_reset").contains("\"error\": null"));
    let page = get(admin, "/commands/monitor");
    assert!(page.contains("\"ringkeeper_events_sent\": 0"), "{page}");
    assert!(page.contains("\"num_alive_connections\": 1"), "{page}");
    client.ping();
}

#[test]
fn what_is_not_asked_for_properly_is_refused() {
    let (admin, metrics) = (free_port(), free_port());
    let settings = settings(admin, metrics);
    let server = Server::serving(&settings.each_ref().map(String::as_str));
    for (port, path) in [(admin, "/"), (admin, "/metrics"), (admin, "/commandsx"), (metrics, "/")] {
        assert!(get(port, path).starts_with("HTTP/1.1 404 "), "{path}");
    }
    for method in ["TRACE", "POST", "DELETE"] {
        let request = format!("{method} /commands/ruok HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(ask(admin, &request).starts_with("HTTP/1.1 405 "), "{method}");
    }
    assert!(ask(admin, "\0\0\0\u{2d}\0\0\0\0 no HTTP\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let endless = format!("GET /commands/{} HTTP/1.1\r\n", "a".repeat(1 << 20));
    let mut socket = TcpStream::connect(("127.0.0.1", admin)).unwrap();
    // The server may close before it has read all of it.
    socket.write_all(endless.as_bytes()).ok();
    drop(socket);
    assert!(get(admin, "/commands/ruok").contains("\"command\": \"ruok\""));
    server.client().ping();
}

/// Connections that say nothing take all places for as long as they may, not for ever; the
/// clients' port does not notice.
#[test]
fn silent_connections_are_closed() {
    let (admin, metrics) = (free_port(), free_port());
    let mut settings = settings(admin, metrics).to_vec();
    settings.push("admin.idleTimeout=300".to_owned());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let server = Server::serving(&settings);
    let silent: Vec<_> =
        (0..100).map(|_| TcpStream::connect(("127.0.0.1", admin)).unwrap()).collect();
    server.client().ping();
    assert!(get(admin, "/commands/ruok").contains("\"command\": \"ruok\""));
    for mut socket in silent {
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).unwrap();
    }
}

#[test]
fn a_port_that_is_taken_stops_the_start_only_where_it_was_asked_for() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut server = Server::new(&["admin.enableServer=true", &format!("admin.serverPort={port}")]);
    let (code, output) = server.start_refused();
    assert_eq!(code, 4, "{output}");
    assert!(output.contains("administration server cannot listen on 127.0.0.1"), "{output}");
    assert!(output.contains("admin.serverPort"), "{output}");
}
