//! One core's sockets, log writes, wakes and waits, through one io_uring.
//!
//! A core's loop is plain synchronous code:
//!
//! ```text
//! loop {
//!     ring.turn(wait)?;                            submit, wait, collect
//!     while let Some(completion) = ring.next_completion() { … }
//!     …                                            decide, then ring.send(…), ring.close(…)
//! }
//! ```
//!
//! What a loop turn starts goes to the kernel together, with the next `turn`, in the same system
//! call that waits and collects; and what that call can do at once, such as a reply that fits the
//! socket's buffer, ends no wait of its own (`send_quick`). Each connection has one receive that stays armed and at most one
//! send in flight; a caller collects what it has to say meanwhile. Cost per 64-byte echo on a
//! 2-core VM: see `benches/echo.rs`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::Shutdown;
use thiserror::Error;

use super::multishot::Multishot;
use super::places::{Place, Places};
use super::slab::{Key, Slab};
use super::uring::{Event, Operation, Payload, QuickSend, Uring};
pub use super::uring::{IoBuffer, RingConfig};
use super::wake::{Parking, Waker};

/// The caller's name for a connection or a listener. It may be used again after `close`: nothing of
/// the former bearer is delivered under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// The caller's name for a write or sync of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileToken(pub u64);

/// How long a turn waits for its first completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: there is other work.
    No,
    /// Until something happens or this time has passed.
    AtMost(Duration),
    /// Until something happens.
    Forever,
}

/// Something happened. `bytes` lie in the ring's own buffer until the next completion is taken.
#[derive(Debug)]
pub enum Completion<'a> {
    /// A connection was accepted; `attach` it or drop it.
    Accepted {
        listener: Token,
        socket: OwnedFd,
    },
    /// Accepting failed for want of descriptors or memory, and is paused until `resume_accept`.
    AcceptFailed {
        listener: Token,
        error: io::Error,
    },
    /// Never empty.
    Received {
        token: Token,
        bytes: &'a [u8],
    },
    /// Nothing more is received: the peer ended its side (no error) or the connection failed.
    /// The caller still has to `close`.
    Closed {
        token: Token,
        error: Option<io::Error>,
    },
    /// All of it is in the kernel's hands. The buffer comes back as it was given.
    Sent {
        token: Token,
        buffer: Vec<u8>,
    },
    /// The connection takes no more. The caller still has to `close`.
    SendFailed {
        token: Token,
        error: io::Error,
    },
    /// All of the buffer was written, or the error says why not (and some of it may have been).
    Written {
        token: FileToken,
        buffer: Box<dyn IoBuffer>,
        result: io::Result<()>,
    },
    Synced {
        token: FileToken,
        result: io::Result<()>,
    },
    /// A [`Waker`] was used since the last turn.
    Woken,
}

/// Why there is no ring, or it can go on no longer.
#[derive(Debug, Error)]
pub enum RingError {
    #[error(
        "the kernel refuses io_uring ({0}). Where `sysctl kernel.io_uring_disabled` is not 0, set \
         it to 0, or to 1 with this user in the group of kernel.io_uring_group. In a container, \
         the seccomp profile must let io_uring_setup, io_uring_enter and io_uring_register pass \
         (Docker: --security-opt seccomp=PROFILE; Kubernetes: securityContext.seccompProfile)"
    )]
    Refused(io::Error),
    #[error("the kernel has no io_uring ({0}), or the container hides it; Linux 6.1 is needed")]
    Missing(io::Error),
    #[error("the kernel is too old for the ring's flags ({0}); Linux 6.1 is needed")]
    TooOld(io::Error),
    #[error("no memory may be locked for a ring ({0}); raise `ulimit -l` (LimitMEMLOCK=)")]
    LockedMemory(io::Error),
    #[error("no descriptor is left for a ring ({0}); raise `ulimit -n` (LimitNOFILE=)")]
    Descriptors(io::Error),
    #[error("the ring failed: {0}")]
    Failed(io::Error),
}

impl RingError {
    fn at_start(error: io::Error) -> RingError {
        match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::ACCESS) => RingError::Refused(error),
            Some(Errno::NOSYS) => RingError::Missing(error),
            Some(Errno::INVAL) => RingError::TooOld(error),
            Some(Errno::NOMEM) => RingError::LockedMemory(error),
            Some(Errno::MFILE | Errno::NFILE) => RingError::Descriptors(error),
            _ => RingError::Failed(error),
        }
    }
}

struct Connection {
    token: Token,
    socket: Rc<OwnedFd>,
    receive: Multishot,
    send: Option<Sending>,
}

/// The send of a connection that is in flight.
#[derive(Clone, Copy)]
enum Sending {
    /// It is over when it is submitted.
    Quick,
    Waiting(Key),
}

struct Listener {
    token: Token,
    socket: Rc<OwnedFd>,
    accept: Multishot,
}

/// See the module. It belongs to the thread that made it.
pub struct Ring {
    uring: Uring,
    places: Places,
    connections: Slab<Connection>,
    listeners: Slab<Listener>,
    /// Connections whose receive ended for want of a buffer.
    starved: Vec<Key>,
    parking: Arc<Parking>,
    woken: bool,
}

impl Ring {
    /// # Errors
    ///
    /// `RingError` says what the administrator must change where the kernel refuses.
    pub fn new(config: RingConfig) -> Result<Ring, RingError> {
        let parking = Arc::new(Parking::new().map_err(RingError::at_start)?);
        let uring = Uring::new(config).map_err(RingError::at_start)?;
        let mut ring = Ring {
            uring,
            places: Places::default(),
            connections: Slab::new(),
            listeners: Slab::new(),
            starved: Vec::new(),
            parking,
            woken: false,
        };
        ring.poll_wakes();
        Ok(ring)
    }

    /// What other threads wake this ring with.
    pub fn waker(&self) -> Waker {
        Waker::new(self.parking.clone())
    }

    /// Starts accepting connections from a listening socket.
    ///
    /// # Panics
    ///
    /// If the token is in use.
    pub fn listen(&mut self, token: Token, listener: OwnedFd) {
        make_blocking(&listener);
        let socket = Rc::new(listener);
        let key = self.listeners.insert(Listener {
            token,
            socket: socket.clone(),
            accept: Multishot::new(),
        });
        self.name(token, Place::Listener(key));
        self.arm_accept(key);
    }

    /// Leaves further connections in the listener's backlog. Some may still be delivered that were
    /// accepted before the kernel learns of it.
    pub fn pause_accept(&mut self, token: Token) {
        let listener = self.listener_mut(token);
        if let Some(operation) = listener.accept.pause() {
            self.uring.cancel(operation);
        }
    }

    /// Accepts again, after `pause_accept` or `AcceptFailed`.
    pub fn resume_accept(&mut self, token: Token) {
        let key = self.listener_key(token);
        if self.listener_mut(token).accept.resume() {
            self.arm_accept(key);
        }
    }

    /// Starts receiving from a connected socket.
    ///
    /// # Panics
    ///
    /// If the token is in use.
    pub fn attach(&mut self, token: Token, socket: OwnedFd) {
        make_blocking(&socket);
        let socket = Rc::new(socket);
        let receive = Multishot::new();
        let key = self.connections.insert(Connection { token, socket, receive, send: None });
        self.name(token, Place::Connection(key));
        self.arm_receive(key);
    }

    /// Leaves what comes in the socket's buffer, and at last with the peer. What the kernel has
    /// received before it learns of it is still delivered, in order: the ring's buffers at most.
    pub fn pause_receive(&mut self, token: Token) {
        let connection = self.connection_mut(token);
        if let Some(operation) = connection.receive.pause() {
            self.uring.cancel(operation);
        }
    }

    /// Receives again, from where it was paused.
    pub fn resume_receive(&mut self, token: Token) {
        let key = self.connection_key(token);
        if self.connection_mut(token).receive.resume() {
            self.arm_receive(key);
        }
    }

    /// Sends all of `bytes`; `Sent` or `SendFailed` follows.
    ///
    /// # Panics
    ///
    /// If there is nothing to send, or the send before it is not completed.
    pub fn send(&mut self, token: Token, bytes: Vec<u8>) {
        assert!(!bytes.is_empty(), "a send carries something");
        let key = self.connection_key(token);
        let connection = self.connections.get_mut(key).expect("a named connection exists");
        assert!(connection.send.is_none(), "a connection has one send in flight");
        let (socket, payload) = (connection.socket.clone(), Payload::Own(bytes));
        let operation = Operation::Send { socket, payload, sent: 0 };
        connection.send = Some(Sending::Waiting(self.uring.start(key.to_bits(), operation)));
    }

    /// The same, for what nothing waits for: `Sent` comes with the end of the next turn but does
    /// not end it, unless the peer has left no room for all of the bytes.
    pub fn send_quick(&mut self, token: Token, bytes: Vec<u8>) {
        self.start_quick(token, Payload::Own(bytes));
    }

    /// Like [`Ring::send_quick`], of bytes that go to several connections. The buffer that `Sent`
    /// brings is an empty one.
    pub fn send_shared(&mut self, token: Token, bytes: Arc<[u8]>) {
        self.start_quick(token, Payload::Shared(bytes));
    }

    fn start_quick(&mut self, token: Token, payload: Payload) {
        assert!(!payload.bytes().is_empty(), "a send carries something");
        let key = self.connection_key(token);
        let connection = self.connections.get_mut(key).expect("a named connection exists");
        assert!(connection.send.is_none(), "a connection has one send in flight");
        connection.send = Some(Sending::Quick);
        self.uring.start_quick(key.to_bits(), connection.socket.clone(), payload);
    }

    /// Tells the peer that nothing more is sent. Call it when the last send is completed.
    ///
    /// # Errors
    ///
    /// The connection may be gone already.
    pub fn shutdown_write(&mut self, token: Token) -> io::Result<()> {
        let connection = self.connection_mut(token);
        assert!(connection.send.is_none(), "what is being sent would be cut off");
        Ok(rustix::net::shutdown(&*connection.socket, Shutdown::Write)?)
    }

    /// Ends a connection or a listener. Nothing is delivered under its token any more; what
    /// is in flight is cancelled, and the socket is closed as soon as the kernel has let go of it.
    pub fn close(&mut self, token: Token) {
        match self.places.remove(token).expect("what is closed is attached or listening") {
            Place::Connection(key) => {
                let mut connection = self.connections.remove(key).expect("it is named");
                let send = match connection.send {
                    Some(Sending::Waiting(key)) => Some(key),
                    Some(Sending::Quick) | None => None,
                };
                for operation in connection.receive.stop().into_iter().chain(send) {
                    self.uring.cancel(operation);
                }
            }
            Place::Listener(key) => {
                let mut listener = self.listeners.remove(key).expect("it is named");
                if let Some(operation) = listener.accept.stop() {
                    self.uring.cancel(operation);
                }
            }
        }
    }

    /// Writes all of `buffer` at `offset`, in bytes; `Written` follows and brings it back. For a
    /// file opened with `O_DIRECT` the buffer, its length and the offset are aligned to the
    /// device's blocks.
    ///
    /// Writes are independent of each other: those that must be in order are started one after the
    /// other's completion.
    pub fn write_file(
        &mut self,
        token: FileToken,
        file: Arc<dyn AsFd>,
        offset: u64,
        buffer: Box<dyn IoBuffer>,
    ) {
        self.uring.start(token.0, Operation::Write { file, buffer, offset, written: 0 });
    }

    /// Makes what was written to `file`, and completed, durable (`fdatasync`); `Synced` follows.
    pub fn sync_file(&mut self, token: FileToken, file: Arc<dyn AsFd>) {
        self.uring.start(token.0, Operation::Sync { file });
    }

    /// Submits what was started, waits as told, and collects completions for
    /// [`Ring::next_completion`], which must have returned `None` before.
    ///
    /// A turn may end early and bring nothing.
    ///
    /// # Errors
    ///
    /// The ring cannot go on: the server stops.
    pub fn turn(&mut self, wait: Wait) -> Result<(), RingError> {
        assert!(!self.woken, "completions are taken before the next turn");
        self.feed_starved();
        let wait = if wait == Wait::No || self.parking.park() { wait } else { Wait::No };
        let entered = match wait {
            Wait::No => self.uring.enter(false, None),
            Wait::AtMost(time) => self.uring.enter(true, Some(time)),
            Wait::Forever => self.uring.enter(true, None),
        };
        self.woken = self.parking.unpark();
        entered.map_err(RingError::Failed)
    }

    /// Whether the next turn hands sends to the kernel and little else goes on: they are mostly
    /// done when they have been submitted. A turn with [`Wait::No`] collects that, and the one
    /// behind it waits for something to happen; one turn for both would end by the sends alone.
    pub fn should_submit_first(&self) -> bool {
        self.uring.is_quiet_after_sends()
    }

    /// The next completion of those that the last turn collected.
    pub fn next_completion(&mut self) -> Option<Completion<'_>> {
        if self.woken {
            self.woken = false;
            return Some(Completion::Woken);
        }
        while let Some(QuickSend { owner, socket, payload, result }) = self.uring.next_quick() {
            let told = self.send_finished(Key::from_bits(owner), socket, payload, 0, result);
            if told.is_some() {
                return told;
            }
        }
        while let Some(event) = self.uring.next() {
            let told = match event {
                Event::Polled { armed } => {
                    // The news came with `Parking`; the completion only ended the wait.
                    if !armed {
                        self.poll_wakes();
                    }
                    None
                }
                Event::Accepted { owner, socket, armed } => {
                    self.accepted(Key::from_bits(owner), socket, armed)
                }
                Event::Finished { owner, operation, result } => {
                    self.finished(owner, operation, result)
                }
                Event::Received { owner, length, armed } => {
                    let Some((token, told)) = self.received(Key::from_bits(owner), length, armed)
                    else {
                        continue;
                    };
                    return Some(match told {
                        Told::Bytes => Completion::Received { token, bytes: self.uring.leased() },
                        Told::Closed(error) => Completion::Closed { token, error },
                    });
                }
            };
            if told.is_some() {
                return told;
            }
        }
        None
    }
}

/// What a receive tells the caller.
enum Told {
    /// Bytes, in the leased buffer.
    Bytes,
    Closed(Option<io::Error>),
}

/// What completions lead to.
impl Ring {
    fn accepted(
        &mut self,
        key: Key,
        socket: io::Result<OwnedFd>,
        armed: bool,
    ) -> Option<Completion<'static>> {
        // After `close` a socket that was accepted meanwhile is dropped, and so closed, here.
        let listener = self.listeners.get_mut(key)?;
        let token = listener.token;
        let wanted = !armed && listener.accept.ended();
        let told = match socket {
            Ok(socket) => Some(Completion::Accepted { listener: token, socket }),
            Err(error) if is_of_one_connection(&error) => None,
            Err(error) => {
                listener.accept.pause();
                return Some(Completion::AcceptFailed { listener: token, error });
            }
        };
        if wanted {
            self.arm_accept(key);
        }
        told
    }

    fn received(
        &mut self,
        key: Key,
        length: io::Result<usize>,
        armed: bool,
    ) -> Option<(Token, Told)> {
        let connection = self.connections.get_mut(key)?;
        let token = connection.token;
        let errno = length.as_ref().err().and_then(Errno::from_io_error);
        match (length, errno) {
            (Ok(0), _) => {
                connection.receive.ended_for_good();
                Some((token, Told::Closed(None)))
            }
            (Ok(_), _) => {
                if !armed && connection.receive.ended() {
                    self.arm_receive(key);
                }
                Some((token, Told::Bytes))
            }
            (Err(_), Some(Errno::NOBUFS)) => {
                if connection.receive.ended_starved() {
                    self.starved.push(key);
                }
                None
            }
            (Err(_), Some(Errno::CANCELED | Errno::INTR)) => {
                if connection.receive.ended() {
                    self.arm_receive(key);
                }
                None
            }
            (Err(error), _) => {
                connection.receive.ended_for_good();
                Some((token, Told::Closed(Some(error))))
            }
        }
    }

    fn finished(
        &mut self,
        owner: u64,
        operation: Operation,
        result: io::Result<usize>,
    ) -> Option<Completion<'static>> {
        match operation {
            Operation::Send { socket, payload, sent } => {
                self.send_finished(Key::from_bits(owner), socket, payload, sent, result)
            }
            Operation::Write { file, buffer, offset, written } => {
                let length = (*buffer).as_ref().len();
                let token = FileToken(owner);
                match progress(written, length, result) {
                    Ok(written) if written < length => {
                        let rest = Operation::Write { file, buffer, offset, written };
                        self.uring.start(owner, rest);
                        None
                    }
                    Ok(_) => Some(Completion::Written { token, buffer, result: Ok(()) }),
                    Err(error) => Some(Completion::Written { token, buffer, result: Err(error) }),
                }
            }
            Operation::Sync { .. } => {
                Some(Completion::Synced { token: FileToken(owner), result: result.map(drop) })
            }
            Operation::Accept { .. } | Operation::Poll { .. } | Operation::Receive { .. } => {
                unreachable!("these have events of their own")
            }
        }
    }

    fn send_finished(
        &mut self,
        key: Key,
        socket: Rc<OwnedFd>,
        payload: Payload,
        sent: usize,
        result: io::Result<usize>,
    ) -> Option<Completion<'static>> {
        let connection = self.connections.get_mut(key)?;
        let token = connection.token;
        connection.send = None;
        let length = payload.bytes().len();
        match progress(sent, length, result) {
            Ok(sent) if sent < length => {
                let rest = Operation::Send { socket, payload, sent };
                connection.send = Some(Sending::Waiting(self.uring.start(key.to_bits(), rest)));
                None
            }
            Ok(_) => Some(Completion::Sent { token, buffer: payload.into_buffer() }),
            Err(error) => Some(Completion::SendFailed { token, error }),
        }
    }

    /// Arms the receives that ended for want of buffers. All buffers are back: each completion
    /// was taken, and only they hold any.
    fn feed_starved(&mut self) {
        for key in std::mem::take(&mut self.starved) {
            if self.connections.get_mut(key).is_some_and(|found| found.receive.feed()) {
                self.arm_receive(key);
            }
        }
    }

    fn poll_wakes(&mut self) {
        self.uring.start(0, Operation::Poll { eventfd: self.parking.clone() });
    }

    fn arm_accept(&mut self, key: Key) {
        let listener = self.listeners.get_mut(key).expect("whoever arms it has it");
        let operation = Operation::Accept { listener: listener.socket.clone() };
        listener.accept.arm(self.uring.start(key.to_bits(), operation));
    }

    fn arm_receive(&mut self, key: Key) {
        let connection = self.connections.get_mut(key).expect("whoever arms it has it");
        let operation = Operation::Receive { socket: connection.socket.clone() };
        connection.receive.arm(self.uring.start(key.to_bits(), operation));
    }

    fn name(&mut self, token: Token, place: Place) {
        self.places.insert(token, place);
    }

    fn connection_key(&self, token: Token) -> Key {
        match self.places.get(token) {
            Some(Place::Connection(key)) => key,
            _ => panic!("{token:?} is not attached"),
        }
    }

    fn connection_mut(&mut self, token: Token) -> &mut Connection {
        let key = self.connection_key(token);
        self.connections.get_mut(key).expect("a named connection exists")
    }

    fn listener_key(&self, token: Token) -> Key {
        match self.places.get(token) {
            Some(Place::Listener(key)) => key,
            _ => panic!("{token:?} is not listening"),
        }
    }

    fn listener_mut(&mut self, token: Token) -> &mut Listener {
        let key = self.listener_key(token);
        self.listeners.get_mut(key).expect("a named listener exists")
    }
}

/// How much of `length` bytes is done after a result on top of `before`.
fn progress(before: usize, length: usize, result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(0) if before < length => Err(io::ErrorKind::WriteZero.into()),
        Ok(more) => {
            assert!(more <= length - before, "the kernel takes no more than there is");
            Ok(before + more)
        }
        // A quick send that found no room is none of success; the next waits for some.
        Err(error) if is_to_be_repeated(&error) => Ok(before),
        Err(error) => Err(error),
    }
}

fn is_to_be_repeated(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// True for errors that accept(2) passes on from the one connection that it was about to return, or
/// that are our own cancellation: the listener is as good as before.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CANCELED
                | Errno::INTR
                | Errno::CONNABORTED
                | Errno::PERM
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::TIMEDOUT
        )
    )
}

/// io_uring waits for a socket only if it is in blocking mode; else it reports EAGAIN.
fn make_blocking(socket: &OwnedFd) {
    rustix::io::ioctl_fionbio(socket, false).expect("each socket has a blocking mode");
}

#[cfg(test)]
mod tests;
