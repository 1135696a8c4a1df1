//! The end of an engine as a state with a timetable: it cannot queue behind data, because it is not a message.

use std::time::Duration;

use crate::Phase;

/// By which percentage of the whole deadline inputs must have stopped.
const INPUTS_PERCENT: u32 = 15;
/// By which percentage requests already taken must have their answer.
const ACKS_PERCENT: u32 = 30;
/// By which percentage sending stops where a disk takes what is left; without one, sending may use all of the deadline.
const QUEUES_PERCENT: u32 = 80;

/// Where the engine is, and until when.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lifecycle {
    Running,
    Closing { phase: Phase, timetable: Timetable },
    Stopped,
}

/// When each phase ends at the latest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timetable {
    inputs: Duration,
    acks: Duration,
    queues: Duration,
    end: Duration,
}

/// What is left to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remaining {
    /// Requests wait for the disk.
    pub(crate) storing: bool,
    /// Clients wait for destinations.
    pub(crate) waiting: bool,
    /// A destination has something on its way or could be sent something.
    pub(crate) sending: bool,
    /// Memory alone holds something.
    pub(crate) volatile: bool,
}

impl Lifecycle {
    pub(crate) fn close(now: Duration, deadline: Duration, has_disk: bool) -> Self {
        let share = |percent: u32| now.saturating_add(deadline / 100 * percent);
        let end = now.saturating_add(deadline);
        let timetable = Timetable {
            inputs: share(INPUTS_PERCENT),
            acks: share(ACKS_PERCENT),
            queues: if has_disk { share(QUEUES_PERCENT) } else { end },
            end,
        };
        Self::Closing { phase: Phase::DrainingInputs, timetable }
    }

    pub(crate) const fn phase(&self) -> Phase {
        match self {
            Self::Running => Phase::Running,
            Self::Closing { phase, .. } => *phase,
            Self::Stopped => Phase::Stopped,
        }
    }

    /// Inputs ended by themselves.
    pub(crate) fn inputs_stopped(&mut self) {
        if let Self::Closing { phase: phase @ Phase::DrainingInputs, .. } = self {
            *phase = Phase::CompletingAcks;
        }
    }

    /// Moves on by as many phases as time and work allow; true if that was at least one.
    pub(crate) fn advance(&mut self, now: Duration, remaining: Remaining) -> bool {
        let before = self.phase();
        while let Some(next) = self.next(now, remaining) {
            *self = next;
        }
        before != self.phase()
    }

    fn next(&self, now: Duration, remaining: Remaining) -> Option<Self> {
        let Self::Closing { phase, timetable } = *self else { return None };
        let to = |phase| Some(Self::Closing { phase, timetable });
        match phase {
            Phase::DrainingInputs if now >= timetable.inputs => to(Phase::CompletingAcks),
            Phase::CompletingAcks if !(remaining.storing || remaining.waiting) || now >= timetable.acks => to(Phase::DrainingQueues),
            Phase::DrainingQueues if !remaining.sending || now >= timetable.queues => to(Phase::Flushing),
            Phase::Flushing if !(remaining.volatile || remaining.storing) || now >= timetable.end => Some(Self::Stopped),
            _ => None,
        }
    }

    /// When the present phase ends at the latest.
    pub(crate) const fn wake_at(&self) -> Option<Duration> {
        let Self::Closing { phase, timetable } = self else { return None };
        match phase {
            Phase::DrainingInputs => Some(timetable.inputs),
            Phase::CompletingAcks => Some(timetable.acks),
            Phase::DrainingQueues => Some(timetable.queues),
            Phase::Running | Phase::Flushing | Phase::Stopped => Some(timetable.end),
        }
    }

    pub(crate) const fn may_send(&self) -> bool {
        !matches!(self.phase(), Phase::Flushing | Phase::Stopped)
    }
}
