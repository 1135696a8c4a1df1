//! Bounds of memory and disk, and where a record goes within them. Plain numbers that are copied for a trial and written
//! back when the trial is kept, so that a request is taken as a whole or leaves no trace.

use std::time::Duration;

use vocabulary::Class;

use crate::limit::Limit;
use crate::per_class::PerClass;
use crate::shares::Shares;
use crate::{BufferMode, Config};

/// Percentage points below a limit at which intake leaves it again.
const HYSTERESIS: u32 = 5;

/// What a record takes on disk beside its body: the spool's header of 56 bytes, at most 7 of padding, and 48 in the footer.
pub const RECORD_DISK_BYTES: u64 = 112;

/// What a record takes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) items: u64,
}

/// Where a record was given room, or why it was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// In memory alone.
    Memory,
    /// On disk, and in memory too.
    Both,
    /// On disk alone.
    Disk,
    /// Above the soft limit, and not important enough.
    Shed,
    /// No room at present.
    Full,
    /// No room ever.
    TooLarge,
}

/// One bounded quantity: a share reserved for each class, and a pool that all may use.
#[derive(Clone, Copy, Debug, Default)]
struct Quantity {
    limit: u64,
    pool: u64,
    reserved: PerClass<u64>,
    used: PerClass<u64>,
}

impl Quantity {
    fn new(limit: u64, config: &Config) -> Self {
        let reserved = PerClass(config.classes.map(|policy| share(limit, policy.reserved_percent)));
        Self { limit, pool: limit.saturating_sub(reserved.0.iter().sum()), reserved, used: PerClass::default() }
    }

    /// The same use under other limits.
    fn within(self, limit: u64, config: &Config) -> Self {
        Self { used: self.used, ..Self::new(limit, config) }
    }

    fn total(&self) -> u64 {
        self.used.0.iter().sum()
    }

    fn pool_used(&self) -> u64 {
        self.used.iter().map(|(class, used)| used.saturating_sub(self.reserved[class])).sum()
    }

    fn fits(&self, class: Class, amount: u64) -> bool {
        let others = self.pool_used() - self.used[class].saturating_sub(self.reserved[class]);
        others + (self.used[class] + amount).saturating_sub(self.reserved[class]) <= self.pool
    }

    fn could_ever_fit(&self, class: Class, amount: u64) -> bool {
        amount <= self.most(class)
    }

    /// What a class has if the others have no more than their reserves.
    fn most(&self, class: Class) -> u64 {
        self.pool + self.reserved[class]
    }

    fn within_reserve(&self, class: Class, amount: u64) -> bool {
        self.used[class] + amount <= self.reserved[class]
    }

    /// Fill in thousandths, of the whole or of the pool, whichever is fuller: when reserved shares lie idle the pool is what
    /// the others have, and its being full is what they feel.
    /// What of it is held when [`Self::permille`] says at least so many thousandths.
    fn mark(&self, permille: u64) -> Mark {
        let of = |limit: u64| match (permille, limit) {
            (0, _) => 0,
            (_, 0) => u64::MAX,
            _ => u64::try_from((u128::from(limit) * u128::from(permille)).div_ceil(1_000)).unwrap_or(u64::MAX),
        };
        Mark { total: of(self.limit), pool_used: of(self.pool) }
    }

    fn is_filled(&self, mark: Mark) -> bool {
        self.total() >= mark.total || self.pool_used() >= mark.pool_used
    }

    fn permille(&self) -> u64 {
        let of = |used: u64, limit: u64| used.saturating_mul(1_000).checked_div(limit).unwrap_or(0);
        of(self.total(), self.limit).max(of(self.pool_used(), self.pool))
    }
}

/// A level of a quantity: reached when either is.
#[derive(Clone, Copy, Debug)]
struct Mark {
    total: u64,
    pool_used: u64,
}

/// The levels of bytes and of items at which intake enters a limit, or leaves it.
#[derive(Clone, Copy, Debug)]
struct Marks {
    bytes: Mark,
    items: Mark,
}

/// All room a pipeline has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    mode: BufferMode,
    now: Duration,
    bytes: Quantity,
    items: Quantity,
    resume_permille: u64,
    /// None without a soft limit.
    soft_marks: Option<Marks>,
    resume_marks: Marks,
    soft: Limit,
    /// What records on disk take, each counted once.
    disk_bytes: u64,
    /// What each destination holds of them.
    pub(crate) shares: Shares,
    /// Whether a checkpoint has room for the ids of another record.
    is_countable: bool,
    /// Items accepted since the start that a crash may take: into memory alone, or into the operating system's.
    volatile_total: u64,
    /// What `volatile_total` may reach before the next checkpoint is durable.
    volatile_ceiling: u64,
}

impl Space {
    pub(crate) fn new(config: &Config) -> Self {
        let soft = config.soft_percent.min(100);
        let resume_permille = u64::from(soft.saturating_sub(HYSTERESIS)) * 10;
        let bytes = Quantity::new(config.memory.bytes, config);
        let items = Quantity::new(config.memory.items, config);
        let marks = |permille| Marks { bytes: bytes.mark(permille), items: items.mark(permille) };
        Self {
            mode: config.mode,
            now: Duration::ZERO,
            bytes,
            items,
            resume_permille,
            soft_marks: (soft < 100).then(|| marks(u64::from(soft) * 10)),
            // At a limit so small that it has no lower level, nothing may be held.
            resume_marks: marks(resume_permille.max(1)),
            soft: Limit::Below,
            disk_bytes: 0,
            shares: Shares::new(config),
            is_countable: true,
            volatile_total: 0,
            volatile_ceiling: 0,
        }
    }

    /// The same use under other limits. `shares` are those of the other configuration.
    pub(crate) fn reconfigure(&mut self, config: &Config, shares: Shares) {
        let Self { now, bytes, items, soft, disk_bytes, is_countable, volatile_total, volatile_ceiling, .. } = *self;
        *self = Self {
            now,
            bytes: bytes.within(config.memory.bytes, config),
            items: items.within(config.memory.items, config),
            soft,
            disk_bytes,
            shares,
            is_countable,
            volatile_total,
            volatile_ceiling,
            ..Self::new(config)
        };
        self.update_soft();
    }

    /// Finds room for a record that the destinations in `route` need, and takes it; the rules are those of the crate's page. On disk
    /// it takes the room of those that refuse; the others are asked when the request is taken, for they never refuse it. Where
    /// `is_refused` is set, there is none.
    pub(crate) fn place(&mut self, class: Class, size: Size, route: u16, is_refused: bool) -> Placement {
        if !self.could_ever_fit(class, size) {
            return Placement::TooLarge;
        }
        let shedding = is_low(class) && self.is_over_soft() && !self.within_reserve(class, size);
        let fits =
            !shedding && !is_refused && self.is_countable && self.bytes.fits(class, size.bytes) && self.items.fits(class, size.items);
        let disk_fits = self.mode != BufferMode::Memory && !is_refused && self.disk_fits(class, size.bytes, route);
        let placement = match self.mode {
            BufferMode::Memory if fits => Placement::Memory,
            BufferMode::Spill if fits && self.has_allowance(size.items) => Placement::Memory,
            BufferMode::Mirror if fits && disk_fits => Placement::Both,
            BufferMode::Spill | BufferMode::Mirror | BufferMode::Archive if disk_fits => Placement::Disk,
            BufferMode::Memory | BufferMode::Spill if shedding => Placement::Shed,
            _ => Placement::Full,
        };
        match placement {
            Placement::Memory => {
                self.volatile_total += size.items;
                self.take_memory(class, size);
            }
            Placement::Both => {
                self.take_memory(class, size);
                self.reserve_disk(size.bytes, route);
            }
            Placement::Disk => self.reserve_disk(size.bytes, route),
            Placement::Shed | Placement::Full | Placement::TooLarge => {}
        }
        placement
    }

    /// Counts items that a crash may take, if that many more may be.
    pub(crate) fn take_volatile(&mut self, items: u64) -> bool {
        let is_allowed = self.has_allowance(items);
        if is_allowed {
            self.volatile_total += items;
        }
        is_allowed
    }

    const fn has_allowance(&self, items: u64) -> bool {
        self.volatile_total + items <= self.volatile_ceiling
    }

    /// A twentieth of what a class may have, where its records go first.
    pub(crate) fn margin(&self, class: Class) -> Size {
        let of = |most: u64| share(most, HYSTERESIS);
        let bytes = match self.mode {
            BufferMode::Memory | BufferMode::Spill => of(self.bytes.most(class)),
            BufferMode::Mirror | BufferMode::Archive => of(self.shares.bytes_max_of(class)).saturating_sub(RECORD_DISK_BYTES),
        };
        Size { bytes, items: of(self.items.most(class)) }
    }

    fn could_ever_fit(&self, class: Class, size: Size) -> bool {
        let memory = self.bytes.could_ever_fit(class, size.bytes) && self.items.could_ever_fit(class, size.items);
        // Sizes are stored as 32-bit numbers on disk and in the index.
        let addressable = size.bytes <= u64::from(u32::MAX);
        addressable
            && match self.mode {
                BufferMode::Memory => memory,
                BufferMode::Spill => memory || self.shares.could_ever_fit(class, size.bytes),
                BufferMode::Mirror | BufferMode::Archive => self.shares.could_ever_fit(class, size.bytes),
            }
    }

    fn disk_fits(&self, class: Class, bytes: u64, route: u16) -> bool {
        self.is_countable && self.shares.fits_all_that_refuse(route, class, bytes)
    }

    fn reserve_disk(&mut self, bytes: u64, route: u16) {
        self.disk_bytes = self.disk_bytes.saturating_add(on_disk(bytes));
        self.shares.take_where_refused(route, bytes);
    }

    fn within_reserve(&self, class: Class, size: Size) -> bool {
        self.bytes.within_reserve(class, size.bytes) && self.items.within_reserve(class, size.items)
    }

    fn take_memory(&mut self, class: Class, size: Size) {
        self.bytes.used[class] += size.bytes;
        self.items.used[class] += size.items;
        self.update_soft();
    }

    /// A body left memory.
    pub(crate) fn give_memory(&mut self, class: Class, size: Size) {
        self.bytes.used[class] = self.bytes.used[class].saturating_sub(size.bytes);
        self.items.used[class] = self.items.used[class].saturating_sub(size.items);
        self.update_soft();
    }

    /// A record goes to disk for these destinations whatever their shares say: found there at start, or flushed at the end.
    pub(crate) fn take_disk(&mut self, bytes: u64, bits: u16) {
        self.disk_bytes = self.disk_bytes.saturating_add(on_disk(bytes));
        self.shares.take(bits, bytes);
    }

    /// No destination needs a record on disk; each gave its share of it back.
    pub(crate) fn give_disk(&mut self, bytes: u64) {
        self.disk_bytes = self.disk_bytes.saturating_sub(on_disk(bytes));
    }

    fn update_soft(&mut self) {
        if self.soft_marks.is_some_and(|marks| self.is_filled(marks)) {
            self.soft.reach(self.now);
        } else if self.soft.is_reached() && self.may_resume() {
            self.soft.leave(self.now);
        }
    }

    /// Time passed, which may end the soft limit.
    pub(crate) fn observe(&mut self, now: Duration) {
        self.now = now;
        if self.soft.may_be_left(now) {
            self.update_soft();
        }
    }

    /// When time alone ends the soft limit.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        self.soft.dwells_until().filter(|until| *until > self.now && self.may_resume())
    }

    fn is_filled(&self, marks: Marks) -> bool {
        self.bytes.is_filled(marks.bytes) || self.items.is_filled(marks.items)
    }

    fn may_resume(&self) -> bool {
        !self.is_filled(self.resume_marks)
    }

    /// Fill of memory or of the shared pool, whichever is highest.
    pub(crate) fn permille(&self) -> u64 {
        self.bytes.permille().max(self.items.permille())
    }

    /// Bytes that must leave memory before intake leaves the soft limit.
    pub(crate) fn excess_bytes(&self) -> u64 {
        let fill = self.permille();
        self.bytes.total().saturating_mul(fill.saturating_sub(self.resume_permille)).checked_div(fill).unwrap_or(0)
    }

    pub(crate) const fn is_over_soft(&self) -> bool {
        self.soft.is_reached()
    }

    pub(crate) const fn volatile_total(&self) -> u64 {
        self.volatile_total
    }

    pub(crate) const fn set_volatile_ceiling(&mut self, total: u64) {
        self.volatile_ceiling = total;
    }

    pub(crate) const fn set_countable(&mut self, is_countable: bool) {
        self.is_countable = is_countable;
    }

    pub(crate) fn memory(&self) -> Size {
        Size { bytes: self.bytes.total(), items: self.items.total() }
    }

    pub(crate) const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }
}

/// What a record with a body of this many bytes takes on disk.
pub(crate) const fn on_disk(body: u64) -> u64 {
    body.saturating_add(RECORD_DISK_BYTES)
}

/// Whether the soft limit applies to the class.
pub(crate) const fn is_low(class: Class) -> bool {
    matches!(class, Class::Normal | Class::Bulk)
}

/// `percent` of `limit`, rounded down.
pub(crate) fn share(limit: u64, percent: u32) -> u64 {
    u64::try_from(u128::from(limit) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_mark_is_reached_just_when_the_fill_has_its_thousandths(
            limit in 0_u64..2_000,
            percents in prop::array::uniform4(0_u32..=25),
            used in prop::array::uniform4(0_u64..600),
            permille in 0_u64..1_200,
        ) {
            let reserved = PerClass(percents.map(|percent| share(limit, percent)));
            let pool = limit - reserved.0.iter().sum::<u64>();
            let quantity = Quantity { limit, pool, reserved, used: PerClass(used) };
            prop_assert_eq!(quantity.is_filled(quantity.mark(permille)), quantity.permille() >= permille, "{:?}", quantity);
        }
    }
}
