//! The configuration that runs, and how another takes its place while data flows: what a running process can change it changes in one
//! step, and what it cannot is refused as a whole, with the fields named.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crds::agent::{AgentConfig, Buffer, DiskBuffer};
use inputs::Room;
use outputs::{EndpointError, Output};
use pipeline::{DestinationIndex, ReconfigureError};
use spool::Reader;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::board::{Board, Reload};
use crate::dispatch::{self, Dispatch};
use crate::engine::Engine;
use crate::settings::{Settings, Target};
use crate::stage;

/// Why a document does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefusedReload {
    #[error("it changes {}, which needs a restart; nothing of it was applied", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    #[error("a destination cannot be set up")]
    OpenDestination(#[source] EndpointError),
    #[error("it cannot take effect while the agent runs")]
    Reconfigure(#[source] ReconfigureError),
}

/// What every destination is reached with, whatever the document says.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) engine: Arc<Engine>,
    pub(crate) board: Arc<Board>,
    /// Names the buffer to the destinations.
    pub(crate) buffer: Arc<str>,
    /// Reads what memory no longer holds; none without a disk.
    pub(crate) reader: Option<Reader>,
}

/// What a document leads to.
pub(crate) struct Running {
    settings: Settings,
    way: Way,
    room: Room,
    outlets: BTreeMap<String, Outlet>,
    /// One per outlet, and those that were stopped and wait for answers.
    tasks: JoinSet<()>,
}

/// A destination that is sent to.
struct Outlet {
    target: Target,
    stop: watch::Sender<bool>,
}

impl Running {
    /// Begins to send to every destination.
    pub(crate) fn start(settings: Settings, way: Way) -> Result<Self, EndpointError> {
        let room = Room::new(settings.receive_bytes());
        let mut running = Self { settings, way, room, outlets: BTreeMap::new(), tasks: JoinSet::new() };
        let outputs = running.open_what_differs(&running.settings)?;
        let indexes = (0..).map(DestinationIndex).take(running.settings.targets.len()).collect();
        running.follow(indexes, outputs);
        Ok(running)
    }

    pub(crate) const fn document(&self) -> &AgentConfig {
        &self.settings.document
    }

    /// The receive budget.
    pub(crate) fn room(&self) -> Room {
        self.room.clone()
    }

    /// Runs another configuration from here on, or the one before as if nothing had been asked.
    pub(crate) fn apply(&mut self, mut settings: Settings) -> Result<(), RefusedReload> {
        settings.pipeline.replay_seed = self.settings.pipeline.replay_seed;
        let fixed = needs_restart(&self.settings.document, &settings.document);
        if !fixed.is_empty() {
            return Err(RefusedReload::NeedsRestart(fixed));
        }
        let outputs = self.open_what_differs(&settings).map_err(RefusedReload::OpenDestination)?;
        let is_left = |name: &String| outputs.contains_key(name) || !settings.pipeline.destinations.iter().any(|each| each.name == *name);
        let indexes = self.way.engine.with(|pipeline, now| {
            let indexes = pipeline.reconfigure(now, settings.pipeline.clone())?;
            for (_, outlet) in self.outlets.iter().filter(|(name, _)| is_left(name)) {
                outlet.stop.send_replace(true);
            }
            for (destination, &index) in settings.pipeline.destinations.iter().zip(&indexes) {
                if outputs.contains_key(&destination.name) {
                    pipeline.handle_moved(now, index);
                }
            }
            Ok(indexes)
        });
        let indexes = indexes.map_err(RefusedReload::Reconfigure)?;
        self.settings = settings;
        if let Some(disk) = &self.settings.document.buffer.disk {
            self.way.engine.share_disk(disk.shares());
        }
        self.follow(indexes, outputs);
        self.room.resize(self.settings.receive_bytes());
        self.way.engine.wake_senders();
        Ok(())
    }

    /// Ends the tasks, whatever they wait for.
    pub(crate) async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Clients for the destinations that are not sent to yet, or elsewhere.
    fn open_what_differs(&self, settings: &Settings) -> Result<BTreeMap<String, Output>, EndpointError> {
        let mut outputs = BTreeMap::new();
        for (destination, target) in settings.pipeline.destinations.iter().zip(&settings.targets) {
            if self.outlets.get(&destination.name).is_none_or(|outlet| outlet.target != *target) {
                outputs.insert(destination.name.clone(), target.open()?);
            }
        }
        Ok(outputs)
    }

    /// The engine obeys the settings already: tasks begin for the outputs that are new, and what is left is forgotten.
    fn follow(&mut self, indexes: Vec<DestinationIndex>, mut outputs: BTreeMap<String, Output>) {
        let configured = |name: &str| self.settings.pipeline.destinations.iter().any(|destination| destination.name == name);
        for name in self.outlets.keys().filter(|name| !configured(name)) {
            self.way.board.forget_destination(name);
        }
        self.outlets.retain(|name, _| configured(name));
        // Those whose last answers came meanwhile.
        while self.tasks.try_join_next().is_some() {}
        for ((destination, target), index) in self.settings.pipeline.destinations.iter().zip(&self.settings.targets).zip(indexes) {
            let Some(output) = outputs.remove(&destination.name) else { continue };
            let name = destination.name.clone();
            self.way.board.expect_destination(&name);
            let (stop, stopped) = watch::channel(false);
            let Way { engine, board, buffer, reader } = self.way.clone();
            let dispatch = Dispatch {
                engine,
                board,
                destination: index,
                buffer,
                name: name.clone(),
                stopped,
                has_begun: AtomicBool::new(false),
                output,
                reader,
            };
            self.tasks.spawn(async move { stage::keep_up(dispatch::STAGE, &dispatch.board, || dispatch.run()).await });
            self.outlets.insert(name, Outlet { target: target.clone(), stop });
        }
    }
}

impl RefusedReload {
    /// How it counts.
    pub(crate) const fn reload(&self) -> Reload {
        match self {
            Self::NeedsRestart(_) => Reload::NeedsRestart,
            Self::OpenDestination(_) | Self::Reconfigure(_) => Reload::Invalid,
        }
    }
}

/// The fields that differ and that a process reads once.
fn needs_restart(running: &AgentConfig, wanted: &AgentConfig) -> Vec<&'static str> {
    let AgentConfig {
        pipeline,
        sources,
        tenants,
        buffer: Buffer { mode, acknowledge: _, memory_bytes: _, memory_items: _, on_destination_removed: _, max_age_seconds: _, disk },
        classes: _,
        soft_percent: _,
        destinations: _,
        drain_seconds: _,
        workers,
        admin_listen,
        fleet,
    } = wanted;
    let place = |disk: &Option<DiskBuffer>| {
        disk.as_ref().map(|DiskBuffer { path, bytes: _, segment_bytes, on_full: _, retention }| (path.clone(), *segment_bytes, *retention))
    };
    let differs = [
        ("pipeline", running.pipeline != *pipeline),
        ("sources", running.sources != *sources),
        ("tenants", running.tenants != *tenants),
        ("buffer.mode", running.buffer.mode != *mode),
        ("buffer.disk.path, segmentBytes or retention", place(&running.buffer.disk) != place(disk)),
        ("workers", running.workers != *workers),
        ("adminListen", running.admin_listen != *admin_listen),
        ("fleet", running.fleet != *fleet),
    ];
    differs.into_iter().filter(|&(_, differs)| differs).map(|(field, _)| field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "adminListen: 127.0.0.1:1\nsources: {otlp: {grpcListen: '127.0.0.1:1'}}\ndrainSeconds: 1\nsoftPercent: 90\n\
        buffer: {mode: Spill, memoryBytes: 1000, memoryItems: 10, disk: {path: a, bytes: 4000, segmentBytes: 100}}\n\
        destinations: [{name: a, endpoint: 'http://x:1', inFlight: 1}]\n";

    fn document(text: &str) -> AgentConfig {
        AgentConfig::from_yaml(text).expect("the document can be read")
    }

    #[test]
    fn budgets_weights_thresholds_and_destinations_need_no_restart() {
        let other = DOCUMENT.replace("1000", "2000").replace("4000", "9000").replace("softPercent: 90", "softPercent: 80");
        let other = other.replace("name: a", "name: b").replace("drainSeconds: 1", "drainSeconds: 2");
        let other = other.replace("mode: Spill", "mode: Spill, acknowledge: Memory");
        let other = format!("{other}classes: [{{class: Bulk, weight: 3, reservedPercent: 1}}]\n");
        assert_eq!(needs_restart(&document(DOCUMENT), &document(&other)), Vec::<&str>::new());
    }

    #[test]
    fn what_a_process_reads_once_is_named() {
        let other = DOCUMENT
            .replace("path: a", "path: b")
            .replace("Spill", "Mirror")
            .replace("grpcListen: '127.0.0.1:1'", "grpcListen: '127.0.0.1:2'");
        let fields = needs_restart(&document(DOCUMENT), &document(&format!("{other}workers: 3\n")));
        assert_eq!(fields, ["sources", "buffer.mode", "buffer.disk.path, segmentBytes or retention", "workers"]);
        let told = RefusedReload::NeedsRestart(fields).to_string();
        assert!(told.contains("buffer.mode, buffer.disk.path") && told.contains("needs a restart"), "{told}");
    }
}
