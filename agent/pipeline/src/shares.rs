//! What each destination may hold on disk: the budget divided by the number of destinations, counted in what it has yet to
//! settle. Plain numbers, copied for a trial together with the rest of the room.

use vocabulary::Class;

use crate::checkpoint::CHECKPOINT_RANGES_MAX;
use crate::space::{is_low, on_disk, share};
use crate::{Config, Delivery, OnFull};

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
}

/// All shares. Because a record on disk is counted by each destination that needs it, the sum of the shares bounds the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    held: [Held; Config::DESTINATIONS_MAX],
    bytes_max: u64,
    bytes_max_low: u64,
    records_max: u64,
    ranges_max: u64,
}

impl Shares {
    pub(crate) fn new(config: &Config) -> Self {
        let count = config.destinations.len().max(1) as u64;
        let bytes_max = config.disk_bytes / count;
        let mut held = [Held::default(); Config::DESTINATIONS_MAX];
        for (held, destination) in held.iter_mut().zip(&config.destinations) {
            held.when_full = when_full(config.on_full, destination.delivery);
        }
        Self {
            held,
            bytes_max,
            bytes_max_low: if config.soft_percent >= 100 { bytes_max } else { share(bytes_max, config.soft_percent) },
            records_max: (config.disk_records_max() / count).max(1),
            // Ids on disk cost a range at most where some destination's settled ids do, hence the half.
            ranges_max: CHECKPOINT_RANGES_MAX / 2 / count,
        }
    }

    /// Most bytes a destination may hold.
    pub(crate) const fn bytes_max(&self) -> u64 {
        self.bytes_max
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
        let refuse = self.bits_where(|held| held.when_full == WhenFull::Refuse);
        self.take(bits & refuse, body);
    }

    /// Destinations take a record on, whatever their shares say.
    pub(crate) fn take(&mut self, bits: u16, body: u64) {
        for held in self.of_mut(bits) {
            held.bytes = held.bytes.saturating_add(on_disk(body));
            held.records += 1;
        }
    }

    /// Destinations need a record on disk no more.
    pub(crate) fn give(&mut self, bits: u16, body: u64) {
        for held in self.of_mut(bits) {
            held.bytes = held.bytes.saturating_sub(on_disk(body));
            held.records = held.records.saturating_sub(1);
        }
    }

    fn fits(&self, held: &Held, class: Class, body: u64) -> bool {
        let bytes_max = if held.when_full == WhenFull::Evict { self.bytes_max } else { self.bytes_max_of(class) };
        held.bytes.saturating_add(on_disk(body)) <= bytes_max && held.records < self.records_max
    }

    fn bits_where(&self, is_wanted: impl Fn(&Held) -> bool) -> u16 {
        self.held.iter().enumerate().filter(|(_, held)| is_wanted(held)).fold(0, |bits, (index, _)| bits | 1 << index)
    }

    fn of(&self, bits: u16) -> impl Iterator<Item = &Held> {
        self.held.iter().enumerate().filter(move |(index, _)| bits & 1 << index != 0).map(|(_, held)| held)
    }

    fn of_mut(&mut self, bits: u16) -> impl Iterator<Item = &mut Held> {
        self.held.iter_mut().enumerate().filter(move |(index, _)| bits & 1 << index != 0).map(|(_, held)| held)
    }
}

const fn when_full(on_full: OnFull, delivery: Delivery) -> WhenFull {
    match (on_full, delivery) {
        (OnFull::RefuseIntake, Delivery::Required) => WhenFull::Refuse,
        (OnFull::RefuseIntake, Delivery::BestEffort) | (OnFull::DropOldest, _) => WhenFull::Evict,
        (OnFull::DropNewest, _) => WhenFull::Skip,
    }
}
