//! Whatever stands in a zoo.cfg: it is read or refused, what was read can be written and read again
//! as itself, and what is derived from it keeps its own bounds.
//!
//! Of the files and names that a zoo.cfg leads to, this target leaves none in: the last entry of a
//! key holds, and it adds one for each of those. A server's own line may still name a host, and is
//! left to the parser alone where it does.
#![no_main]

mod input;
mod scratch;

use std::net::IpAddr;
use std::path::Path;

use input::Input;
use libfuzzer_sys::fuzz_target;
use ringkeeper::config::properties::Sources;
use ringkeeper::config::raw::RawConfig;
use ringkeeper::config::Config;
use ringkeeper::wire::membership::parse_server;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let flags = input.slice();
    let file = input.0;
    if let Ok(raw) = RawConfig::parse(file) {
        let again = RawConfig::parse(render(&raw).as_bytes()).expect("what is written is read");
        assert!(again.entries.len() == raw.entries.len());
        for (again, entry) in again.entries.iter().zip(&raw.entries) {
            assert_eq!((&again.key, &again.value), (&entry.key, &entry.value));
        }
    }
    let sources = Sources {
        jvm_flags: Some(String::from_utf8_lossy(flags).into_owned()),
        ..Sources::default()
    };
    let file = bounded(file);
    let Ok(raw) = RawConfig::parse(&file) else { return };
    if raw.entries.iter().any(|entry| names_a_host(&entry.key, &entry.value)) {
        return;
    }
    if let Ok(config) = Config::parse(&sources, Path::new("zoo.cfg"), &file) {
        check(&config);
    }
});

/// The file with the last word on everything outside of it.
fn bounded(file: &[u8]) -> Vec<u8> {
    let data_dir = scratch::dir("data");
    std::fs::write(data_dir.join("myid"), "1\n").expect("the file can be written");
    let mut file = file.to_vec();
    // Two ends of a line, since the last one may be continued.
    file.extend_from_slice(b"\n\n");
    let last = format!(
        "dataDir={}\nclientPortAddress=127.0.0.1\nadmin.serverAddress=127.0.0.1\n\
         metricsProvider.httpHost=127.0.0.1\ndynamicConfigFile=\n",
        data_dir.display()
    );
    file.extend_from_slice(last.as_bytes());
    file
}

fn names_a_host(key: &str, value: &str) -> bool {
    if !key.starts_with("server.") {
        return false;
    }
    let server = parse_server(1, value);
    let client = server.ok().and_then(|server| server.client);
    client.is_some_and(|(host, _)| host.parse::<IpAddr>().is_err())
}

/// The entries in the properties format, escaped.
fn render(raw: &RawConfig) -> String {
    let mut text = String::new();
    for entry in &raw.entries {
        escape(&entry.key, &mut text);
        text.push('=');
        escape(&entry.value, &mut text);
        text.push('\n');
    }
    text
}

fn escape(plain: &str, text: &mut String) {
    for unit in plain.encode_utf16() {
        text.push_str(&format!("\\u{unit:04x}"));
    }
}

fn check(config: &Config) {
    assert!(config.session_timeout_ms_min <= config.session_timeout_ms_max);
    assert!(config.session_timeout_ms_max <= i32::MAX as u64);
    assert!(config.log.segment_bytes.is_multiple_of(1 << 20));
    let longest =
        u64::from(config.limits.jute_bytes_max) + u64::from(config.limits.jute_extra_bytes);
    assert!(config.log.segment_bytes > longest);
    assert!(config.snapshot.retain_count >= 3 && config.snapshot.txn_count >= 2);
    assert!(!config.snapshot.log_size_factor.is_nan() && config.snapshot.log_size_factor <= 1.0);
    let ensemble = &config.ensemble;
    assert!(
        !ensemble.distributed || ensemble.servers.iter().any(|it| Some(it.id) == ensemble.my_id)
    );
    std::hint::black_box(format!("{config:?}"));
}
