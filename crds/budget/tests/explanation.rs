//! The reasons of a budget, word by word: they are what `status.effective` and `forebay-agent check` show.

use budget::{Limits, solve};
use crds::agent::{Acknowledge, BufferMode};

fn text(limits: &Limits) -> String {
    let budget = solve(limits).expect("the limits are large enough");
    budget.settings.iter().map(|setting| format!("{} {}: {}\n", setting.name, setting.value, setting.because)).collect()
}

#[test]
fn every_number_names_what_decided_it_and_what_would_raise_it() {
    assert_eq!(
        text(&Limits { queue_bytes_wanted: Some(50 << 20), ..Limits::default() }),
        concat!(
            "queueBytes 50Mi: buffer.memory.size; it may grow as far as resources.limits.memory leaves room\n",
            "queueItems 139810: 25.5Mi of index, a tenth of resources.limits.memory (256Mi), at 192 bytes an item; raise that limit\n",
            "receiveBytes 38.3Mi: 15 % of resources.limits.memory (256Mi), at least 8Mi; raise that limit\n",
            "requestBytesMax 16Mi: half of receiveBytes, at most two thirds of a destination's share of sendingBytes and 16Mi; raise resources.limits.memory\n",
            "sendingBytes 25.5Mi: 10 % of resources.limits.memory (256Mi), at least 8Mi per destination; raise that limit\n",
            "inFlight 32: requests of 256Ki within a third of sendingBytes, shared by 1 destinations, at most 32 each; a larger request counts as several\n",
            "workers 1: resources.limits.cpu (500m), rounded up to whole cores\n",
            "acknowledge Memory: what buffer.mode Memory has unless buffer.acknowledge is set\n",
            "drainSeconds 25: drain.deadlineSeconds, or 25\n",
            "terminationGraceSeconds 30: drainSeconds and 5 more for the last report and the end by force\n",
        )
    );
    let limits = Limits {
        mode: BufferMode::Spill,
        acknowledge: Some(Acknowledge::Fsync),
        disk_bytes: 1 << 30,
        destinations: 3,
        ebpf: true,
        ..Limits::default()
    };
    assert_eq!(
        text(&limits),
        concat!(
            "queueBytes 99.1Mi: what 256Mi of resources.limits.memory leaves beside 51.1Mi for the process, 16Mi for kernel events, 38.3Mi to receive, 25.5Mi to send and 25.5Mi of index; raise that limit\n",
            "queueItems 139810: 25.5Mi of index, a tenth of resources.limits.memory (256Mi), at 192 bytes an item; raise that limit\n",
            "receiveBytes 38.3Mi: 15 % of resources.limits.memory (256Mi), at least 8Mi; raise that limit\n",
            "requestBytesMax 5.6Mi: half of receiveBytes, at most two thirds of a destination's share of sendingBytes and 16Mi; raise resources.limits.memory\n",
            "sendingBytes 25.5Mi: 10 % of resources.limits.memory (256Mi), at least 8Mi per destination; raise that limit\n",
            "inFlight 11: requests of 256Ki within a third of sendingBytes, shared by 3 destinations, at most 32 each; a larger request counts as several\n",
            "workers 1: resources.limits.cpu (500m), rounded up to whole cores\n",
            "diskBytes 972.7Mi: buffer.disk.size (1Gi) less 5 %, at least 1Mi, for checkpoints and blocks; raise that size\n",
            "diskBytesPerDestination 258.6Mi: diskBytes less quarantine, reserve and 8 segments, divided by 3 destinations; raise buffer.disk.size\n",
            "segmentBytes 15.1Mi: a 64th of diskBytes, 128Ki to 64Mi; raise buffer.disk.size\n",
            "acknowledge Fsync: buffer.acknowledge\n",
            "drainSeconds 25: drain.deadlineSeconds, or 25\n",
            "terminationGraceSeconds 30: drainSeconds and 5 more for the last report and the end by force\n",
        )
    );
}
