//! The settings in force: flags, environment and zoo.cfg merged as Apache merges them.
//!
//! Two maps, since Apache has two. The keys that its `QuorumPeerConfig` parses itself keep their
//! names; every other key K of zoo.cfg becomes the system property `zookeeper.K`, where it
//! overrides a flag of that name. Of the flags, those on the command line hold against those of the
//! environment.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Origin};
use super::raw::{self, RawConfig};
use super::secret::{REDACTED, is_secret};

/// Everything a configuration may come from, unread.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The `-D` flags of the command line without their `-D`: `zookeeper.snapCount=1000`.
    pub flags: Vec<String>,
    /// The environment variable `JVMFLAGS`.
    pub jvm_flags: Option<String>,
    /// The environment variable `SERVER_JVMFLAGS`; `JVMFLAGS` holds against it, as in
    /// `zkServer.sh`.
    pub server_jvm_flags: Option<String>,
    /// The zoo.cfg to read; none for a standalone server with the defaults.
    pub file: Option<PathBuf>,
}

/// A setting's name, in the map that it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    /// A key of zoo.cfg that Apache parses itself. Booleans and numbers are strict.
    Zoo(&'static str),
    /// The system property `zookeeper.K`.
    Zk(&'static str),
    /// A system property without that prefix. Apache knows it as a flag only; here zoo.cfg may say
    /// it too, since that is what an operator who writes it there means.
    Bare(&'static str),
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub value: String,
    pub origin: Origin,
}

/// The merged settings, and the notes that reading them has brought up.
#[derive(Debug)]
pub(super) struct Properties {
    /// The zoo.cfg, or `Default` without one: whom to name when a key is missing.
    pub source: Origin,
    pub zoo: BTreeMap<String, Written>,
    pub system: BTreeMap<String, Written>,
    /// The keys that somebody has asked for, by the name in their map.
    pub read: BTreeSet<String>,
    pub notes: Vec<String>,
}

/// The keys of zoo.cfg that do not become system properties.
pub(super) const ZOO_KEYS: &[&str] = &[
    "autopurge.purgeInterval",
    "autopurge.snapRetainCount",
    "clientPort",
    "clientPortAddress",
    "clientPortListenBacklog",
    "connectToLearnerMasterLimit",
    "dataDir",
    "dataLogDir",
    "dynamicConfigFile",
    "electionAlg",
    "initLimit",
    "jvm.pause.info-threshold.ms",
    "jvm.pause.monitor",
    "jvm.pause.sleep.time.ms",
    "jvm.pause.warn-threshold.ms",
    "localSessionsEnabled",
    "localSessionsUpgradingEnabled",
    "maxClientCnxns",
    "maxSessionTimeout",
    "minSessionTimeout",
    "multiAddress.enabled",
    "multiAddress.reachabilityCheckEnabled",
    "multiAddress.reachabilityCheckTimeoutMs",
    "observerMasterPort",
    "oraclePath",
    "peerType",
    "portUnification",
    "quorum.auth.enableSasl",
    "quorum.auth.kerberos.servicePrincipal",
    "quorum.auth.learner.saslLoginContext",
    "quorum.auth.learnerRequireSasl",
    "quorum.auth.server.saslLoginContext",
    "quorum.auth.serverRequireSasl",
    "quorum.cnxn.threads.size",
    "quorumListenOnAllIPs",
    "reconfigEnabled",
    "secureClientPort",
    "secureClientPortAddress",
    "sslQuorum",
    "sslQuorumReloadCertFiles",
    "standaloneEnabled",
    "syncEnabled",
    "syncLimit",
    "tickTime",
];

fn is_zoo_key(key: &str) -> bool {
    ZOO_KEYS.contains(&key) || key.starts_with("metricsProvider.")
}

impl Properties {
    /// Merges `sources` with the zoo.cfg `raw`, which was read from `path`.
    pub fn gather(
        sources: &Sources,
        file: Option<(&Path, &RawConfig)>,
    ) -> Result<Properties, ConfigError> {
        let mut properties = Properties {
            source: Origin::Default,
            zoo: BTreeMap::new(),
            system: BTreeMap::new(),
            read: BTreeSet::new(),
            notes: Vec::new(),
        };
        properties.add_jvm_flags("SERVER_JVMFLAGS", sources.server_jvm_flags.as_deref())?;
        properties.add_jvm_flags("JVMFLAGS", sources.jvm_flags.as_deref())?;
        for flag in &sources.flags {
            properties.add_flag(flag, &Origin::CommandLine)?;
        }
        if let Some((path, raw)) = file {
            properties.add_file(path, raw);
        }
        Ok(properties)
    }

    fn add_jvm_flags(
        &mut self,
        name: &'static str,
        flags: Option<&str>,
    ) -> Result<(), ConfigError> {
        let origin = Origin::Environment(name);
        let flags = flags.unwrap_or_default();
        // The text may hold a password, so an error does not repeat it.
        let words = split_words(flags).ok_or_else(|| ConfigError {
            origin: origin.clone(),
            key: name.into(),
            expected: "a closing quote for each opening one".into(),
            found: "found one that is left open".into(),
        })?;
        let mut ignored = Vec::new();
        for word in &words {
            match word.strip_prefix("-D") {
                Some(flag) => self.add_flag(flag, &origin)?,
                // What follows a '=' may be an agent's password.
                None => ignored.push(word.split('=').next().unwrap_or_default()),
            }
        }
        if !ignored.is_empty() {
            self.note(format!("{name}: flags of a JVM mean nothing here: {}", ignored.join(" ")));
        }
        Ok(())
    }

    /// Adds `key=value`; a flag without a value is the empty string, as for the JVM.
    fn add_flag(&mut self, flag: &str, origin: &Origin) -> Result<(), ConfigError> {
        let (key, value) = flag.split_once('=').unwrap_or((flag, ""));
        let (key, value) = (raw::trim(key), raw::trim(value));
        if key.is_empty() {
            return Err(ConfigError::value(origin, "-D", "-DKEY=VALUE", flag));
        }
        let written = Written { value: value.into(), origin: origin.clone() };
        self.system.insert(key.into(), written);
        Ok(())
    }

    fn add_file(&mut self, path: &Path, raw: &RawConfig) {
        self.source = Origin::File { path: path.into(), line: 0 };
        let mut seen = BTreeMap::new();
        for entry in &raw.entries {
            let key = entry.key.as_str();
            let origin = Origin::File { path: path.into(), line: entry.line };
            if let Some(earlier) = seen.insert(key, entry.line) {
                self.note(format!("{origin}: {key} replaces what line {earlier} said"));
            }
            let written = Written { value: entry.value.clone(), origin };
            if is_zoo_key(key) {
                self.zoo.insert(key.into(), written);
            } else if key.starts_with("ringkeeper.") {
                self.system.insert(key.into(), written);
            } else {
                self.system.insert(format!("zookeeper.{key}"), written);
            }
        }
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The value of `key` with where it stands and under which name. Marks the key as understood.
    pub fn find(&mut self, key: Key) -> Option<(String, Written)> {
        let names = match key {
            Key::Zoo(name) => {
                self.read.insert(name.into());
                return self.zoo.get(name).map(|written| (name.into(), written.clone()));
            }
            Key::Zk(name) => vec![(format!("zookeeper.{name}"), name)],
            Key::Bare(name) => vec![(format!("zookeeper.{name}"), name), (name.into(), name)],
        };
        let mut found = None;
        for (full, name) in names {
            self.read.insert(full.clone());
            if found.is_none()
                && let Some(written) = self.system.get(&full)
            {
                // Name the key as its author did: zoo.cfg leaves the prefix out.
                let in_file = matches!(written.origin, Origin::File { .. });
                let shown = if in_file { name.into() } else { full };
                found = Some((shown, written.clone()));
            }
        }
        found
    }

    /// Whether `key` was written anywhere.
    pub fn has(&mut self, key: Key) -> bool {
        self.find(key).is_some()
    }

    /// A text, or `None` where it is not set or empty.
    pub fn text(&mut self, key: Key) -> Option<String> {
        self.find(key).map(|(_, written)| written.value).filter(|value| !value.is_empty())
    }

    /// A whole number of `unit` within `range`, or `default`.
    pub fn integer(
        &mut self,
        key: Key,
        unit: &str,
        range: RangeInclusive<i64>,
        default: i64,
    ) -> Result<i64, ConfigError> {
        let Some((name, written)) = self.find(key) else { return Ok(default) };
        let number = match key {
            Key::Zoo(_) => parse_decimal(&written.value),
            Key::Zk(_) | Key::Bare(_) => parse_java_literal(&written.value),
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let (first, last) = (range.start(), range.end());
            let expected = format!("a whole number from {first} to {last} ({unit})");
            ConfigError::value(&written.origin, &name, expected, &written.value)
        })
    }

    /// [`Properties::integer`] for a range without negative numbers.
    pub fn count(
        &mut self,
        key: Key,
        unit: &str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Result<u64, ConfigError> {
        let signed = |number: u64| i64::try_from(number).expect("limits fit 63 bits");
        let range = signed(*range.start())..=signed(*range.end());
        let number = self.integer(key, unit, range, signed(default))?;
        Ok(u64::try_from(number).expect("the range has no negative numbers"))
    }

    /// A boolean, or `default`. A key of zoo.cfg is `true` or `false` in any case; a system
    /// property is true when it is `true` in any case and false otherwise, as Java reads it.
    pub fn boolean(&mut self, key: Key, default: bool) -> Result<bool, ConfigError> {
        let Some((name, written)) = self.find(key) else { return Ok(default) };
        let Written { value, origin } = written;
        if value.eq_ignore_ascii_case("true") {
            return Ok(true);
        }
        if !value.eq_ignore_ascii_case("false") {
            if matches!(key, Key::Zoo(_)) {
                return Err(ConfigError::value(&origin, &name, "true or false", &value));
            }
            self.note(format!("{origin}: {name}={value} is false: only \"true\" is true"));
        }
        Ok(false)
    }

    /// The value in force of every system property, by its full name; secrets are redacted.
    pub fn effective(&self) -> BTreeMap<String, String> {
        let shown = |key: &String, written: &Written| {
            if is_secret(key) { REDACTED.into() } else { written.value.clone() }
        };
        self.system.iter().map(|(key, written)| (key.clone(), shown(key, written))).collect()
    }
}

/// Java's `Integer.parseInt`, over the range of a long.
pub(super) fn parse_decimal(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// Java's `Long.decode`, by which `Integer.getInteger` reads properties: decimal, `0x1f`, `#1f` or
/// octal with a leading 0, and a sign before any of them.
fn parse_java_literal(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) if text.starts_with('-') => ("-", digits),
        Some(digits) => ("", digits),
        None => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.strip_prefix("0x").or_else(|| lower.strip_prefix('#')) {
        Some(digits) => (16, digits),
        None if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        None => (10, lower.as_str()),
    };
    // A second sign would be read by `from_str_radix`.
    if digits.starts_with(['-', '+']) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

/// Splits `text` at blanks as a shell would: quotes of both kinds group, a backslash escapes
/// outside single quotes. `None` when a quote is left open. Nothing is expanded.
fn split_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (Some('\''), other) => word.get_or_insert_default().push(other),
            (_, '\\') => word.get_or_insert_default().extend(rest.next()),
            (Some(_), other) => word.get_or_insert_default().push(other),
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, blank) if blank.is_ascii_whitespace() => words.extend(word.take()),
            (None, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}
