//! The way of one request through the engine: offer, cut by class if told so, make durable what must be, wait for destinations if the
//! answer does, answer.

use std::sync::Arc;
use std::time::Duration;

use inputs::{Answer, Charge, Gate, Offer};
use otlp::Rules;
use pipeline::{Admission, Fate, NotStored, Origin, Part, Pipeline, Refusal, Request, Verdict};
use spool::points::reach;
use tokio::sync::mpsc::Permit;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::Instant;
use vocabulary::{ClassCounts, DropReason, RefuseReason};

use crate::engine::{Engine, unix_ms};
use crate::storage::{Append, Stored};
use crate::waiting::Wait;

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

/// What the engine decided, and the place of its client if that waits for destinations.
struct Decided<'e> {
    verdict: Verdict,
    wait: Option<Wait<'e>>,
}

/// Takes in one request. Dropping the future leaves the books right: nothing is reserved before the last await but a place to wait, which
/// is given back, and what is handed to the storage thread is settled by it. The offer's charge is given back when the last of its records rests somewhere.
pub(crate) async fn take_in(engine: &Engine, rules: &Rules, sender: &Sender, offer: Offer) -> Answer {
    // A place is held before anything is offered, so that what the engine reserves always reaches the disk's thread. Where there is none,
    // what needs no disk does not wait for it: it may hang.
    let (items, charge, answer_by) = (offer.counts.total(), offer.charge.clone(), Instant::now() + offer.patience);
    let place = match engine.storage().map(|storage| (storage, storage.try_reserve())) {
        None | Some((_, Err(TrySendError::Closed(())))) => None,
        Some((_, Ok(place))) => Some(place),
        Some((storage, Err(TrySendError::Full(())))) => match decide_in_memory(engine, rules, sender, &offer) {
            Some(decided) => {
                // Memory has it: it takes no more of the receive budget, however long its client waits.
                drop(offer);
                return answer(engine, decided, items, charge, None, answer_by).await;
            }
            None => storage.reserve().await.ok(),
        },
    };
    let decided = decide(engine, rules, sender, &offer);
    drop(offer);
    answer(engine, decided, items, charge, place, answer_by).await
}

async fn answer(
    engine: &Engine,
    Decided { verdict, wait }: Decided<'_>,
    items: u64,
    charge: Charge,
    place: Option<Permit<'_, Append>>,
    answer_by: Instant,
) -> Answer {
    let stored = match verdict {
        Verdict::Admitted(admission) => store(engine, admission, items, charge, place).await,
        Verdict::Refused(refusal) => Answer::Refused(refusal),
        Verdict::Split => Answer::Refused(Refusal { reason: RefuseReason::Undecodable, retry_after: Duration::ZERO }),
    };
    match (stored, wait) {
        (Answer::Accepted { shed, reason }, Some(wait)) => confirmed(engine, wait.until(answer_by).await, shed, reason),
        (answer, _) => answer,
    }
}

/// The answer to a client that waited for destinations; of its items, some may have been shed before.
fn confirmed(engine: &Engine, fate: Option<Fate>, mut shed: ClassCounts, shed_reason: DropReason) -> Answer {
    let retry_after = || engine.with(Pipeline::retry_after);
    match fate {
        Some(Fate::Settled { lost, reason }) => {
            let reason = if shed.total() == 0 { reason } else { shed_reason };
            add(&mut shed, &lost);
            Answer::Accepted { shed, reason }
        }
        Some(Fate::Lost { reason }) => Answer::Lost { reason, retry_after: retry_after() },
        Some(Fate::Unsettled) | None => Answer::Unconfirmed { retry_after: retry_after() },
    }
}

/// Has the engine decide on the offer, if `act` does; its client has a place to wait before, if it is to wait.
fn admit<'e>(
    engine: &'e Engine,
    sender: &Sender,
    offer: &Offer,
    act: impl FnOnce(&mut Pipeline, Duration, Origin) -> Option<Verdict>,
) -> Option<Decided<'e>> {
    let &Offer { signal, counts, ref body, .. } = offer;
    engine.with(|pipeline, now| {
        let place = match sender {
            Sender::Client { .. } if pipeline.is_delivery_awaited() => match engine.waiting().place() {
                None => {
                    let reason = RefuseReason::MemoryPressure;
                    pipeline.count_refused(Some(signal), counts, reason);
                    let refusal = Refusal { reason, retry_after: pipeline.retry_after(now) };
                    return Some(Decided { verdict: Verdict::Refused(refusal), wait: None });
                }
                place => place,
            },
            Sender::Client { .. } | Sender::Kernel => None,
        };
        let origin = sender.origin(pipeline, body);
        let verdict = act(pipeline, now, origin)?;
        let ticket = if let Verdict::Admitted(Admission { ticket, .. }) = &verdict { *ticket } else { None };
        let wait = ticket.zip(place).map(|(ticket, place)| Wait::new(engine, ticket, place));
        Some(Decided { verdict, wait })
    })
}

/// What is decided on a request that needs no disk; none if it does, and then nothing was counted.
fn decide_in_memory<'e>(engine: &'e Engine, rules: &Rules, sender: &Sender, offer: &Offer) -> Option<Decided<'e>> {
    let &Offer { signal, counts, ref body, .. } = offer;
    let at = unix_ms();
    let whole = admit(engine, sender, offer, |pipeline, now, origin| {
        let request = Request { signal, origin, counts, body: body.clone() };
        pipeline.fits_memory_alone(now, &request).then(|| pipeline.offer(now, at, request))
    });
    if whole.is_some() || !counts.is_mixed() {
        return whole;
    }
    let parts = cut(rules, offer)?;
    admit(engine, sender, offer, |pipeline, now, origin| {
        let fits = pipeline.parts_fit_memory_alone(now, signal, origin, &parts);
        fits.then(|| pipeline.offer_parts(now, at, signal, origin, parts))
    })
}

/// The request cut by class; none if it is not well formed.
fn cut(rules: &Rules, offer: &Offer) -> Option<Vec<Part>> {
    let parts = otlp::split(offer.signal, &offer.body, rules).ok()?;
    Some(parts.into_iter().map(|(class, items, body)| Part { class, items, body }).collect())
}

fn decide<'e>(engine: &'e Engine, rules: &Rules, sender: &Sender, offer: &Offer) -> Decided<'e> {
    let &Offer { signal, counts, ref body, .. } = offer;
    let at = unix_ms();
    let whole = admit(engine, sender, offer, |pipeline, now, origin| {
        Some(pipeline.offer(now, at, Request { signal, origin, counts, body: body.clone() }))
    });
    let is_to_be_cut = |decided: &Decided<'_>| matches!(decided.verdict, Verdict::Split);
    if let Some(decided) = whole.filter(|decided| !is_to_be_cut(decided)) {
        return decided;
    }
    let parts = cut(rules, offer);
    let cut = parts
        .and_then(|parts| admit(engine, sender, offer, |pipeline, now, origin| Some(pipeline.offer_parts(now, at, signal, origin, parts))));
    // A body that passed the walk can be cut; if that were ever false, it is the client's to know, and counted.
    cut.unwrap_or_else(|| {
        engine.with(|pipeline, _| pipeline.count_refused(Some(signal), counts, RefuseReason::Undecodable));
        let refusal = Refusal { reason: RefuseReason::Undecodable, retry_after: Duration::ZERO };
        Decided { verdict: Verdict::Refused(refusal), wait: None }
    })
}

async fn store(engine: &Engine, admission: Admission, items: u64, charge: Charge, place: Option<Permit<'_, Append>>) -> Answer {
    let Admission { persist, mut shed, mut shed_reason, ticket: _ } = admission;
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
    use pipeline::{DestinationIndex, Gauges, Outcome};
    use tokio::sync::mpsc;
    use vocabulary::{Class, Signal};

    use super::*;
    use crate::engine::tests::{awaiting, spilling};

    const FROM: Sender = Sender::Client { tenant_attribute: None };

    fn offer(bytes: usize, patience: Duration) -> Offer {
        let (counts, body) = (ClassCounts::of(Class::High, 1), Bytes::from(vec![0; bytes]));
        Offer { signal: Signal::Logs, counts, body, charge: Charge::default(), patience }
    }

    fn gauges(engine: &Engine) -> Gauges {
        engine.with(|pipeline, _| pipeline.gauges())
    }

    /// The destination answers for one record.
    fn deliver(engine: &Engine, outcome: Outcome) {
        let destination = DestinationIndex(0);
        engine.with(|pipeline, now| {
            let send = pipeline.poll_send(now, destination).expect("something is due");
            pipeline.handle_outcome(now, destination, send.id, outcome);
        });
    }

    #[tokio::test]
    async fn a_disk_that_hangs_holds_back_only_what_needs_it() {
        let (jobs, _hung) = mpsc::channel(1);
        let engine = Arc::new(Engine::new(spilling(), Some(jobs.clone())));
        let before = Append { records: Vec::new(), is_rest_taken: false, done: None, _charge: Charge::default() };
        jobs.try_send(before).unwrap_or_else(|_| panic!("the only place is free"));
        let offer = |bytes| offer(bytes, Duration::ZERO);
        let rules = Rules::default();
        // Memory has a mebibyte.
        let taken = take_in(&engine, &rules, &FROM, offer(1_000_000)).now_or_never();
        assert!(matches!(taken, Some(Answer::Accepted { shed, .. }) if shed.total() == 0), "{taken:?}");
        assert_eq!(take_in(&engine, &rules, &FROM, offer(100_000)).now_or_never(), None, "it waits for a place");
        let books = engine.with(|pipeline, _| pipeline.books().clone());
        let cell = &books.inputs[Signal::Logs as usize][Class::High as usize];
        assert_eq!((cell.received, cell.offered), (1, 1), "what waits left no trace");
    }

    #[tokio::test]
    async fn a_client_that_waits_for_delivery_is_told_what_its_destination_said() {
        let (engine, rules) = (Engine::new(awaiting(), None), Rules::default());
        let patience = Duration::from_secs(3_600);
        let mut waits = Box::pin(take_in(&engine, &rules, &FROM, offer(100, patience)));
        assert_eq!((&mut waits).now_or_never(), None);
        assert_eq!(gauges(&engine).waiting_requests, 1);
        deliver(&engine, Outcome::Delivered);
        assert!(matches!(waits.await, Answer::Accepted { shed, .. } if shed.total() == 0));
        let mut refused = Box::pin(take_in(&engine, &rules, &FROM, offer(100, patience)));
        assert_eq!((&mut refused).now_or_never(), None);
        deliver(&engine, Outcome::Partial { rejected: 1 });
        let lost = Answer::Accepted { shed: ClassCounts::of(Class::High, 1), reason: DropReason::Rejected };
        assert_eq!(refused.await, lost);
        assert_eq!(take_in(&engine, &rules, &Sender::Kernel, offer(100, Duration::ZERO)).now_or_never().map(|_| ()), Some(()));
    }

    #[tokio::test]
    async fn a_client_whose_time_is_over_is_to_send_again_and_what_it_sent_is_kept() {
        let (engine, rules) = (Engine::new(awaiting(), None), Rules::default());
        let answer = take_in(&engine, &rules, &FROM, offer(100, Duration::from_millis(5))).await;
        assert!(matches!(answer, Answer::Unconfirmed { retry_after } if retry_after >= Duration::from_secs(1)), "{answer:?}");
        let gauges = gauges(&engine);
        assert_eq!((gauges.waiting_requests, gauges.held_records), (0, 1));
    }

    #[tokio::test]
    async fn no_more_clients_wait_than_there_are_places_and_one_that_goes_away_gives_its_place_back() {
        let (engine, rules) = (Engine::new(awaiting(), None), Rules::default());
        let patience = Duration::from_secs(3_600);
        let mut waits = Box::pin(take_in(&engine, &rules, &FROM, offer(100, patience)));
        assert_eq!((&mut waits).now_or_never(), None);
        let places: Vec<_> = std::iter::from_fn(|| engine.waiting().place()).collect();
        let refused = take_in(&engine, &rules, &FROM, offer(100, patience)).now_or_never();
        let pressed = |refusal: Refusal| refusal.reason == RefuseReason::MemoryPressure && refusal.retry_after >= Duration::from_secs(1);
        assert!(matches!(refused, Some(Answer::Refused(refusal)) if pressed(refusal)), "{refused:?}, {} places", places.len());
        assert_eq!(gauges(&engine).held_records, 1, "nothing of it was taken");
        drop(waits);
        assert_eq!(gauges(&engine).waiting_requests, 0);
        let mut next = Box::pin(take_in(&engine, &rules, &FROM, offer(100, patience)));
        assert_eq!((&mut next).now_or_never(), None, "the place of the one that went away");
        assert_eq!(gauges(&engine).waiting_requests, 1);
    }
}
