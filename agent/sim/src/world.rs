//! The world around one agent: what happens next, and what must be true after it. First it is rough: requests are begun, peers and the
//! disk misbehave, the process ends. Then it is calm: everything must drain, a fresh probe of every class must arrive, and a last stop
//! and start must find the books unchanged.

use std::collections::BTreeMap;
use std::time::Duration;

use pipeline::{BufferMode, LIMIT_DWELL, Outcome, Quarantined, RecordId};
use spool::model::ModelDisk;
use vocabulary::{Class, DropReason, Signal};

use crate::agenda::Agenda;
use crate::chance::Chance;
use crate::coverage::{Coverage, Sometimes};
use crate::doorway::{Answer, Request};
use crate::items::{Unit, classes_of};
use crate::oracle::Oracle;
use crate::peers::Arrival;
use crate::plan::{Mood, Plan, Rates};
use crate::process::Process;
use crate::trace::Trace;

/// Within this long after the last fault everything must have drained; it holds the longest pauses one after another.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1_200);
/// More events than any sound history has: beyond, something goes round in a circle.
const EVENTS_MAX: u64 = 400_000;

/// More than any record takes.
const RECORD_BYTES_MAX: u64 = 32 << 10;

/// Something that happens.
pub(crate) enum Event {
    /// A client, or the kernel, hands a request over.
    Request(usize),
    /// It reaches the agent.
    Arrive {
        request: usize,
        attempt: u32,
    },
    /// The reply reaches the client.
    Reply {
        request: usize,
        attempt: u32,
        answer: Answer,
    },
    /// The client waits no longer.
    Timeout {
        request: usize,
        attempt: u32,
    },
    /// The storage thread ends what it did.
    Stored {
        life: u32,
    },
    /// The agent's timers.
    Wake {
        life: u32,
    },
    /// A record reaches a destination.
    Receive(Box<Arrival>),
    /// What became of a send reaches the agent.
    Land {
        life: u32,
        flight: u64,
        outcome: Outcome,
    },
    /// The process begins.
    Start,
    Kill,
    PowerCut,
    Shutdown,
    SecondSignal {
        life: u32,
    },
    InputsStop {
        life: u32,
    },
    /// The process ends although its disk hangs.
    Exit {
        life: u32,
    },
    Mood {
        destination: usize,
    },
    DiskFull {
        bytes: u64,
    },
    DiskRoom,
    Reconfigure,
    ClockStep,
    /// The world is calm from here on.
    Calm,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) chance: Chance,
    pub(crate) now: Duration,
    pub(crate) agenda: Agenda<Event>,
    pub(crate) disk: ModelDisk,
    /// Files in quarantine, by destination and record.
    pub(crate) quarantine: BTreeMap<(usize, RecordId), Quarantined>,
    pub(crate) process: Option<Process>,
    pub(crate) lives: u32,
    pub(crate) flights: u64,
    pub(crate) requests: Vec<Request>,
    pub(crate) moods: Vec<Mood>,
    /// The destination that is configured no more.
    pub(crate) removed: Option<usize>,
    /// Bytes and items that memory held when its bound last changed.
    pub(crate) memory_found: (u64, u64),
    /// When the agent last took a request with this unit in hand.
    pub(crate) received_at: BTreeMap<u64, Duration>,
    pub(crate) oracle: Oracle,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
    pub(crate) is_calm: bool,
    pub(crate) is_disk_full: bool,
    pub(crate) was_opened: bool,
    pub(crate) recoveries_cut: u32,
    /// The wall clock beside the true time, in milliseconds.
    pub(crate) skew_ms: u64,
}

impl World {
    pub(crate) fn new(seed: u64, requests_max: u64, trace: Trace) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::draw(&mut chance, requests_max);
        let takes = |signals: &Vec<Signal>| if signals.is_empty() { Signal::ALL.to_vec() } else { signals.clone() };
        let oracle = Oracle::new(plan.config.destinations.iter().map(|destination| takes(&destination.signals)).collect());
        Self {
            moods: plan.moods.iter().map(|moods| moods[0]).collect(),
            plan,
            chance,
            now: Duration::ZERO,
            agenda: Agenda::new(),
            disk: ModelDisk::default(),
            quarantine: BTreeMap::new(),
            process: None,
            removed: None,
            memory_found: (0, 0),
            lives: 0,
            flights: 0,
            requests: Vec::new(),
            received_at: BTreeMap::new(),
            oracle,
            coverage: Coverage::default(),
            trace,
            is_calm: false,
            is_disk_full: false,
            was_opened: false,
            recoveries_cut: 0,
            skew_ms: 1_700_000_000_000,
        }
    }

    pub(crate) fn run(&mut self) {
        let plan = format!("{:?}", self.plan);
        self.say(|| plan);
        self.lay_out();
        self.go_until(World::is_drained);
        let crowded_out = self.crowded_out();
        self.probe();
        self.go_until(World::is_drained);
        let crowded_out = self.crowded_out() - crowded_out;
        let probes = self.requests.iter().filter(|request| request.is_probe).flat_map(|request| &request.units);
        let missing: Vec<_> = probes.filter(|unit| !self.oracle.all_arrived(&[**unit])).collect();
        assert!(missing.len() as u64 <= crowded_out, "the probes {missing:?} did not arrive, and full shares and age cost {crowded_out}");
        self.judge();
        if self.has_disk() {
            self.stop_and_start();
        }
    }

    /// Plans the rough part.
    fn lay_out(&mut self) {
        let rough = self.plan.rough.as_millis() as u64;
        self.plan_in(Duration::ZERO, Event::Start);
        for _ in 0..self.plan.requests {
            let request = self.draw_request();
            self.requests.push(request);
            let at = self.chance.millis(0, rough);
            self.plan_in(at, Event::Request(self.requests.len() - 1));
        }
        for _ in 0..self.plan.ends {
            let at = self.chance.millis(0, rough);
            let end = match self.chance.below(3) {
                0 => Event::Kill,
                1 => Event::PowerCut,
                _ => Event::Shutdown,
            };
            self.plan_in(at, end);
        }
        for _ in 0..self.plan.disk_full_spells {
            let (from, bytes) = (self.chance.millis(0, rough), self.chance.below(3_000));
            let until = from + self.chance.millis(10, 6_000);
            self.plan_in(from, Event::DiskFull { bytes });
            self.plan_in(until, Event::DiskRoom);
        }
        for destination in 0..self.plan.moods.len() {
            for _ in 0..self.chance.below(8) {
                let at = self.chance.millis(0, rough);
                self.plan_in(at, Event::Mood { destination });
            }
        }
        if self.chance.percent(30) {
            let at = self.chance.millis(0, rough);
            self.plan_in(at, Event::ClockStep);
        }
        for _ in 0..self.plan.reconfigurations {
            let at = self.chance.millis(0, rough);
            self.plan_in(at, Event::Reconfigure);
        }
        self.plan_in(self.plan.rough, Event::Calm);
    }

    fn go_until(&mut self, is_over: impl Fn(&Self) -> bool) {
        let mut events = 0;
        let deadline = self.now.max(self.plan.rough) + DRAIN_TIME_MAX;
        while !(self.is_calm && is_over(self)) {
            let Some((at, event)) = self.agenda.next() else { unreachable!("nothing happens any more, and something is held") };
            self.now = at;
            self.happen(event);
            self.settle();
            events += 1;
            assert!(
                events < EVENTS_MAX && self.now < deadline,
                "not drained {:?} after the last fault: {}",
                self.now - self.plan.rough,
                self.status()
            );
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Request(request) => self.begin_attempt(request),
            Event::Arrive { request, attempt } => self.arrive(request, attempt),
            Event::Reply { request, attempt, answer } => self.reply(request, attempt, answer),
            Event::Timeout { request, attempt } => self.time_out(request, attempt),
            Event::Stored { life } if self.is_alive(life) => self.end_storage_work(),
            Event::Wake { life } if self.is_alive(life) => self.wake(),
            Event::Receive(arrival) => self.receive(*arrival),
            Event::Land { life, flight, outcome } if self.is_alive(life) => self.land(flight, outcome),
            Event::Start => self.start(),
            Event::Kill if !self.is_calm => self.kill(),
            Event::PowerCut if !self.is_calm => self.cut_power(),
            Event::Shutdown if !self.is_calm => self.shut_down(),
            Event::SecondSignal { life } if self.is_alive(life) => self.second_signal(),
            Event::InputsStop { life } if self.is_alive(life) => self.stop_inputs(),
            Event::Exit { life } if self.is_alive(life) => self.exit(),
            Event::Mood { destination } if !self.is_calm => {
                self.moods[destination] = self.chance.one_of(&self.plan.moods[destination]);
                let mood = self.moods[destination];
                self.say(|| format!("destination {destination} is {mood:?}"));
            }
            Event::DiskFull { bytes } if !self.is_calm => {
                self.coverage.note(Sometimes::DiskFull);
                self.say(|| format!("the disk has room for {bytes} bytes"));
                self.is_disk_full = true;
                self.disk.set_room(Some(bytes));
            }
            Event::DiskRoom => {
                self.is_disk_full = false;
                self.disk.set_room(None);
            }
            Event::Reconfigure if !self.is_calm => self.reconfigure(),
            Event::ClockStep => {
                self.coverage.note(Sometimes::ClockStepped);
                self.skew_ms = self.skew_ms.saturating_add(self.chance.below(200_000)).saturating_sub(100_000);
            }
            Event::Calm => self.calm_down(),
            _ => {}
        }
    }

    /// What the agent does by itself after anything that happened, and what must hold then.
    fn settle(&mut self) {
        if let Some(process) = &self.process {
            self.oracle.note_given_up(&process.pipeline);
        }
        self.pump();
        self.begin_storage_work();
        let Some(process) = &self.process else { return };
        if let Err(broken) = process.pipeline.check() {
            unreachable!("the ledger is broken: {broken:?}");
        }
    }

    fn calm_down(&mut self) {
        self.say(|| "calm".to_owned());
        self.is_calm = true;
        self.is_disk_full = false;
        self.disk.heal();
        self.moods.fill(Mood::Well);
        self.configure_all();
        self.plan.rates =
            Rates { sync_fails: 0, write_fails: 0, read_fails: 0, power_goes: 0, disk_hangs: 0, recovery_is_cut: 0, message_lost: 0 };
        if self.plan.config.mode == BufferMode::Archive {
            self.open_archive();
        }
    }

    /// The agent is set up anew with a mode that sends, as somebody does who wants what his archive holds.
    fn open_archive(&mut self) {
        let held = self.process.as_ref().map_or(0, |process| process.pipeline.gauges().held_records);
        if held > 0 {
            self.coverage.note(Sometimes::ArchiveSent);
        }
        self.plan.config.mode = BufferMode::Mirror;
        self.shut_down();
    }

    /// Every client has its answer, and nothing is held.
    fn is_drained(&self) -> bool {
        let Some(process) = &self.process else { return false };
        self.requests.iter().all(|request| request.is_done)
            && !process.is_closing
            && process.is_storage_idle()
            && process.flights.is_empty()
            && !process.pipeline.is_checkpoint_due()
            && process.pipeline.gauges().held_records == 0
    }

    fn status(&self) -> String {
        let open = self.requests.iter().filter(|request| !request.is_done).count();
        match &self.process {
            Some(process) => format!("{open} requests open, {:?}", process.pipeline.gauges()),
            None => format!("{open} requests open, no process"),
        }
    }

    /// One request for each signal and class.
    fn probe(&mut self) {
        for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
            for &class in classes_of(signal) {
                let unit = self.oracle.make(signal, class);
                let mut request = Request::of(signal, vec![unit]);
                request.is_probe = true;
                self.requests.push(request);
                // Until then a soft limit that was just left is kept.
                self.plan_in(LIMIT_DWELL, Event::Request(self.requests.len() - 1));
            }
        }
    }

    /// Items that were dropped because a destination's share of the disk was full, which a few probes at once can do to a small one, or
    /// because they waited longer than the age limit, as the pause that a destination asked for may have them do.
    fn crowded_out(&self) -> u64 {
        let Some(process) = &self.process else { return 0 };
        let books = process.pipeline.books();
        let new: u64 = books.inputs.iter().flatten().map(|cell| cell.dropped[DropReason::DiskFull.index()]).sum();
        let held =
            [DropReason::DiskFull, DropReason::Evicted, DropReason::Expired].map(|reason| crate::peers::dropped(&process.pipeline, reason));
        new + held.iter().sum::<u64>()
    }

    fn judge(&self) {
        let Some(process) = &self.process else { return };
        let is_whole = self.has_disk() || self.lives == 1;
        if let Err(broken) = process.pipeline.check_held() {
            unreachable!("the ledger is broken: {broken:?}");
        }
        self.oracle.judge(process.pipeline.books(), is_whole);
        // Nothing is held, so the disk keeps no more than the segments that grow and what a failed deletion left.
        let segments = self.disk.names().into_iter().filter(|name| name.ends_with(".segment"));
        let bytes: u64 = segments.map(|name| self.disk.content(&name).len() as u64).sum();
        let most = 2 * Class::COUNT as u64 * (self.plan.segment_bytes + RECORD_BYTES_MAX);
        assert!(bytes <= most, "{bytes} bytes of segments are kept for nothing");
    }

    /// A graceful end and a start of an agent that holds nothing change no number.
    fn stop_and_start(&mut self) {
        let before = self.process.as_ref().map(|process| process.pipeline.books().clone());
        let life = self.lives;
        self.shut_down();
        self.go_until(|world| world.lives > life && world.is_drained());
        let after = self.process.as_ref().map(|process| process.pipeline.books().clone());
        let (Some(before), Some(mut after)) = (before, after) else { return };
        // The bound widens at every start by what memory might have taken on; nothing else may change.
        after.crash_volatile_bounds = before.crash_volatile_bounds;
        assert_eq!(before, after, "a stop and a start of an agent that holds nothing changed its books");
        self.judge();
    }

    pub(crate) fn plan_in(&mut self, delay: Duration, event: Event) {
        self.agenda.plan(self.now + delay, event);
    }

    pub(crate) fn is_alive(&self, life: u32) -> bool {
        self.process.is_some() && self.lives == life
    }

    pub(crate) fn has_disk(&self) -> bool {
        self.plan.config.mode != BufferMode::Memory
    }

    pub(crate) fn unix_ms(&self) -> u64 {
        self.skew_ms + self.now.as_millis() as u64
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        self.trace.line(self.now, line);
    }

    /// A request of one signal, mixed or not.
    fn draw_request(&mut self) -> Request {
        let signal = self.chance.one_of(&[Signal::Logs, Signal::Logs, Signal::Traces, Signal::Metrics]);
        let classes = classes_of(signal);
        let count = if self.chance.percent(2) { self.chance.between(60, 150) } else { self.chance.between(1, 14) };
        let one = (!self.chance.percent(self.plan.mixed_percent)).then(|| self.chance.one_of(classes));
        let units: Vec<Unit> = (0..count)
            .map(|_| {
                let class: Class = one.unwrap_or_else(|| self.chance.one_of(classes));
                self.oracle.make(signal, class)
            })
            .collect();
        let mut request = Request::of(signal, units);
        request.is_kernel = self.chance.percent(self.plan.kernel_percent);
        request
    }
}
