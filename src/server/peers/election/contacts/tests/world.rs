//! Several servers on a network that delivers in any order between connections, and in order on
//! each. Connections break, dials are refused, servers crash and come back with nothing.

use super::*;

/// xorshift64*
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// What goes one way on a connection.
enum Piece {
    Bytes(Vec<u8>),
    End,
}

/// One end of a connection: whose it is, and what is on its way to it.
struct End {
    server: usize,
    other: u64,
    is_open: bool,
    coming: VecDeque<Piece>,
}

/// Something that may happen next.
#[derive(Clone, Copy)]
enum Happening {
    Dial(usize),
    Sent(usize),
    Piece(u64),
}

const COUNT: usize = 4;

struct World {
    rng: Rng,
    now: Time,
    servers: Vec<Contacts>,
    ends: BTreeMap<u64, End>,
    next_end: u64,
    /// Dials under way: who, its number, whom.
    dials: Vec<(usize, u64, usize)>,
    /// Sends under way.
    sent: Vec<u64>,
    /// The last that each has heard of each, and whether it holds it for reachable.
    heard: BTreeMap<(usize, usize), i64>,
    reachable: BTreeMap<(usize, usize), bool>,
}

fn server(index: usize, now: Time) -> Contacts {
    let mut contacts = Contacts::new(ServerId(index as i64), addresses(index as i64), TIMEOUT);
    contacts.handle_members(&members(&[0, 1, 2, 3]), now);
    contacts
}

impl World {
    fn new(seed: u64) -> World {
        World {
            rng: Rng(seed.wrapping_mul(2) + 1),
            now: START,
            servers: (0..COUNT).map(|index| server(index, START)).collect(),
            ends: BTreeMap::new(),
            next_end: 0,
            dials: Vec::new(),
            sent: Vec::new(),
            heard: BTreeMap::new(),
            reachable: BTreeMap::new(),
        }
    }

    /// Performs what the servers say.
    fn drain(&mut self) {
        for index in 0..COUNT {
            while let Some(command) = self.servers[index].poll_command() {
                match command {
                    Command::Dial { number, server, .. } => {
                        self.dials.push((index, number, server.0 as usize));
                    }
                    Command::Send { connection: ConnectionId(end), bytes } => {
                        let it = &self.ends[&end];
                        assert!(it.is_open && it.server == index);
                        assert!(!self.sent.contains(&end), "one send at a time");
                        let other = it.other;
                        self.sent.push(end);
                        self.ends.get_mut(&other).unwrap().coming.push_back(Piece::Bytes(bytes));
                    }
                    Command::Close { connection } => self.close(connection.0),
                }
            }
            while let Some(event) = self.servers[index].poll_event() {
                match event {
                    ElectionEvent::Notification { from, notification } => {
                        self.heard.insert((index, from.0 as usize), notification.round);
                    }
                    ElectionEvent::Reachable(server, is_reachable) => {
                        let key = (index, server.0 as usize);
                        let former = self.reachable.insert(key, is_reachable);
                        assert_ne!(former, Some(is_reachable), "only changes are told");
                    }
                }
            }
        }
    }

    /// One end is closed; the other one hears of it after what is on its way.
    fn close(&mut self, end: u64) {
        let it = self.ends.get_mut(&end).unwrap();
        assert!(it.is_open, "a connection is closed once");
        it.is_open = false;
        it.coming.clear();
        let other = it.other;
        self.sent.retain(|sent| *sent != end);
        self.ends.get_mut(&other).unwrap().coming.push_back(Piece::End);
    }

    /// Lets one of the things that are under way happen; false if there is none.
    fn step(&mut self) -> bool {
        let pieces = self.ends.iter().filter(|(_, it)| it.is_open && !it.coming.is_empty());
        let happenings: Vec<Happening> = (0..self.dials.len())
            .map(Happening::Dial)
            .chain((0..self.sent.len()).map(Happening::Sent))
            .chain(pieces.map(|(&end, _)| Happening::Piece(end)))
            .collect();
        if happenings.is_empty() {
            return false;
        }
        match happenings[self.rng.below(happenings.len())] {
            Happening::Dial(at) => {
                let dial = self.dials.swap_remove(at);
                self.dialed(dial);
            }
            Happening::Sent(at) => {
                let end = self.sent.swap_remove(at);
                let index = self.ends[&end].server;
                self.servers[index].handle_sent(ConnectionId(end));
            }
            Happening::Piece(end) => {
                let it = self.ends.get_mut(&end).unwrap();
                let index = it.server;
                let piece = it.coming.pop_front().unwrap();
                let (id, now) = (ConnectionId(end), self.now);
                match piece {
                    Piece::Bytes(bytes) => self.servers[index].handle_received(id, &bytes, now),
                    Piece::End => self.servers[index].handle_closed(id, "the end", now),
                }
            }
        }
        self.drain();
        true
    }

    fn dialed(&mut self, (from, number, to): (usize, u64, usize)) {
        if self.rng.below(10) == 0 {
            self.servers[from].handle_dialed(number, Err("refused".to_owned()), self.now);
            return;
        }
        let (ours, theirs) = (self.next_end, self.next_end + 1);
        self.next_end += 2;
        for (end, other, server) in [(ours, theirs, from), (theirs, ours, to)] {
            let coming = VecDeque::new();
            self.ends.insert(end, End { server, other, is_open: true, coming });
        }
        self.servers[to].handle_accepted(ConnectionId(theirs), address(), self.now);
        let outcome = Ok((ConnectionId(ours), address()));
        self.servers[from].handle_dialed(number, outcome, self.now);
    }

    /// A server loses all it knows and begins again.
    fn crash(&mut self, index: usize) {
        let ends = self.ends.iter().filter(|(_, it)| it.is_open && it.server == index);
        for end in ends.map(|(&end, _)| end).collect::<Vec<_>>() {
            self.close(end);
        }
        self.dials.retain(|(from, ..)| *from != index);
        self.reachable.retain(|(of, _), _| *of != index);
        self.servers[index] = server(index, self.now);
        self.drain();
    }

    /// A connection breaks: both ends hear of it.
    fn cut(&mut self) {
        let open: Vec<u64> =
            self.ends.iter().filter(|(_, it)| it.is_open).map(|(&end, _)| end).collect();
        if open.is_empty() {
            return;
        }
        let end = open[self.rng.below(open.len())];
        for end in [end, self.ends[&end].other] {
            let it = self.ends.get_mut(&end).unwrap();
            if it.is_open {
                it.coming.clear();
                it.coming.push_back(Piece::End);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for contacts in &mut self.servers {
            if contacts.poll_timeout().is_some_and(|due| due <= self.now) {
                contacts.handle_timeout(self.now);
            }
        }
        self.drain();
    }

    fn speak(&mut self, round: i64) {
        for index in 0..COUNT {
            for to in (0..COUNT).filter(|to| *to != index) {
                let to = ServerId(to as i64);
                self.servers[index].notify(to, &notification(round), self.now);
            }
        }
        self.drain();
    }

    fn calm(&mut self) {
        for _ in 0..400 {
            let mut steps = 0;
            while self.step() {
                steps += 1;
                assert!(steps < 100_000, "it goes on for ever");
            }
            self.pass(Duration::from_millis(50));
        }
        while self.step() {}
    }

    /// Every two servers have one connection, both ends of which are open, and know it.
    fn check(&self, round: i64) {
        let mut pairs = BTreeMap::new();
        for it in self.ends.values().filter(|it| it.is_open) {
            let other = &self.ends[&it.other];
            assert!(other.is_open);
            *pairs.entry((it.server, other.server)).or_insert(0) += 1;
        }
        for index in 0..COUNT {
            for other in (0..COUNT).filter(|other| *other != index) {
                assert_eq!(pairs.get(&(index, other)), Some(&1), "{index} and {other}");
                assert_eq!(self.reachable.get(&(index, other)), Some(&true));
                assert_eq!(self.heard.get(&(index, other)), Some(&round), "{index} of {other}");
            }
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.drain();
    for round in 1..=3 {
        world.speak(round);
        for _ in 0..60 {
            match world.rng.below(20) {
                0 => {
                    let index = world.rng.below(COUNT);
                    world.crash(index);
                }
                1 => world.cut(),
                2 | 3 => {
                    let time = Duration::from_millis(world.rng.below(300) as u64);
                    world.pass(time);
                }
                _ => {
                    world.step();
                }
            }
        }
    }
    // Whoever crashed has nothing to repeat.
    world.speak(4);
    world.calm();
    world.check(4);
}

#[test]
fn every_two_servers_end_with_one_connection_and_the_last_word() {
    for seed in 0..400 {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
