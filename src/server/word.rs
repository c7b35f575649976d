//! Four-letter words on a client core.

use crate::io::ring::Token;
use crate::server::client::ClientCore;
use crate::server::report::{ClientReport, Question, ServerReport};

impl ClientCore {
    pub(super) fn four_letter_word(&mut self, _t: Token, _b: &[u8]) -> Option<Option<usize>> { None }
    pub(super) fn report(&self, _q: Question) -> ClientReport { ClientReport::default() }
    pub(super) fn answer_word(&mut self, _t: Token, _r: &ServerReport) {}
}
impl crate::server::writer::PipelineCore {
    pub(super) fn report(&mut self, _a: crate::server::questions::Asked) -> ServerReport { ServerReport::default() }
}
