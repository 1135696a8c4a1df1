//! An ordered map for keys that mostly come in ascending order and leave near the front, as records do. In steady state it
//! allocates nothing, because the blocks that empty at the front are filled again at the back; a map made of tree nodes gives
//! each of them to the allocator and asks for another.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::RangeFrom;

use crate::RecordId;

/// Entries of a full block: enough that finding a block is cheap, few enough that shifting within one is.
const BLOCK: usize = 64;
/// Emptied blocks that are kept to be filled again.
const SPARES_MAX: usize = 2;
/// Blocks, and entries of a block, that are looked at one by one before the search goes on by halves.
const STEPS: usize = 4;

/// A key that counts up. Where no key is missing, an entry lies as far behind the first of its block as its key does.
pub(crate) trait Key: Ord + Copy {
    /// Keys between this one and an earlier one, or more.
    fn distance(self, earlier: Self) -> usize;
}

impl Key for u64 {
    fn distance(self, earlier: Self) -> usize {
        usize::try_from(self.saturating_sub(earlier)).unwrap_or(usize::MAX)
    }
}

impl Key for RecordId {
    fn distance(self, earlier: Self) -> usize {
        if self.class == earlier.class { self.sequence.distance(earlier.sequence) } else { usize::MAX }
    }
}

/// A map in the order of its keys. Finding takes O(log n); adding the largest key or removing the smallest takes O(1) beyond
/// that, anything else at most a shift of one block. Two neighbouring blocks are together more than half of one full, so an
/// entry takes at most four times its size.
#[derive(Clone, Debug)]
pub(crate) struct SortedMap<K, V> {
    /// None is empty; all keys of a block are smaller than those of the next.
    blocks: VecDeque<VecDeque<(K, V)>>,
    spares: Vec<VecDeque<(K, V)>>,
    len: usize,
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self { blocks: VecDeque::new(), spares: Vec::new(), len: 0 }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SortedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.blocks.iter().flatten().eq(other.blocks.iter().flatten())
    }
}

impl<K: Eq, V: Eq> Eq for SortedMap<K, V> {}

/// Where a key is, or where it belongs.
#[derive(Clone, Copy)]
struct Place {
    block: usize,
    at: usize,
    is_there: bool,
}

impl<K: Key, V> SortedMap<K, V> {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an entry, or replaces the value of its key and returns the old one.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let place = self.place(&key);
        let Some(block) = self.blocks.get_mut(place.block) else {
            self.push_block(key, value);
            return None;
        };
        if place.is_there {
            return block.get_mut(place.at).map(|(_, old)| std::mem::replace(old, value));
        }
        if block.len() < BLOCK {
            block.insert(place.at, (key, value));
            self.len += 1;
            return None;
        }
        if place.block + 1 == self.blocks.len() && place.at == BLOCK {
            self.push_block(key, value);
            return None;
        }
        self.cut(place.block);
        self.insert(key, value)
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.place(key);
        let block = self.blocks.get_mut(place.block).filter(|_| place.is_there)?;
        let (_, value) = block.remove(place.at)?;
        self.len -= 1;
        if block.is_empty() {
            self.drop_block(place.block);
            return Some(value);
        }
        self.join(place.block);
        if let Some(before) = place.block.checked_sub(1) {
            self.join(before);
        }
        Some(value)
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let place = self.place(key);
        self.blocks.get(place.block).filter(|_| place.is_there)?.get(place.at).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let place = self.place(key);
        self.blocks.get_mut(place.block).filter(|_| place.is_there)?.get_mut(place.at).map(|(_, value)| value)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_there
    }

    pub(crate) fn first_key_value(&self) -> Option<(&K, &V)> {
        self.blocks.front()?.front().map(|(key, value)| (key, value))
    }

    pub(crate) fn last_key_value(&self) -> Option<(&K, &V)> {
        self.blocks.back()?.back().map(|(key, value)| (key, value))
    }

    /// The entry with the largest key that is not above this one.
    pub(crate) fn last_up_to(&self, key: &K) -> Option<(&K, &V)> {
        let (block, at) = self.place_up_to(key)?;
        self.blocks.get(block)?.get(at).map(|(key, value)| (key, value))
    }

    /// The same, its value to be changed.
    pub(crate) fn last_up_to_mut(&mut self, key: &K) -> Option<(K, &mut V)> {
        let (block, at) = self.place_up_to(key)?;
        self.blocks.get_mut(block)?.get_mut(at).map(|(key, value)| (*key, value))
    }

    fn place_up_to(&self, key: &K) -> Option<(usize, usize)> {
        let Place { block, at, is_there } = self.place(key);
        if is_there {
            return Some((block, at));
        }
        match at.checked_sub(1) {
            Some(at) => Some((block, at)),
            None => {
                let block = block.checked_sub(1)?;
                Some((block, self.blocks.get(block)?.len() - 1))
            }
        }
    }

    /// The first entry from this key on whose value is wanted.
    pub(crate) fn first_from(&self, key: &K, is_wanted: impl Fn(&V) -> bool) -> Option<(K, &V)> {
        let Place { block, mut at, .. } = self.place(key);
        for entries in self.blocks.range(block.min(self.blocks.len())..) {
            for (key, value) in entries.range(at..) {
                if is_wanted(value) {
                    return Some((*key, value));
                }
            }
            at = 0;
        }
        None
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.blocks.iter().flatten().map(|(key, value)| (key, value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The entries from this key on.
    pub(crate) fn range(&self, keys: RangeFrom<K>) -> impl Iterator<Item = (&K, &V)> {
        let place = self.place(&keys.start);
        let (first, rest) = (self.blocks.get(place.block), self.blocks.range((place.block + 1).min(self.blocks.len())..));
        let first = first.into_iter().flat_map(move |block| block.range(place.at..));
        first.chain(rest.flatten()).map(|(key, value)| (key, value))
    }

    /// The entries from this key on, to be changed.
    pub(crate) fn range_mut(&mut self, keys: RangeFrom<K>) -> impl Iterator<Item = (&K, &mut V)> {
        let place = self.place(&keys.start);
        let mut blocks = self.blocks.range_mut(place.block..);
        let first = blocks.next().into_iter().flat_map(move |block| block.range_mut(place.at..));
        first.chain(blocks.flatten()).map(|(key, value)| (&*key, value))
    }

    /// Most keys that are asked for are near the front, where records leave, or at the back, where they come.
    #[inline]
    fn place(&self, key: &K) -> Place {
        let is_below = |block: &VecDeque<(K, V)>| block.back().is_some_and(|(last, _)| last < key);
        let Some(last) = self.blocks.back() else { return Place { block: 0, at: 0, is_there: false } };
        if is_below(last) {
            // A key above all others belongs behind the last entry of the last block.
            return Place { block: self.blocks.len() - 1, at: last.len(), is_there: false };
        }
        let near = self.blocks.iter().take(STEPS).position(|block| !is_below(block));
        let block = near.unwrap_or_else(|| self.blocks.partition_point(is_below));
        let found = self.blocks.get(block).map_or(Err(0), |block| find(block, key));
        let (Ok(at) | Err(at)) = found;
        Place { block, at, is_there: found.is_ok() }
    }

    fn push_block(&mut self, key: K, value: V) {
        let mut block = self.spares.pop().unwrap_or_default();
        block.push_back((key, value));
        self.blocks.push_back(block);
        self.len += 1;
    }

    fn drop_block(&mut self, position: usize) {
        if let Some(block) = self.blocks.remove(position) {
            self.keep(block);
        }
    }

    fn keep(&mut self, block: VecDeque<(K, V)>) {
        if self.spares.len() < SPARES_MAX {
            self.spares.push(block);
        }
    }

    /// Halves a full block.
    fn cut(&mut self, position: usize) {
        let mut upper = self.spares.pop().unwrap_or_default();
        if let Some(block) = self.blocks.get_mut(position) {
            upper.extend(block.drain(BLOCK / 2..));
            self.blocks.insert(position + 1, upper);
        }
    }

    /// Makes one block of this one and the next if they fill no more than half of one.
    fn join(&mut self, position: usize) {
        let lens = [position, position + 1].map(|position| self.blocks.get(position).map(VecDeque::len));
        let [Some(lower), Some(upper)] = lens else { return };
        if lower + upper > BLOCK / 2 {
            return;
        }
        let Some(mut upper) = self.blocks.remove(position + 1) else { return };
        if let Some(lower) = self.blocks.get_mut(position) {
            lower.append(&mut upper);
        }
        self.keep(upper);
    }
}

/// Where the key is in a block, or where it belongs: never further behind the first entry than its key is.
#[inline]
fn find<K: Key, V>(block: &VecDeque<(K, V)>, key: &K) -> Result<usize, usize> {
    let furthest = block.front().map_or(0, |(first, _)| key.distance(*first)).min(block.len().saturating_sub(1));
    if block.get(furthest).is_some_and(|(other, _)| other == key) {
        return Ok(furthest);
    }
    search(block, key, furthest)
}

fn search<K: Key, V>(block: &VecDeque<(K, V)>, key: &K, furthest: usize) -> Result<usize, usize> {
    for at in (furthest.saturating_sub(STEPS)..=furthest).rev() {
        match block.get(at).map(|(other, _)| other.cmp(key)) {
            Some(Ordering::Equal) => return Ok(at),
            Some(Ordering::Less) => return Err(at + 1),
            Some(Ordering::Greater) | None => {}
        }
    }
    block.binary_search_by(|(other, _)| other.cmp(key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        Insert(u64),
        Remove(u64),
        RemoveFirst(u64),
        Change(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1_u64..90).prop_map(Step::Push),
            2 => (0_u64..400).prop_map(Step::Insert),
            3 => (0_u64..400).prop_map(Step::Remove),
            2 => (1_u64..90).prop_map(Step::RemoveFirst),
            1 => (0_u64..400).prop_map(Step::Change),
        ]
    }

    fn check(map: &SortedMap<u64, u64>, model: &BTreeMap<u64, u64>) -> Result<(), TestCaseError> {
        prop_assert!(map.iter().eq(model.iter()) && map.keys().eq(model.keys()) && map.values().eq(model.values()));
        prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        prop_assert_eq!((map.first_key_value(), map.last_key_value()), (model.first_key_value(), model.last_key_value()));
        for key in (0..420).step_by(7) {
            prop_assert_eq!((map.get(&key), map.contains_key(&key)), (model.get(&key), model.contains_key(&key)));
            prop_assert_eq!(map.last_up_to(&key), model.range(..=key).next_back());
            prop_assert!(map.range(key..).eq(model.range(key..)), "from {}", key);
            let wanted = |value: &u64| value.is_multiple_of(3);
            let first = model.range(key..).find(|(_, value)| wanted(value)).map(|(&key, value)| (key, value));
            prop_assert_eq!(map.first_from(&key, wanted), first);
        }
        prop_assert!(map.blocks.iter().all(|block| !block.is_empty() && block.len() <= BLOCK));
        prop_assert!(map.spares.len() <= SPARES_MAX);
        Ok(())
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds_in_the_same_order(steps in prop::collection::vec(step(), 0..60)) {
            let (mut map, mut model) = (SortedMap::default(), BTreeMap::new());
            let mut stamp = 0;
            for step in steps {
                stamp += 1;
                match step {
                    Step::Push(count) => for _ in 0..count {
                        let key = model.last_key_value().map_or(0, |(&key, _): (&u64, &u64)| key + 1);
                        prop_assert_eq!(map.insert(key, stamp), model.insert(key, stamp));
                    },
                    Step::Insert(key) => prop_assert_eq!(map.insert(key, stamp), model.insert(key, stamp)),
                    Step::Remove(key) => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    Step::RemoveFirst(count) => for _ in 0..count {
                        let Some((&key, _)) = model.first_key_value() else { break };
                        prop_assert_eq!(map.remove(&key), model.remove(&key));
                    },
                    Step::Change(key) => {
                        map.range_mut(key..).for_each(|(key, value)| *value += key);
                        model.range_mut(key..).for_each(|(key, value)| *value += key);
                        if let Some(value) = map.get_mut(&key) { *value += 1; }
                        if let Some(value) = model.get_mut(&key) { *value += 1; }
                    }
                }
                check(&map, &model)?;
            }
            prop_assert_eq!(&map.clone(), &map);
        }

        #[test]
        fn blocks_that_thin_out_are_joined(kept in prop::collection::btree_set(0_u64..2_000, 1..40)) {
            let mut map = SortedMap::default();
            for key in 0..2_000 {
                map.insert(key, ());
            }
            for key in (0..2_000).filter(|key| !kept.contains(key)) {
                map.remove(&key);
            }
            prop_assert!(map.keys().eq(kept.iter()));
            let pairs = map.blocks.iter().zip(map.blocks.iter().skip(1));
            prop_assert!(pairs.into_iter().all(|(one, next)| one.len() + next.len() > BLOCK / 2), "{} blocks for {} entries", map.blocks.len(), map.len());
        }
    }
}
