//! The commands that end an engine, and what they do to what memory alone holds.

use std::time::Duration;

use vocabulary::{Class, DropReason};

use crate::engine::Place;
use crate::lifecycle::Lifecycle;
use crate::{BufferMode, Persist, Phase, Pipeline, RecordId};

impl Pipeline {
    /// Told to end, within `deadline` from now: clients are refused from this call on, whatever the queues hold. A second call
    /// ends at once: what memory alone holds is dropped as `ForcedShutdown`.
    pub fn handle_shutdown(&mut self, now: Duration, deadline: Duration) {
        self.observe(now);
        self.is_dirty = true;
        match self.phase() {
            Phase::Running => self.lifecycle = Lifecycle::close(self.now, deadline, self.has_disk()),
            Phase::Stopped => {}
            _ => {
                self.lifecycle = Lifecycle::Stopped;
                self.drop_volatile();
                self.awaited.end();
            }
        }
    }

    /// Every input has handed over what it had.
    pub fn handle_inputs_stopped(&mut self, now: Duration) {
        self.observe(now);
        self.lifecycle.inputs_stopped();
    }

    /// In `Flushing` with a disk: up to `most` records that memory alone holds, each handed out once, most important first. The
    /// shell appends them and reports `handle_stored` or `handle_store_failed`.
    pub fn poll_flush(&mut self, now: Duration, most: usize) -> Vec<Persist> {
        self.observe(now);
        let mut records = Vec::new();
        if self.config.mode != BufferMode::Spill || self.phase() != Phase::Flushing {
            return records;
        }
        for class in Class::ALL {
            let cursor = self.flush_cursor[class];
            for (&sequence, entry) in self.lanes[class].entries.range_mut(cursor..) {
                if records.len() >= most {
                    return records;
                }
                self.flush_cursor[class] = sequence + 1;
                let (Place::Memory, Some(body)) = (entry.place, &entry.body) else { continue };
                records.push(Persist {
                    id: RecordId { class, sequence },
                    signal: entry.signal,
                    counts: entry.counts,
                    received_unix_ms: entry.received_unix_ms,
                    is_buffered: false,
                    body: body.clone(),
                });
                entry.place = Place::Flushing;
            }
        }
        records
    }

    /// The end: what no disk holds is given up.
    pub(crate) fn drop_volatile(&mut self) {
        for class in Class::ALL {
            let sequences: Vec<u64> =
                self.lanes[class].entries.iter().filter(|(_, entry)| entry.place != Place::Disk).map(|(&sequence, _)| sequence).collect();
            for sequence in sequences {
                self.give_up(RecordId { class, sequence }, DropReason::ForcedShutdown);
            }
        }
    }
}
