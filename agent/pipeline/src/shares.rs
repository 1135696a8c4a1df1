//! What each destination may hold on disk: the budget, without what removed destinations keep, divided by the number of
//! configured ones, counted in what each has yet to settle. Plain numbers, copied for a trial together with the rest of the room.

use vocabulary::Class;

use crate::checkpoint::CHECKPOINT_RANGES_MAX;
use crate::space::{is_low, on_disk, share};
use crate::{Config, Delivery, DestinationIndex, OnFull};

/// What a destination does with a record that its share has no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// The request finds no room.
    #[default]
    Refuse,
    /// It gives up its oldest record of the lowest class.
    Evict,
    /// It does without the new one.
    Skip,
}

/// What one destination holds on disk.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    bytes: u64,
    records: u64,
    when_full: WhenFull,
    /// Configured no more: what it holds is taken off the budget before the others divide it.
    is_removed: bool,
}

/// All shares. Because a record on disk is counted by each destination that needs it, the sum of the shares bounds the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    held: [Held; Config::DESTINATIONS_MAX],
    budget: Budget,
    bytes_max: u64,
    bytes_max_low: u64,
    records_max: u64,
    ranges_max: u64,
}

/// What is divided, and how.
#[derive(Clone, Copy, Debug)]
struct Budget {
    bytes: u64,
    records: u64,
    parts: u64,
    low_percent: u32,
}

impl Shares {
    pub(crate) fn new(config: &Config) -> Self {
        let mut held = [Held::default(); Config::DESTINATIONS_MAX];
        for (held, destination) in held.iter_mut().zip(&config.destinations) {
            held.when_full = when_full(config.on_full, destination.delivery);
        }
        Self::divided(config, held)
    }

    /// The same use under another configuration; `indexes` are those of its destinations, and all others are removed.
    pub(crate) fn within(self, config: &Config, indexes: &[DestinationIndex]) -> Self {
        let held = self.held.map(|held| Held { when_full: WhenFull::Refuse, is_removed: true, ..held });
        let mut shares = Self::divided(config, held);
        for (index, destination) in indexes.iter().zip(&config.destinations) {
            if let Some(held) = shares.held.get_mut(usize::from(index.0)) {
                (held.when_full, held.is_removed) = (when_full(config.on_full, destination.delivery), false);
            }
        }
        shares.divide();
        shares
    }

    /// The destination of this index is configured no more. To be called before it takes anything.
    pub(crate) fn remove(&mut self, index: usize) {
        if let Some(held) = self.held.get_mut(index) {
            (held.when_full, held.is_removed) = (WhenFull::Refuse, true);
        }
    }

    fn divided(config: &Config, held: [Held; Config::DESTINATIONS_MAX]) -> Self {
        let parts = config.destinations.len().max(1) as u64;
        let low_percent = config.soft_percent.min(100);
        let budget = Budget { bytes: config.disk_bytes, records: config.disk_records_max(), parts, low_percent };
        // Ids on disk cost a range at most where some destination's settled ids do, hence the half.
        let ranges_max = CHECKPOINT_RANGES_MAX / 2 / parts;
        let mut shares = Self { held, budget, bytes_max: 0, bytes_max_low: 0, records_max: 0, ranges_max };
        shares.divide();
        shares
    }

    /// Divides what removed destinations leave of the budget.
    fn divide(&mut self) {
        let Budget { bytes, records, parts, low_percent } = self.budget;
        let removed = self.held.iter().filter(|held| held.is_removed);
        let (kept_bytes, kept_records) =
            removed.fold((0_u64, 0_u64), |(bytes, records), held| (bytes.saturating_add(held.bytes), records + held.records));
        self.bytes_max = bytes.saturating_sub(kept_bytes) / parts;
        self.bytes_max_low = share(self.bytes_max, low_percent);
        self.records_max = (records.saturating_sub(kept_records) / parts).max(1);
    }

    /// Most bytes a destination may hold.
    pub(crate) const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Whether a record could have room if removed destinations held nothing.
    pub(crate) fn could_ever_fit(&self, class: Class, body: u64) -> bool {
        let Budget { bytes, parts, low_percent, .. } = self.budget;
        on_disk(body) <= if is_low(class) { share(bytes / parts, low_percent) } else { bytes / parts }
    }

    /// Most bytes a destination may hold for a record of this class to be taken on. One that evicts makes room for important
    /// records when they come, and keeps none for them.
    pub(crate) const fn bytes_max_of(&self, class: Class) -> u64 {
        if is_low(class) { self.bytes_max_low } else { self.bytes_max }
    }

    pub(crate) fn when_full(&self, index: usize) -> WhenFull {
        self.held.get(index).map_or(WhenFull::Refuse, |held| held.when_full)
    }

    /// Fill of the fullest share.
    pub(crate) fn permille(&self) -> u64 {
        let fullest = self.held.iter().map(|held| held.bytes).max().unwrap_or(0);
        fullest.saturating_mul(1_000).checked_div(self.bytes_max).unwrap_or(0)
    }

    /// What a destination holds, in bytes.
    pub(crate) fn bytes(&self, index: usize) -> u64 {
        self.held.get(index).map_or(0, |held| held.bytes)
    }

    /// Whether each of the destinations that refuse has room for another record.
    pub(crate) fn fits_all_that_refuse(&self, bits: u16, class: Class, body: u64) -> bool {
        self.of(bits).filter(|held| held.when_full == WhenFull::Refuse).all(|held| self.fits(held, class, body))
    }

    /// Whether one destination has room for another record; `ranges` is what its ids take in a checkpoint.
    pub(crate) fn has_room(&self, index: usize, class: Class, body: u64, ranges: u64) -> bool {
        self.held.get(index).is_some_and(|held| self.fits(held, class, body)) && ranges < self.ranges_max
    }

    /// Whether one destination holds more than its share.
    pub(crate) fn is_over(&self, index: usize, ranges: u64) -> bool {
        let is_over = |held: &Held| held.bytes > self.bytes_max || held.records > self.records_max;
        self.held.get(index).is_some_and(is_over) || ranges > self.ranges_max
    }

    /// The destinations that refuse take a record on.
    pub(crate) fn take_where_refused(&mut self, bits: u16, body: u64) {
        self.of_mut(bits).filter(|held| held.when_full == WhenFull::Refuse).for_each(|held| held.take(body));
        self.divide_again(bits);
    }

    /// Destinations take a record on, whatever their shares say.
    pub(crate) fn take(&mut self, bits: u16, body: u64) {
        self.of_mut(bits).for_each(|held| held.take(body));
        self.divide_again(bits);
    }

    /// Destinations need a record on disk no more.
    pub(crate) fn give(&mut self, bits: u16, body: u64) {
        for held in self.of_mut(bits) {
            held.bytes = held.bytes.saturating_sub(on_disk(body));
            held.records = held.records.saturating_sub(1);
        }
        self.divide_again(bits);
    }

    /// What the destinations of these bits hold has changed.
    fn divide_again(&mut self, bits: u16) {
        if self.of(bits).any(|held| held.is_removed) {
            self.divide();
        }
    }

    fn fits(&self, held: &Held, class: Class, body: u64) -> bool {
        let bytes_max = if held.when_full == WhenFull::Evict { self.bytes_max } else { self.bytes_max_of(class) };
        held.bytes.saturating_add(on_disk(body)) <= bytes_max && held.records < self.records_max
    }

    fn of(&self, bits: u16) -> impl Iterator<Item = &Held> {
        self.held.iter().take(places(bits)).enumerate().filter(move |(index, _)| bits & 1 << index != 0).map(|(_, held)| held)
    }

    fn of_mut(&mut self, bits: u16) -> impl Iterator<Item = &mut Held> {
        self.held.iter_mut().take(places(bits)).enumerate().filter(move |(index, _)| bits & 1 << index != 0).map(|(_, held)| held)
    }
}

impl Held {
    const fn take(&mut self, body: u64) {
        self.bytes = self.bytes.saturating_add(on_disk(body));
        self.records += 1;
    }
}

/// Up to the last of these bits.
const fn places(bits: u16) -> usize {
    (u16::BITS - bits.leading_zeros()) as usize
}

const fn when_full(on_full: OnFull, delivery: Delivery) -> WhenFull {
    match (on_full, delivery) {
        (OnFull::RefuseIntake, Delivery::Required) => WhenFull::Refuse,
        (OnFull::RefuseIntake, Delivery::BestEffort) | (OnFull::DropOldest, _) => WhenFull::Evict,
        (OnFull::DropNewest, _) => WhenFull::Skip,
    }
}
