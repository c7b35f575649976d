//! Four-letter words on a client core: recognised, asked about, answered.

use crate::config::FourLetterWords;
use crate::io::ring::Token;
use crate::server::client::ClientCore;
use crate::server::connection::{Connection, Phase};
use crate::server::four_letter::{Recognition, Word, Words, refusal};
use crate::server::message::Item;
use crate::server::report::{ClientReport, ConnectionReport, Question, WatchCounts, WatchRows};
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
            let question = Question { word, is_http: false };
            self.batch.items.push(Item::Ask { connection: token, question });
        } else {
            connection.out.extend_from_slice(refusal(word).as_bytes());
            connection.phase = Phase::Draining;
            self.mark_dirty(token);
        }
        taken
    }

    /// Whether a connection has asked a four-letter word whose answer is still to leave: asking
    /// ends the client's side (`nc -N`, Java's `FourLetterWordMain`), not the answer.
    pub(super) fn is_asked(&mut self, token: Token) -> bool {
        let connection = self.connections.get_mut(token);
        connection.is_some_and(|connection| connection.word.is_some())
    }

    /// Answers a word, chunk by chunk, and ends the connection.
    pub(super) fn answer_word(&mut self, token: Token, chunks: Vec<Vec<u8>>) {
        if let Some(connection) = self.connections.get_mut(token)
            && connection.word.is_some()
        {
            connection.answer = Some(Box::new(chunks.into_iter()));
            connection.phase = Phase::Draining;
            self.stats.packets_sent += 1;
            self.mark_dirty(token);
        }
    }

    /// Begins this core's part of the answer to a question.
    pub(super) fn begin_report(&mut self, number: u64, question: Question) {
        let counts = self.watches.counts();
        let mut report = ClientReport {
            stats: self.stats.clone(),
            connections: self.connections.len(),
            outstanding: self.in_flight,
            watch_counts: WatchCounts {
                connections: counts.connections,
                paths: counts.paths,
                watches: counts.data_watches,
            },
            ..ClientReport::default()
        };
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
        if question.wants_connections() {
            report.connection_reports.reserve_exact(self.connections.len());
        }
        let report = Box::new(report);
        self.gathering.push_back(Gathering { number, question, report, next: 0 });
    }

    /// Gathers some of what the oldest question wants, so that nobody has to wait for all of it.
    pub(super) fn gather(&mut self) {
        let Some(mut gathering) = self.gathering.pop_front() else { return };
        if self.gather_part(&mut gathering) {
            let Gathering { number, report, .. } = gathering;
            self.batch.items.push(Item::Answer { number, report });
        } else {
            self.gathering.push_front(gathering);
        }
    }

    /// Gathers the next part; whether it was the last one.
    fn gather_part(&mut self, gathering: &mut Gathering) -> bool {
        let Gathering { question, report, next, .. } = gathering;
        let start = *next;
        *next += GATHER_COUNT;
        if question.wants_connections() {
            let (now, wall) = (self.now, self.wall);
            let Some(part) = self.connections.part(start, GATHER_COUNT) else { return true };
            report.connection_reports.extend(part.map(|it| connection_report(it, now, wall)));
            return false;
        }
        if question.wants_watches_by_path() || question.wants_watches_by_connection() {
            let Some(part) = self.watches.part(start, GATHER_COUNT) else { return true };
            let mut rows = WatchRows::default();
            for (path, watcher) in part {
                if let Some(connection) = self.connections.get_mut(super::token(watcher)) {
                    rows.push(path, connection.session);
                }
            }
            report.watches.push(rows);
            return false;
        }
        true
    }
}

/// A part of an answer that is not whole yet.
pub(super) struct Gathering {
    number: u64,
    question: Question,
    report: Box<ClientReport>,
    /// How many places were looked at.
    next: usize,
}

/// Connections or watches that are gathered in one turn: a fraction of a millisecond, with some
/// cache misses for each.
const GATHER_COUNT: usize = 1024;

fn connection_report(it: &Connection, now: Time, wall_now: WallMs) -> ConnectionReport {
    let wall = |time: Time| wall_at(time, now, wall_now);
    ConnectionReport {
        peer: it.peer,
        session: it.session,
        timeout_ms: it.timeout_ms,
        queued: it.pending.len(),
        received: it.stats.received,
        sent: it.stats.sent,
        established_wall_ms: wall(it.stats.established),
        expires_wall_ms: wall_now.0 + i64::from(it.timeout_ms),
        last_op: it.stats.last_op,
        last_xid: it.stats.last_xid,
        last_zxid: it.stats.last_zxid,
        last_response_wall_ms: it.stats.last_response.map_or(0, wall),
        last_latency_ms: it.stats.last_latency_ms,
        latency_ms: it.stats.latency_ms,
        interest: if it.paused { 0 } else { 1 },
    }
}

/// What the wall clock said, or will say, at `time`.
pub(super) fn wall_at(time: Time, now: Time, wall: WallMs) -> i64 {
    let before = i64::try_from(now.since(time).as_millis()).unwrap_or(i64::MAX);
    let after = i64::try_from(time.since(now).as_millis()).unwrap_or(i64::MAX);
    wall.0.saturating_sub(before).saturating_add(after)
}
