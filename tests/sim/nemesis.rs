//! What strikes: crashes, freezes, partitions, decay. Faults that take a server's state away are
//! spread so that a majority of the voters is never hurt at the same time.

use crate::client::Ask;
use crate::disk::{Decay, Small};
use crate::knobs::MS;
use crate::world::{Event, Server, Stage, World};

/// How each fault is named in a trace, in the order of their numbers.
const NAMES: [&str; 15] = [
    "crash",
    "power cut",
    "freeze",
    "freeze of all",
    "wipe",
    "decay",
    "decay of an epoch",
    "decay of a snapshot",
    "write error",
    "partition",
    "broken connections",
    "clock jump",
    "resignation",
    "slow disk",
    "reconfiguration",
];

/// The lines of members with these roles.
pub fn members_text(roles: &[Option<&str>]) -> String {
    let lines = roles.iter().enumerate().filter_map(|(index, role)| {
        let number = index + 1;
        role.map(|role| format!("server.{number}=s{number}:2888:3888:{role};2181"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

impl World {
    /// The mean times between two strikes of each kind, in milliseconds.
    fn paces(&self) -> [u64; 15] {
        let faults = &self.knobs.faults;
        [
            faults.crash,
            faults.power_cut,
            faults.freeze,
            faults.freeze_all,
            faults.wipe,
            faults.decay,
            faults.epoch_decay,
            faults.snapshot_decay,
            faults.write_error,
            faults.partition,
            faults.break_conn,
            faults.clock_jump,
            faults.resign,
            faults.slow_disk,
            faults.reconfig,
        ]
    }

    /// Arranges the first strike of each kind.
    pub fn let_faults_loose(&mut self) {
        for (kind, pace) in self.paces().into_iter().enumerate() {
            if pace > 0 {
                let after = self.random.wait(pace * MS);
                self.after(after, Event::Fault { kind });
            }
        }
    }

    /// A fault strikes.
    pub fn strike(&mut self, kind: usize) {
        if self.stage != Stage::Chaos {
            return;
        }
        let pace = self.paces()[kind];
        let after = self.random.wait(pace * MS);
        self.after(after, Event::Fault { kind });
        let server = self.random.index(self.servers.len());
        self.trace.step([self.now, 11, kind as u64, server as u64]);
        self.trace.say(self.now, || format!("{} at server {server}", NAMES[kind]));
        match kind {
            0 | 1 => {
                let mut victims = vec![server];
                // Now and then all at once.
                if self.random.below(10) == 0 {
                    victims = (0..self.servers.len()).collect();
                }
                for victim in victims {
                    self.crash(victim, kind == 1);
                    let down = self.random.between((5, 1500)) * MS;
                    self.start_after(victim, down);
                }
            }
            2 => {
                let longest = self.knobs.tick_ms * u64::from(self.knobs.sync_limit) * 3;
                let for_ms = self.random.between((5, longest));
                self.freeze(server, for_ms);
            }
            3 => {
                let for_ms = self.random.between((100, 60_000));
                for server in 0..self.servers.len() {
                    self.freeze(server, for_ms);
                }
            }
            4..=7 => self.hurt(server, kind),
            8 => self.servers[server].fails_next_write = true,
            9 => self.partition(),
            10 => {
                let conns = self.network.open_conns();
                for conn in conns {
                    if self.random.below(4) == 0 {
                        self.network.sever(self.now, conn);
                    }
                }
            }
            11 => self.servers[server].wall_error_ms += self.random.below(20_000) as i64 - 10_000,
            12 => self.with(server, |world, process| {
                let now = world.clock(server);
                process.replica.resign(now);
            }),
            14 => self.ask_for_members(),
            _ => {
                let slowness = *self.random.pick(&[1, 1, 5, 50]);
                self.servers[server].slowness = slowness;
            }
        }
    }

    /// Some client asks for other members: any of the servers, two voters at least.
    fn ask_for_members(&mut self) {
        let servers = self.servers.len();
        let mut voters = 0;
        let mut roles = Vec::new();
        for _ in 0..servers {
            let role = *self.random.pick(&[
                Some("participant"),
                Some("participant"),
                Some("participant"),
                Some("observer"),
                None,
            ]);
            voters += usize::from(role == Some("participant"));
            roles.push(role);
        }
        if voters >= 2 {
            let client = self.random.index(self.clients.len());
            self.ask_for_roles(client, &roles);
        }
    }

    /// A client asks for these members: each server's role, or `None`. Whether it can ask.
    pub fn ask_for_roles(&mut self, client: usize, roles: &[Option<&str>]) -> bool {
        let it = &self.clients[client];
        let is_able = it.link.as_ref().is_some_and(|link| {
            let is_closing = link.outstanding.iter().any(|sent| sent.ask == Ask::Close);
            link.is_ready && !is_closing && !it.is_quiet
        });
        if is_able {
            let members = members_text(roles);
            self.trace.keep(self.now, format!("client {client} asks for {members:?}"));
            self.ask(client, Ask::Reconfig { members });
        }
        is_able
    }

    /// A server's process stands still for a while.
    pub fn freeze(&mut self, server: usize, for_ms: u64) {
        let it = &mut self.servers[server];
        if it.process.is_some() && !it.is_frozen {
            it.is_frozen = true;
            self.trace.keep(self.now, format!("server {server} stands still for {for_ms} ms"));
            self.after(for_ms * MS, Event::Thaw { server });
        }
    }

    /// Whether a server's state may be taken away: a majority of the voters stays whole.
    pub fn may_hurt(&self, server: usize) -> bool {
        let voters = self.knobs.voters;
        // Who has not been made whole since its first start is as good as hurt.
        let is_whole = |it: &Server| {
            let is_new = it.disk.accepted_epoch == Small::Missing;
            !it.is_hurt && it.disk.unsound.is_none() && !is_new
        };
        let hurt = self.servers[..voters].iter().filter(|it| !is_whole(it)).count();
        let most = if self.knobs.is_hierarchical { 1 } else { (voters - 1) / 2 };
        !is_whole(&self.servers[server]) && hurt <= most || server >= voters || hurt < most
    }

    /// A server goes down, and its disk is not what it was when it comes up.
    fn hurt(&mut self, server: usize, kind: usize) {
        if !self.may_hurt(server) {
            return;
        }
        self.crash(server, false);
        let down = self.random.between((5, 1000)) * MS;
        self.start_after(server, down);
        let random = &mut self.random;
        let disk = &mut self.servers[server].disk;
        let is_hurt = match kind {
            4 => {
                disk.wipe();
                true
            }
            5 => {
                let decay = *random.pick(&[Decay::Flip, Decay::Lost, Decay::Misdirected]);
                disk.decay(random, decay)
            }
            6 => {
                let epoch = match random.flip() {
                    true => &mut disk.accepted_epoch,
                    false => &mut disk.current_epoch,
                };
                let is_there = *epoch != Small::Missing;
                *epoch = if is_there { Small::Damaged } else { Small::Missing };
                is_there
            }
            _ => disk.damage_snapshot(random),
        };
        self.servers[server].is_hurt |= is_hurt;
        let what = NAMES[kind];
        self.trace.keep(self.now, format!("server {server} suffers {what}: {is_hurt}"));
    }

    /// Ways between machines are blocked: any shape.
    fn partition(&mut self) {
        let servers = self.servers.len();
        let nodes = servers + self.clients.len();
        self.network.heal(self.now);
        let shape = self.random.below(5);
        let one = self.random.index(servers);
        let other = self.random.index(servers);
        let side: Vec<bool> = (0..nodes).map(|_| self.random.flip()).collect();
        for from in 0..nodes {
            for to in 0..nodes {
                let is_blocked = match shape {
                    // Two halves; one server alone among servers, or from all; one way only.
                    0 => side[from] != side[to],
                    1 => from < servers && to < servers && (from == one) != (to == one),
                    2 => (from == one) != (to == one),
                    3 => from == one && to < servers && to != one,
                    // Two servers that do not hear each other, while others hear both.
                    _ => from != to && [from, to].iter().all(|it| *it == one || *it == other),
                };
                if is_blocked {
                    self.network.block(from, to);
                }
            }
        }
        if self.random.flip() {
            for conn in self.network.open_conns() {
                let ends = [self.network.node(conn, 0), self.network.node(conn, 1)];
                if let [Some(a), Some(b)] = ends
                    && !self.network.connects(a, b)
                {
                    self.network.sever(self.now, conn);
                }
            }
        }
        self.trace.keep(self.now, format!("partition of shape {shape}, {one} and {other}"));
        let after = self.random.wait(800 * MS);
        self.after(after, Event::Heal);
    }

    /// Nothing strikes any more.
    pub fn heal_all(&mut self) {
        self.trace.keep(self.now, "all is healed".to_owned());
        self.stage = Stage::Settling { since: self.now };
        self.network.heal(self.now);
        self.knobs.read_error_per_mille = 0;
        for server in 0..self.servers.len() {
            self.servers[server].slowness = 1;
            self.servers[server].fails_next_write = false;
            if self.servers[server].is_frozen {
                self.after(0, Event::Thaw { server });
            }
            if self.servers[server].process.is_none() {
                self.start_after(server, MS);
            }
        }
    }
}
