use super::*;
use crate::zab::ensemble::Member;

mod empty;
mod rules;
mod simulation;
mod stories;

const START: Time = Time::from_nanos(1_000_000_000);

/// An ensemble of `voters` voters, 0 the first, as server `me` knows it; any server after them
/// up to `me` is an observer.
fn ensemble(me: i64, voters: i64) -> Ensemble {
    let member =
        |id| Member { id: ServerId(id), is_observer: id >= voters, group: None, weight: 1 };
    let members = (0..voters.max(me + 1)).map(member).collect();
    Ensemble::of_members(ServerId(me), members)
}

fn vote(leader: i64, peer_epoch: u32, counter: u32) -> Vote {
    Vote { leader: ServerId(leader), zxid: Zxid::new(peer_epoch, counter), peer_epoch }
}

fn says(doing: Doing, vote: Vote, round: i64) -> Notification {
    Notification {
        doing,
        vote: Some(vote),
        round,
        version: VERSION,
        config: Vec::new(),
        proposed: Vec::new(),
    }
}

/// One election and the time, with what it has asked for since it was last looked at.
struct One {
    election: Election,
    now: Time,
    sent: Vec<(i64, Notification)>,
    decided: Option<(i64, Vote, Doing)>,
    has_become_sound: bool,
}

impl One {
    fn new(ensemble: Ensemble, standing: Standing) -> One {
        let election = Election::new(Arc::new(ensemble), standing, 7);
        let (sent, decided) = (Vec::new(), None);
        One { election, now: START, sent, decided, has_become_sound: false }
    }

    /// A sound server that has begun to look for a leader, in round 1.
    fn looking(ensemble: Ensemble, peer_epoch: u32, counter: u32) -> One {
        let mut one = One::new(ensemble, Standing::Sound);
        one.start(peer_epoch, counter);
        one
    }

    fn start(&mut self, peer_epoch: u32, counter: u32) {
        let me = self.election.ensemble.me.0;
        self.decided = None;
        self.sent.clear();
        self.election.start(self.now, vote(me, peer_epoch, counter));
        self.drain();
    }

    fn hear(&mut self, from: i64, doing: Doing, vote: Vote, round: i64) {
        self.hear_notification(from, &says(doing, vote, round));
    }

    fn hear_notification(&mut self, from: i64, notification: &Notification) {
        self.sent.clear();
        self.election.handle_notification(self.now, ServerId(from), notification);
        self.drain();
    }

    fn reachable(&mut self, peer: i64, is_reachable: bool) {
        self.sent.clear();
        self.election.handle_reachable(self.now, ServerId(peer), is_reachable);
        self.drain();
    }

    /// Lets `millis` pass, with every timeout on the way.
    fn wait(&mut self, millis: u64) {
        self.sent.clear();
        let end = self.now + Duration::from_millis(millis);
        while let Some(at) = self.election.poll_timeout().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.election.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.election.poll_output() {
            match output {
                ElectionOutput::Notify { to, notification } => {
                    assert_ne!(to, self.election.ensemble.me);
                    self.sent.push((to.0, notification));
                }
                ElectionOutput::Decided { leader, vote, doing } => {
                    assert_eq!(self.decided, None, "decided twice");
                    self.decided = Some((leader.0, vote, doing));
                }
                ElectionOutput::Sound => self.has_become_sound = true,
            }
        }
    }

    /// To whom the last call has sent something, in order.
    fn sent_to(&self) -> Vec<i64> {
        self.sent.iter().map(|(to, _)| *to).collect()
    }

    fn leader(&self) -> Option<i64> {
        self.decided.map(|(leader, ..)| leader)
    }
}
