//! The ledger and the gauges as OpenMetrics, made from the published books at each scrape: there is no second count that could
//! differ from them. Label sets are bounded by the vocabulary and by the configured destinations.

use std::fmt::Error;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use pipeline::Circuit;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use vocabulary::{DropReason, LossReason, RefuseReason};

use crate::board::Board;
use crate::engine::unix_ms;
use crate::ledger_page::cells;
use crate::snapshot::Snapshot;

/// The media type of what [`render`] returns.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A label's name and value.
type Label<'a> = (&'static str, &'a str);
/// A family's name, its help and the cell's number it shows.
type Plain<T> = (&'static str, &'static str, fn(&T) -> u64);

/// Prepares the registry once.
pub(crate) fn registry(board: &Arc<Board>) -> Registry {
    let mut registry = Registry::with_prefix("forebay");
    registry.register_collector(Box::new(Scrape { board: Arc::downgrade(board) }));
    registry
}

/// One scrape.
pub(crate) fn render(registry: &Registry) -> Result<String, Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    Ok(text)
}

/// Reads the board when it is scraped.
struct Scrape {
    board: Weak<Board>,
}

impl std::fmt::Debug for Scrape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(board) = self.board.upgrade() else { return Ok(()) };
        gauge(&mut encoder, "ready", "1 when the agent takes in and nothing keeps it from being ready", |family| {
            family.gauge(&[], u64::from(board.blockers().is_empty() && board.started().is_some()))
        })?;
        board_gauges(&mut encoder, &board)?;
        let Some(started) = board.started() else { return Ok(()) };
        let snapshot = started.engine.snapshot();
        inputs(&mut encoder, &snapshot)?;
        destinations(&mut encoder, &snapshot)?;
        kernel(&mut encoder, &snapshot)?;
        buffers(&mut encoder, &snapshot)
    }
}

/// One metric family that is being written.
struct Family<'a>(MetricEncoder<'a>);

impl Family<'_> {
    fn counter(&mut self, labels: &[Label<'_>], value: u64) -> Result<(), Error> {
        let labels = labels.to_vec();
        self.0.encode_family(&labels)?.encode_counter::<Vec<Label<'_>>, _, u64>(&value, None)
    }

    fn gauge(&mut self, labels: &[Label<'_>], value: u64) -> Result<(), Error> {
        let labels = labels.to_vec();
        self.0.encode_family(&labels)?.encode_gauge(&value)
    }
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    write: impl FnOnce(&mut Family<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    write(&mut Family(encoder.encode_descriptor(name, help, None, MetricType::Counter)?))
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    write: impl FnOnce(&mut Family<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    write(&mut Family(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?))
}

fn inputs(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let table = &snapshot.books.inputs;
    let plain: [Plain<pipeline::InputCell>; 3] = [
        ("offered_items", "Items that inputs saw: received and refused", |cell| cell.offered),
        ("received_items", "Items that may have been acknowledged", |cell| cell.received),
        ("filtered_items", "Items removed on purpose by a rule", |cell| cell.filtered),
    ];
    for (name, help, value) in plain {
        counter(encoder, name, help, |family| {
            cells(table)
                .try_for_each(|(signal, class, cell)| family.counter(&[("signal", signal.label()), ("class", class.label())], value(cell)))
        })?;
    }
    counter(encoder, "refused_items", "Items not accepted; the client was told why", |family| {
        for (signal, class, cell) in cells(table) {
            for (reason, items) in RefuseReason::ALL.into_iter().zip(cell.refused).filter(|&(_, items)| items > 0) {
                family.counter(&[("signal", signal.label()), ("class", class.label()), ("reason", reason.label())], items)?;
            }
        }
        Ok(())
    })?;
    counter(encoder, "intake_dropped_items", "Items received and dropped before any destination", |family| {
        for (signal, class, cell) in cells(table) {
            for (reason, items) in DropReason::ALL.into_iter().zip(cell.dropped).filter(|&(_, items)| items > 0) {
                family.counter(&[("signal", signal.label()), ("class", class.label()), ("reason", reason.label())], items)?;
            }
        }
        Ok(())
    })?;
    counter(encoder, "refused_requests", "Requests refused before their items could be counted", |family| {
        RefuseReason::ALL
            .into_iter()
            .zip(snapshot.books.requests_refused)
            .try_for_each(|(reason, requests)| family.counter(&[("reason", reason.label())], requests))
    })
}

fn destinations(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let books = &snapshot.books.destinations;
    let plain: [Plain<pipeline::DestinationCell>; 2] = [
        ("routed_items", "Items a destination took on", |cell| cell.routed),
        ("delivered_items", "Items a destination confirmed", |cell| cell.delivered),
    ];
    for (name, help, value) in plain {
        counter(encoder, name, help, |family| {
            for book in books {
                for (signal, class, cell) in cells(&book.cells).filter(|(_, _, cell)| cell.routed > 0) {
                    let labels = [("destination", book.name.as_str()), ("signal", signal.label()), ("class", class.label())];
                    family.counter(&labels, value(cell))?;
                }
            }
            Ok(())
        })?;
    }
    counter(
        encoder,
        "dropped_items",
        "Items given up for a destination; rejected ones are exact in total and an estimate by class",
        |family| {
            for book in books {
                for (signal, class, cell) in cells(&book.cells) {
                    for (reason, items) in DropReason::ALL.into_iter().zip(cell.dropped).filter(|&(_, items)| items > 0) {
                        let place = [("destination", book.name.as_str()), ("signal", signal.label())];
                        family.counter(&[place[0], place[1], ("class", class.label()), ("reason", reason.label())], items)?;
                    }
                }
            }
            Ok(())
        },
    )?;
    counter(encoder, "attempts", "Records sent, retries included", |family| {
        books.iter().try_for_each(|book| family.counter(&[("destination", &book.name)], book.attempts))
    })?;
    ways(encoder, &snapshot.gauges.destinations)?;
    gauge(encoder, "held_items", "Items a destination has yet to settle, by state", |family| {
        for book in books {
            for (signal, class, cell) in cells(&book.cells).filter(|(_, _, cell)| cell.routed > 0) {
                let held = &cell.held;
                let states = [
                    ("queued", held.queued),
                    ("on_disk", held.on_disk),
                    ("in_flight", held.in_flight),
                    ("waiting_retry", held.waiting_retry),
                    ("quarantined", held.quarantined),
                ];
                for (state, items) in states {
                    let labels =
                        [("destination", book.name.as_str()), ("signal", signal.label()), ("class", class.label()), ("state", state)];
                    family.gauge(&labels, items)?;
                }
            }
        }
        Ok(())
    })
}

/// How what is sent gets on.
fn ways(encoder: &mut DescriptorEncoder<'_>, destinations: &[pipeline::DestinationGauge]) -> Result<(), Error> {
    gauge(
        encoder,
        "destination_circuit",
        "1 for the state of the circuit: closed, open (paused), half_open (probed), removed",
        |family| {
            for destination in destinations {
                for circuit in Circuit::ALL {
                    let labels = [("destination", destination.name.as_str()), ("state", circuit.label())];
                    family.gauge(&labels, u64::from(destination.circuit == circuit))?;
                }
            }
            Ok(())
        },
    )?;
    gauge(
        encoder,
        "destination_replay_bytes_per_second",
        "Rate at which a backlog is sent beside live traffic, while there is one",
        |family| {
            let rates = destinations.iter().filter_map(|each| Some((&each.name, each.replay_bytes_per_second?)));
            rates.into_iter().try_for_each(|(name, rate)| family.gauge(&[("destination", name)], rate))
        },
    )
}

fn kernel(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let book = &snapshot.books.kernel;
    counter(encoder, "kernel_attempted_records", "Kernel records a probe saw", |family| family.counter(&[], book.attempted))?;
    counter(encoder, "kernel_produced_records", "Kernel records the agent read", |family| family.counter(&[], book.produced))?;
    counter(encoder, "kernel_lost_records", "Kernel records lost before the agent could read them", |family| {
        LossReason::ALL.into_iter().zip(book.lost).try_for_each(|(reason, records)| family.counter(&[("reason", reason.label())], records))
    })
}

fn buffers(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let gauges = &snapshot.gauges;
    let age = gauges.oldest_received_unix_ms.map_or(0, |received| unix_ms().saturating_sub(received) / 1000);
    let plain = [
        ("memory_bytes", "Bodies in memory, in bytes", gauges.memory_bytes),
        ("memory_limit_bytes", "Bound of the bodies in memory, in bytes", gauges.memory_bytes_max),
        ("memory_items", "Items in memory", gauges.memory_items),
        ("memory_limit_items", "Bound of the items in memory", gauges.memory_items_max),
        ("disk_bytes", "Unsettled records on disk, in bytes", gauges.disk_bytes),
        ("disk_limit_bytes", "Bound of the records on disk, in bytes; 0 without a disk", gauges.disk_bytes_max),
        (
            "destination_disk_limit_bytes",
            "Share of the disk of each destination, in bytes; 0 without a disk",
            gauges.destination_disk_bytes_max,
        ),
        ("held_records", "Records that some destination has yet to settle", gauges.held_records),
        ("oldest_seconds", "Age of the oldest unsettled record, in seconds", age),
        ("over_soft_limit", "1 while Normal and Bulk are spilled or shed", u64::from(gauges.over_soft)),
        ("ledger_broken", "1 when an identity of the ledger does not hold", u64::from(snapshot.broken.is_some())),
    ];
    for (name, help, value) in plain {
        gauge(encoder, name, help, |family| family.gauge(&[], value))?;
    }
    gauge(encoder, "at_hard_limit", "1 since clients were refused for want of room, until one of them is taken", |family| {
        cells(&gauges.closed).try_for_each(|(signal, class, is_closed)| {
            family.gauge(&[("signal", signal.label()), ("class", class.label())], u64::from(*is_closed))
        })
    })?;
    gauge(encoder, "waiting_requests", "Requests whose clients wait for destinations", |family| {
        family.gauge(&[], gauges.waiting_requests)
    })?;
    counter(encoder, "requests_split", "Requests that were cut by class, which happens under pressure alone", |family| {
        family.counter(&[], gauges.splits)
    })?;
    gauge(encoder, "tenant_held_bytes", "What a tenant holds in memory or on disk, in bytes", |family| {
        gauges.tenants.iter().try_for_each(|tenant| family.gauge(&[("tenant", &tenant.name)], tenant.held_bytes))
    })?;
    counter(encoder, "tenant_refused_requests", "Requests of a tenant that were refused because it holds its share", |family| {
        gauges.tenants.iter().try_for_each(|tenant| family.counter(&[("tenant", &tenant.name)], tenant.refused))
    })?;
    gauge(encoder, "destination_disk_bytes", "Records on disk that a destination has yet to settle, in bytes", |family| {
        gauges.destinations.iter().try_for_each(|each| family.gauge(&[("destination", &each.name)], each.disk_bytes))
    })
}

fn board_gauges(encoder: &mut DescriptorEncoder<'_>, board: &Board) -> Result<(), Error> {
    gauge(encoder, "disk_failed", "1 while the disk failed and is not used", |family| {
        family.gauge(&[], u64::from(board.disk_failed.load(Ordering::Relaxed)))
    })?;
    counter(encoder, "stage_panics", "Panics of a stage, which was begun anew; each is a fault of the agent", |family| {
        board.panics().into_iter().try_for_each(|(stage, panics)| family.counter(&[("stage", stage)], panics))
    })?;
    let quarantine = &board.quarantine;
    let plain = [
        ("quarantine_files", "Records of which a destination found something bad, kept in quarantine", &quarantine.files),
        ("quarantine_bytes", "Length of what is kept in quarantine, in bytes", &quarantine.bytes),
        ("quarantine_limit_bytes", "Bound of the quarantine, in bytes; 0 without one", &quarantine.bytes_max),
    ];
    for (name, help, value) in plain {
        gauge(encoder, name, help, |family| family.gauge(&[], value.load(Ordering::Relaxed)))?;
    }
    counter(
        encoder,
        "disk_damaged_records",
        "Damaged records that verification found on disk, each dropped as Corrupt at its turn",
        |family| family.counter(&[], board.damaged_records.load(Ordering::Relaxed)),
    )?;
    gauge(
        encoder,
        "disk_damaged_places",
        "Places of the disk that the last start found damaged; what they held counts as Corrupt where a checkpoint, a record's header or a footer knows it",
        |family| family.gauge(&[], board.damaged_places.load(Ordering::Relaxed)),
    )?;
    gauge(
        encoder,
        "config_refused",
        "1 while the document on disk is not the one that runs, because it is wrong or needs a restart",
        |family| family.gauge(&[], u64::from(board.config_error().is_some())),
    )?;
    counter(encoder, "config_reloads", "Changed documents, by what became of them", |family| {
        board.reloads().try_for_each(|(reload, count)| family.counter(&[("result", reload.label())], count))
    })?;
    gauge(encoder, "destination_consecutive_failures", "Failed attempts since the last success", |family| {
        board.destinations().iter().try_for_each(|(name, state)| family.gauge(&[("destination", name)], state.consecutive_failures))
    })
}
