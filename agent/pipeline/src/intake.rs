//! The door: what is taken, where it is put, what is shed and what is refused. A request is decided as a whole on a copy
//! of the room, so a refusal leaves no trace but its count.

use std::time::Duration;

use bytes::Bytes;
use vocabulary::{Class, ClassCounts, DropReason, RefuseReason, Signal};

use crate::checkpoint::CHECKPOINT_RANGES_MAX;
use crate::engine::{Entry, Place, Storing};
use crate::moves::Settlement;
use crate::space::{Placement, Size, Space, is_low};
use crate::{Acknowledge, Admission, NotStored, Origin, Part, Persist, Phase, Pipeline, RecordId, Refusal, Request, Verdict, jitter};

/// Pause asked of a client while the agent ends: its successor needs about that long.
const SHUTDOWN_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// What becomes one record if it is taken.
struct Piece {
    class: Class,
    counts: ClassCounts,
    body: Bytes,
    placement: Placement,
}

/// Where and when an offer was made.
#[derive(Clone, Copy)]
struct Occasion {
    unix_ms: u64,
    signal: Signal,
    origin: Origin,
}

impl Pipeline {
    /// Decides on a request. Under pressure a mixed one comes back as `Split`, uncounted.
    pub fn offer(&mut self, now: Duration, unix_ms: u64, request: Request) -> Verdict {
        self.observe(now);
        let Request { signal, origin, counts, body } = request;
        let Some(class) = counts.highest() else { return Verdict::Admitted(Admission::nothing()) };
        let occasion = Occasion { unix_ms, signal, origin };
        if let Some(verdict) = self.turn_away(occasion, &counts, body.len() as u64) {
            return verdict;
        }
        if counts.is_mixed() && self.is_under_pressure() {
            return Verdict::Split;
        }
        let is_refused = self.is_refused_outright(origin, signal, class);
        let size = Size { bytes: body.len() as u64, items: counts.total() };
        let route = self.route(signal);
        // One piece needs no trial: what finds no room takes none.
        self.space.set_countable(self.is_countable());
        let placement = self.space.place(class, size, route, is_refused);
        if counts.is_mixed() && matches!(placement, Placement::Shed | Placement::Full) {
            return Verdict::Split;
        }
        let piece = Piece { class, counts, body, placement };
        self.close_doors(occasion, std::slice::from_ref(&piece));
        if let Some(reason) = refusal(origin, std::slice::from_ref(&piece)) {
            return self.refuse(signal, &counts, reason, piece.body.len() as u64);
        }
        self.take_all(occasion, [piece])
    }

    /// Decides on a request that was cut by class. It is refused as a whole if an important part finds no room, or if no part
    /// does; a lesser part that finds none beside one that is taken is shed.
    pub fn offer_parts(&mut self, now: Duration, unix_ms: u64, signal: Signal, origin: Origin, mut parts: Vec<Part>) -> Verdict {
        self.observe(now);
        let occasion = Occasion { unix_ms, signal, origin };
        parts.retain(|part| part.items > 0);
        parts.sort_by_key(|part| part.class);
        let mut counts = ClassCounts::default();
        for part in &parts {
            counts[part.class] = counts[part.class].saturating_add(part.items);
        }
        if parts.is_empty() {
            return Verdict::Admitted(Admission::nothing());
        }
        let bytes = parts.iter().map(|part| part.body.len() as u64).sum();
        if let Some(verdict) = self.turn_away(occasion, &counts, bytes) {
            return verdict;
        }
        let refused = Class::ALL.map(|class| self.is_refused_outright(origin, signal, class));
        let mut space = self.room();
        let route = self.route(signal);
        let mut total_bytes = 0;
        self.splits += 1;
        let mut pieces = Vec::with_capacity(parts.len());
        for Part { class, items, body } in parts {
            let size = Size { bytes: body.len() as u64, items: u64::from(items) };
            total_bytes += size.bytes;
            let is_refused = refused.get(class.index()).is_some_and(|&is_refused| is_refused);
            let placement = space.place(class, size, route, is_refused);
            pieces.push(Piece { class, counts: ClassCounts::of(class, items), body, placement });
        }
        self.close_doors(occasion, &pieces);
        if let Some(reason) = refusal(origin, &pieces) {
            return self.refuse(signal, &counts, reason, total_bytes);
        }
        self.space = space;
        self.take_all(occasion, pieces)
    }

    /// Whether `offer` would decide on the request without a disk at this moment. Who finds no place in the disk's queue may offer it then, and
    /// need not wait for a disk that hangs.
    pub fn fits_memory_alone(&mut self, now: Duration, request: &Request) -> bool {
        self.observe(now);
        let Some(class) = request.counts.highest() else { return true };
        let size = Size { bytes: request.body.len() as u64, items: request.counts.total() };
        let is_cut = request.counts.is_mixed() && self.is_under_pressure();
        !is_cut && self.fit_memory_alone(request.signal, request.origin, std::iter::once((class, size)))
    }

    /// As [`Self::fits_memory_alone`], for `offer_parts`; never where the request need not be cut.
    pub fn parts_fit_memory_alone(&mut self, now: Duration, signal: Signal, origin: Origin, parts: &[Part]) -> bool {
        self.observe(now);
        let of_class = |class| parts.iter().filter(move |part| part.class == class);
        let size = |part: &Part| Size { bytes: part.body.len() as u64, items: u64::from(part.items) };
        let pieces = Class::ALL.into_iter().flat_map(of_class).map(|part| (part.class, size(part)));
        self.is_under_pressure() && self.fit_memory_alone(signal, origin, pieces)
    }

    fn fit_memory_alone(&mut self, signal: Signal, origin: Origin, mut pieces: impl Iterator<Item = (Class, Size)>) -> bool {
        let (mut space, route) = (self.room(), self.route(signal));
        pieces.all(|(class, size)| {
            let is_refused = self.is_refused_outright(origin, signal, class);
            space.place(class, size, route, is_refused) == Placement::Memory
        })
    }

    /// A request was refused before it came here. Where its items are not known, the request itself is counted.
    pub fn count_refused(&mut self, signal: Option<Signal>, counts: ClassCounts, reason: RefuseReason) {
        self.is_dirty = true;
        match signal {
            Some(signal) if counts.total() > 0 => self.books.refuse(signal, &counts, reason),
            _ => self.books.refuse_request(reason),
        }
    }

    /// The spool made a record durable. From here on it counts as received and may be sent.
    pub fn handle_stored(&mut self, now: Duration, id: RecordId) {
        self.observe(now);
        if let Some(Storing { entry, skipped, .. }) = self.storing[id.class].remove(&id.sequence) {
            self.books.receive(entry.signal, &entry.counts);
            self.hold(id, entry, skipped);
            return;
        }
        let lane = &mut self.lanes[id.class];
        let Some(entry) = lane.entries.get_mut(&id.sequence) else { return };
        if entry.place != Place::Flushing {
            return;
        }
        entry.place = Place::Disk;
        for destination in self.destinations.iter_mut().filter(|destination| entry.unsettled & destination.bit != 0) {
            crate::moves::subtract_counts(&mut destination.volatile, entry.signal, &entry.counts);
        }
        self.volatile_records -= 1;
        self.volatile_items -= entry.counts.total();
        self.space.take_disk(u64::from(entry.bytes), entry.unsettled);
        lane.stored.insert(id.sequence);
        self.is_dirty = true;
    }

    /// The spool did not make a record durable: its room is returned. A client is to be told what the cause says; what the kernel
    /// gave, and what the final flush gave, is dropped for its reason.
    pub fn handle_store_failed(&mut self, now: Duration, id: RecordId, cause: NotStored) {
        self.store_failed(now, id, None, cause);
    }

    /// As [`Self::handle_store_failed`], for a record whose request cannot be refused any more because another part of it was
    /// taken: it was received, and is dropped. The client is to be told by partial success.
    pub fn handle_store_dropped(&mut self, now: Duration, id: RecordId, cause: NotStored) {
        self.store_failed(now, id, Some(Origin::Kernel), cause);
    }

    /// `as_if` overrules where the record came from: what cannot be refused is treated as the kernel's.
    fn store_failed(&mut self, now: Duration, id: RecordId, as_if: Option<Origin>, cause: NotStored) {
        self.observe(now);
        let Some(Storing { entry, origin, .. }) = self.storing[id.class].remove(&id.sequence) else {
            if self.lanes[id.class].entries.get(&id.sequence).is_some_and(|entry| entry.place == Place::Flushing) {
                self.give_up(id, cause.drop_reason());
            }
            return;
        };
        match as_if.unwrap_or(origin) {
            Origin::Client | Origin::ClientOf(_) => self.books.refuse(entry.signal, &entry.counts, cause.refuse_reason()),
            Origin::Kernel => {
                self.books.receive(entry.signal, &entry.counts);
                self.books.drop_at_intake(entry.signal, &entry.counts, cause.drop_reason());
            }
        }
        self.awaited.forget(id);
        if entry.body.is_some() {
            self.space.give_memory(id.class, entry.size());
        }
        self.tenants.give(entry.tenant, entry.bytes);
        self.space.shares.give(entry.unsettled, u64::from(entry.bytes));
        self.space.give_disk(u64::from(entry.bytes));
        // The id stays unused for ever; it counts as settled so that ranges merge over it.
        for destination in &mut self.destinations {
            destination.queues[id.class].settled.insert(id.sequence);
        }
        self.lanes[id.class].released.insert(id.sequence);
        self.is_dirty = true;
    }

    /// Requests that are decided whatever they hold: the engine ends, no destination takes the signal, or the tenant holds its share.
    fn turn_away(&mut self, occasion: Occasion, counts: &ClassCounts, bytes: u64) -> Option<Verdict> {
        let Occasion { signal, origin, .. } = occasion;
        match (self.phase(), origin) {
            (Phase::Running, _) | (Phase::DrainingInputs, Origin::Kernel) => {}
            (_, Origin::Client | Origin::ClientOf(_)) => return Some(self.refuse(signal, counts, RefuseReason::ShuttingDown, 0)),
            (_, Origin::Kernel) => {
                let mut admission = Admission::nothing();
                self.shed(signal, counts, DropReason::ForcedShutdown, &mut admission);
                return Some(Verdict::Admitted(admission));
            }
        }
        if self.route(signal) != 0 {
            return self.is_over_quota(origin.tenant()).then(|| self.refuse(signal, counts, RefuseReason::TenantQuota, bytes));
        }
        match origin {
            Origin::Client | Origin::ClientOf(_) => Some(self.refuse(signal, counts, RefuseReason::Unsupported, 0)),
            Origin::Kernel => {
                self.books.receive(signal, counts);
                self.books.filter(signal, counts);
                self.is_dirty = true;
                Some(Verdict::Admitted(Admission::nothing()))
            }
        }
    }

    /// What of a client found no room closes its door.
    fn close_doors(&mut self, occasion: Occasion, pieces: &[Piece]) {
        if occasion.origin != Origin::Kernel {
            for piece in pieces.iter().filter(|piece| piece.placement == Placement::Full) {
                self.close_door(occasion.signal, piece.class);
            }
        }
    }

    /// The room there is, to decide on.
    pub(crate) fn room(&self) -> Space {
        let mut space = self.space;
        space.set_countable(self.is_countable());
        space
    }

    /// Whether a checkpoint has room for the ids of another record.
    fn is_countable(&self) -> bool {
        !self.has_disk() || self.checkpoint_ranges() < CHECKPOINT_RANGES_MAX
    }

    /// Whether importance must be looked at item by item.
    fn is_under_pressure(&self) -> bool {
        let is_any_failing = || self.destinations.iter().any(|destination| destination.is_configured && destination.is_failing());
        self.space.is_over_soft() || self.down > 0 || is_any_failing()
    }

    fn refuse(&mut self, signal: Signal, counts: &ClassCounts, reason: RefuseReason, bytes: u64) -> Verdict {
        self.books.refuse(signal, counts, reason);
        self.is_dirty = true;
        self.refusals += 1;
        let retry_after = match reason {
            RefuseReason::ShuttingDown => jitter::between(SHUTDOWN_PAUSE.0, SHUTDOWN_PAUSE.1, self.refusals),
            RefuseReason::HardLimit | RefuseReason::TenantQuota => {
                self.drain.pause(self.now, self.space.excess_bytes().max(bytes), self.refusals)
            }
            _ => Duration::ZERO,
        };
        Verdict::Refused(Refusal { reason, retry_after })
    }

    /// How long a client is to wait that is to send again although it was not refused: 1 s to 5 s, from the measured drain rate.
    pub fn retry_after(&mut self, now: Duration) -> Duration {
        self.observe(now);
        self.refusals += 1;
        self.drain.pause(self.now, self.space.excess_bytes(), self.refusals)
    }

    fn shed(&mut self, signal: Signal, counts: &ClassCounts, reason: DropReason, admission: &mut Admission) {
        self.books.receive(signal, counts);
        self.books.drop_at_intake(signal, counts, reason);
        admission.note_shed(counts, reason);
        self.is_dirty = true;
    }

    /// Carries out what was decided.
    fn take_all(&mut self, occasion: Occasion, pieces: impl IntoIterator<Item = Piece>) -> Verdict {
        let mut admission = Admission::nothing();
        for piece in pieces {
            self.take(occasion, piece, &mut admission);
        }
        if let Some(ticket) = admission.ticket {
            self.awaited.close(ticket);
        }
        Verdict::Admitted(admission)
    }

    /// If its client waits for destinations, it waits for this record, which those in `route` need and those in `skipped` do without.
    fn await_delivery(&mut self, origin: Origin, id: RecordId, counts: &ClassCounts, route: u16, skipped: u16, admission: &mut Admission) {
        if !self.is_delivery_awaited() || origin == Origin::Kernel {
            return;
        }
        let awaited = self.awaited_of(route);
        self.awaited.owe(&mut admission.ticket, id, awaited);
        for destination in self.destinations.iter().filter(|destination| skipped & destination.bit != 0) {
            self.awaited.note(id, destination.bit, counts, Settlement::Dropped(DropReason::DiskFull));
        }
    }

    /// Carries out what was decided for one piece; its room is taken already.
    fn take(&mut self, occasion: Occasion, piece: Piece, admission: &mut Admission) {
        let Occasion { unix_ms, signal, origin } = occasion;
        match (piece.placement, origin) {
            (Placement::Shed, _) | (Placement::Full, Origin::Client | Origin::ClientOf(_)) => {
                self.shed(signal, &piece.counts, DropReason::SoftLimit, admission)
            }
            (Placement::Full, Origin::Kernel) => self.shed(signal, &piece.counts, DropReason::QueueFull, admission),
            (Placement::TooLarge, _) => self.shed(signal, &piece.counts, DropReason::TooLarge, admission),
            (Placement::Memory, _) => {
                let Piece { class, counts, body, .. } = piece;
                let id = self.next_id(class);
                let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
                let (unsettled, place, tenant) = (self.route(signal), Place::Memory, origin.tenant());
                let entry = Entry {
                    body: Some(body),
                    received_unix_ms: unix_ms,
                    arrived: self.now,
                    counts,
                    bytes,
                    unsettled,
                    signal,
                    place,
                    tenant,
                };
                self.tenants.take(tenant, bytes);
                self.books.receive(signal, &counts);
                self.await_delivery(origin, id, &counts, unsettled, 0, admission);
                self.hold(id, entry, 0);
            }
            (Placement::Both | Placement::Disk, _) => self.take_to_disk(occasion, piece, admission),
        }
    }

    /// As [`Self::take`], for a piece that goes to disk.
    fn take_to_disk(&mut self, occasion: Occasion, piece: Piece, admission: &mut Admission) {
        let Occasion { unix_ms, signal, origin } = occasion;
        let Piece { class, counts, body, placement } = piece;
        let is_up = placement == Placement::Both;
        let route = self.route(signal);
        let unsettled = self.share_out(route, class, body.len() as u64);
        if unsettled == 0 {
            let size = Size { bytes: body.len() as u64, items: counts.total() };
            if is_up {
                self.space.give_memory(class, size);
            }
            self.space.give_disk(size.bytes);
            self.shed(signal, &counts, DropReason::DiskFull, admission);
            return;
        }
        let id = self.next_id(class);
        let entry = Entry {
            body: is_up.then(|| body.clone()),
            received_unix_ms: unix_ms,
            arrived: self.now,
            counts,
            bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
            unsettled,
            signal,
            place: Place::Disk,
            tenant: origin.tenant(),
        };
        self.tenants.take(entry.tenant, entry.bytes);
        let is_buffered = self.config.acknowledge == Acknowledge::OsBuffered && self.space.take_volatile(counts.total());
        let skipped = route & !unsettled;
        self.await_delivery(origin, id, &counts, route, skipped, admission);
        self.storing[id.class].insert(id.sequence, Storing { entry, origin, skipped, is_buffered });
        admission.persist.push(Persist { id, signal, counts, received_unix_ms: unix_ms, is_buffered, body });
    }
}

/// Whether the request as a whole is refused, and why. The kernel cannot be refused.
fn refusal(origin: Origin, pieces: &[Piece]) -> Option<RefuseReason> {
    if origin == Origin::Kernel {
        return None;
    }
    let has = |wanted: Placement| pieces.iter().any(|piece| piece.placement == wanted);
    if has(Placement::TooLarge) {
        return Some(RefuseReason::TooLarge);
    }
    let important_is_full = pieces.iter().any(|piece| piece.placement == Placement::Full && !is_low(piece.class));
    let is_any_taken = has(Placement::Memory) || has(Placement::Both) || has(Placement::Disk);
    (important_is_full || has(Placement::Full) && !is_any_taken).then_some(RefuseReason::HardLimit)
}
