//! The hard limit's hysteresis: one door per signal and class. A door closes when a client's request finds no room and next to none
//! is left; it opens when a twentieth of what the class may have is free. Between, clients are refused outright, so that a queue that
//! is full does not take one request and refuse the next. A request that is merely large closes nothing.

use vocabulary::{Class, Signal};

use crate::limit::Limit;
use crate::per_class::PerClass;
use crate::space::Placement;
use crate::{Origin, Pipeline};

/// All doors; a signal has its own, because the destinations that lack room may not take another signal.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Doors([PerClass<Limit>; Signal::COUNT]);

impl Doors {
    fn get(&self, signal: Signal, class: Class) -> Limit {
        self.0.get(signal.index()).map_or(Limit::Below, |doors| doors[class])
    }

    fn get_mut(&mut self, signal: Signal, class: Class) -> Option<&mut Limit> {
        self.0.get_mut(signal.index()).map(|doors| &mut doors[class])
    }
}

impl Pipeline {
    /// Whether a client's items of this signal and class are refused whatever the room; opens the door if it may be opened.
    pub(crate) fn is_refused_outright(&mut self, origin: Origin, signal: Signal, class: Class) -> bool {
        if origin == Origin::Kernel || !self.is_closed(signal, class) {
            return false;
        }
        let now = self.now;
        let has_margin = self.doors.get(signal, class).may_be_left(now) && self.has_margin(signal, class);
        if let Some(door) = self.doors.get_mut(signal, class).filter(|_| has_margin) {
            door.leave(now);
        }
        !has_margin
    }

    /// A client's items of this signal and class found no room.
    pub(crate) fn close_door(&mut self, signal: Signal, class: Class) {
        let has_margin = self.has_margin(signal, class);
        let now = self.now;
        if let Some(door) = self.doors.get_mut(signal, class).filter(|_| !has_margin) {
            door.reach(now);
        }
    }

    /// Whether the door is closed. It opens when somebody asks, for until then nobody is refused.
    pub(crate) fn is_closed(&self, signal: Signal, class: Class) -> bool {
        self.doors.get(signal, class).is_reached()
    }

    /// Whether a twentieth of what the class may have is free.
    fn has_margin(&self, signal: Signal, class: Class) -> bool {
        let mut trial = self.room();
        let placement = trial.place(class, trial.margin(class), self.route(signal), false);
        matches!(placement, Placement::Memory | Placement::Both | Placement::Disk)
    }
}
