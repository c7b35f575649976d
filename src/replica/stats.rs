//! What a member of an ensemble counts, for `mntr`.

use crate::time::Time;

/// The last, least and greatest size of a proposal, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposalBytes {
    pub last: u64,
    pub min: u64,
    pub max: u64,
}

/// Counters, from the server's start on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Elections that it took part in.
    pub elections: u64,
    /// Proposals and commits that a leader has sent.
    pub proposals_received: u64,
    pub commits_received: u64,
    /// What it proposed as a leader, and what of it was committed.
    pub proposals: u64,
    pub commits: u64,
    /// Learners that were brought into step by transactions, and by a snapshot.
    pub diffs_sent: u64,
    pub snapshots_sent: u64,
    pub proposal_bytes: Option<ProposalBytes>,
    /// Since when it leads.
    pub leading_since: Option<Time>,
}

impl Stats {
    /// A transaction of so many bytes is proposed.
    pub fn note_proposal(&mut self, bytes: u64) {
        self.proposals += 1;
        let ProposalBytes { min, max, .. } =
            self.proposal_bytes.unwrap_or(ProposalBytes { last: bytes, min: bytes, max: bytes });
        let sizes = ProposalBytes { last: bytes, min: min.min(bytes), max: max.max(bytes) };
        self.proposal_bytes = Some(sizes);
    }
}
