//! The way of one request through the engine: offer, cut by class if told so, make durable what must be, answer.

use std::sync::Arc;
use std::time::Duration;

use inputs::{Answer, Charge, Gate, Offer};
use otlp::Rules;
use pipeline::{Admission, NotStored, Origin, Part, Pipeline, Refusal, Request, Verdict};
use spool::points::reach;
use tokio::sync::mpsc::Permit;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use vocabulary::{ClassCounts, RefuseReason};

use crate::engine::{Engine, unix_ms};
use crate::storage::{Append, Stored};

/// Pause asked of a client whose request the disk did not take: a failed disk is tried again within seconds.
const STORE_FAILED_PAUSE: Duration = Duration::from_secs(2);

/// The engine as the inputs see it.
///
/// `tenant_attribute` is the resource attribute that names a request's tenant, if tenants are told apart.
pub(crate) fn gate(engine: &Arc<Engine>, rules: Rules, tenant_attribute: Option<Arc<str>>) -> Gate {
    let offering = engine.clone();
    let refusing = engine.clone();
    Gate::new(
        move |offer| {
            let (engine, tenant_attribute) = (offering.clone(), tenant_attribute.clone());
            Box::pin(async move { take_in(&engine, &rules, &Sender::Client { tenant_attribute }, offer).await })
        },
        move |signal, counts, reason| refusing.with(|pipeline, _| pipeline.count_refused(signal, counts, reason)),
    )
}

/// Whom a request comes from.
pub(crate) enum Sender {
    Client { tenant_attribute: Option<Arc<str>> },
    Kernel,
}

impl Sender {
    /// Whose the request is, for the engine; to be used at once.
    fn origin(&self, pipeline: &mut Pipeline, body: &[u8]) -> Origin {
        match self {
            Self::Kernel => Origin::Kernel,
            Self::Client { tenant_attribute: None } => Origin::Client,
            Self::Client { tenant_attribute: Some(attribute) } => Origin::ClientOf(pipeline.tenant(otlp::tenant(body, attribute))),
        }
    }
}

/// Takes in one request. Dropping the future leaves the books right: nothing is reserved before the last await, and what is
/// handed to the storage thread is settled by it. The offer's charge is given back when the last of its records rests somewhere.
pub(crate) async fn take_in(engine: &Engine, rules: &Rules, sender: &Sender, offer: Offer) -> Answer {
    // A place is held before anything is offered, so that what the engine reserves always reaches the disk's thread. Where there is none,
    // what needs no disk does not wait for it: it may hang.
    let (items, charge) = (offer.counts.total(), offer.charge.clone());
    let place = match engine.storage().map(|storage| (storage, storage.try_reserve())) {
        None | Some((_, Err(TrySendError::Closed(())))) => None,
        Some((_, Ok(place))) => Some(place),
        Some((storage, Err(TrySendError::Full(())))) => match decide_in_memory(engine, rules, sender, &offer) {
            Some(verdict) => return answer(engine, verdict, items, charge, None).await,
            None => storage.reserve().await.ok(),
        },
    };
    let verdict = decide(engine, rules, sender, offer);
    answer(engine, verdict, items, charge, place).await
}

async fn answer(engine: &Engine, verdict: Verdict, items: u64, charge: Charge, place: Option<Permit<'_, Append>>) -> Answer {
    match verdict {
        Verdict::Admitted(admission) => store(engine, admission, items, charge, place).await,
        Verdict::Refused(refusal) => Answer::Refused(refusal),
        Verdict::Split => Answer::Refused(Refusal { reason: RefuseReason::Undecodable, retry_after: Duration::ZERO }),
    }
}

/// The verdict on a request that needs no disk; none if it does, and then nothing was counted.
fn decide_in_memory(engine: &Engine, rules: &Rules, sender: &Sender, offer: &Offer) -> Option<Verdict> {
    let &Offer { signal, counts, ref body, .. } = offer;
    let at = unix_ms();
    let whole = engine.with(|pipeline, now| {
        let origin = sender.origin(pipeline, body);
        let request = Request { signal, origin, counts, body: body.clone() };
        pipeline.fits_memory_alone(now, &request).then(|| pipeline.offer(now, at, request))
    });
    if whole.is_some() || !counts.is_mixed() {
        return whole;
    }
    let parts = cut(rules, offer)?;
    engine.with(|pipeline, now| {
        let origin = sender.origin(pipeline, body);
        let fits = pipeline.parts_fit_memory_alone(now, signal, origin, &parts);
        fits.then(|| pipeline.offer_parts(now, at, signal, origin, parts))
    })
}

/// The request cut by class; none if it is not well formed.
fn cut(rules: &Rules, offer: &Offer) -> Option<Vec<Part>> {
    let parts = otlp::split(offer.signal, &offer.body, rules).ok()?;
    Some(parts.into_iter().map(|(class, items, body)| Part { class, items, body }).collect())
}

fn decide(engine: &Engine, rules: &Rules, sender: &Sender, offer: Offer) -> Verdict {
    let Offer { signal, counts, ref body, .. } = offer;
    let at = unix_ms();
    let verdict = engine.with(|pipeline, now| {
        let origin = sender.origin(pipeline, body);
        pipeline.offer(now, at, Request { signal, origin, counts, body: body.clone() })
    });
    if !matches!(verdict, Verdict::Split) {
        return verdict;
    }
    match cut(rules, &offer) {
        Some(parts) => engine.with(|pipeline, now| {
            let origin = sender.origin(pipeline, body);
            pipeline.offer_parts(now, at, signal, origin, parts)
        }),
        // A body that passed the walk can be cut; if that were ever false, it is the client's to know, and counted.
        None => {
            engine.with(|pipeline, _| pipeline.count_refused(Some(signal), counts, RefuseReason::Undecodable));
            Verdict::Refused(Refusal { reason: RefuseReason::Undecodable, retry_after: Duration::ZERO })
        }
    }
}

async fn store(engine: &Engine, admission: Admission, items: u64, charge: Charge, place: Option<Permit<'_, Append>>) -> Answer {
    let Admission { persist, mut shed, mut shed_reason } = admission;
    if persist.is_empty() {
        engine.wake_senders();
        return Answer::Accepted { shed, reason: shed_reason };
    }
    let on_their_way: u64 = persist.iter().map(|record| record.counts.total()).sum();
    let (done, wait) = oneshot::channel();
    let append = Append { records: persist, is_rest_taken: on_their_way < items, done: Some(done), _charge: charge };
    match place {
        Some(place) => place.send(append),
        // Without a storage thread (it has ended) nothing could be stored.
        None => append.settle(engine, &[], NotStored::Ended),
    }
    let stored = wait.await.unwrap_or(Stored::Nothing(NotStored::Ended));
    reach("intake.stored");
    match stored {
        Stored::All => {}
        Stored::AllBut(lost, cause) => {
            if shed.total() == 0 {
                shed_reason = cause.drop_reason();
            }
            add(&mut shed, &lost);
        }
        Stored::Nothing(cause) => return Answer::Refused(Refusal { reason: cause.refuse_reason(), retry_after: STORE_FAILED_PAUSE }),
    }
    Answer::Accepted { shed, reason: shed_reason }
}

/// Adds counts to counts.
pub(crate) fn add(sum: &mut ClassCounts, more: &ClassCounts) {
    for (class, items) in more.iter() {
        sum[class] = sum[class].saturating_add(items);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;
    use tokio::sync::mpsc;
    use vocabulary::{Class, Signal};

    use super::*;
    use crate::engine::tests::spilling;

    #[tokio::test]
    async fn a_disk_that_hangs_holds_back_only_what_needs_it() {
        let (jobs, _hung) = mpsc::channel(1);
        let engine = Arc::new(Engine::new(spilling(), Some(jobs.clone())));
        let before = Append { records: Vec::new(), is_rest_taken: false, done: None, _charge: Charge::default() };
        jobs.try_send(before).unwrap_or_else(|_| panic!("the only place is free"));
        let offer = |bytes: usize| Offer {
            signal: Signal::Logs,
            counts: ClassCounts::of(Class::High, 1),
            body: Bytes::from(vec![0; bytes]),
            charge: Charge::default(),
        };
        let from = Sender::Client { tenant_attribute: None };
        let rules = Rules::default();
        // Memory has a mebibyte.
        let taken = take_in(&engine, &rules, &from, offer(1_000_000)).now_or_never();
        assert!(matches!(taken, Some(Answer::Accepted { shed, .. }) if shed.total() == 0), "{taken:?}");
        assert_eq!(take_in(&engine, &rules, &from, offer(100_000)).now_or_never(), None, "it waits for a place");
        let books = engine.with(|pipeline, _| pipeline.books().clone());
        let cell = &books.inputs[Signal::Logs as usize][Class::High as usize];
        assert_eq!((cell.received, cell.offered), (1, 1), "what waits left no trace");
    }
}
