//! When a status is written. Conditions and the first drop within a second, numbers every fifteen if they tell something, a sign of life every
//! sixty, and never more than the whole cluster's budget allows.

use crds::v1alpha1::{FlowCell, TelemetryPipelineStatus};
use jiff::Timestamp;

use crate::windows::seconds_between;

/// Time for further changes to join a change of conditions.
const COALESCING_SECONDS: i64 = 1;
/// Least time between two writes that only change numbers.
const NUMBERS_SECONDS: i64 = 15;
/// Time between two signs of life.
const HEARTBEAT_SECONDS: i64 = 60;
/// Items that must have moved for a write between two signs of life; what trickles waits for the next one.
const MOVED_ITEMS_MIN: u64 = 1000;

/// Why a status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Write {
    /// A condition changed, or the first item was dropped.
    Conditions,
    /// A number that somebody should know changed.
    Numbers,
    /// A sign of life, with the exact numbers.
    Heartbeat,
}

/// What is remembered between two writes of one status.
#[derive(Clone, Debug, Default)]
pub struct WritePolicy {
    written: Option<(Timestamp, TelemetryPipelineStatus)>,
    dirty_since: Option<Timestamp>,
}

impl WritePolicy {
    /// Starts from what the API server holds.
    #[must_use]
    pub fn resumed(status: TelemetryPipelineStatus, now: Timestamp) -> Self {
        Self { written: Some((now, status)), dirty_since: None }
    }

    /// Decides whether `wanted` is to be written now, and why.
    pub fn decide(&mut self, wanted: &TelemetryPipelineStatus, now: Timestamp) -> Option<Write> {
        let Some((at, written)) = &self.written else { return Some(Write::Conditions) };
        let age = seconds_between(*at, now);
        if conditions_differ(written, wanted) || drops_began(written, wanted) {
            let since = *self.dirty_since.get_or_insert(now);
            return (seconds_between(since, now) >= COALESCING_SECONDS).then_some(Write::Conditions);
        }
        self.dirty_since = None;
        if age >= NUMBERS_SECONDS && numbers_differ(written, wanted) {
            return Some(Write::Numbers);
        }
        (age >= HEARTBEAT_SECONDS && wanted != written).then_some(Write::Heartbeat)
    }

    /// Takes in that `status` was written.
    pub fn handle_written(&mut self, status: TelemetryPipelineStatus, now: Timestamp) {
        *self = Self::resumed(status, now);
    }

    /// What the API server holds, as far as is known.
    #[must_use]
    pub fn written(&self) -> Option<&TelemetryPipelineStatus> {
        self.written.as_ref().map(|(_, status)| status)
    }
}

fn conditions_differ(written: &TelemetryPipelineStatus, wanted: &TelemetryPipelineStatus) -> bool {
    let of = |status: &TelemetryPipelineStatus| -> Vec<_> {
        status
            .conditions
            .iter()
            .map(|condition| (condition.type_, condition.status, condition.reason, condition.observed_generation))
            .collect()
    };
    let health = |status: &TelemetryPipelineStatus| status.summary.as_ref().map(|summary| (summary.health, summary.ready.clone()));
    of(written) != of(wanted) || health(written) != health(wanted) || written.observed_generation != wanted.observed_generation
}

/// The first drop of a pipeline is news; further ones are numbers.
fn drops_began(written: &TelemetryPipelineStatus, wanted: &TelemetryPipelineStatus) -> bool {
    let dropped = |status: &TelemetryPipelineStatus| status.flow.as_ref().map_or(0, |flow| flow.dropped_total);
    dropped(written) == 0 && dropped(wanted) > 0
}

/// Losses count at once and exactly; fills in steps; flow once enough has moved.
fn numbers_differ(written: &TelemetryPipelineStatus, wanted: &TelemetryPipelineStatus) -> bool {
    losses(written) != losses(wanted) || gauges(written) != gauges(wanted) || moved(written, wanted)
}

fn cells(status: &TelemetryPipelineStatus) -> &[FlowCell] {
    status.flow.as_ref().map_or(&[], |flow| &flow.signals)
}

fn losses(status: &TelemetryPipelineStatus) -> (i64, i64, i64) {
    let refused = cells(status).iter().fold(0, |sum: i64, cell| sum.saturating_add(cell.refused));
    let (dropped, lately) = status.flow.as_ref().map_or((0, 0), |flow| (flow.dropped_total, flow.dropped_last5m));
    (dropped, refused, lately)
}

/// Queue in steps of five percent, disk in powers of two from one MiB on, the rest as it is.
fn gauges(status: &TelemetryPipelineStatus) -> (Option<i32>, u32, Option<String>, Option<crds::v1alpha1::ConfigStatus>) {
    let queue = status.queue.map(|queue| queue.p99_percent / 5);
    let backlog = status.buffer.as_ref().and_then(|buffer| buffer.backlog.units("backlog").ok()).unwrap_or(0);
    let magnitude = u64::BITS - (backlog >> 20).leading_zeros();
    (queue, magnitude, status.summary.as_ref().map(|summary| summary.reporting.clone()), status.config.clone())
}

fn moved(written: &TelemetryPipelineStatus, wanted: &TelemetryPipelineStatus) -> bool {
    let items = |cell: &FlowCell| cell.received.unsigned_abs().saturating_add(cell.delivered.unsigned_abs());
    let sum = |status: &TelemetryPipelineStatus| cells(status).iter().map(items).fold(0, u64::saturating_add);
    let (before, after) = (sum(written), sum(wanted));
    after.abs_diff(before) >= MOVED_ITEMS_MIN.max(after / 1000)
}

/// The budget of writes that all pipelines share.
#[derive(Clone, Copy, Debug)]
pub struct WriteBudget {
    tokens: u32,
    refilled: Timestamp,
}

/// Writes per second.
const WRITES_PER_SECOND: u32 = 5;
/// Writes that may come at once.
const WRITES_BURST: u32 = 20;

impl WriteBudget {
    /// A full budget.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { tokens: WRITES_BURST, refilled: now }
    }

    /// Takes one write, if there is one left.
    pub fn take(&mut self, now: Timestamp) -> bool {
        let seconds = u32::try_from(seconds_between(self.refilled, now).max(0)).unwrap_or(u32::MAX);
        if seconds > 0 {
            self.tokens = self.tokens.saturating_add(seconds.saturating_mul(WRITES_PER_SECOND)).min(WRITES_BURST);
            self.refilled = now;
        }
        let is_left = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::v1alpha1::{Flow, Summary};
    use proptest::prelude::*;
    use vocabulary::{Class, Signal};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("in range")
    }

    fn status(received: i64, dropped: i64, second: i64) -> TelemetryPipelineStatus {
        let cell = FlowCell { received, dropped, ..FlowCell::new(Signal::Traces, Class::Normal) };
        let summary =
            Summary { reported_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(second))), ..Summary::default() };
        TelemetryPipelineStatus {
            flow: Some(Flow { dropped_total: dropped, signals: vec![cell], ..Flow::default() }),
            summary: Some(summary),
            ..TelemetryPipelineStatus::default()
        }
    }

    #[test]
    fn an_idle_pipeline_is_written_once_a_minute() {
        let mut policy = WritePolicy::resumed(status(10, 0, 0), at(0));
        let mut writes = Vec::new();
        for second in 1..=180 {
            let wanted = status(10 + second / 20, 0, second);
            if let Some(write) = policy.decide(&wanted, at(second)) {
                writes.push((second, write));
                policy.handle_written(wanted, at(second));
            }
        }
        assert_eq!(writes, [(60, Write::Heartbeat), (120, Write::Heartbeat), (180, Write::Heartbeat)]);
    }

    #[test]
    fn the_first_drop_is_written_after_one_second_and_further_ones_within_fifteen() {
        let mut policy = WritePolicy::resumed(status(10, 0, 0), at(0));
        assert_eq!(policy.decide(&status(10, 1, 3), at(3)), None);
        assert_eq!(policy.decide(&status(10, 1, 4), at(4)), Some(Write::Conditions));
        policy.handle_written(status(10, 1, 4), at(4));
        assert_eq!(policy.decide(&status(10, 2, 18), at(18)), None);
        assert_eq!(policy.decide(&status(10, 2, 19), at(19)), Some(Write::Numbers));
    }

    #[test]
    fn a_change_of_health_waits_one_second_for_more() {
        let mut policy = WritePolicy::resumed(status(10, 0, 0), at(0));
        let mut wanted = status(10, 0, 0);
        wanted.summary.as_mut().expect("a summary").health = crds::conditions::Health::Healthy;
        assert_eq!(policy.decide(&wanted, at(1)), None);
        assert_eq!(policy.decide(&wanted, at(2)), Some(Write::Conditions));
    }

    proptest! {
        #[test]
        fn numbers_alone_never_write_more_often_than_every_fifteen_seconds(steps in proptest::collection::vec((0_i64..5000, 0_i64..3), 1..200)) {
            let mut policy = WritePolicy::resumed(status(0, 1, 0), at(0));
            let (mut received, mut dropped, mut last) = (0, 1, 0);
            for (second, (more, lost)) in (1_i64..).zip(steps) {
                received += more;
                dropped += lost;
                let wanted = status(received, dropped, second);
                if policy.decide(&wanted, at(second)).is_some() {
                    prop_assert!(second - last >= NUMBERS_SECONDS);
                    last = second;
                    policy.handle_written(wanted, at(second));
                }
                prop_assert!(second - last <= HEARTBEAT_SECONDS);
            }
        }

        #[test]
        fn the_budget_holds_over_any_minute(seconds in 1_i64..60) {
            let mut budget = WriteBudget::new(at(0));
            let granted = (0..seconds).flat_map(|second| std::iter::repeat_n(second, 50)).filter(|&second| budget.take(at(second))).count();
            prop_assert!(granted as u64 <= u64::from(WRITES_BURST) + seconds.unsigned_abs() * u64::from(WRITES_PER_SECOND));
        }
    }
}
