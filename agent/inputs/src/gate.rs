//! What the receiving side needs of the rest of the agent, as two functions: it knows neither the engine's lock nor the disk.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use pipeline::Refusal;
use vocabulary::{ClassCounts, DropReason, RefuseReason, Signal};

use crate::room::Charge;

/// A request that is well formed and counted.
#[derive(Debug)]
pub struct Offer {
    /// The signal all its items belong to.
    pub signal: Signal,
    /// Its items by class.
    pub counts: ClassCounts,
    /// The encoded export request.
    pub body: Bytes,
    /// What the body takes of the receive budget, until the last clone is dropped.
    pub charge: Charge,
    /// How long its sender waits for an answer that depends on others.
    pub patience: Duration,
}

/// What became of an offer; it rests where the configured durability wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Accepted, but for what was shed.
    Accepted {
        /// Items that were shed, by class.
        shed: ClassCounts,
        /// Why they were.
        reason: DropReason,
    },
    /// Not accepted, not counted as received.
    Refused(Refusal),
    /// Accepted, and its destinations have not confirmed it in time: it is kept for them, and what is sent again may arrive twice.
    Unconfirmed {
        /// How long to wait before that.
        retry_after: Duration,
    },
    /// Accepted, and dropped before its destinations had it, for no fault of its own: it is to be sent again.
    Lost {
        /// Why it was.
        reason: DropReason,
        /// How long to wait before that.
        retry_after: Duration,
    },
}

type OfferFn = dyn Fn(Offer) -> BoxFuture<'static, Answer> + Send + Sync;
type RefusedFn = dyn Fn(Option<Signal>, ClassCounts, RefuseReason) + Send + Sync;

/// The way into the agent.
pub struct Gate {
    offer: Box<OfferFn>,
    refused: Box<RefusedFn>,
}

impl Gate {
    /// `offer` decides on a request and resolves once it may be answered; dropping its future must leave the books right.
    /// `refused` counts a request that never became an offer.
    pub fn new(
        offer: impl Fn(Offer) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
        refused: impl Fn(Option<Signal>, ClassCounts, RefuseReason) + Send + Sync + 'static,
    ) -> Self {
        Self { offer: Box::new(offer), refused: Box::new(refused) }
    }

    pub(crate) fn offer(&self, offer: Offer) -> BoxFuture<'static, Answer> {
        (self.offer)(offer)
    }

    pub(crate) fn refused(&self, signal: Option<Signal>, reason: RefuseReason) {
        (self.refused)(signal, ClassCounts::default(), reason);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Gate")
    }
}
