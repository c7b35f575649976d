//! Which connection or listener a token names.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::ring::Token;
use super::slab::Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Connection(Key),
    Listener(Key),
}

/// Tokens whose low half is below this are found by it, without a hash: callers that number their
/// connections from 0 on have such. Their tables grow to no more than this many entries.
const DENSE_MAX: usize = 1 << 20;

/// Places under their tokens.
#[derive(Default)]
pub(super) struct Places {
    /// By the tokens' low halves. Another bearer of the same low half goes to `sparse`.
    dense: Vec<Option<(Token, Place)>>,
    sparse: HashMap<Token, Place, BuildHasherDefault<TokenHasher>>,
}

impl Places {
    pub(super) fn get(&self, token: Token) -> Option<Place> {
        match self.dense.get(low_half(token)) {
            Some(Some((bearer, place))) if *bearer == token => Some(*place),
            _ => self.sparse.get(&token).copied(),
        }
    }

    /// # Panics
    ///
    /// If the token names something already.
    pub(super) fn insert(&mut self, token: Token, place: Place) {
        assert!(self.get(token).is_none(), "a token names one thing until it is closed");
        let index = low_half(token);
        if index < DENSE_MAX && index <= 2 * self.dense.len() {
            if index >= self.dense.len() {
                self.dense.resize(index + 1, None);
            }
            if self.dense[index].is_none() {
                self.dense[index] = Some((token, place));
                return;
            }
        }
        self.sparse.insert(token, place);
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Place> {
        match self.dense.get_mut(low_half(token)) {
            Some(found @ Some(_)) if found.is_some_and(|(bearer, _)| bearer == token) => {
                found.take().map(|(_, place)| place)
            }
            _ => self.sparse.remove(&token),
        }
    }
}

fn low_half(token: Token) -> usize {
    token.0 as u32 as usize
}

/// Spreads tokens over the table by one multiplication. They are our own numbers: no peer can
/// choose them to collide.
#[derive(Default)]
struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio. The table looks at both ends of the hash.
        let product = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(bits: u64) -> Place {
        Place::Connection(Key::from_bits(bits))
    }

    #[test]
    fn tokens_with_one_low_half_are_told_apart() {
        let (first, second, far) = (Token(0), Token(1 << 32), Token(u64::MAX));
        let mut places = Places::default();
        for (token, bits) in [(first, 1), (second, 2), (far, 3)] {
            places.insert(token, place(bits));
        }
        assert_eq!(places.dense.len(), 1, "one is found by its low half");
        assert_eq!(places.get(first), Some(place(1)));
        assert_eq!(places.get(second), Some(place(2)));
        assert_eq!(places.remove(first), Some(place(1)));
        assert_eq!(places.get(first), None);
        assert_eq!(places.get(second), Some(place(2)), "it stays where it was");
        places.insert(first, place(4));
        assert_eq!(places.remove(second), Some(place(2)));
        assert_eq!(places.remove(second), None);
        assert_eq!((places.get(first), places.get(far)), (Some(place(4)), Some(place(3))));
    }

    #[test]
    #[should_panic(expected = "one thing until it is closed")]
    fn a_token_names_one_thing() {
        let mut places = Places::default();
        places.insert(Token(7 << 32), place(1));
        places.insert(Token(7 << 32), place(2));
    }

    #[test]
    fn a_far_token_costs_no_table() {
        let mut places = Places::default();
        places.insert(Token(DENSE_MAX as u64 - 1), place(1));
        assert_eq!(places.dense.len(), 0);
        assert_eq!(places.get(Token(DENSE_MAX as u64 - 1)), Some(place(1)));
    }

    #[test]
    fn tokens_spread_over_the_table() {
        let hash = |token: u64| {
            let mut hasher = TokenHasher::default();
            hasher.write_u64(token);
            hasher.finish()
        };
        let low: std::collections::HashSet<u64> =
            (0..1024).map(|token| hash(token) % 4096).collect();
        let high: std::collections::HashSet<u64> =
            (0..1024u64).map(|token| hash(token << 32) % 4096).collect();
        assert!(low.len() > 800 && high.len() > 800, "{} {}", low.len(), high.len());
    }
}
