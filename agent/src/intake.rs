//! The way of one request through the engine: offer, cut by class if told so, make durable what must be, answer.

use std::sync::Arc;
use std::time::Duration;

use inputs::{Answer, Gate, Offer};
use otlp::Rules;
use pipeline::{Admission, Origin, Part, Persist, Refusal, Request, Verdict};
use tokio::sync::mpsc::Permit;
use tokio::sync::oneshot;
use vocabulary::{Class, RefuseReason};

use crate::engine::{Engine, unix_ms};
use crate::storage::{Append, Job};

/// Pause asked of a client whose request the disk did not take: a failed disk is tried again within seconds.
const STORE_FAILED_PAUSE: Duration = Duration::from_secs(2);

/// The engine as the inputs see it.
pub(crate) fn gate(engine: &Arc<Engine>, rules: Rules) -> Gate {
    let offering = engine.clone();
    let refusing = engine.clone();
    Gate::new(
        move |offer| {
            let engine = offering.clone();
            Box::pin(async move { take_in(&engine, &rules, Origin::Client, offer).await })
        },
        move |signal, counts, reason| refusing.with(|pipeline, _| pipeline.count_refused(signal, counts, reason)),
    )
}

/// Takes in one request. Dropping the future leaves the books right: nothing is reserved before the last await, and what is
/// handed to the storage thread is settled by it.
pub(crate) async fn take_in(engine: &Engine, rules: &Rules, origin: Origin, offer: Offer) -> Answer {
    // Places for every part are held before anything is offered, so that what the engine reserves always reaches the disk's thread.
    let places = match engine.storage() {
        Some(storage) => storage.reserve_many(Class::COUNT).await.ok(),
        None => None,
    };
    match decide(engine, rules, origin, offer) {
        Verdict::Admitted(admission) => store(engine, admission, places.into_iter().flatten()).await,
        Verdict::Refused(refusal) => Answer::Refused(refusal),
        Verdict::Split => Answer::Refused(Refusal { reason: RefuseReason::Undecodable, retry_after: Duration::ZERO }),
    }
}

fn decide(engine: &Engine, rules: &Rules, origin: Origin, offer: Offer) -> Verdict {
    let Offer { signal, counts, body } = offer;
    let at = unix_ms();
    let request = Request { signal, origin, counts, body: body.clone() };
    let verdict = engine.with(|pipeline, now| pipeline.offer(now, at, request));
    if !matches!(verdict, Verdict::Split) {
        return verdict;
    }
    match otlp::split(signal, &body, rules) {
        Ok(parts) => {
            let parts = parts.into_iter().map(|(class, items, body)| Part { class, items, body }).collect();
            engine.with(|pipeline, now| pipeline.offer_parts(now, at, signal, origin, parts))
        }
        // A body that passed the walk can be cut; if that were ever false, it is the client's to know, and counted.
        Err(_) => {
            engine.with(|pipeline, _| pipeline.count_refused(Some(signal), counts, RefuseReason::Undecodable));
            Verdict::Refused(Refusal { reason: RefuseReason::Undecodable, retry_after: Duration::ZERO })
        }
    }
}

async fn store(engine: &Engine, admission: Admission, places: impl Iterator<Item = Permit<'_, Job>>) -> Answer {
    let accepted = Answer::Accepted { shed: admission.shed, reason: admission.shed_reason };
    if admission.persist.is_empty() {
        engine.wake_senders();
        return accepted;
    }
    let stored = hand_over(engine, admission.persist, places);
    let mut all_stored = true;
    for done in stored {
        all_stored &= done.await.unwrap_or(false);
    }
    if all_stored { accepted } else { Answer::Refused(Refusal { reason: RefuseReason::HardLimit, retry_after: STORE_FAILED_PAUSE }) }
}

/// Gives each record to the storage thread. Without one (it has ended) the record could not be stored.
fn hand_over<'a>(
    engine: &Engine,
    records: Vec<Persist>,
    mut places: impl Iterator<Item = Permit<'a, Job>>,
) -> Vec<oneshot::Receiver<bool>> {
    let mut waits = Vec::with_capacity(records.len());
    for record in records {
        let (done, wait) = oneshot::channel();
        match places.next() {
            Some(place) => place.send(Job::Append(Append { record, done: Some(done) })),
            None => engine.with(|pipeline, now| pipeline.handle_store_failed(now, record.id)),
        }
        waits.push(wait);
    }
    waits
}
