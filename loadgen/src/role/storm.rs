//! A session that begins and ends: the connect storm.

use crate::clock::Nanos;
use crate::role::{Io, Role, Room, failed};
use crate::session::{Pending, Session, State, Step, Want};
use crate::tally::Kind;
use crate::wire::Message;

/// Has no socket between two sessions.
pub struct Storm {
    /// When the session that is wanted was due.
    since: Option<Nanos>,
}

impl Storm {
    pub fn new() -> Storm {
        Storm { since: None }
    }
}

impl Role for Storm {
    fn opens(&self) -> bool {
        false
    }

    fn joined(&mut self, io: &mut Io<'_>, _fresh: bool) {
        if let Some(since) = self.since {
            io.tally.record(Kind::Connect, since, io.now);
        }
        io.close();
    }

    fn is_armed(&self) -> bool {
        true
    }

    fn room(&mut self, io: &mut Io<'_>) -> Room {
        let free = io.session.state == State::Parked && self.since.is_none();
        if free { Room::Yes } else { Room::No }
    }

    fn start(&mut self, io: &mut Io<'_>, intended: Nanos) {
        self.since = Some(intended);
        io.session.want = Want::Open;
    }

    fn reply(&mut self, io: &mut Io<'_>, pending: &Pending, message: &Message<'_>) {
        if pending.step == Step::Close {
            if !failed(io, Kind::Close, message.error) {
                io.tally.record(Kind::Close, pending.intended, io.now);
            }
            self.since = None;
            io.session.want = Want::Park;
        }
    }

    /// A session whose end was not confirmed has ended all the same, by its timeout at the latest.
    fn lost(&mut self, io: &mut Io<'_>, pending: &Pending) {
        if pending.step == Step::Close {
            self.since = None;
            io.session.want = Want::Park;
        }
    }

    fn is_done(&self, _session: &Session) -> bool {
        self.since.is_none()
    }
}
