//! How long each step of the end may take, so that all of them together fit into what the pod is given, whatever hangs. It is apart
//! because the steps lie in different files and only their sum matters.

use std::time::Duration;

use crds::agent::GRACE_AFTER_DRAIN_SECONDS;

/// What is to be done after the drain, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The last checkpoint.
    Checkpoint,
    /// The receipt for the next start.
    Receipt,
    /// The last report to the operator.
    Report,
    /// Tasks of the runtime that hang in a disk read or a name lookup.
    Runtime,
}

/// Kept for what no step counts: scheduling, and the last lines of the log.
const MARGIN: Duration = Duration::from_millis(500);

impl Step {
    const ALL: [Self; 4] = [Self::Checkpoint, Self::Receipt, Self::Report, Self::Runtime];

    /// The longest wait, however much time there is: a disk or an operator that hangs must not keep the process.
    const fn most(self) -> Duration {
        match self {
            Self::Checkpoint => Duration::from_secs(5),
            Self::Receipt => Duration::from_secs(2),
            Self::Report => Duration::from_secs(3),
            Self::Runtime => Duration::from_secs(1),
        }
    }

    /// What is left to it if the drain and the steps before took all they might. The margin and these are the grace.
    const fn least(self) -> Duration {
        match self {
            Self::Checkpoint => Duration::from_millis(2_000),
            Self::Receipt => Duration::from_millis(750),
            Self::Report => Duration::from_millis(1_250),
            Self::Runtime => Duration::from_millis(500),
        }
    }
}

/// From the signal to the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timetable {
    drain: Duration,
}

impl Timetable {
    /// With so much time for the drain.
    pub(crate) const fn new(drain: Duration) -> Self {
        Self { drain }
    }

    /// How long a step may take that begins so long after the signal.
    pub(crate) fn most(self, step: Step, elapsed: Duration) -> Duration {
        let grace = Duration::from_secs(GRACE_AFTER_DRAIN_SECONDS.into()).saturating_sub(MARGIN);
        let behind: Duration = Step::ALL.into_iter().skip_while(|&each| each != step).skip(1).map(Step::least).sum();
        (self.drain + grace).saturating_sub(behind).saturating_sub(elapsed).min(step.most())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the end comes if every step from `drained` on takes all it may.
    fn end(timetable: Timetable, drained: Duration) -> Duration {
        Step::ALL.into_iter().fold(drained, |elapsed, step| elapsed + timetable.most(step, elapsed))
    }

    #[test]
    fn whatever_hangs_the_end_comes_before_the_grace_is_over_and_each_step_has_its_share() {
        let grace = Duration::from_secs(GRACE_AFTER_DRAIN_SECONDS.into());
        for seconds in [1, 25, 3_600] {
            let drain = Duration::from_secs(seconds);
            let timetable = Timetable::new(drain);
            assert_eq!(end(timetable, drain), drain + grace - MARGIN);
            let mut elapsed = drain;
            for step in Step::ALL {
                assert!(timetable.most(step, elapsed) >= step.least(), "{step:?}");
                elapsed += timetable.most(step, elapsed);
            }
            // A drain that ended late takes from what follows, and never makes the end later.
            assert!(end(timetable, drain + Duration::from_secs(2)) <= drain + grace - MARGIN);
        }
    }

    #[test]
    fn a_step_does_not_take_what_a_short_drain_left() {
        let timetable = Timetable::new(Duration::from_secs(3_600));
        assert_eq!(Step::ALL.map(|step| timetable.most(step, Duration::ZERO)), Step::ALL.map(Step::most));
    }
}
