//! Checks what can be checked before, loads the object, and attaches what this kernel has. Separate from the reading, because everything that
//! a kernel can refuse is refused here.

use std::path::{Path, PathBuf};

use abi::{VERSION, VERSION_SECTION};
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf};
use aya::programs::BtfTracePoint;
use aya::{Ebpf, EbpfLoader};
use rustix::thread::{CapabilitySet, capabilities};

use crate::account::Account;
use crate::btf::Btf;
use crate::error::StartError;
use crate::read::{Maps, Probes};
use crate::{cgroups, layout};

/// What to load and where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kernel programs.
    pub object: PathBuf,
    /// The agent's view of its node's cgroup tree.
    pub cgroup_root: PathBuf,
    /// The kernel's type information, where it is not at `/sys/kernel/btf/vmlinux`.
    pub btf: Option<PathBuf>,
}

/// Whether a signal is collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// All of it.
    On,
    /// A part; the reason names what is missing.
    Degraded(String),
    /// Nothing of it, and why.
    Off(String),
}

/// One signal and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalState {
    /// `oom_kills`, `process_exits`, `process_churn` or `cgroups`.
    pub name: &'static str,
    /// Whether it is collected.
    pub state: State,
}

/// A program, its tracepoint, and the types of arguments it relies on (`*`: any).
struct Wanted {
    program: &'static str,
    tracepoint: &'static str,
    arguments: &'static [&'static str],
}

const fn wanted(program: &'static str, tracepoint: &'static str, arguments: &'static [&'static str]) -> Wanted {
    Wanted { program, tracepoint, arguments }
}

const PROGRAMS: [Wanted; 6] = [
    wanted("fb_oom_kill", "mark_victim", &["task_struct"]),
    wanted("fb_exit", "sched_process_exit", &["task_struct", "*"]),
    wanted("fb_fork", "sched_process_fork", &["task_struct", "task_struct"]),
    wanted("fb_exec", "sched_process_exec", &["task_struct"]),
    wanted("fb_cgroup_new", "cgroup_mkdir", &["cgroup", "*"]),
    wanted("fb_cgroup_gone", "cgroup_rmdir", &["cgroup"]),
];

/// Which programs make up a signal.
const SIGNALS: [(&str, &[&str]); 4] = [
    ("oom_kills", &["fb_oom_kill"]),
    ("process_exits", &["fb_exit"]),
    ("process_churn", &["fb_fork", "fb_exec", "fb_exit"]),
    ("cgroups", &["fb_cgroup_new", "fb_cgroup_gone"]),
];

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Loads and attaches everything this kernel has. Afterwards no capability is needed any more.
///
/// # Errors
/// When nothing at all can be collected: the message says what is missing and what to do.
pub fn start(options: &Options) -> Result<Probes, StartError> {
    let object = read_object(&options.object)?;
    check_capabilities()?;
    let hierarchy = cgroups::find(&options.cgroup_root)?;
    let btf_path = options.btf.as_deref().unwrap_or(Path::new(KERNEL_BTF));
    let btf_bytes = std::fs::read(btf_path).map_err(|source| StartError::ReadBtf { path: btf_path.into(), source })?;
    let btf = Btf::parse(btf_bytes)?;
    let page_bytes = rustix::param::page_size();
    let layout = layout::resolve(&btf, hierarchy.number, page_bytes)?;
    let loader_btf = aya::Btf::parse_file(btf_path, aya::Endianness::default()).map_err(StartError::UseBtf)?;

    let mut ebpf = EbpfLoader::new()
        .btf(Some(&loader_btf))
        .override_global("LAYOUT", layout.as_slice(), true)
        .override_global("ROOT_CGROUP", &hierarchy.root, true)
        .load(&object)
        .map_err(StartError::LoadObject)?;
    let outcomes: Vec<(&str, Result<(), String>)> =
        PROGRAMS.iter().map(|one| (one.program, attach(&mut ebpf, one, &btf, &loader_btf))).collect();
    if let Some(reason) = all_refused(&outcomes) {
        return Err(StartError::NothingAttached { reason });
    }
    let states = SIGNALS.iter().map(|&(name, programs)| SignalState { name, state: state(programs, &outcomes) }).collect();
    let maps = take_maps(&mut ebpf)?;
    Ok(Probes::new(ebpf, maps, states, Account::default()))
}

fn read_object(path: &Path) -> Result<Vec<u8>, StartError> {
    let bytes = std::fs::read(path).map_err(|source| StartError::ReadObject { path: path.into(), source })?;
    let parsed = aya_obj::Object::parse(&bytes).map_err(|source| StartError::ParseObject { path: path.into(), source })?;
    let found = parsed.maps.get(VERSION_SECTION).and_then(|map| map.data().first_chunk()).map(|four| u32::from_ne_bytes(*four));
    if found != Some(VERSION) {
        return Err(StartError::OtherVersion { path: path.into(), found });
    }
    Ok(bytes)
}

/// Asks before the kernel does, because its answer is a bare EPERM.
fn check_capabilities() -> Result<(), StartError> {
    // A kernel that cannot tell is asked by trying.
    let Ok(held) = capabilities(None) else { return Ok(()) };
    let held = held.effective;
    if held.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(());
    }
    let wanted = [(CapabilitySet::BPF, "BPF"), (CapabilitySet::PERFMON, "PERFMON")];
    let missing: Vec<&str> = wanted.into_iter().filter(|&(one, _)| !held.contains(one)).map(|(_, name)| name).collect();
    if missing.is_empty() { Ok(()) } else { Err(StartError::Capability { missing: missing.join(" and ") }) }
}

/// Loads and attaches one program, or says why not.
fn attach(ebpf: &mut Ebpf, wanted: &Wanted, btf: &Btf, loader_btf: &aya::Btf) -> Result<(), String> {
    let Wanted { program, tracepoint, arguments } = wanted;
    let found = btf.tracepoint(tracepoint).ok_or_else(|| format!("this kernel has no tracepoint {tracepoint}"))?;
    let fits = |(index, &name): (usize, &&str)| match found.get(index) {
        Some(&argument) => name == "*" || btf.pointee(argument).is_some_and(|structure| btf.name(structure) == name),
        None => false,
    };
    if !arguments.iter().enumerate().all(fits) {
        return Err(format!("the tracepoint {tracepoint} of this kernel has other arguments"));
    }
    let loaded = ebpf.program_mut(program).ok_or_else(|| format!("the object has no program {program}"))?;
    let loaded: &mut BtfTracePoint = loaded.try_into().map_err(|error| format!("{program}: {error}"))?;
    loaded.load(tracepoint, loader_btf).map_err(|error| format!("{program} was refused: {}", last_lines(&error.to_string())))?;
    loaded.attach().map_err(|error| format!("{program} cannot be attached: {error}"))?;
    Ok(())
}

/// The end of a verifier's log is where it says why.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(6)..).unwrap_or(&[]).join(" | ")
}

fn all_refused(outcomes: &[(&str, Result<(), String>)]) -> Option<String> {
    if outcomes.iter().any(|(_, outcome)| outcome.is_ok()) {
        return None;
    }
    outcomes.iter().find_map(|(_, outcome)| outcome.clone().err())
}

fn state(programs: &[&str], outcomes: &[(&str, Result<(), String>)]) -> State {
    let mine = outcomes.iter().filter(|(program, _)| programs.contains(program));
    let reasons: Vec<&str> = mine.filter_map(|(_, outcome)| outcome.as_ref().err().map(String::as_str)).collect();
    match reasons.len() {
        0 => State::On,
        count if count == programs.len() => State::Off(reasons.join("; ")),
        _ => State::Degraded(reasons.join("; ")),
    }
}

fn take_maps(ebpf: &mut Ebpf) -> Result<Maps, StartError> {
    Ok(Maps {
        urgent: take(ebpf, "URGENT", RingBuf::<MapData>::try_from)?,
        lifecycle: take(ebpf, "LIFECYCLE", RingBuf::<MapData>::try_from)?,
        churn: take(ebpf, "CHURN", PerCpuHashMap::try_from)?,
        counters: take(ebpf, "COUNTERS", PerCpuArray::try_from)?,
        slot: take(ebpf, "SLOT", Array::try_from)?,
    })
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str, read: impl FnOnce(Map) -> Result<T, MapError>) -> Result<T, StartError> {
    let map = ebpf.take_map(name).ok_or(StartError::TakeMap { name, source: None })?;
    read(map).map_err(|source| StartError::TakeMap { name, source: Some(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes() -> Vec<(&'static str, Result<(), String>)> {
        vec![("fb_fork", Ok(())), ("fb_exec", Err("no exec".into())), ("fb_exit", Ok(())), ("fb_oom_kill", Err("no kill".into()))]
    }

    #[test]
    fn a_signal_is_as_good_as_its_programs() {
        assert_eq!(state(&["fb_exit"], &outcomes()), State::On);
        assert_eq!(state(&["fb_fork", "fb_exec", "fb_exit"], &outcomes()), State::Degraded("no exec".into()));
        assert_eq!(state(&["fb_oom_kill"], &outcomes()), State::Off("no kill".into()));
    }

    #[test]
    fn only_a_kernel_that_refuses_everything_is_an_error() {
        assert_eq!(all_refused(&outcomes()), None);
        assert_eq!(all_refused(&[("a", Err("first".into())), ("b", Err("second".into()))]), Some("first".into()));
    }

    #[test]
    fn a_missing_object_and_one_that_is_none_say_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("agent-ebpf");
        let error = read_object(&path).expect_err("it is not there").to_string();
        assert!(error.contains("cargo xtask ebpf"), "{error}");
        std::fs::write(&path, b"no object").expect("it can be written");
        let error = read_object(&path).expect_err("it is no object").to_string();
        assert!(error.contains("holds no kernel programs"), "{error}");
    }
}
