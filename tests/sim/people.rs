//! How clients act in the world: they dial, greet, ask, and take what they are told.

use ringkeeper::wire::error::ErrorCode;
use ringkeeper::wire::jute::Reader;
use ringkeeper::wire::request::XID_PING;

use crate::checker::check;
use crate::checker::history::Asked;
use crate::client::{self, Ask, Kept, Link, Sent, Told};
use crate::knobs::MS;
use crate::network::{ConnId, Payload, Port};
use crate::world::{Event, Own, Stage, World};

impl World {
    /// Another server for a client to try.
    fn pick_server(&mut self, client: usize) -> usize {
        let servers = self.servers.len();
        self.clients[client].random.index(servers)
    }

    /// A client does the next thing.
    pub fn act(&mut self, client: usize) {
        self.trace.step([self.now, 6, client as u64, self.clients[client].xid as u64]);
        let think = self.knobs.think_ms * MS;
        let wait = self.clients[client].random.wait(think);
        self.after(wait, Event::Act { client });
        let it = &self.clients[client];
        let timeout = it.timeout_ms as u64 * MS;
        match &it.link {
            None if !it.is_dialling => {
                let server = self.pick_server(client);
                self.dial(client, server);
            }
            None => {}
            Some(link) => {
                let silent = self.now.saturating_sub(link.heard_at);
                if silent > timeout * 2 / 3 {
                    return self.hang_up(client);
                }
                if !link.is_ready {
                    return;
                }
                if self.now.saturating_sub(link.pinged_at) > timeout / 4 {
                    self.ask(client, Ask::Ping);
                }
                if self.knobs.are_idle && self.stage == Stage::Chaos {
                    return;
                }
                let it = &mut self.clients[client];
                let under_way = &it.link.as_ref().expect("it was seen").outstanding;
                let is_closing = under_way.iter().any(|sent| sent.ask == Ask::Close);
                if under_way.len() < it.in_flight_max && !it.is_quiet && !is_closing {
                    let ask = it.choose();
                    self.ask(client, ask);
                }
            }
        }
    }

    /// A client begins to dial a server.
    pub fn dial(&mut self, client: usize, server: usize) {
        self.clients[client].is_dialling = true;
        let node = self.servers.len() + client;
        let after = match self.network.connects(node, server) {
            true => self.network.delay() + self.network.delay(),
            false => 300 * MS,
        };
        self.after(after, Event::Reached { client, server });
    }

    pub fn reached(&mut self, client: usize, server: usize) {
        self.clients[client].is_dialling = false;
        let node = self.servers.len() + client;
        let is_there = self.servers[server].process.is_some();
        if !is_there || !self.network.connects(node, server) {
            return;
        }
        let conn = self.network.open(Port::Client, node, server);
        self.own_after(server, 0, Own::Admitted { conn });
        let now = self.now;
        let it = &mut self.clients[client];
        it.links += 1;
        it.link = Some(Link {
            conn,
            server,
            number: it.links,
            is_ready: false,
            heard_at: now,
            pinged_at: now,
            outstanding: Default::default(),
        });
        let frame = it.connect_frame();
        self.network.send(now, conn, 0, Payload::Frame(frame));
    }

    /// A client gives up its connection.
    pub fn hang_up(&mut self, client: usize) {
        if let Some(link) = &self.clients[client].link {
            let conn = link.conn;
            self.network.close(self.now, conn, 0);
            self.client_loses(client, conn);
        }
    }

    /// A client sends a request; its xid.
    pub fn ask(&mut self, client: usize, ask: Ask) -> i32 {
        let floor = self.checker.clients.done;
        let now = self.now;
        let it = &mut self.clients[client];
        let (xid, frame) = it.request_frame(&ask);
        let session = it.session;
        let link = it.link.as_mut().expect("who asks is connected");
        self.trace.step([now, 7, client as u64, xid as u64]);
        self.trace.say(now, || format!("client {client} sends {xid}: {ask:?}"));
        if xid > 0 {
            let asked = Asked { ask: ask.clone(), link: link.number, floor };
            self.checker.history.handle_asked(session, xid, asked);
        }
        if xid == XID_PING {
            link.pinged_at = now;
        }
        link.outstanding.push_back(Sent { xid, ask, floor });
        let conn = link.conn;
        self.network.send(now, conn, 0, Payload::Frame(frame));
        xid
    }

    /// A client's connection is over.
    pub fn client_loses(&mut self, client: usize, conn: ConnId) {
        let it = &mut self.clients[client];
        let Some(link) = it.link.take_if(|link| link.conn == conn) else { return };
        self.trace.say(self.now, || format!("client {client} loses server {}", link.server));
        if link.is_ready {
            // What was to be set again and was not is still wanted.
            let is_setting = |sent: &Sent| matches!(sent.ask, Ask::SetWatches(_));
            if !link.outstanding.iter().any(is_setting) {
                it.watches = self.checker.clients.watches(client);
            }
        }
        if link.outstanding.iter().any(|sent| sent.ask == Ask::Close) {
            // It ends here, whether the server has heard of it or not.
            it.forget_session();
        }
    }

    pub fn client_hears(&mut self, client: usize, conn: ConnId, payload: Payload) {
        let is_current = self.clients[client].link.as_ref().is_some_and(|it| it.conn == conn);
        match payload {
            Payload::Fin => self.client_loses(client, conn),
            Payload::Frame(bytes) if is_current => {
                let mut rest = &bytes[..];
                // Replayed events and their reply come in one piece.
                while let Some(length) = rest.first_chunk::<4>() {
                    let length = 4 + i32::from_be_bytes(*length) as usize;
                    let (frame, more) = rest.split_at(length);
                    self.take_frame(client, frame);
                    rest = more;
                }
            }
            _ => {}
        }
    }

    fn take_frame(&mut self, client: usize, frame: &[u8]) {
        let now = self.now;
        let Some(link) = &mut self.clients[client].link else { return };
        link.heard_at = now;
        if !link.is_ready {
            return self.greeted(client, frame);
        }
        let told = client::decode(frame);
        self.trace.say(now, || match told {
            Told::Reply { xid, zxid, error, .. } => {
                format!("client {client} hears {xid} at {zxid}: {error}")
            }
            event => format!("client {client} hears {event:?}"),
        });
        match told {
            Told::Event { zxid, kind, path } => {
                let history = &self.checker.history;
                self.trace.step([now, 8, client as u64, zxid.raw() as u64]);
                self.checker.clients.handle_event(client, (zxid, kind, path), history);
            }
            Told::Reply { xid, zxid, error, body } => {
                self.trace.step([now, 9, client as u64, zxid.raw() as u64 ^ (xid as u64) << 32]);
                let it = &mut self.clients[client];
                let link = it.link.as_mut().expect("it was seen");
                let Some(at) = link.outstanding.iter().position(|it| it.xid == xid) else {
                    panic!(
                        "SessionOrder: client {client} has a reply to {xid}, which it never sent"
                    );
                };
                let is_first = link.outstanding.iter().take(at).all(|it| it.xid == XID_PING);
                check(is_first || xid == XID_PING, "SessionOrder", || {
                    let first = &link.outstanding[0];
                    format!("client {client} has a reply to {xid} before that to {first:?}")
                });
                let sent = link.outstanding.remove(at).expect("it was found");
                self.answered(client, &sent, (zxid, error, body));
            }
        }
    }

    fn greeted(&mut self, client: usize, frame: &[u8]) {
        let mut reader = Reader::new(&frame[8..]);
        let mut greeting = || Some((reader.i32().ok()?, reader.i64().ok()?, reader.buffer().ok()?));
        let (timeout_ms, session, password) = greeting().expect("servers send what is right");
        let now = self.now;
        self.trace.step([now, 10, client as u64, session as u64]);
        let it = &mut self.clients[client];
        if session == 0 {
            self.trace.say(now, || format!("client {client}: its session has expired"));
            self.session_is_over(client);
            return self.hang_up(client);
        }
        let known = it.session;
        assert!(known == 0 || known == session, "SessionOrder: a client gets another's session");
        let link = it.link.as_mut().expect("it was greeted on one");
        let server = link.server;
        self.trace.say(now, || format!("client {client} has {session:#x} on server {server}"));
        link.is_ready = true;
        link.pinged_at = now;
        it.session = session;
        it.password = password.unwrap_or_default().to_vec();
        it.timeout_ms = timeout_ms;
        let seen = it.seen;
        self.checker.clients.handle_connected(client, seen, &self.checker.history);
        let it = &mut self.clients[client];
        if !it.watches.is_empty() {
            let paths = std::mem::take(&mut it.watches);
            it.watches = paths.clone();
            let kept = Kept { seen: it.seen, paths };
            self.ask(client, Ask::SetWatches(kept));
        }
    }

    /// A client is told that its session is no more: so its end is in the history, or on its way.
    fn session_is_over(&mut self, client: usize) {
        let session = self.clients[client].session;
        self.checker.clients.handle_over(session);
        self.clients[client].forget_session();
    }

    fn answered(
        &mut self,
        client: usize,
        sent: &Sent,
        (zxid, error, body): (ringkeeper::zxid::Zxid, i32, &[u8]),
    ) {
        let session = self.clients[client].session;
        if sent.ask == Ask::Ping {
            return;
        }
        if error == ErrorCode::SessionExpired.raw() {
            self.session_is_over(client);
            return self.hang_up(client);
        }
        let history = &self.checker.history;
        let clients = &mut self.checker.clients;
        clients.handle_reply(client, session, sent, (zxid, error, body), history);
        if sent.ask == Ask::Sync {
            clients.sync_is_linearizable(client, sent, zxid);
        }
        let it = &mut self.clients[client];
        it.seen = it.seen.max(zxid);
        if let Ask::SetWatches(_) = sent.ask {
            it.watches = self.checker.clients.watches(client);
        }
        let it = &mut self.clients[client];
        if sent.ask.is_write() {
            it.acknowledged += 1;
        }
        if sent.ask == Ask::Close {
            it.forget_session();
            self.hang_up(client);
        }
    }
}
