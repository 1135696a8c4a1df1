//! Another configuration while the agent runs: budgets and weights become others, a destination is removed and returns. A process begins
//! with every destination, so one that was removed is back at the latest after the next start, or when the world becomes calm.

use std::time::Duration;

use pipeline::{Acknowledge, ClassPolicy, DestinationGauge, DestinationIndex, MemoryLimits, Pipeline, ReconfigureError};
use vocabulary::Class;

use crate::chance::Chance;
use crate::coverage::Sometimes;
use crate::plan::{self, Plan};
use crate::world::World;

impl World {
    pub(crate) fn reconfigure(&mut self) {
        let what = self.chance.below(3);
        let destinations = self.plan.config.destinations.len() as u64;
        let removed = match self.removed {
            removed if what == 0 => removed,
            None if destinations > 1 => Some(self.chance.between(1, destinations - 1) as usize),
            _ => None,
        };
        // One that ends obeys the configuration it has.
        let is_closing = self.process.as_ref().is_some_and(|process| process.is_closing);
        if what != 1 && !is_closing {
            redraw(&mut self.chance, &mut self.plan);
        }
        self.apply(removed);
    }

    /// Whoever was removed is configured again.
    pub(crate) fn configure_all(&mut self) {
        if self.removed.is_some() {
            self.apply(None);
        }
    }

    fn apply(&mut self, removed: Option<usize>) {
        let now = self.engine_now();
        let Some(process) = &mut self.process else { return };
        let mut config = self.plan.config.clone();
        let mut indexes: Vec<_> = (0..).map(DestinationIndex).take(config.destinations.len()).collect();
        if let Some(removed) = removed {
            config.destinations.remove(removed);
            indexes.remove(removed);
        }
        let applied = process.pipeline.reconfigure(now, config);
        if process.is_closing {
            return assert_eq!(applied, Err(ReconfigureError::Ending));
        }
        assert_eq!(applied, Ok(indexes), "a destination keeps its index");
        if let Err(broken) = process.pipeline.check_held() {
            unreachable!("the ledger is broken after another configuration: {broken:?}");
        }
        self.oracle.note_given_up(&process.pipeline);
        let gauges = process.pipeline.gauges();
        self.memory_found = (gauges.memory_bytes, gauges.memory_items);
        self.coverage.note(Sometimes::Reconfigured);
        if let Some(left) = removed.or(self.removed) {
            let is_any_held = gauge(&process.pipeline, &self.plan, left).is_some_and(|gauge| gauge.disk_bytes > 0);
            self.coverage.note(match (removed, is_any_held) {
                (Some(_), true) => Sometimes::RemovedHolding,
                (Some(_), false) => Sometimes::Removed,
                (None, true) => Sometimes::ReturnedHolding,
                (None, false) => Sometimes::Returned,
            });
        }
        self.removed = removed;
        self.say(|| format!("another configuration, without destination {removed:?}"));
    }
}

/// Other budgets and weights. Policies stay, for what they cost is judged over the whole history.
fn redraw(chance: &mut Chance, plan: &mut Plan) {
    let config = &mut plan.config;
    config.memory = MemoryLimits { bytes: chance.one_of(&plan::MEMORY_BYTES), items: chance.one_of(&plan::MEMORY_ITEMS) };
    if config.disk_bytes > 0 {
        config.disk_bytes = chance.one_of(&plan::DISK_BYTES);
    }
    config.classes =
        Class::ALL.map(|_| ClassPolicy { weight: chance.between(1, 20) as u32, reserved_percent: chance.one_of(&[0, 0, 5, 20]) });
    if plan.may_sync_later {
        config.acknowledge = chance.one_of(&[Acknowledge::AtRest, Acknowledge::OsBuffered]);
    }
    for destination in &mut config.destinations {
        destination.in_flight = chance.between(1, 8) as usize;
        destination.retry.initial = Duration::from_millis(chance.between(50, 500));
    }
}

/// What the engine shows of a destination; nothing if it is removed and holds nothing.
pub(crate) fn gauge(pipeline: &Pipeline, plan: &Plan, destination: usize) -> Option<DestinationGauge> {
    let name = &plan.config.destinations[destination].name;
    pipeline.gauges().destinations.into_iter().find(|gauge| gauge.name == *name)
}
