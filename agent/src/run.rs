//! The process from start to end: what is built in which order, and what is stopped in which.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use crds::agent::{AgentConfig, OtlpSource};
use enrich::Index;
use inputs::{Gate, Listener, Room};
use otlp::{Limits, Rules};
use pipeline::{Books, Pipeline, Recovered};
use spool::Spool;
use spool::points::reach;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::board::{Board, SourceCondition, Started};
use crate::config_watch::{Change, ConfigWatch};
use crate::drain::{Drain, finish_storage};
use crate::engine::{Engine, unix_ms};
use crate::fleet::FleetClient;
use crate::kernel::Kernel;
use crate::ledger_page::LedgerPage;
use crate::quarantine::Shelf;
use crate::receipt::{self, PreviousEnd, Receipt};
use crate::reload::{Running, Way};
use crate::report::Reporter;
use crate::settings::Settings;
use crate::storage::{QUEUE_MAX, Storage, chain};
use crate::timetable::{Step, Timetable};
use crate::{admin, buffer, check, intake, kernel, logging, pods, stage};

/// Pause between two tries to get the OTLP port.
const BIND_EVERY: Duration = Duration::from_secs(2);
/// Threads for disk reads and name lookups: more would only queue in the disk.
const BLOCKING_THREADS_MAX: usize = 64;
/// Name of the OTLP source on the board.
const OTLP: &str = "otlp";

/// What the environment says about the place the agent runs in; the operator sets it from the downward API.
struct Place {
    pod: String,
    pod_uid: String,
    namespace: String,
    node: Option<String>,
    config_hash: String,
}

/// The two signals that end a process; each further one hurries.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Reads the configuration, runs, and returns after a graceful or forced end.
pub(crate) fn start(file: Option<&Path>) -> anyhow::Result<()> {
    let settings = match file {
        Some(file) => check::read(file)?,
        None => Settings::for_a_person()?,
    };
    logging::install();
    // Several TLS users in one process: name the provider once, or each would have to.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow::anyhow!("a TLS provider was installed before"))?;
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS_MAX);
    if settings.document.workers > 0 {
        builder.worker_threads(usize::try_from(settings.document.workers)?);
    }
    let runtime = builder.build().context("cannot start the runtime")?;
    let ended = runtime.block_on(run(settings, file));
    runtime.shutdown_timeout(*ended.as_ref().unwrap_or(&Duration::ZERO));
    ended.map(|_| ())
}

/// Returns how long what hangs in the runtime may yet be waited for.
async fn run(mut settings: Settings, file: Option<&Path>) -> anyhow::Result<Duration> {
    let mut signals = Signals::install().context("cannot listen for signals")?;
    let place = Place::from_environment();
    settings.pipeline.replay_seed = place.seed();
    let board = Arc::new(Board::new());
    let mut services = JoinSet::new();
    let (address, shown) = (settings.document.admin_listen.clone(), board.clone());
    services.spawn(async move { stage::keep_up("admin", &shown, || admin::serve(address.clone(), shown.clone())).await });
    let (told, changes) = mpsc::channel(1);
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let watch = ConfigWatch::new(file.to_owned(), text, board.clone(), told).context("cannot listen for SIGHUP")?;
        let (watch, shown) = (tokio::sync::Mutex::new(watch), board.clone());
        services.spawn(async move { stage::keep_up("configuration", &shown, async || watch.lock().await.run().await).await });
    }
    let opened = tokio::select! {
        opened = open_buffer(&settings, &place, &board) => opened,
        () = signals.next() => {
            tracing::info!("told to end before the buffer was open");
            return Ok(Duration::ZERO);
        }
    };
    reach("start.opened");
    let agent = Agent::build(settings, board, opened)?;
    Ok(agent.run_until_told(&place, signals, changes).await)
}

/// The pipeline as the disk knew it, and the disk.
struct Opened {
    pipeline: Pipeline,
    spool: Option<(Spool, Shelf)>,
    ledger_id: String,
    previous_end: PreviousEnd,
}

async fn open_buffer(settings: &Settings, place: &Place, board: &Arc<Board>) -> Opened {
    let Some(disk) = &settings.document.buffer.disk else {
        let ledger_id = format!("{:032x}", rand::random::<u128>());
        let pipeline = Pipeline::new(settings.pipeline.clone(), None);
        return Opened { pipeline, spool: None, ledger_id, previous_end: PreviousEnd::None };
    };
    let identity = settings.document.pipeline.as_ref().map_or_else(|| "local".to_owned(), |pipeline| pipeline.uid.clone());
    let (spool, recovery) = buffer::open(disk, identity, place.host(), board).await;
    let is_used = recovery.recovered.checkpoint.is_some() || !recovery.recovered.stored.is_empty();
    let previous_end = receipt::take(Path::new(&disk.path), is_used);
    tracing::info!(records = recovery.recovered.stored.len(), path = disk.path, ?previous_end, "the buffer is open");
    let ledger_id = spool.buffer_id();
    let generation = recovery.recovered.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.generation);
    let (shelf, quarantined) = Shelf::open(disk, &place.host(), generation);
    let recovered = Recovered { quarantined, unix_ms: unix_ms(), ..recovery.recovered };
    let pipeline = Pipeline::new(settings.pipeline.clone(), Some(recovered));
    Opened { pipeline, spool: Some((spool, shelf)), ledger_id, previous_end }
}

/// The running parts.
struct Agent {
    engine: Arc<Engine>,
    board: Arc<Board>,
    running: Running,
    storage: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    fn build(settings: Settings, board: Arc<Board>, opened: Opened) -> anyhow::Result<Self> {
        let Opened { pipeline, spool, ledger_id, previous_end } = opened;
        let reader = spool.as_ref().map(|(spool, _)| spool.reader());
        let (jobs, waiting) = mpsc::channel(QUEUE_MAX);
        let engine = Arc::new(Engine::new(pipeline, spool.is_some().then_some(jobs)));
        let storage = match spool {
            Some((spool, shelf)) => {
                let storage = Storage::new(spool, shelf, settings.retention, engine.clone(), board.clone());
                let runtime = Handle::current();
                let thread = std::thread::Builder::new().name("storage".into()).spawn(move || storage.run(waiting, &runtime));
                Some(thread.context("cannot start the storage thread")?)
            }
            None => None,
        };
        let way = Way { engine: engine.clone(), board: board.clone(), buffer: ledger_id.as_str().into(), reader };
        let running = Running::start(settings, way).context("a destination cannot be set up")?;
        board.start(Started { engine: engine.clone(), ledger_id, previous_end });
        Ok(Self { engine, board, running, storage })
    }

    /// Returns what [`run`] does.
    async fn run_until_told(mut self, place: &Place, mut signals: Signals, mut changes: mpsc::Receiver<Change>) -> Duration {
        let document = self.running.document().clone();
        let (stop_inputs, stopped) = watch::channel(false);
        let mut inputs = JoinSet::new();
        let mut services = JoinSet::new();
        if let Some(otlp) = document.sources.otlp.clone() {
            self.board.expect(OTLP);
            let room = self.running.room();
            let tenant_attribute = document.tenants.as_ref().map(|tenants| Arc::from(tenants.resource_attribute.as_str()));
            let (engine, board, stopped) = (self.engine.clone(), self.board.clone(), stopped.clone());
            let gate = move || intake::gate(&engine, Rules::default(), tenant_attribute.clone());
            inputs.spawn(async move {
                let serve = || serve_otlp(otlp.clone(), room.clone(), &gate, board.clone(), stopped.clone());
                stage::keep_up(OTLP, &board, serve).await;
            });
        }
        let (engine, board) = (self.engine.clone(), self.board.clone());
        services.spawn(async move { stage::keep_up("ledger", &board, || engine.watch_ledger()).await });
        reach("start.serving");
        self.start_kernel(&document, place, &stopped, &mut inputs, &mut services);
        let (stop_fleet, fleet) = self.start_fleet(&document, place);

        self.reload_until(signals.next(), &mut changes).await;
        let told = Instant::now();
        let document = self.running.document().clone();
        tracing::info!(deadline_seconds = document.drain_seconds, "told to end: inputs stop, what is held is sent or kept on disk");
        self.board.draining.store(true, Ordering::Relaxed);
        let deadline = Duration::from_secs(document.drain_seconds.into());
        let drain = Drain { engine: &self.engine, stop_inputs: &stop_inputs, inputs, deadline };
        let before = self.engine.with(|pipeline, _| pipeline.books().clone());
        drain.run(async || signals.next().await).await;
        let directory = document.buffer.disk.as_ref().map(|disk| disk.path.clone());
        let timetable = Timetable::new(deadline);
        let most = |step| timetable.most(step, told.elapsed());
        tokio::select! {
            () = self.end(&before, directory, stop_fleet, fleet, most) => {}
            () = signals.next() => tracing::warn!("another signal: ending at once; what was settled last may be sent again after the next start"),
        }
        most(Step::Runtime)
    }

    /// Applies changed documents until told to end.
    async fn reload_until(&mut self, told: impl Future<Output = ()>, changes: &mut mpsc::Receiver<Change>) {
        tokio::pin!(told);
        loop {
            tokio::select! {
                () = &mut told => return,
                Some(Change { settings, answer }) = changes.recv() => {
                    // Who asked is gone only with the process.
                    answer.send(self.running.apply(settings)).unwrap_or(());
                }
            }
        }
    }

    /// The last checkpoint, the receipt, the last report, the last line.
    async fn end(
        mut self,
        before: &Books,
        directory: Option<String>,
        stop_fleet: watch::Sender<bool>,
        fleet: Option<JoinHandle<()>>,
        most: impl Fn(Step) -> Duration,
    ) {
        self.running.shutdown().await;
        let is_durable = finish_storage(&self.engine, most(Step::Checkpoint)).await;
        if let Some(directory) = directory {
            let after = self.engine.with(|pipeline, _| pipeline.books().clone());
            leave_receipt(Receipt::of(before, &after, unix_ms(), is_durable), directory, most(Step::Receipt)).await;
        }
        if !is_durable {
            tracing::error!("the last checkpoint is not on disk: what was settled since the one before is sent again after the next start");
        } else if self.storage.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the storage thread ended by a panic");
        }
        reach("drain.checkpointed");
        stop_fleet.send_replace(true);
        if let Some(fleet) = fleet
            && tokio::time::timeout(most(Step::Report), fleet).await.is_err()
        {
            tracing::warn!("the last report did not leave in time");
        }
        if let Some(started) = self.board.started() {
            let snapshot = started.engine.snapshot();
            let ledger = serde_json::to_string(&LedgerPage::of(started, &snapshot, &self.board.quarantine)).unwrap_or_default();
            tracing::info!(ledger, "ended");
        }
    }

    fn start_kernel(
        &self,
        document: &AgentConfig,
        place: &Place,
        stopped: &watch::Receiver<bool>,
        inputs: &mut JoinSet<()>,
        services: &mut JoinSet<()>,
    ) {
        let Some(config) = document.sources.ebpf.clone() else { return };
        let node = config.node_name.clone().or_else(|| place.node.clone());
        let index = Arc::new(Mutex::new(Index::new(node.clone())));
        let started = Instant::now();
        let follows = node.filter(|_| pods::is_in_cluster());
        let awaits_names = follows.is_some();
        if let Some(node) = follows {
            let (board, index) = (self.board.clone(), index.clone());
            let follow = move || pods::follow(node.clone(), index.clone(), started);
            services.spawn(async move { stage::keep_up("pods", &board, follow).await });
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (engine, board, runtime) = (self.engine.clone(), self.board.clone(), Handle::current());
        let kernel = Kernel { config, engine, board, rules: Rules::default(), index, started, awaits_names, stop: stop.clone(), runtime };
        let (stopped, board) = (stopped.clone(), self.board.clone());
        inputs.spawn(async move { stage::keep_up("kernel", &board, || follow_kernel(kernel.clone(), stopped.clone())).await });
    }

    fn start_fleet(&self, document: &AgentConfig, place: &Place) -> (watch::Sender<bool>, Option<JoinHandle<()>>) {
        let (stop, stopped) = watch::channel(false);
        let client = document.fleet.clone().map(|config| FleetClient {
            config,
            reporter: Reporter {
                pipeline_uid: document.pipeline.as_ref().map(|pipeline| pipeline.uid.clone()).unwrap_or_default(),
                namespace: place.namespace.clone(),
                pod: place.pod.clone(),
                pod_uid: place.pod_uid.clone(),
                node: place.node.clone().unwrap_or_default(),
                config_hash: place.config_hash.clone(),
            },
            board: self.board.clone(),
        });
        let keep_up = |client: FleetClient| async move { stage::keep_up("fleet", &client.board, || client.run(stopped.clone())).await };
        (stop, client.map(|client| tokio::spawn(keep_up(client))))
    }
}

/// Leaves the receipt for the next start. A disk that hangs must not keep the process.
async fn leave_receipt(receipt: Receipt, directory: String, most: Duration) {
    let written = tokio::task::spawn_blocking(move || receipt.leave(Path::new(&directory)));
    match tokio::time::timeout(most, written).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "the receipt of this end could not be written; the next start takes it for a kill"),
        Ok(Err(_)) | Err(_) => tracing::warn!("the disk did not take the receipt of this end in time; the next start takes it for a kill"),
    }
}

/// Reads the kernel on a thread of its own until told to stop; passes a panic of the thread on.
async fn follow_kernel(kernel: Kernel, mut stopped: watch::Receiver<bool>) {
    let (stop, board) = (kernel.stop.clone(), kernel.board.clone());
    let mut thread = tokio::task::spawn_blocking(move || kernel.run());
    let told = async { stopped.wait_for(|&stopped| stopped).await.map_or((), drop) };
    let ended = tokio::select! {
        ended = &mut thread => ended,
        () = told => {
            stop.store(true, Ordering::Relaxed);
            thread.await
        }
    };
    if let Err(ended) = ended
        && let Ok(panic) = ended.try_into_panic()
    {
        kernel::show_gone(&board, "its thread ended by a panic, which is a fault of the agent; it begins anew");
        std::panic::resume_unwind(panic);
    }
}

/// Serves OTLP until told to stop. A taken port keeps the agent from being ready and is tried again.
async fn serve_otlp(source: OtlpSource, room: Room, gate: impl Fn() -> Gate, board: Arc<Board>, mut stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        let error = match Listener::bind(&source.grpc_listen).await {
            Ok(listener) => {
                tracing::info!(part = OTLP, address = %listener.address(), "listening");
                board.unblock(OTLP);
                board.set_source(OTLP, SourceCondition::On, "");
                let settings = inputs::Settings {
                    request_bytes_max: source.request_bytes_max,
                    room: room.clone(),
                    rules: Rules::default(),
                    limits: Limits::default(),
                };
                let mut told = stopped.clone();
                let stop = async move { told.wait_for(|&stopped| stopped).await.map_or((), drop) };
                match listener.serve(gate(), settings, stop).await {
                    Ok(()) => return,
                    Err(cause) => chain(&cause),
                }
            }
            Err(cause) => chain(&cause),
        };
        board.set_source(OTLP, SourceCondition::Off, &error);
        board.block(OTLP, error);
        tokio::select! {
            () = tokio::time::sleep(BIND_EVERY) => {}
            _ = stopped.changed() => {}
        }
    }
}

impl Place {
    fn from_environment() -> Self {
        let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            pod: read("FOREBAY_POD_NAME").unwrap_or_default(),
            pod_uid: read("FOREBAY_POD_UID").unwrap_or_default(),
            namespace: read("FOREBAY_POD_NAMESPACE").unwrap_or_default(),
            node: read("FOREBAY_NODE_NAME"),
            config_hash: read("FOREBAY_CONFIG_HASH").unwrap_or_default(),
        }
    }

    /// A number that differs from agent to agent, and stays where the agent stays.
    fn seed(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.host(), &self.namespace, &self.pod).hash(&mut hasher);
        hasher.finish()
    }

    /// What a locked buffer shows as its owner.
    fn host(&self) -> String {
        self.node.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
    }
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
