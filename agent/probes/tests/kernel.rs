//! The programs on the real kernel: each test makes a cgroup of its own, takes it as the node's root, causes events in it and compares the
//! exact records. Apart from the unit tests, because it needs root and the built object (`FOREBAY_EBPF_OBJECT`, or `target/bpf/agent-ebpf`).
//! Run it with `cargo xtask test --only kernel`, or `cargo test -p probes --test kernel`.
#![expect(clippy::panic, reason = "a test that cannot be set up says why")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use probes::{Event, KernelCounters, Options, Probes, Slot, State, start, unix_nanos, walk_cgroups};

const DEADLINE: Duration = Duration::from_secs(20);

/// A cgroup in the canonical hierarchy, removed with all below it at the end.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn new(name: &str) -> Self {
        let memory = Path::new("/sys/fs/cgroup/memory");
        let parent = if memory.is_dir() { memory } else { Path::new("/sys/fs/cgroup") };
        Self::at(parent.join(format!("forebay-test-{name}-{}", std::process::id())))
    }

    fn at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{} cannot be made ({error}): run as root", path.display()));
        Self { path }
    }

    fn child(&self, name: &str) -> Self {
        Self::at(self.path.join(name))
    }

    fn id(&self) -> u64 {
        fs::metadata(&self.path).expect("it is there").ino()
    }

    /// Limits memory, under either version.
    fn limit_memory(&self, bytes: u64) {
        let file = ["memory.limit_in_bytes", "memory.max"].into_iter().map(|name| self.path.join(name)).find(|file| file.exists());
        fs::write(file.expect("a memory controller"), bytes.to_string()).expect("it takes a limit");
    }

    /// A shell that enters the cgroup and then becomes the command, without a fork. The move happens before the exec.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!("echo $$ > {}/cgroup.procs; {line}", self.path.display()));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(2);
        // A process that has ended may still be counted for an instant.
        while fs::remove_dir(&self.path).is_err() && self.path.exists() && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}

fn options(root: &Cgroup) -> Options {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bpf/agent-ebpf");
    let object = std::env::var_os("FOREBAY_EBPF_OBJECT").map_or_else(|| PathBuf::from(built), PathBuf::from);
    Options { object, cgroup_root: root.path.clone(), btf: None }
}

fn started(root: &Cgroup) -> Probes {
    let probes = start(&options(root)).unwrap_or_else(|error| panic!("{}", chain(&error)));
    for signal in probes.states() {
        assert_eq!(signal.state, State::On, "{}", signal.name);
    }
    probes
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Polls until `enough` says so.
fn poll_until(probes: &mut Probes, events: &mut Vec<Event>, enough: impl Fn(&[Event]) -> bool) {
    let until = Instant::now() + DEADLINE;
    while !enough(events) {
        assert!(Instant::now() < until, "not enough within the deadline: {events:?}");
        probes.poll(Duration::from_millis(50), &mut |event| events.push(event)).expect("the ring can be read");
    }
}

/// Reads two slots, so that both sets of counters are final, and adds up their cells.
fn settle(probes: &mut Probes, events: &mut Vec<Event>) -> Slot {
    let mut sum = BTreeMap::<u64, abi::Churn>::new();
    for _ in 0..2 {
        for (cgroup, churn) in probes.read_slot().expect("the slot can be read").cells {
            let cell = sum.entry(cgroup).or_default();
            *cell = cell.plus([churn.forks, churn.execs, churn.exits]);
        }
        probes.poll(Duration::ZERO, &mut |event| events.push(event)).expect("the rings can be read");
    }
    Slot { cells: sum.into_iter().collect() }
}

fn assert_exact(counters: KernelCounters) {
    assert_eq!(counters.attempted, counters.produced + counters.lost.iter().sum::<u64>(), "{counters:?}");
}

fn exits(events: &[Event]) -> Vec<&abi::Exit> {
    events.iter().filter_map(|event| if let Event::Exit(exit) = event { Some(exit) } else { None }).collect()
}

#[test]
fn an_oom_kill_is_recorded_with_its_victim() {
    let root = Cgroup::new("oom");
    let limited = root.child("limited");
    limited.limit_memory(24 << 20);
    let mut probes = started(&root);
    let before = unix_nanos(0);
    let mut child = limited.command("exec tail /dev/zero").spawn().expect("it starts");
    let status = child.wait().expect("it ends");
    assert_eq!(status.signal(), Some(9), "the kernel did not kill it: {status}");

    let mut events = vec![];
    poll_until(&mut probes, &mut events, |events| !exits(events).is_empty());
    let kills: Vec<_> = events.iter().filter_map(|event| if let Event::OomKill(kill) = event { Some(kill) } else { None }).collect();
    assert_eq!(kills.len(), 1, "{events:?}");
    let kill = kills[0];
    assert_eq!((kill.pid, kill.name(), kill.head.cgroup), (child.id(), b"tail".as_slice(), limited.id()));
    assert!((8 << 20..64 << 20).contains(&kill.anon_rss_bytes), "{} bytes resident", kill.anon_rss_bytes);
    assert!((kill.anon_rss_bytes..1 << 30).contains(&kill.total_vm_bytes), "{} bytes virtual", kill.total_vm_bytes);
    let at = unix_nanos(kill.head.time_nanos);
    assert!(at > before && at <= unix_nanos(u64::MAX), "{at}");
    let exit = exits(&events)[0];
    assert_eq!((exit.pid, exit.signal(), exit.exit_code(), exit.head.cgroup), (child.id(), 9, 137, limited.id()));

    settle(&mut probes, &mut events);
    let counters = probes.counters();
    assert_eq!(counters.lost, [0; 6]);
    assert_exact(counters);
}

#[test]
fn a_death_by_signal_is_recorded_and_an_ordinary_exit_is_only_counted() {
    let root = Cgroup::new("exit");
    let mut probes = started(&root);
    let mut pids = vec![];
    for (line, status) in [("kill -SEGV $$", Some(11)), ("kill -KILL $$", Some(9)), ("exit 3", None), ("true", None)] {
        let mut child = root.command(line).spawn().expect("it starts");
        assert_eq!(child.wait().expect("it ends").signal(), status);
        pids.push(child.id());
    }
    let mut events = vec![];
    let slot = settle(&mut probes, &mut events);
    let found: Vec<_> = exits(&events).into_iter().map(|exit| (exit.pid, exit.signal(), exit.name().to_vec(), exit.head.cgroup)).collect();
    assert_eq!(found, [(pids[0], 11, b"sh".to_vec(), root.id()), (pids[1], 9, b"sh".to_vec(), root.id())]);
    assert_eq!(slot.cells, [(root.id(), abi::Churn { forks: 0, execs: 0, exits: 4 })]);
    let counters = probes.counters();
    assert_eq!((counters.attempted, counters.produced, counters.lost), (6, 6, [0; 6]));
}

#[test]
fn churn_is_counted_per_cgroup_and_outsiders_are_not() {
    let root = Cgroup::new("churn");
    let (first, second) = (root.child("first"), root.child("second"));
    let mut probes = started(&root);
    // Neither a move into the cgroup nor what runs outside of it counts.
    assert!(Command::new("/bin/true").status().expect("it runs").success());
    assert!(first.command("/bin/true; /bin/true; /bin/true; :").status().expect("it runs").success());
    assert!(second.command("exec /bin/true").status().expect("it runs").success());
    let mut events = vec![];
    let slot = settle(&mut probes, &mut events);
    let mut expected =
        vec![(first.id(), abi::Churn { forks: 3, execs: 3, exits: 4 }), (second.id(), abi::Churn { forks: 0, execs: 1, exits: 1 })];
    expected.sort_by_key(|&(id, _)| id);
    assert_eq!(slot.cells, expected);
    assert_eq!(probes.counters(), KernelCounters { attempted: 12, produced: 12, lost: [0; 6] });
    assert_eq!(settle(&mut probes, &mut events).cells, [], "a slot is read once");
}

#[test]
fn births_and_deaths_of_cgroups_are_recorded_with_id_and_path() {
    let root = Cgroup::new("cgroups");
    let mut probes = started(&root);
    let child = root.child("pod");
    let (id, name) = (child.id(), root.path.file_name().expect("it has one").to_string_lossy().into_owned());
    let walked = walk_cgroups(&root.path).expect("it can be walked");
    assert_eq!(walked, [(root.id(), "/".to_string()), (id, "/pod".to_string())]);
    drop(child);
    let mut events = vec![];
    poll_until(&mut probes, &mut events, |events| events.len() >= 2);
    let [Event::CgroupCreated(created), Event::CgroupRemoved(removed)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((created.head.cgroup, removed.head.cgroup), (id, id));
    let path = String::from_utf8_lossy(created.path());
    assert!(path.ends_with(&format!("/{name}/pod")), "{path}");
    settle(&mut probes, &mut events);
    assert_eq!(probes.counters(), KernelCounters { attempted: 2, produced: 2, lost: [0; 6] });
}

/// So many processes, one after the other, each killed by a signal: a fork, an exec, an exit and an urgent record; the shell itself exits too.
fn flood(root: &Cgroup, kills: u64) -> Child {
    root.command(&format!("i=0; while [ $i -lt {kills} ]; do i=$((i+1)); sh -c 'kill -KILL $$'; done; exit 0")).spawn().expect("it starts")
}

#[test]
fn under_a_flood_without_a_reader_every_loss_is_counted() {
    // The ring holds about 1,100 records.
    const KILLS: u64 = 3000;
    let root = Cgroup::new("flood");
    let mut probes = started(&root);
    assert!(flood(&root, KILLS).wait().expect("it ends").success());
    let mut events = vec![];
    let slot = settle(&mut probes, &mut events);
    assert_eq!(slot.cells, [(root.id(), abi::Churn { forks: KILLS, execs: KILLS, exits: KILLS + 1 })]);
    let counters = probes.counters();
    assert_exact(counters);
    assert_eq!(counters.attempted, 4 * KILLS + 1);
    assert!(counters.lost[0] > 0, "the ring never was full: {counters:?}");
    assert_eq!(counters.lost[1..], [0; 5]);
    assert_eq!(exits(&events).len() as u64 + counters.lost[0], KILLS);
}

#[test]
fn while_events_go_on_the_identity_holds_at_every_slot() {
    const KILLS: u64 = 1000;
    let root = Cgroup::new("steady");
    let mut probes = started(&root);
    let mut child = flood(&root, KILLS);
    let (mut events, mut exits_counted, mut before) = (vec![], 0, KernelCounters::default());
    let until = Instant::now() + 3 * DEADLINE;
    while child.try_wait().expect("it can be asked").is_none() {
        assert!(Instant::now() < until, "the flood does not end");
        exits_counted += probes.read_slot().expect("the slot can be read").cells.iter().map(|(_, churn)| churn.exits).sum::<u64>();
        let counters = probes.counters();
        assert_exact(counters);
        assert!(counters.attempted >= before.attempted && counters.produced >= before.produced, "{before:?} then {counters:?}");
        before = counters;
        probes.poll(Duration::ZERO, &mut |event| events.push(event)).expect("the rings can be read");
    }
    exits_counted += settle(&mut probes, &mut events).cells.iter().map(|(_, churn)| churn.exits).sum::<u64>();
    assert_eq!((exits_counted, exits(&events).len() as u64), (KILLS + 1, KILLS));
    assert_eq!(probes.counters(), KernelCounters { attempted: 4 * KILLS + 1, produced: 4 * KILLS + 1, lost: [0; 6] });
}

#[test]
fn a_process_without_the_capabilities_is_told_which_are_missing() {
    let root = Cgroup::new("capabilities");
    let outcome = std::thread::scope(|scope| {
        let without = || {
            // Capabilities belong to the thread: this one gives up all of them, and only it.
            let none = rustix::thread::CapabilitySet::empty();
            let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, sets).expect("they can be given up");
            start(&options(&root)).map(|_| ())
        };
        scope.spawn(without).join().expect("it does not panic")
    });
    let message = outcome.expect_err("it may not load").to_string();
    assert!(message.contains("BPF and PERFMON"), "{message}");
}
