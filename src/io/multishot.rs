//! The life of a request that the kernel answers many times, as plain values.
//!
//! Both an accept and a receive are armed once and then complete again and again until the kernel
//! or we end them. Pausing is a cancellation, which takes effect a little later; the next arming
//! must wait for that, or two receives would race for the bytes of one stream.

use super::slab::Key;

/// Where a multishot request stands, and whether its owner wants it.
#[derive(Debug)]
pub(super) struct Multishot {
    state: State,
    paused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not with the kernel.
    Idle,
    Armed(Key),
    /// With the kernel still, a cancellation is under way.
    Stopping(Key),
    /// Not with the kernel; it is armed when there are buffers again.
    Starved,
    /// The stream ended or failed: it is never armed again.
    Over,
}

impl Multishot {
    /// A request that is wanted and must be armed.
    pub(super) fn new() -> Multishot {
        Multishot { state: State::Idle, paused: false }
    }

    /// The request was given to the kernel, after one of the methods below asked for it.
    pub(super) fn arm(&mut self, key: Key) {
        assert_eq!(self.state, State::Idle, "only one request at a time reads a stream");
        self.state = State::Armed(key);
    }

    /// The operation that is with the kernel and not being cancelled already.
    pub(super) fn stop(&mut self) -> Option<Key> {
        let State::Armed(key) = self.state else {
            return None;
        };
        self.state = State::Stopping(key);
        Some(key)
    }

    /// The owner wants no more for now. Returns the operation to cancel, if there is one.
    pub(super) fn pause(&mut self) -> Option<Key> {
        self.paused = true;
        self.stop()
    }

    /// The owner wants more. True when the request must be armed.
    pub(super) fn resume(&mut self) -> bool {
        self.paused = false;
        self.state == State::Idle
    }

    /// The kernel ended the request. True when it must be armed again.
    pub(super) fn ended(&mut self) -> bool {
        assert!(matches!(self.state, State::Armed(_) | State::Stopping(_)));
        self.state = State::Idle;
        !self.paused
    }

    /// The kernel ended the request because it had no buffer. True when it must be put on the list
    /// of those that get [`Multishot::feed`].
    pub(super) fn ended_starved(&mut self) -> bool {
        let wanted = self.ended();
        if wanted {
            self.state = State::Starved;
        }
        wanted
    }

    /// There are buffers again. True when the request must be armed.
    pub(super) fn feed(&mut self) -> bool {
        if self.state != State::Starved {
            return false;
        }
        self.state = State::Idle;
        !self.paused
    }

    /// The kernel ended the request because the stream is over.
    pub(super) fn ended_for_good(&mut self) {
        assert!(matches!(self.state, State::Armed(_) | State::Stopping(_)));
        self.state = State::Over;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (Key, Key) {
        (Key::from_bits(1), Key::from_bits(2))
    }

    fn armed(key: Key) -> Multishot {
        let mut multishot = Multishot::new();
        multishot.arm(key);
        multishot
    }

    #[test]
    fn a_resume_during_the_cancellation_waits_for_its_end() {
        let (first, second) = keys();
        let mut multishot = armed(first);
        assert_eq!(multishot.pause(), Some(first));
        assert_eq!(multishot.pause(), None, "it is being cancelled already");
        assert!(!multishot.resume(), "the first is still with the kernel");
        assert!(multishot.ended(), "it is gone and wanted");
        multishot.arm(second);
        assert_eq!(multishot.stop(), Some(second));
    }

    #[test]
    fn a_paused_request_is_armed_by_the_resume_only() {
        let (first, _) = keys();
        let mut multishot = armed(first);
        assert_eq!(multishot.pause(), Some(first));
        assert!(!multishot.ended());
        assert!(multishot.resume());
    }

    #[test]
    fn a_starved_request_is_armed_once_when_fed() {
        let (first, second) = keys();
        let mut multishot = armed(first);
        assert!(multishot.ended_starved());
        assert_eq!(multishot.pause(), None);
        assert!(!multishot.resume(), "the feeding will arm it");
        assert!(multishot.feed());
        multishot.arm(second);
        assert!(!multishot.feed());
    }

    #[test]
    fn a_stream_that_is_over_stays_over() {
        let (first, _) = keys();
        let mut multishot = armed(first);
        multishot.ended_for_good();
        assert_eq!(multishot.pause(), None);
        assert!(!multishot.resume());
        assert!(!multishot.feed());
    }
}
