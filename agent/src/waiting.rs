//! Clients whose answers wait for destinations: how many may, for how long, and who is told what the engine says of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pipeline::{Fate, Pipeline, Ticket};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::engine::Engine;

/// Clients that may wait at once. Each keeps a stream and a task, some ten kilobytes, while its body lies in the buffer.
const WAITING_MAX: usize = 1024;

/// Those who wait.
pub(crate) struct Waiting {
    places: Semaphore,
    told: Mutex<HashMap<Ticket, oneshot::Sender<Fate>>>,
}

/// A place of one that may come to wait.
pub(crate) type Place<'e> = SemaphorePermit<'e>;

/// One that waits. Dropped, it waits no more.
pub(crate) struct Wait<'e> {
    engine: &'e Engine,
    ticket: Ticket,
    fate: oneshot::Receiver<Fate>,
    _place: Place<'e>,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        Self { places: Semaphore::new(WAITING_MAX), told: Mutex::default() }
    }

    /// None if all are taken.
    pub(crate) fn place(&self) -> Option<Place<'_>> {
        self.places.try_acquire().ok()
    }

    /// Passes on what the engine has to say.
    pub(crate) fn tell(&self, pipeline: &mut Pipeline) {
        while let Some((ticket, fate)) = pipeline.poll_answer() {
            if let Some(client) = self.forget(ticket) {
                // It may have gone away in this moment, which its own end takes care of.
                client.send(fate).unwrap_or(());
            }
        }
    }

    fn expect(&self, ticket: Ticket) -> oneshot::Receiver<Fate> {
        let (client, fate) = oneshot::channel();
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(ticket, client);
        fate
    }

    fn forget(&self, ticket: Ticket) -> Option<oneshot::Sender<Fate>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&ticket)
    }
}

impl<'e> Wait<'e> {
    /// To be called under the lock under which the ticket was given, so that nobody was told of it yet.
    pub(crate) fn new(engine: &'e Engine, ticket: Ticket, place: Place<'e>) -> Self {
        Self { engine, ticket, fate: engine.waiting().expect(ticket), _place: place }
    }

    /// What became of the request; none if that was not known by then.
    pub(crate) async fn until(mut self, then: Instant) -> Option<Fate> {
        tokio::time::timeout_at(then, &mut self.fate).await.ok()?.ok()
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.engine.with(|pipeline, _| pipeline.abandon(self.ticket));
        self.engine.waiting().forget(self.ticket);
    }
}
