//! Questions about the whole server: asked on one core or over HTTP, answered by all cores.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::io::ring::Token;
use crate::server::report::{ClientReport, Question, ServerReport};

/// Questions under way at once; each holds a report per core.
const QUESTIONS_MAX: usize = 256;

/// Who asked.
#[derive(Debug)]
pub enum Asker {
    /// A client core's connection, by a four-letter word.
    Connection { core: u16, connection: Token },
    /// The HTTP thread, which writes the answer out by itself.
    Http(oneshot::Sender<Box<ServerReport>>),
}

/// A question and the answers that have come.
#[derive(Debug)]
pub struct Asked {
    pub asker: Asker,
    pub question: Question,
    pub reports: Vec<ClientReport>,
    expected: usize,
}

/// All questions under way.
#[derive(Debug, Default)]
pub struct Questions {
    next: u64,
    asked: BTreeMap<u64, Asked>,
}

impl Questions {
    /// A question to `expected` cores: the number that their answers must carry.
    ///
    /// The oldest one is forgotten where there are too many; its connection times out.
    pub fn ask(&mut self, asker: Asker, question: Question, expected: usize) -> u64 {
        if self.asked.len() >= QUESTIONS_MAX {
            self.asked.pop_first();
        }
        self.next += 1;
        let reports = Vec::with_capacity(expected);
        self.asked.insert(self.next, Asked { asker, question, reports, expected });
        self.next
    }

    /// A core's answer; the whole, when it was the last one.
    pub fn answer(&mut self, number: u64, report: ClientReport) -> Option<Asked> {
        let asked = self.asked.get_mut(&number)?;
        asked.reports.push(report);
        match asked.reports.len() == asked.expected {
            true => self.asked.remove(&number),
            false => None,
        }
    }
}
