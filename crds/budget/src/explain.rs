//! The reasons of a budget, in words: what decided each number, and what would raise it. Separate from the arithmetic, which
//! is read for other questions.

use crds::agent::{BufferMode, DiskShares};
use crds::quantity::Quantity;

use crate::limits::Limits;
use crate::solve::{Budget, Memory, Setting};

/// Bytes for people: rounded down to a tenth of the largest suffix that leaves at least one.
pub(crate) fn readable(bytes: u64) -> Quantity {
    for (suffix, shift) in [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)] {
        let tenths = bytes >> (shift - 3);
        if bytes >> shift == 0 {
            continue;
        }
        let tenths = tenths * 10 / 8;
        let text =
            if tenths.is_multiple_of(10) { format!("{}{suffix}", tenths / 10) } else { format!("{}.{}{suffix}", tenths / 10, tenths % 10) };
        return Quantity(text);
    }
    Quantity(bytes.to_string())
}

/// Every number of the budget with its reason, in the order of its fields, and when clients are answered.
pub(crate) fn explain(limits: &Limits, memory: &Memory, budget: &Budget) -> Vec<Setting> {
    let mut settings = of_memory(limits, memory, budget);
    settings.extend(of_cpu_and_sending(limits, budget));
    if limits.mode != BufferMode::Memory {
        settings.extend(of_disk(limits, budget));
    }
    settings.push(of_answers(limits));
    settings.extend(of_the_end(budget));
    settings
}

fn of_answers(limits: &Limits) -> Setting {
    let (acknowledge, because) = match limits.acknowledge {
        Some(acknowledge) => (acknowledge, "buffer.acknowledge".to_owned()),
        None => (limits.mode.acknowledge_default(), format!("what buffer.mode {:?} has unless buffer.acknowledge is set", limits.mode)),
    };
    Setting { name: "acknowledge", value: format!("{acknowledge:?}"), because }
}

fn of_memory(limits: &Limits, memory: &Memory, budget: &Budget) -> Vec<Setting> {
    let limit = readable(limits.memory_bytes);
    let kernel = if memory.kernel == 0 { String::new() } else { format!(", {} for kernel events", readable(memory.kernel)) };
    let queue = match limits.queue_bytes_wanted {
        Some(_) => "buffer.memory.size; it may grow as far as resources.limits.memory leaves room".to_owned(),
        None => format!(
            "what {limit} of resources.limits.memory leaves beside {} for the process{kernel}, {} to receive, {} to send and {} of index; raise that limit",
            readable(memory.base),
            readable(memory.receive),
            readable(memory.sending),
            readable(memory.index)
        ),
    };
    vec![
        Setting { name: "queueBytes", value: readable(budget.queue_bytes).0, because: queue },
        Setting {
            name: "queueItems",
            value: budget.queue_items.to_string(),
            because: format!(
                "{} of index, a tenth of resources.limits.memory ({limit}), at 192 bytes an item; raise that limit",
                readable(memory.index)
            ),
        },
        Setting {
            name: "receiveBytes",
            value: readable(budget.receive_bytes).0,
            because: format!("15 % of resources.limits.memory ({limit}), at least 8Mi; raise that limit"),
        },
        Setting {
            name: "requestBytesMax",
            value: readable(budget.request_bytes_max).0,
            because:
                "half of receiveBytes, at most two thirds of a destination's share of sendingBytes and 16Mi; raise resources.limits.memory"
                    .into(),
        },
    ]
}

fn of_cpu_and_sending(limits: &Limits, budget: &Budget) -> [Setting; 3] {
    [
        Setting {
            name: "sendingBytes",
            value: readable(budget.sending_bytes).0,
            because: format!(
                "10 % of resources.limits.memory ({}), at least 8Mi per destination; raise that limit",
                readable(limits.memory_bytes)
            ),
        },
        Setting {
            name: "inFlight",
            value: budget.in_flight.to_string(),
            because: format!(
                "requests of 256Ki within a third of sendingBytes, shared by {} destinations, at most 32 each; a larger request counts as several",
                limits.destinations.max(1)
            ),
        },
        Setting {
            name: "workers",
            value: budget.workers.to_string(),
            because: format!("resources.limits.cpu ({}), rounded up to whole cores", Quantity::of_millicores(limits.cpu_millicores)),
        },
    ]
}

fn of_disk(limits: &Limits, budget: &Budget) -> [Setting; 3] {
    let records = DiskShares::of(budget.disk_bytes, budget.segment_bytes).records;
    [
        Setting {
            name: "diskBytes",
            value: readable(budget.disk_bytes).0,
            because: format!(
                "buffer.disk.size ({}) less 5 %, at least 1Mi, for checkpoints and blocks; raise that size",
                readable(limits.disk_bytes)
            ),
        },
        Setting {
            name: "diskBytesPerDestination",
            value: readable(records / u64::from(limits.destinations.max(1))).0,
            because: format!(
                "diskBytes less quarantine, reserve and 8 segments, divided by {} destinations; raise buffer.disk.size",
                limits.destinations.max(1)
            ),
        },
        Setting {
            name: "segmentBytes",
            value: readable(budget.segment_bytes).0,
            because: "a 64th of diskBytes, 128Ki to 64Mi; raise buffer.disk.size".into(),
        },
    ]
}

fn of_the_end(budget: &Budget) -> [Setting; 2] {
    [
        Setting { name: "drainSeconds", value: budget.drain_seconds.to_string(), because: "drain.deadlineSeconds, or 25".into() },
        Setting {
            name: "terminationGraceSeconds",
            value: budget.termination_grace_seconds.to_string(),
            because: "drainSeconds and 5 more for the last report and the end by force".into(),
        },
    ]
}
