//! Every place at which the program can be killed, and how to get it there.

use std::path::Path;

/// What leads to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// Load, whether or not the backend takes it.
    Load,
    /// Load that the backend takes, so that segments are given back.
    Delivery,
    /// The first start in a directory.
    FirstStart,
    /// Any later start.
    Start,
    /// A start after a kill in the middle of a write.
    TornStart,
    /// An end by SIGTERM.
    Drain,
    /// An end by SIGTERM with records that only memory holds.
    Flush,
}

/// One place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) name: &'static str,
    pub(crate) scene: Scene,
    /// It is surely reached so often.
    pub(crate) most: u64,
}

const fn point(name: &'static str, scene: Scene, most: u64) -> Point {
    Point { name, scene, most }
}

pub(crate) const POINTS: [Point; 49] = [
    point("disk.create", Scene::Load, 6),
    point("disk.created", Scene::Load, 6),
    point("disk.write", Scene::Load, 60),
    point("disk.wrote-half", Scene::Load, 60),
    point("disk.wrote", Scene::Load, 60),
    point("disk.sync", Scene::Load, 60),
    point("disk.synced", Scene::Load, 60),
    point("disk.sync-directory", Scene::Load, 8),
    point("disk.synced-directory", Scene::Load, 8),
    point("disk.remove", Scene::Delivery, 1),
    point("disk.removed", Scene::Delivery, 1),
    point("disk.rename", Scene::Delivery, 4),
    point("disk.renamed", Scene::Delivery, 4),
    point("disk.truncate", Scene::Load, 4),
    point("disk.truncated", Scene::Load, 4),
    point("log.written", Scene::Load, 50),
    point("log.synced", Scene::Load, 50),
    point("log.full", Scene::Load, 5),
    point("log.created", Scene::Load, 5),
    point("log.released", Scene::Delivery, 3),
    point("log.forgotten", Scene::Delivery, 3),
    point("slot.written", Scene::Load, 5),
    point("slot.synced", Scene::Load, 5),
    point("recovery.identity", Scene::FirstStart, 1),
    point("recovery.identified", Scene::Start, 1),
    point("recovery.chosen", Scene::Start, 1),
    point("recovery.cut", Scene::TornStart, 1),
    point("recovery.swept", Scene::Start, 1),
    point("start.opened", Scene::Start, 1),
    point("receipt.taken", Scene::Start, 1),
    point("start.serving", Scene::Start, 1),
    point("storage.appended", Scene::Load, 50),
    point("storage.committed", Scene::Load, 50),
    point("storage.settled", Scene::Load, 50),
    point("checkpoint.taken", Scene::Load, 5),
    point("checkpoint.durable", Scene::Load, 5),
    point("intake.stored", Scene::Load, 100),
    point("dispatch.sending", Scene::Delivery, 100),
    point("dispatch.answered", Scene::Delivery, 100),
    point("dispatch.settled", Scene::Delivery, 100),
    point("drain.begun", Scene::Drain, 1),
    point("drain.inputs-stopped", Scene::Drain, 1),
    point("drain.stopped", Scene::Drain, 1),
    point("receipt.drafted", Scene::Drain, 1),
    point("receipt.named", Scene::Drain, 1),
    point("drain.checkpointed", Scene::Drain, 1),
    point("drain.flushing", Scene::Flush, 1),
    point("drain.stopped", Scene::Flush, 1),
    point("drain.checkpointed", Scene::Flush, 1),
];

#[test]
fn every_named_place_of_the_sources_is_on_the_list() {
    let agent = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [agent.join("src"), agent.join("spool/src"), agent.join("spool/src/log")];
    let files =
        files.iter().flat_map(|folder| std::fs::read_dir(folder).expect("it is there")).map(|entry| entry.expect("readable").path());
    let text: String = files.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).expect("it is text")).collect();
    let calls = text.split("reach(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let mut named: Vec<&str> = calls.collect();
    let mut listed: Vec<&str> = POINTS.iter().map(|point| point.name).collect();
    for names in [&mut named, &mut listed] {
        names.sort_unstable();
        names.dedup();
    }
    assert_eq!(named, listed);
}
