//! An ordered map for numbers that mostly come in ascending order and leave near the front, as those of records do. In steady state it
//! allocates nothing, because the blocks that empty at the front are filled again at the back; a map made of tree nodes gives
//! each of them to the allocator and asks for another.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::RangeFrom;

/// Entries of a full block: enough that finding a block is cheap, few enough that shifting within one is.
const BLOCK: usize = 64;
/// Emptied blocks that are kept to be filled again.
const SPARES_MAX: usize = 2;
/// Blocks, and entries of a block, that are looked at one by one from where a key is expected, before the search goes on by halves.
const STEPS: usize = 4;

/// A map in the order of its keys. Finding takes O(log n); adding the largest key or removing the smallest takes O(1) beyond
/// that, anything else at most a shift of one block. Two neighbouring blocks are together more than half of one full, so an
/// entry takes at most four times its size.
#[derive(Clone, Debug)]
pub(crate) struct SortedMap<V> {
    /// All keys of a block are smaller than those of the next.
    blocks: VecDeque<Block<V>>,
    spares: Vec<VecDeque<(u64, V)>>,
    len: usize,
}

/// Keys between this one and an earlier one, or more.
fn distance(key: u64, earlier: u64) -> usize {
    usize::try_from(key.saturating_sub(earlier)).unwrap_or(usize::MAX)
}

/// Neighbouring entries, never none. The keys of its ends stand beside it, so that finding a key touches no entry but its own.
#[derive(Clone, Debug)]
struct Block<V> {
    first: u64,
    last: u64,
    entries: VecDeque<(u64, V)>,
}

impl<V> Default for SortedMap<V> {
    fn default() -> Self {
        Self { blocks: VecDeque::new(), spares: Vec::new(), len: 0 }
    }
}

impl<V: PartialEq> PartialEq for SortedMap<V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self.blocks.iter().flat_map(|block| &block.entries).eq(other.blocks.iter().flat_map(|block| &block.entries))
    }
}

impl<V: Eq> Eq for SortedMap<V> {}

/// Where an entry is.
#[derive(Clone, Copy)]
pub(crate) struct Found(Place);

/// Where a key is, or where it belongs.
#[derive(Clone, Copy)]
struct Place {
    block: usize,
    at: usize,
    is_there: bool,
}

impl<V> SortedMap<V> {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an entry, or replaces the value of its key and returns the old one.
    pub(crate) fn insert(&mut self, key: u64, value: V) -> Option<V> {
        // Keys mostly come in order.
        if let Some(back) = self.blocks.back_mut().filter(|back| back.last < key && back.entries.len() < BLOCK) {
            back.entries.push_back((key, value));
            back.last = key;
            self.len += 1;
            return None;
        }
        let place = self.place(&key);
        let Some(block) = self.blocks.get_mut(place.block) else {
            self.push_block(key, value);
            return None;
        };
        if place.is_there {
            return block.entries.get_mut(place.at).map(|(_, old)| std::mem::replace(old, value));
        }
        if block.entries.len() < BLOCK {
            block.entries.insert(place.at, (key, value));
            (block.first, block.last) = (block.first.min(key), block.last.max(key));
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
    pub(crate) fn remove(&mut self, key: &u64) -> Option<V> {
        self.find(key).and_then(|found| self.remove_at(found))
    }

    /// Where an entry is until the map changes, for two looks at the price of one.
    pub(crate) fn find(&self, key: &u64) -> Option<Found> {
        let place = self.place(key);
        place.is_there.then_some(Found(place))
    }

    pub(crate) fn at_mut(&mut self, Found(place): Found) -> Option<&mut V> {
        self.blocks.get_mut(place.block)?.entries.get_mut(place.at).map(|(_, value)| value)
    }

    pub(crate) fn remove_at(&mut self, Found(place): Found) -> Option<V> {
        let block = self.blocks.get_mut(place.block)?;
        let (_, value) = if place.at == 0 { block.entries.pop_front() } else { block.entries.remove(place.at) }?;
        self.len -= 1;
        if !block.note_ends() {
            self.drop_block(place.block);
            return Some(value);
        }
        if block.entries.len() > BLOCK / 2 {
            return Some(value);
        }
        self.join(place.block);
        if let Some(before) = place.block.checked_sub(1) {
            self.join(before);
        }
        Some(value)
    }

    pub(crate) fn get(&self, key: &u64) -> Option<&V> {
        let place = self.place(key);
        self.blocks.get(place.block).filter(|_| place.is_there)?.entries.get(place.at).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &u64) -> Option<&mut V> {
        self.find(key).and_then(|found| self.at_mut(found))
    }

    pub(crate) fn contains_key(&self, key: &u64) -> bool {
        self.place(key).is_there
    }

    pub(crate) fn first_key_value(&self) -> Option<(&u64, &V)> {
        self.blocks.front()?.entries.front().map(|(key, value)| (key, value))
    }

    pub(crate) fn last_key_value(&self) -> Option<(&u64, &V)> {
        self.blocks.back()?.entries.back().map(|(key, value)| (key, value))
    }

    /// The entry with the largest key, its value to be changed.
    pub(crate) fn last_mut(&mut self) -> Option<(u64, &mut V)> {
        self.blocks.back_mut()?.entries.back_mut().map(|(key, value)| (*key, value))
    }

    /// The entry with the largest key that is not above this one.
    pub(crate) fn last_up_to(&self, key: &u64) -> Option<(&u64, &V)> {
        let (block, at) = self.place_up_to(key)?;
        self.blocks.get(block)?.entries.get(at).map(|(key, value)| (key, value))
    }

    /// The same, its value to be changed.
    pub(crate) fn last_up_to_mut(&mut self, key: &u64) -> Option<(u64, &mut V)> {
        let (block, at) = self.place_up_to(key)?;
        self.blocks.get_mut(block)?.entries.get_mut(at).map(|(key, value)| (*key, value))
    }

    fn place_up_to(&self, key: &u64) -> Option<(usize, usize)> {
        let Place { block, at, is_there } = self.place(key);
        if is_there {
            return Some((block, at));
        }
        match at.checked_sub(1) {
            Some(at) => Some((block, at)),
            None => {
                let block = block.checked_sub(1)?;
                Some((block, self.blocks.get(block)?.entries.len() - 1))
            }
        }
    }

    /// The first entry from this key on whose value is wanted.
    pub(crate) fn first_from(&self, key: &u64, is_wanted: impl Fn(&V) -> bool) -> Option<(u64, &V)> {
        let Place { block, mut at, .. } = self.place(key);
        for block in self.blocks.range(block.min(self.blocks.len())..) {
            for (key, value) in block.entries.range(at..) {
                if is_wanted(value) {
                    return Some((*key, value));
                }
            }
            at = 0;
        }
        None
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&u64, &V)> {
        self.blocks.iter().flat_map(|block| &block.entries).map(|(key, value)| (key, value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &u64> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The entries from this key on.
    pub(crate) fn range(&self, keys: RangeFrom<u64>) -> impl Iterator<Item = (&u64, &V)> {
        let place = self.place(&keys.start);
        let (first, rest) = (self.blocks.get(place.block), self.blocks.range((place.block + 1).min(self.blocks.len())..));
        let first = first.into_iter().flat_map(move |block| block.entries.range(place.at..));
        first.chain(rest.flat_map(|block| &block.entries)).map(|(key, value)| (key, value))
    }

    /// The entries from this key on, to be changed.
    pub(crate) fn range_mut(&mut self, keys: RangeFrom<u64>) -> impl Iterator<Item = (&u64, &mut V)> {
        let place = self.place(&keys.start);
        let mut blocks = self.blocks.range_mut(place.block..);
        let first = blocks.next().into_iter().flat_map(move |block| block.entries.range_mut(place.at..));
        first.chain(blocks.flat_map(|block| &mut block.entries)).map(|(key, value)| (&*key, value))
    }

    /// What is asked for mostly lies at the front. Where no key is missing, a key's block is known from its distance to the first, up to
    /// one; it is near that where few are.
    #[inline]
    fn place(&self, key: &u64) -> Place {
        let Some(front) = self.blocks.front() else { return Place { block: 0, at: 0, is_there: false } };
        if *key <= front.last {
            return self.place_in(0, key);
        }
        let expected = distance(*key, front.first) / BLOCK;
        let holds = |at: &usize| self.blocks.get(*at).is_some_and(|block| block.first <= *key && *key <= block.last);
        let block = [expected, expected.saturating_add(1)].into_iter().find(holds);
        self.place_in(block.unwrap_or_else(|| self.find_block(key, expected)), key)
    }

    #[inline]
    fn place_in(&self, block: usize, key: &u64) -> Place {
        let found = self.blocks.get(block).map_or(Err(0), |block| block.find(key));
        let (Ok(at) | Err(at)) = found;
        Place { block, at, is_there: found.is_ok() }
    }

    /// The first block that does not end below the key, or the last one: a key above all others belongs behind its last entry.
    fn find_block(&self, key: &u64, expected: usize) -> usize {
        let last = self.blocks.len().saturating_sub(1);
        if self.blocks.back().is_some_and(|back| back.last < *key) {
            return last;
        }
        self.near(key, expected.min(last)).unwrap_or_else(|| self.blocks.partition_point(|block| block.last < *key))
    }

    /// The first block that does not end below the key, if it is a few from where it is expected.
    fn near(&self, key: &u64, expected: usize) -> Option<usize> {
        let is_below = |at: usize| self.blocks.get(at).is_some_and(|block| block.last < *key);
        if is_below(expected) {
            return (expected + 1..=expected + STEPS).find(|&at| !is_below(at));
        }
        let lowest = expected.saturating_sub(STEPS);
        (lowest..expected).rev().find(|&at| is_below(at)).map(|at| at + 1).or((lowest == 0).then_some(0))
    }

    fn push_block(&mut self, key: u64, value: V) {
        let mut entries = self.spares.pop().unwrap_or_default();
        entries.push_back((key, value));
        self.blocks.push_back(Block { first: key, last: key, entries });
        self.len += 1;
    }

    fn drop_block(&mut self, position: usize) {
        if let Some(block) = self.blocks.remove(position) {
            self.keep(block.entries);
        }
    }

    fn keep(&mut self, entries: VecDeque<(u64, V)>) {
        if self.spares.len() < SPARES_MAX {
            self.spares.push(entries);
        }
    }

    /// Halves a full block.
    fn cut(&mut self, position: usize) {
        let mut entries = self.spares.pop().unwrap_or_default();
        let Some(lower) = self.blocks.get_mut(position) else { return };
        entries.extend(lower.entries.drain(BLOCK / 2..));
        let mut upper = Block { first: lower.last, last: lower.last, entries };
        lower.note_ends();
        upper.note_ends();
        self.blocks.insert(position + 1, upper);
    }

    /// Makes one block of this one and the next if they fill no more than half of one.
    fn join(&mut self, position: usize) {
        let lens = [position, position + 1].map(|position| self.blocks.get(position).map(|block| block.entries.len()));
        let [Some(lower), Some(upper)] = lens else { return };
        if lower + upper > BLOCK / 2 {
            return;
        }
        let Some(mut upper) = self.blocks.remove(position + 1) else { return };
        if let Some(lower) = self.blocks.get_mut(position) {
            lower.entries.append(&mut upper.entries);
            lower.last = upper.last;
        }
        self.keep(upper.entries);
    }
}

impl<V> Block<V> {
    /// Notes the keys of its ends anew. Whether it has any.
    fn note_ends(&mut self) -> bool {
        let (Some(&(first, _)), Some(&(last, _))) = (self.entries.front(), self.entries.back()) else { return false };
        (self.first, self.last) = (first, last);
        true
    }

    /// Where the key is, or where it belongs: never further behind the first entry than its key is.
    #[inline]
    fn find(&self, key: &u64) -> Result<usize, usize> {
        let furthest = distance(*key, self.first).min(self.entries.len().saturating_sub(1));
        if self.entries.get(furthest).is_some_and(|(other, _)| other == key) {
            return Ok(furthest);
        }
        if self.last < *key {
            return Err(self.entries.len());
        }
        self.search(key, furthest)
    }

    fn search(&self, key: &u64, furthest: usize) -> Result<usize, usize> {
        for at in (furthest.saturating_sub(STEPS)..=furthest).rev() {
            match self.entries.get(at).map(|(other, _)| other.cmp(key)) {
                Some(Ordering::Equal) => return Ok(at),
                Some(Ordering::Less) => return Err(at + 1),
                Some(Ordering::Greater) | None => {}
            }
        }
        self.entries.binary_search_by(|(other, _)| other.cmp(key))
    }
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

    fn check(map: &SortedMap<u64>, model: &BTreeMap<u64, u64>) -> Result<(), TestCaseError> {
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
        prop_assert!(map.blocks.iter().all(|block| !block.entries.is_empty() && block.entries.len() <= BLOCK));
        let ends = |block: &Block<u64>| block.entries.front().zip(block.entries.back()).map(|(first, last)| (first.0, last.0));
        prop_assert!(map.blocks.iter().all(|block| ends(block) == Some((block.first, block.last))));
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
            prop_assert!(pairs.into_iter().all(|(one, next)| one.entries.len() + next.entries.len() > BLOCK / 2), "{} blocks for {} entries", map.blocks.len(), map.len());
        }
    }
}
