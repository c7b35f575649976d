//! Four-letter words on a client core: recognised, asked about, answered.

use crate::config::FourLetterWords;
use crate::io::ring::Token;
use crate::server::answer;
use crate::server::client::ClientCore;
use crate::server::connection::Phase;
use crate::server::four_letter::{Recognition, Word, Words, refusal};
use crate::server::message::Item;
use crate::server::report::{ClientReport, ConnectionReport, Question, ServerReport, WatchCounts};
use crate::time::{Time, WallMs};

/// The words that a configuration lets be answered.
pub(super) fn words(configured: &FourLetterWords) -> Words {
    let mut words = Words::default();
    for word in Word::ALL {
        if configured.allow(word.name()) {
            words = words.with(word);
        }
    }
    // Without a name that a list could hold: it is no question.
    words.with(Word::TelnetClose)
}

impl ClientCore {
    /// Takes a four-letter word from the front of a connection's first bytes. `None` when it is
    /// none; otherwise how many bytes were taken, if enough have come.
    pub(super) fn four_letter_word(&mut self, token: Token, bytes: &[u8]) -> Option<Option<usize>> {
        let word = match Word::recognise(bytes, self.words) {
            Recognition::None => return None,
            Recognition::NeedMore => return Some(None),
            Recognition::Word(word, _) => word,
        };
        self.stats.packets_received += 1;
        let connection = self.connections.get_mut(token)?;
        connection.word = Some(word);
        // Whatever follows the word (a line's end, mostly) is not looked at.
        let taken = Some(Some(bytes.len()));
        if word == Word::TelnetClose {
            self.close(token, "telnet was interrupted");
        } else if self.words.is_enabled(word) {
            connection.phase = Phase::Attaching;
            let question = Question { word };
            self.batch.items.push(Item::Ask { connection: token, question });
        } else {
            connection.out.extend_from_slice(refusal(word).as_bytes());
            connection.phase = Phase::Draining;
            self.mark_dirty(token);
        }
        taken
    }

    /// Answers a word, and ends the connection.
    pub(super) fn answer_word(&mut self, token: Token, report: &ServerReport) {
        if let Some(connection) = self.connections.get_mut(token)
            && let Some(word) = connection.word
        {
            for chunk in answer::Answer::new(word, report) {
                connection.out.extend_from_slice(chunk.as_bytes());
            }
            connection.phase = Phase::Draining;
            self.stats.packets_sent += 1;
            self.mark_dirty(token);
        }
    }

    /// This core's part of the answer to `question`.
    pub(super) fn report(&mut self, question: Question) -> ClientReport {
        let counts = self.watches.counts();
        let mut report = ClientReport {
            stats: self.stats.clone(),
            connections: self.connections.len(),
            outstanding: self.connections.iter().map(|it| it.pending.len()).sum(),
            watch_counts: WatchCounts {
                connections: counts.connections,
                paths: counts.paths,
                watches: counts.data_watches,
            },
            ..ClientReport::default()
        };
        if question.wants_connections() {
            report.connection_reports = self.connection_reports();
        }
        if question.wants_watches_by_path() {
            report.watches_by_path = self.watches_by_path();
        }
        if question.wants_watches_by_connection() {
            report.watches_by_session = self.watches_by_session();
        }
        if question.wants_stages() {
            report.stages = self.stages.report();
        }
        if question.resets_statistics() {
            self.stats.reset();
            self.stages.reset();
        }
        if question.resets_connection_statistics() {
            self.connections.for_each_mut(|connection| connection.stats.reset());
        }
        report
    }

    fn connection_reports(&self) -> Vec<ConnectionReport> {
        let wall = |time: Time| wall_at(time, self.now, self.wall);
        let report = |it: &crate::server::connection::Connection| ConnectionReport {
            peer: it.peer,
            session: it.session,
            timeout_ms: it.timeout_ms,
            queued: it.pending.len(),
            received: it.stats.received,
            sent: it.stats.sent,
            established_wall_ms: wall(it.stats.established),
            expires_wall_ms: self.wall.0 + i64::from(it.timeout_ms),
            last_op: it.stats.last_op,
            last_xid: it.stats.last_xid,
            last_zxid: it.stats.last_zxid,
            last_response_wall_ms: it.stats.last_response.map_or(0, wall),
            last_latency_ms: it.stats.last_latency_ms,
            latency_ms: it.stats.latency_ms,
            interest: if it.paused { 0 } else { 1 },
        };
        self.connections.iter().map(report).collect()
    }

    fn watches_by_path(&mut self) -> Vec<(String, Vec<i64>)> {
        let mut found = Vec::new();
        for (path, watchers) in self.watches.by_path() {
            found.push((path.to_owned(), watchers.collect::<Vec<_>>()));
        }
        let sessions = |watchers: Vec<_>| {
            let session = |it| self.connections.get_mut(super::token(it)).map(|it| it.session);
            watchers.into_iter().filter_map(session).collect()
        };
        let mut sessions = sessions;
        found.into_iter().map(|(path, watchers)| (path, sessions(watchers))).collect()
    }

    fn watches_by_session(&mut self) -> Vec<(i64, Vec<String>)> {
        let mut found = Vec::new();
        for (watcher, paths) in self.watches.by_connection() {
            let session = self.connections.get_mut(super::token(watcher)).map(|it| it.session);
            if let Some(session) = session {
                found.push((session, paths.map(str::to_owned).collect()));
            }
        }
        found
    }
}

/// What the wall clock said, or will say, at `time`.
pub(super) fn wall_at(time: Time, now: Time, wall: WallMs) -> i64 {
    let before = i64::try_from(now.since(time).as_millis()).unwrap_or(i64::MAX);
    let after = i64::try_from(time.since(now).as_millis()).unwrap_or(i64::MAX);
    wall.0.saturating_sub(before).saturating_add(after)
}
