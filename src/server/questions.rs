//! Questions about the whole server: asked on one core, answered by all.

use std::collections::BTreeMap;

use crate::io::ring::Token;
use crate::server::report::{ClientReport, Question};

/// Questions under way at once; each holds a report per core.
const QUESTIONS_MAX: usize = 256;

/// A question and the answers that have come.
#[derive(Debug)]
pub struct Asked {
    pub core: u16,
    pub connection: Token,
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
    /// A question of a connection to `expected` cores: the number that their answers must carry.
    ///
    /// The oldest one is forgotten where there are too many; its connection times out.
    pub fn ask(
        &mut self,
        core: u16,
        connection: Token,
        question: Question,
        expected: usize,
    ) -> u64 {
        if self.asked.len() >= QUESTIONS_MAX {
            self.asked.pop_first();
        }
        self.next += 1;
        let reports = Vec::with_capacity(expected);
        self.asked.insert(self.next, Asked { core, connection, question, reports, expected });
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
