//! What a record costs the allocator on its way through the engine, counted. It is separate because the counting allocator serves
//! every test of its program.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, DestinationIndex, MemoryLimits, OnFull, Origin, Outcome,
    Pipeline, RecordId, Request, RetryPolicy, Verdict,
};
use vocabulary::{Class, ClassCounts, Signal};

/// Records of one destination on their way at once.
const WINDOW: usize = 64;
/// Records held throughout, per class.
const HELD: usize = 500;
/// Tenants they come from, by turns.
const TENANTS: [&str; 3] = ["shop", "bank", "mail"];
/// Records that pass before counting begins, and while it goes on.
const WARM: u64 = 20_000;
const COUNTED: u64 = 50_000;

/// An engine that never runs out of room, and what is on its way to each of its two destinations.
struct Flow {
    pipeline: Pipeline,
    body: Bytes,
    flying: [VecDeque<RecordId>; 2],
    now: Duration,
    offered: u64,
}

impl Flow {
    fn new(mode: BufferMode) -> Self {
        let retry = RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(1), deadline: None };
        let destination = |name: &str| DestinationConfig {
            name: name.into(),
            signals: Vec::new(),
            in_flight: WINDOW,
            retry,
            delivery: Delivery::Required,
        };
        let config = Config {
            mode,
            acknowledge: Acknowledge::AtRest,
            memory: MemoryLimits { bytes: 1 << 40, items: 1 << 40 },
            disk_bytes: if mode == BufferMode::Memory { 0 } else { 1 << 40 },
            on_full: OnFull::RefuseIntake,
            max_age: None,
            soft_percent: 90,
            tenants_max: TENANTS.len(),
            replay_seed: 0,
            on_removed: pipeline::OnRemoved::Keep,
            classes: [8, 4, 2, 1].map(|weight| ClassPolicy { weight, reserved_percent: 10 }),
            destinations: vec![destination("primary"), destination("archive")],
        };
        // As from the network: a slice of what was received, whose clones count references.
        let received = Bytes::from(vec![7; 4096]);
        let flying = [VecDeque::with_capacity(2 * WINDOW), VecDeque::with_capacity(2 * WINDOW)];
        Self { pipeline: Pipeline::new(config, None), body: received.slice(..1000), flying, now: Duration::ZERO, offered: 0 }
    }

    /// One record comes, and one leaves towards each destination once there are enough.
    fn pass(&mut self) {
        self.offered += 1;
        self.now += Duration::from_micros(10);
        let class = Class::ALL.into_iter().cycle().nth(self.offered as usize % Class::COUNT).expect("there are so many");
        let tenant = TENANTS.into_iter().cycle().nth(self.offered as usize % TENANTS.len());
        let origin = Origin::ClientOf(self.pipeline.tenant(tenant));
        let request = Request { signal: Signal::Traces, origin, counts: ClassCounts::of(class, 512), body: self.body.clone() };
        let Verdict::Admitted(admission) = self.pipeline.offer(self.now, 1, request) else { unreachable!("there is room") };
        for record in admission.persist {
            self.pipeline.handle_stored(self.now, record.id);
        }
        if self.offered <= (HELD * Class::COUNT) as u64 {
            return;
        }
        for (position, flying) in (0..).zip(&mut self.flying) {
            while let Some(send) = self.pipeline.poll_send(self.now, DestinationIndex(position)) {
                flying.push_back(send.id);
            }
            // Answers come in another order than the records left in: the newest half is answered first now and then.
            if self.offered.is_multiple_of(7) {
                flying.rotate_left(WINDOW / 2);
            }
            let Some(id) = flying.pop_front() else { continue };
            self.pipeline.handle_outcome(self.now, DestinationIndex(position), id, Outcome::Delivered);
        }
    }

    fn allocations(mut self) -> u64 {
        (0..WARM).for_each(|_| self.pass());
        let counted = allocation_counter::measure(|| (0..COUNTED).for_each(|_| self.pass()));
        self.pipeline.check_held().expect("the books balance");
        let delivered: u64 =
            self.pipeline.books().destinations.iter().flat_map(|book| book.cells.iter().flatten()).map(|cell| cell.delivered).sum();
        assert!(delivered > COUNTED * 512, "records arrived while it counted");
        counted.count_total
    }
}

#[test]
fn a_record_in_memory_passes_without_an_allocation() {
    assert_eq!(Flow::new(BufferMode::Memory).allocations(), 0);
}

#[test]
fn a_record_on_disk_costs_the_list_it_is_handed_over_in_and_nothing_else() {
    assert_eq!(Flow::new(BufferMode::Mirror).allocations(), COUNTED);
}
