//! The administration server and the page for Prometheus, asked over raw sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::client::create;
use crate::process::{Server, directory};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().port()
}

fn ask(port: u16, request: &str) -> String {
    String::from_utf8(ask_bytes(port, request)).unwrap()
}

/// Sends a request as it stands, and reads until the server closes.
fn ask_bytes(port: u16, request: &str) -> Vec<u8> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut reply = Vec::new();
    socket.read_to_end(&mut reply).unwrap();
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

/// What is fetched as a backup is imported, and another server serves it.
#[test]
fn a_backup_is_all_that_was_committed() {
    let (admin, metrics) = (free_port(), free_port());
    let mut server = Server::new(&[]);
    settings(admin, metrics).iter().for_each(|line| server.set(line));
    server.start();
    let mut client = server.client();
    for path in ["/a", "/a/b", "/a/b/c"] {
        client.done(&create(path, path.as_bytes(), 0));
    }
    let head = |path: &str, more: &str| {
        let request = format!("{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n");
        ask_bytes(admin, &request)
    };
    let status = |reply: &[u8]| String::from_utf8_lossy(&reply[9..12]).into_owned();
    assert_eq!(status(&head("GET /commands/snapshot", "")), "401");
    // What a proxy claims is no proof.
    let spoofed = "X-Forwarded-For: 127.0.0.1\r\nAuthorization: world anyone\r\n";
    assert_eq!(status(&head("GET /commands/snap", spoofed)), "401");
    let known = "Authorization: digest ann:secret\r\n";
    assert_eq!(status(&head("POST /commands/restore", known)), "503");
    let reply = head("GET /commands/snapshot", known);
    assert_eq!(status(&reply), "200");
    assert_eq!(status(&head("GET /commands/snapshot", known)), "429", "one in five minutes");

    let end = reply.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let (head, body) = (std::str::from_utf8(&reply[..end]).unwrap(), &reply[end + 4..]);
    assert!(head.contains(&format!("\r\nsnapshot_size: {}\r\n", body.len())), "{head}");
    let zxid = head.lines().find_map(|line| line.strip_prefix("last_zxid: 0x")).unwrap();
    let java = directory();
    let dir = java.path().join("version-2");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join(format!("snapshot.{zxid}")), body).unwrap();
    let mut other = Server::new(&[]);
    let import = std::process::Command::new(env!("CARGO_BIN_EXE_ringkeeper"))
        .args(["import", "--snapshot-alone", "--java-data"])
        .arg(java.path())
        .arg("--data")
        .arg(other.version_dir().parent().unwrap())
        .output()
        .unwrap();
    assert!(import.status.success(), "{import:?}");
    other.start();
    assert_eq!(other.client().get("/a/b/c").as_deref(), Some(&b"/a/b/c"[..]));
    // Nothing is left behind beside the server's own snapshots.
    assert!(!server.version_dir().join("unfinished.backup").exists());
    client.ping();
}
