//! Connections by their names: a slot each, and a generation that tells a slot's bearers apart.

use crate::io::ring::Token;

/// Values under tokens of a slot (low 32 bits) and its generation (high 32 bits).
#[derive(Debug)]
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    count: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<Box<T>>,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { slots: Vec::new(), free: Vec::new(), count: 0 }
    }
}

impl<T> Slots<T> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts in what `value` makes of its token.
    pub fn insert(&mut self, value: impl FnOnce(Token) -> T) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            u32::try_from(self.slots.len() - 1).expect("connections are limited to fewer")
        });
        let slot = &mut self.slots[index as usize];
        let token = Token(u64::from(slot.generation) << 32 | u64::from(index));
        slot.value = Some(Box::new(value(token)));
        self.count += 1;
        token
    }

    /// The value of `token`, while it is there.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        self.slot_mut(token)?.value.as_deref_mut()
    }

    /// Takes out the value of `token`.
    pub fn remove(&mut self, token: Token) -> Option<Box<T>> {
        let slot = self.slot_mut(token)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token.0 as u32);
        self.count -= 1;
        Some(value)
    }

    /// Every value, in the order of the slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_deref())
    }

    /// The values in the `count` slots from `start` on; `None` where there are no more slots.
    pub fn part(&self, start: usize, count: usize) -> Option<impl Iterator<Item = &T>> {
        let rest = self.slots.get(start..).filter(|rest| !rest.is_empty())?;
        Some(rest[..count.min(rest.len())].iter().filter_map(|slot| slot.value.as_deref()))
    }

    /// Calls `visit` with every value, in the order of the slots.
    pub fn for_each_mut(&mut self, mut visit: impl FnMut(&mut T)) {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_deref_mut()).for_each(&mut visit);
    }

    fn slot_mut(&mut self, token: Token) -> Option<&mut Slot<T>> {
        let slot = self.slots.get_mut(token.0 as u32 as usize)?;
        (slot.generation == (token.0 >> 32) as u32).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_has_another_token() {
        let mut slots = Slots::default();
        let first = slots.insert(|_| 'a');
        assert_eq!(slots.remove(first).as_deref(), Some(&'a'));
        let second = slots.insert(|_| 'b');
        assert_ne!(first, second);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut 'b'));
        assert_eq!((slots.len(), slots.iter().count()), (1, 1));
    }

    #[test]
    fn parts_are_all_values_in_the_end() {
        let mut slots = Slots::default();
        let tokens: Vec<Token> = (0..10).map(|value| slots.insert(|_| value)).collect();
        tokens.iter().skip(4).take(3).for_each(|token| drop(slots.remove(*token)));
        let mut found = Vec::new();
        for start in (0..).step_by(4) {
            let Some(part) = slots.part(start, 4) else { break };
            found.extend(part.copied());
        }
        assert_eq!(found, [0, 1, 2, 3, 7, 8, 9]);
        assert!(slots.part(10, 4).is_none());
    }
}
