//! What has been prepared or applied and waits to be committed, and how it is let out or undone.
//!
//! Replies and events gather in the open outboxes. Sealed, they are a group. A server on its own
//! lets groups out whole, as its log writes them; in an ensemble a commit may reach into a group,
//! and the group is divided there, so that nothing waits for what comes after it.

use crate::pipeline::emptied::Emptied;
use crate::pipeline::{Client, Notice, Outbox, Part, Pipeline, Published};
use crate::time::Time;
use crate::tree::effects::Event;
use crate::tree::writer::Writer;
use crate::zxid::Zxid;

/// Transactions with all that they caused, not let out yet.
#[derive(Debug)]
pub(super) struct Group {
    through: Zxid,
    /// By client core.
    outboxes: Vec<Outbox>,
    events: Vec<Event>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.outboxes.iter().all(|outbox| outbox.replies.is_empty())
    }

    /// Takes out what belongs to transactions up to `zxid`.
    fn take_through(&mut self, zxid: Zxid) -> Group {
        let outboxes = self.outboxes.iter_mut().map(|outbox| outbox.take_through(zxid)).collect();
        let count = self.events.partition_point(|event| event.zxid <= zxid);
        let later = self.events.split_off(count);
        let events = std::mem::replace(&mut self.events, later);
        Group { through: zxid, outboxes, events }
    }

    /// Drops what belongs to transactions after `zxid`; whose replies these were goes to `lost`.
    fn pop_above(&mut self, zxid: Zxid, lost: &mut Vec<Client>) {
        let kept = self.take_through(zxid);
        for (core, outbox) in self.outboxes.iter().enumerate() {
            let core = u16::try_from(core).expect("client cores are few");
            let connections = outbox.replies.iter().map(|reply| reply.connection);
            lost.extend(connections.map(|connection| Client { core, connection }));
        }
        *self = Group { through: self.through.min(zxid), ..kept };
    }

    fn publish(self, emptied: &mut Emptied) -> Published {
        let Group { through, outboxes, events } = self;
        Published { through, outboxes, events: emptied.shared(events) }
    }
}

impl Outbox {
    /// Takes out the replies up to `zxid`.
    fn take_through(&mut self, zxid: Zxid) -> Outbox {
        let count = self.replies.partition_point(|reply| reply.zxid <= zxid);
        if count == self.replies.len() {
            return std::mem::take(self);
        }
        let mut later = self.replies.split_off(count);
        let end = self.replies.last().map_or(0, |reply| reply.end);
        later.iter_mut().for_each(|reply| reply.end -= end);
        let later = Outbox { bytes: self.bytes.split_off(end), replies: later };
        std::mem::replace(self, later)
    }
}

impl Pipeline {
    /// Everything prepared or applied so far travels as one group.
    ///
    /// A server on its own calls this when its log has taken everything that was prepared; in an
    /// ensemble it is to be called when a batch of requests or proposals is through.
    pub fn handle_appended(&mut self) {
        let is_empty = self.outboxes.iter().all(|outbox| outbox.replies.is_empty());
        if is_empty && self.events.is_empty() && self.sealed_through() == self.prepared {
            return;
        }
        let mut outboxes = self.emptied.by_core();
        outboxes.extend(self.outboxes.iter_mut().map(|outbox| match outbox.replies.is_empty() {
            true => Outbox::default(),
            false => std::mem::replace(outbox, self.emptied.outbox()),
        }));
        let events = match self.events.is_empty() {
            true => Vec::new(),
            false => std::mem::replace(&mut self.events, self.emptied.events()),
        };
        self.sealed.push_back(Group { through: self.prepared, outboxes, events });
    }

    fn sealed_through(&self) -> Zxid {
        self.sealed.back().map_or(self.published, |group| group.through)
    }

    /// Everything up to `through` is committed: what waited for it can be published. An epoch's
    /// start is no transaction, and stands for everything before it.
    pub fn handle_committed(&mut self, through: Zxid) {
        let through = match through.counter() {
            0 => through.min(self.prepared),
            _ => through,
        };
        assert!(through <= self.prepared, "nothing is committed that was not prepared");
        self.committed = self.committed.max(through);
        while let Some((zxid, digest)) =
            self.uncommitted_digests.pop_front_if(|(zxid, _)| *zxid <= through)
        {
            self.committed_digest = (zxid == through).then_some(digest);
        }
        self.sessions.handle_committed(self.committed);
        self.locals.handle_committed(self.committed);
    }

    /// An outbox that was published comes back, for its memory.
    pub fn handle_emptied(&mut self, outbox: Outbox) {
        self.emptied.keep_outbox(outbox);
    }

    /// What is left of a group comes back, for its memory: its outboxes were handed out.
    pub fn handle_told(&mut self, told: Published) {
        self.emptied.keep_told(told);
    }

    /// The oldest group that is committed and has not been published.
    pub fn poll_published(&mut self) -> Option<Published> {
        self.emptied.free_events();
        let committed = self.committed;
        let has_news = self.published < committed || self.prepared == committed;
        if self.part != Part::Alone && self.sealed.is_empty() && has_news {
            self.handle_appended();
        }
        let group = match self.sealed.pop_front_if(|group| group.through <= committed) {
            Some(group) => group,
            None if self.part == Part::Alone || self.published == committed => return None,
            None => self.sealed.front_mut()?.take_through(committed),
        };
        assert!(group.through >= self.published, "what was published stays so");
        self.published = group.through;
        Some(group.publish(&mut self.emptied))
    }

    /// Undoes every transaction after `after`: they never happened. Whoever was to be told of one
    /// of them is disconnected. Whether the tree can go back so far; if not, nothing is done.
    pub fn pop_above(&mut self, after: Zxid, now: Time) -> bool {
        if after < self.committed || !self.writer.reaches_back_to(after) {
            return false;
        }
        self.handle_appended();
        self.rewinds += 1;
        self.writer.pop_above(after);
        self.sessions.pop_above(after, now);
        self.prepared = self.prepared.min(after);
        self.txns.pop_above(after);
        self.digests.retain(|(zxid, _)| *zxid <= after);
        self.uncommitted_digests.retain(|(zxid, _)| *zxid <= after);
        let mut lost = Vec::new();
        for group in &mut self.sealed {
            group.pop_above(after, &mut lost);
        }
        while let Some(last) = self.sealed.pop_back() {
            let is_needed = !last.is_empty() || last.through > self.sealed_through();
            if is_needed {
                self.sealed.push_back(last);
                break;
            }
        }
        self.waiting.pop_above(after, &mut lost);
        // What these have asked for went behind what is undone.
        let local_again = self.locals.pop_above(after);
        lost.extend(local_again.into_iter().filter_map(|session| self.attached.holder(session)));
        lost.sort_unstable();
        lost.dedup();
        for client in lost {
            self.stats.connections_given_up += 1;
            self.close(client);
        }
        true
    }

    /// A leader's state replaces this server's: the tree and the sessions, each with its timeout in
    /// milliseconds. What became of the requests that wait is unknown, so every client of this
    /// server is disconnected.
    pub fn handle_replaced(&mut self, mut writer: Writer, sessions: Vec<(i64, i32)>, now: Time) {
        writer.set_watched(true);
        writer.set_now(now);
        self.rewinds += 1;
        self.prepared = writer.last_zxid();
        self.committed = self.prepared;
        self.published = self.prepared;
        self.writer = writer;
        self.sessions.replace(&sessions, now);
        self.locals.handle_replaced(|session| self.sessions.contains(session));
        self.txns.clear();
        self.digests.clear();
        self.uncommitted_digests.clear();
        self.committed_digest = None;
        self.sealed.clear();
        self.events.clear();
        self.outboxes.fill(Outbox::default());
        self.attached.cut_all();
        self.waiting.clear();
        for core in 0..self.outboxes.len() {
            let core = u16::try_from(core).expect("client cores are few");
            let tree = self.writer.tree().clone();
            let version = self.prepared;
            self.notices.push_back(Notice::Replaced { core, tree, version });
        }
    }
}
