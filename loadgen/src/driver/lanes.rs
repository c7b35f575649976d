//! What happens to one connection: it is made, served, lost, made again, closed.

use std::cmp::Reverse;
use std::io;

use rustix::event::epoll::{self, EventData, EventFlags};

use crate::clock::{MILLISECOND, Nanos};
use crate::driver::{Driver, Phase};
use crate::role::{Io, Role, Room};
use crate::session::{Session, State, Step, Want};
use crate::wire::{self, Connected, Message};

impl Driver<'_> {
    /// Calls the role of `lane` with what it works with.
    fn with_role<T>(
        &mut self,
        lane: usize,
        now: Nanos,
        call: impl FnOnce(&mut dyn Role, &mut Io<'_>) -> T,
    ) -> T {
        let loading = self.phase == Phase::Loading;
        let entry = &mut self.lanes[lane];
        let mut io = Io {
            shared: self.shared,
            session: &mut entry.session,
            tally: &mut self.tally,
            path: &mut self.path,
            index: entry.index,
            now,
            loading,
        };
        call(&mut *entry.role, &mut io)
    }

    /// Begins to connect to the next server in turn.
    pub(super) fn connect(&mut self, lane: usize, now: Nanos) {
        let plan = self.shared.plan;
        let entry = &mut self.lanes[lane];
        let server = plan.servers[entry.session.attempts % plan.servers.len()].address;
        entry.session.attempts += 1;
        entry.generation = entry.generation.wrapping_add(1);
        entry.full = false;
        let source = match plan.source_addresses {
            0 | 1 => 0,
            count => 1 + (entry.session.attempts % usize::from(count)) as u8,
        };
        self.connecting += 1;
        let data = data_of(lane, entry.generation);
        let started = entry.session.connect(server, source, now).and_then(|()| {
            let stream = entry.session.stream.as_ref().expect("it has just been made");
            Ok(epoll::add(&self.epoll, stream, data, EventFlags::OUT)?)
        });
        if let Err(error) = started {
            self.lose(lane, &error, now);
        }
    }

    /// A lane's time to try again has come.
    pub(super) fn retry(&mut self, lane: usize, now: Nanos) {
        if self.lanes[lane].session.state == State::Waiting && self.phase < Phase::Closing {
            self.connect(lane, now);
        }
    }

    /// Serves what epoll has told of a socket.
    pub(super) fn ready(&mut self, data: u64, flags: EventFlags, now: Nanos) {
        let (lane, generation) = (data as u32 as usize, (data >> 32) as u32);
        if self.lanes[lane].generation != generation || self.lanes[lane].session.stream.is_none() {
            return;
        }
        if self.lanes[lane].session.state == State::Connecting {
            return self.connected(lane, now);
        }
        if flags.contains(EventFlags::OUT) {
            self.flush(lane, now);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.serve(lane);
        }
    }

    fn connected(&mut self, lane: usize, now: Nanos) {
        match self.lanes[lane].session.is_connected() {
            Ok(false) => {}
            Ok(true) => {
                self.lanes[lane].session.greet(self.shared.plan.session_timeout_ms, now);
                // Not full yet, but its socket waits for writing: `flush` sets that right.
                self.lanes[lane].full = true;
                self.flush(lane, now);
            }
            Err(error) => self.lose(lane, &error, now),
        }
    }

    /// Takes what a connection has received and sends what follows from it.
    fn serve(&mut self, lane: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let received = self.lanes[lane].session.receive(&mut buffer);
        // Not before the read, which takes its time, and not again before the write.
        let now = self.shared.clock.now();
        let served = match received {
            Ok(Some(count)) => self.take_frames(lane, &buffer[..count], now),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        self.buffer = buffer;
        match served {
            Ok(()) => {
                self.settle(lane, now);
                self.top_up(lane, now);
                self.flush(lane, now);
            }
            Err(error) => self.lose(lane, &error, now),
        }
    }

    fn take_frames(&mut self, lane: usize, mut bytes: &[u8], now: Nanos) -> io::Result<()> {
        self.lanes[lane].session.last_heard = now;
        while let Ok(payload) = wire::next_frame(bytes)? {
            bytes = &bytes[4 + payload.len()..];
            if self.lanes[lane].session.state == State::Greeting {
                self.greeted(lane, payload, now)?;
            } else {
                self.take_message(lane, &Message::parse(payload)?, now)?;
            }
        }
        self.lanes[lane].session.keep(bytes);
        Ok(())
    }

    fn greeted(&mut self, lane: usize, payload: &[u8], now: Nanos) -> io::Result<()> {
        let connected = Connected::parse(payload)?;
        let session = &mut self.lanes[lane].session;
        let disturbances = &mut self.tally.disturbances;
        if connected.timeout_ms <= 0 {
            disturbances.sessions_expired += u64::from(session.id != 0);
            session.forget();
            return Err(io::Error::other("the server refused the session"));
        }
        let before = session.id;
        let fresh = session.greeted(connected, now);
        disturbances.reattached += u64::from(!fresh);
        disturbances.sessions_expired += u64::from(fresh && before != 0);
        self.connecting -= 1;
        self.with_role(lane, now, |role, io| role.joined(io, fresh));
        Ok(())
    }

    fn take_message(&mut self, lane: usize, message: &Message<'_>, now: Nanos) -> io::Result<()> {
        let session = &mut self.lanes[lane].session;
        match message.xid {
            wire::XID_PING => {
                session.pings_pending = session.pings_pending.saturating_sub(1);
            }
            wire::XID_EVENT => {
                let path = message.event_path();
                let path = path.ok_or_else(|| wire::bad("an event without its path"))?;
                self.with_role(lane, now, |role, io| role.event(io, path));
            }
            xid => {
                let pending = session.pending.pop_front();
                let pending = pending.filter(|pending| pending.xid == xid);
                let pending = pending.ok_or_else(|| wire::bad("a reply out of order"))?;
                session.last_zxid = session.last_zxid.max(message.zxid);
                if session.state == State::Closing {
                    return Ok(());
                }
                self.with_role(lane, now, |role, io| role.reply(io, &pending, message));
            }
        }
        Ok(())
    }

    /// Does what a role wants of its session.
    fn settle(&mut self, lane: usize, now: Nanos) {
        let session = &mut self.lanes[lane].session;
        match std::mem::replace(&mut session.want, Want::Stay) {
            Want::Stay => {}
            Want::Open => {
                session.disconnect(State::Parked);
                session.forget();
                self.connect(lane, now);
            }
            Want::Park => {
                session.disconnect(State::Parked);
                session.forget();
            }
            Want::Resume => self.put_off.push_back(lane),
        }
    }

    /// Has the lanes do what they have put off, in that order, as far as it may be done by now.
    pub(super) fn resume(&mut self, now: Nanos) {
        while let Some(&lane) = self.put_off.front()
            && self.with_role(lane, now, |role, io| role.resume(io))
        {
            self.put_off.pop_front();
            self.flush(lane, now);
        }
    }

    /// The connection is gone: what was under way with it is in doubt, and it is tried again.
    fn lose(&mut self, lane: usize, error: &io::Error, now: Nanos) {
        let plan = self.shared.plan;
        let session = &mut self.lanes[lane].session;
        let was = session.state;
        let server = &plan.servers[session.attempts.wrapping_sub(1) % plan.servers.len()].name;
        let pending = session.disconnect(State::Waiting);
        if was == State::Closing {
            session.state = State::Parked;
            return;
        }
        if was == State::Live {
            // A session that has asked to be closed may be hung up on without an answer.
            let closing = pending.iter().any(|pending| pending.step == Step::Close);
            if !closing {
                self.tally.disconnect(now);
            }
            let operations = pending.iter().filter(|pending| !is_preparation(pending.step));
            self.tally.disturbances.in_doubt += operations.count() as u64;
        } else {
            self.connecting -= 1;
            self.tally.disturbances.connects_failed += 1;
            self.last_failure = format!("{server}: {error}");
        }
        self.with_role(lane, now, |role, io| {
            for pending in &pending {
                role.lost(io, pending);
            }
            if was == State::Live {
                role.disconnected(io);
            }
        });
        let session = &mut self.lanes[lane].session;
        if session.want != Want::Stay {
            self.settle(lane, now);
            return self.top_up(lane, now);
        }
        // Each lane a little later than the one before it, so that they do not come all at once.
        let jitter = (self.lanes[lane].index as u64 % 64) * MILLISECOND / 8;
        let at = now + self.lanes[lane].session.next_backoff() + jitter;
        self.retries.push(Reverse((at, lane)));
    }

    pub(super) fn begin_lane(&mut self, lane: usize, now: Nanos) {
        self.with_role(lane, now, |role, io| role.begin(io));
        self.top_up(lane, now);
        self.flush(lane, now);
    }

    /// Begins one operation.
    pub(super) fn start(&mut self, lane: usize, intended: Nanos, now: Nanos) {
        self.with_role(lane, now, |role, io| role.start(io, intended));
        if self.lanes[lane].session.want != Want::Stay {
            self.settle(lane, now);
        }
    }

    /// Begins operations while the lane has room; in an open loop, notes that it has.
    pub(super) fn top_up(&mut self, lane: usize, now: Nanos) {
        if !self.feeds() || self.lanes[lane].listed || !self.lanes[lane].role.is_driven() {
            return;
        }
        loop {
            match self.with_role(lane, now, |role, io| role.room(io)) {
                Room::No => return,
                Room::Later => {
                    self.lanes[lane].listed = true;
                    return self.starved.push(lane);
                }
                Room::Yes if self.is_open => {
                    self.lanes[lane].listed = true;
                    return self.free.push_back(lane);
                }
                // What would begin behind the measured time counts nowhere.
                Room::Yes if self.phase == Phase::Loading && now < self.window.to => {
                    self.start(lane, now, now);
                }
                Room::Yes => return,
            }
        }
    }

    /// The lane that takes the next operation of an open loop.
    pub(super) fn next_free(&mut self, now: Nanos) -> Option<usize> {
        while let Some(lane) = self.free.pop_front() {
            self.lanes[lane].listed = false;
            match self.with_role(lane, now, |role, io| role.room(io)) {
                Room::Yes => return Some(lane),
                Room::No => {}
                Room::Later => {
                    self.lanes[lane].listed = true;
                    self.starved.push(lane);
                }
            }
        }
        None
    }

    /// Keeps a session alive, and gives up on a server that has fallen silent.
    pub(super) fn beat(&mut self, lane: usize, now: Nanos) {
        let timeout = self.shared.plan.session_timeout_ms as u64 * MILLISECOND;
        let session = &self.lanes[lane].session;
        let waits = !session.pending.is_empty() || session.pings_pending > 0;
        let silent = now.saturating_sub(session.last_heard);
        match session.state {
            State::Connecting | State::Greeting if silent > timeout / 3 => {
                let late = io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
                self.lose(lane, &late, now);
            }
            State::Live if waits && silent > timeout / 3 * 2 => {
                let late = io::Error::new(io::ErrorKind::TimedOut, "the server has fallen silent");
                self.lose(lane, &late, now);
            }
            State::Live if now.saturating_sub(session.last_sent) > timeout / 3 => {
                self.ping(lane, now);
            }
            _ => {}
        }
    }

    pub(super) fn ping(&mut self, lane: usize, now: Nanos) {
        if self.lanes[lane].session.state == State::Live {
            self.lanes[lane].session.ping(now);
            self.flush(lane, now);
        }
    }

    /// Writes what waits, and asks to be told when a full socket has room again.
    pub(super) fn flush(&mut self, lane: usize, now: Nanos) {
        let entry = &mut self.lanes[lane];
        if matches!(entry.session.state, State::Connecting | State::Waiting) {
            return;
        }
        let flushed = entry.session.flush().and_then(|done| {
            let full = !done;
            if let Some(stream) = entry.session.stream.as_ref().filter(|_| full != entry.full) {
                entry.full = full;
                let flags = if full { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
                let data = data_of(lane, entry.generation);
                epoll::modify(&self.epoll, stream, data, flags)?;
            }
            Ok(())
        });
        if let Err(error) = flushed {
            self.lose(lane, &error, now);
        }
    }

    /// Ends all sessions; what hangs up is gone.
    pub(super) fn close_all(&mut self, now: Nanos) {
        self.phase = Phase::Closing;
        self.deadline = now + super::CLOSE_MAX;
        self.unopened.clear();
        for lane in 0..self.lanes.len() {
            let session: &mut Session = &mut self.lanes[lane].session;
            if session.state == State::Live {
                self.with_role(lane, now, |_, io| io.close());
                self.lanes[lane].session.state = State::Closing;
                self.flush(lane, now);
            } else {
                session.disconnect(State::Parked);
            }
        }
    }
}

/// The lane, and which of its sockets.
fn data_of(lane: usize, generation: u32) -> EventData {
    EventData::new_u64(u64::from(generation) << 32 | lane as u64)
}

fn is_preparation(step: Step) -> bool {
    matches!(step, Step::Ready | Step::Prepare | Step::Arm | Step::Close)
}
