//! A table whose keys stay invalid once their entry is gone.

/// Names an entry of one [`Slab`]; its order is the order of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    /// Both parts in one word, for the trace.
    pub(super) fn word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Entries under keys that are never given twice.
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    vacant: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), vacant: Vec::new() }
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        if let Some(slot) = self.vacant.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.value = Some(value);
            return Key { slot, generation: entry.generation };
        }
        let slot = u32::try_from(self.slots.len()).expect("fewer than 2^32 entries");
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Key { slot, generation: 0 }
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.slots.get(key.slot as usize).filter(|slot| slot.generation == key.generation)?.value.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slots.get_mut(key.slot as usize).filter(|slot| slot.generation == key.generation)?.value.as_mut()
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.slot as usize).filter(|slot| slot.generation == key.generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.vacant.push(key.slot);
        Some(value)
    }

    /// The keys of all entries, in the order of slots.
    pub(super) fn keys(&self) -> Vec<Key> {
        let live = self.slots.iter().enumerate().filter(|(_, slot)| slot.value.is_some());
        live.map(|(index, slot)| Key { slot: index as u32, generation: slot.generation }).collect()
    }

    /// All entries, in the order of slots.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| {
            let key = Key { slot: index as u32, generation: slot.generation };
            slot.value.as_mut().map(|value| (key, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_one_entry_for_ever() {
        let mut slab = Slab::new();
        let old = slab.insert("old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new");
        assert_eq!((slab.get(old), slab.get(new)), (None, Some(&"new")));
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.keys(), [new]);
    }
}
