//! What a full share of the disk may cost, and whom: judged at every offer from what is seen outside the engine.

use pipeline::{BufferMode, Delivery, OnFull, RECORD_DISK_BYTES, Verdict};
use vocabulary::{Class, ClassCounts, DropReason, RefuseReason, Signal};

use crate::coverage::Sometimes;
use crate::reconfiguring::gauge;
use crate::world::World;

/// What a destination holds and gave up, before an offer.
pub(crate) struct Share {
    disk_bytes: u64,
    /// Whether the hard limit refuses anything.
    is_closed: bool,
    evicted: [u64; Class::COUNT],
}

/// What was offered, with what it takes on disk.
pub(crate) struct Offered {
    pub(crate) signal: Signal,
    pub(crate) counts: ClassCounts,
    pub(crate) disk_bytes: u64,
}

impl World {
    /// The shares of the disk before an offer.
    pub(crate) fn look_at_shares(&self) -> Vec<Share> {
        let Some(process) = &self.process else { return Vec::new() };
        let gauges = process.pipeline.gauges();
        let is_closed = gauges.closed.iter().flatten().any(|is_closed| *is_closed);
        let share = |destination| Share {
            disk_bytes: self.disk_bytes_of(destination),
            is_closed,
            evicted: Class::ALL.map(|class| self.dropped_by(destination, class, DropReason::Evicted)),
        };
        (0..self.plan.config.destinations.len()).map(share).collect()
    }

    /// Judges what the answer to an offer, and what the engine did for it, say about full shares.
    pub(crate) fn judge_shares(&mut self, before: &[Share], offered: &Offered, verdict: &Verdict) {
        if !self.has_disk() {
            return;
        }
        let is_closed = self.judge_hard_limit(before, offered);
        for (destination, share) in before.iter().enumerate() {
            self.judge_drops(destination, share, offered);
        }
        let is_full = |destination: usize| before[destination].disk_bytes + offered.disk_bytes > self.share_bytes_max(before, offered);
        match verdict {
            Verdict::Refused(refusal) if refusal.reason == RefuseReason::HardLimit => {
                let is_full_share = self.takers(offered.signal).any(|destination| self.refuses(destination) && is_full(destination));
                assert!(is_closed || is_full_share, "refused, and each destination that may lose nothing has room");
                self.coverage.note(Sometimes::RefusedForShare);
            }
            Verdict::Admitted(admission) if admission.shed.total() > 0 && admission.shed_reason == DropReason::DiskFull => {
                let is_sound = self.takers(offered.signal).all(|destination| !self.refuses(destination) && is_full(destination));
                assert!(is_sound, "shed for want of disk, and a destination has room or would rather refuse");
            }
            _ => {}
        }
    }

    /// The hard limit is reached only while a destination that may lose nothing has less than a margin. Whether it is, for what was
    /// offered.
    fn judge_hard_limit(&self, before: &[Share], offered: &Offered) -> bool {
        let Some(process) = &self.process else { return false };
        let gauges = process.pipeline.gauges();
        let mut classes = Class::ALL.into_iter().filter(|class| offered.counts[*class] > 0);
        let is_closed = classes.any(|class| gauges.closed[offered.signal.index()][class.index()]);
        let margin = gauges.memory_bytes_max.max(gauges.destination_disk_bytes_max) / 20 + RECORD_DISK_BYTES;
        let is_nearly_full = |destination: usize| before[destination].disk_bytes + margin > self.share_bytes_max(before, offered);
        let has_cause = self.takers(offered.signal).any(|destination| self.refuses(destination) && is_nearly_full(destination));
        let was_closed = before.iter().any(|share| share.is_closed);
        assert!(!is_closed || was_closed || has_cause, "the hard limit was reached, and each destination that may lose nothing has room");
        is_closed || was_closed
    }

    /// A destination drops only what its policy lets it, only when its own share is full, and from the lowest class up.
    fn judge_drops(&self, destination: usize, before: &Share, offered: &Offered) {
        let Some(process) = &self.process else { return };
        let (share, share_bytes_max) = (self.disk_bytes_of(destination), process.pipeline.gauges().destination_disk_bytes_max);
        assert!(share <= share_bytes_max.max(before.disk_bytes), "destination {destination} went beyond its share: {share} bytes");
        let evicted = Class::ALL.map(|class| self.dropped_by(destination, class, DropReason::Evicted));
        let skipped: u64 = Class::ALL.map(|class| self.dropped_by(destination, class, DropReason::DiskFull)).iter().sum();
        if self.refuses(destination) {
            assert_eq!((evicted, skipped), ([0; Class::COUNT], 0), "destination {destination} lost items although a full share refuses");
        }
        let Some(highest) = Class::ALL.into_iter().find(|class| evicted[class.index()] > before.evicted[class.index()]) else { return };
        assert!(self.plan.config.on_full != OnFull::DropNewest, "destination {destination} gave up its oldest instead of the newest");
        assert!(offered.counts.highest() <= Some(highest), "{highest} was evicted for what matters less");
        assert!(
            before.disk_bytes + offered.disk_bytes > share_bytes_max,
            "destination {destination} evicted with {} of {share_bytes_max} bytes",
            before.disk_bytes
        );
        for lower in Class::ALL.into_iter().skip(highest.index() + 1) {
            let could_go = self.could_be_evicted(destination, lower);
            let carried = self.oracle.carried[lower.index()];
            assert!(could_go <= carried, "{highest} was evicted before {could_go} items of {lower} at destination {destination}");
        }
    }

    /// Items of a class on disk that wait for a destination, some of which records of a higher class may hold.
    fn could_be_evicted(&self, destination: usize, class: Class) -> u64 {
        let Some(process) = &self.process else { return 0 };
        let is_mirror = self.plan.config.mode == BufferMode::Mirror;
        let held = process.pipeline.books().destinations[destination].cells.iter().map(|row| row[class.index()].held);
        // In mode `Spill` what waits with a body is in memory, which a full disk does not concern.
        held.map(|held| held.on_disk + if is_mirror { held.queued + held.waiting_retry } else { 0 }).sum()
    }

    /// Whether a full share of the disk refuses the signal; where no destination that takes it refuses, what each of them does
    /// without is shed, however much it matters.
    pub(crate) fn is_ever_refused_for_room(&self, signal: Signal) -> bool {
        self.takers(signal).any(|destination| self.refuses(destination))
    }

    fn takers(&self, signal: Signal) -> impl Iterator<Item = usize> {
        let takes = move |signals: &[Signal]| signals.is_empty() || signals.contains(&signal);
        let each = self.plan.config.destinations.iter().enumerate();
        each.filter(move |(index, each)| self.removed != Some(*index) && takes(&each.signals)).map(|(index, _)| index)
    }

    fn refuses(&self, destination: usize) -> bool {
        let config = &self.plan.config;
        config.on_full == OnFull::RefuseIntake && config.destinations[destination].delivery == Delivery::Required
    }

    /// From where on a share may be too full for some part of what was offered. What a removed destination holds is nobody else's.
    fn share_bytes_max(&self, before: &[Share], offered: &Offered) -> u64 {
        let config = &self.plan.config;
        let kept = self.removed.map_or(0, |removed| before[removed].disk_bytes);
        let configured = config.destinations.len() - usize::from(self.removed.is_some());
        let whole = config.disk_bytes.saturating_sub(kept) / configured as u64;
        let is_some_low = offered.counts[Class::Normal] + offered.counts[Class::Bulk] > 0;
        if is_some_low { whole * u64::from(config.soft_percent) / 100 } else { whole }
    }

    fn disk_bytes_of(&self, destination: usize) -> u64 {
        let gauge = self.process.as_ref().and_then(|process| gauge(&process.pipeline, &self.plan, destination));
        gauge.map_or(0, |gauge| gauge.disk_bytes)
    }

    fn dropped_by(&self, destination: usize, class: Class, reason: DropReason) -> u64 {
        let Some(process) = &self.process else { return 0 };
        let cells = &process.pipeline.books().destinations[destination].cells;
        cells.iter().map(|row| row[class.index()].dropped[reason.index()]).sum()
    }
}
