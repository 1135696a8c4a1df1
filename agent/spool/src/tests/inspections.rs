//! The look from outside, against what a start finds and over a directory that changes meanwhile.

use std::collections::BTreeSet;
use std::path::Path;

use pipeline::{IdRanges, RecordId};
use vocabulary::Class;

use super::{append, body, checkpoint, id, none_settled};
use crate::{DamageKind, InspectError, Inspection, Options, Place, Spool};

fn options() -> Options {
    Options { segment_bytes: 64 << 10, budget_bytes: 1 << 20, identity: super::PIPELINE.to_owned(), host: "node-1".to_owned() }
}

/// A directory with these many records of 3000 bytes in one class: more than one segment from 22 on.
fn filled(path: &Path, records: u64) -> Spool {
    let (mut spool, _) = Spool::open(path, options()).unwrap();
    for sequence in 1..=records {
        let id = id(Class::Normal, sequence);
        spool.append(&append(id, &body(id, 3000))).unwrap();
        spool.commit().unwrap();
    }
    spool
}

/// What a walk finds: records whose bodies can be read, and how many places are damaged.
fn seen(path: &Path, is_thorough: bool) -> (BTreeSet<RecordId>, usize) {
    let inspection = Inspection::open(path).unwrap();
    let (mut ids, mut damaged) = (BTreeSet::new(), inspection.damage().len());
    for segment in inspection.segments() {
        let open = inspection.segment(segment).unwrap().unwrap();
        let mut walk = open.walk(is_thorough).unwrap();
        while let Some(place) = walk.next_place().unwrap() {
            match place {
                Place::Record(record) => match open.body(&record) {
                    Ok(found) => {
                        assert_eq!(found, body(record.stored.id, 3000));
                        ids.insert(record.stored.id);
                    }
                    Err(_) => damaged += 1,
                },
                Place::Damaged { .. } => damaged += 1,
                Place::Unfinished { .. } => {}
            }
        }
    }
    (ids, damaged)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_look_finds_exactly_what_a_start_can_read_whatever_byte_is_flipped() {
    let directory = tempfile::tempdir().unwrap();
    let original = directory.path().join("original");
    drop(filled(&original, 60));
    let mut names: Vec<_> = std::fs::read_dir(&original).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.retain(|name| name.to_string_lossy().ends_with(".segment"));
    names.sort();
    assert!(names.len() > 2);
    for (number, name) in names.iter().cycle().take(90).enumerate() {
        let path = directory.path().join(number.to_string());
        copy(&original, &path);
        let mut content = std::fs::read(path.join(name)).unwrap();
        let at = number * 2_097_143 % content.len();
        content[at] ^= 1 << (number % 8);
        std::fs::write(path.join(name), content).unwrap();
        let (thorough, quick) = (seen(&path, true).0, seen(&path, false).0);
        let (spool, recovery) = Spool::open(&path, options()).unwrap();
        let readable = recovery.recovered.stored.iter().map(|stored| stored.id).filter(|id| spool.read(*id).is_ok());
        assert_eq!(readable.collect::<BTreeSet<_>>(), thorough, "byte {at} of {name:?}");
        assert_eq!(quick, thorough, "byte {at} of {name:?}");
    }
}

#[test]
fn a_look_beside_the_owner_sees_what_is_committed_and_whose_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = filled(directory.path(), 60);
    spool.set_compressing(true);
    let late = id(Class::Normal, 61);
    spool.append(&append(late, &body(late, 3000))).unwrap();
    spool.commit().unwrap();
    spool.write_checkpoint(&checkpoint(9, none_settled(), none_settled())).unwrap();
    let inspection = Inspection::open(directory.path()).unwrap();
    assert_eq!(inspection.owner(), Some(format!("process {} on node-1", std::process::id()).as_str()));
    assert_eq!((inspection.pipeline(), inspection.buffer_id()), (Some(super::PIPELINE), Some(spool.buffer_id())));
    assert_eq!(inspection.checkpoint().map(|checkpoint| checkpoint.generation), Some(9));
    for is_thorough in [false, true] {
        assert_eq!(seen(directory.path(), is_thorough), ((1..=61).map(|sequence| id(Class::Normal, sequence)).collect(), 0));
    }
    drop(spool);
    assert_eq!(Inspection::open(directory.path()).unwrap().owner(), None);
}

#[test]
fn a_segment_that_is_released_meanwhile_is_gone_and_a_file_used_again_shows_no_stale_record() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = filled(directory.path(), 60);
    let inspection = Inspection::open(directory.path()).unwrap();
    let open = inspection.segment(&inspection.segments()[0]).unwrap().unwrap();
    let settled: [IdRanges; Class::COUNT] = Class::ALL.map(|_| [(1, 60)].into_iter().collect());
    spool.write_checkpoint(&checkpoint(1, none_settled(), settled.clone())).unwrap();
    assert!(spool.release(&settled).unwrap().segments > 1);
    assert!(inspection.is_gone(open.file()).unwrap() && inspection.segment(open.file()).unwrap().is_none());
    let last = id(Class::Normal, 61);
    spool.append(&append(last, &body(last, 3000))).unwrap();
    let high = id(Class::High, 1);
    spool.append(&append(high, &body(high, 3000))).unwrap();
    spool.commit().unwrap();
    let (found, damaged) = seen(directory.path(), true);
    assert!(found.contains(&last) && found.contains(&high) && damaged == 0, "{found:?}");
    assert!(found.iter().all(|id| id.class == Class::High || id.sequence > 22), "{found:?}");
}

#[test]
fn a_look_names_what_is_not_this_buffers_and_refuses_what_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (directory.path().join("one"), directory.path().join("other"));
    drop(filled(&one, 1));
    drop(filled(&other, 1));
    let foreign = "0000000000000009-high.segment";
    std::fs::copy(other.join("0000000000000001-normal.segment"), one.join(foreign)).unwrap();
    std::fs::create_dir(one.join("000000000000000a-bulk.segment")).unwrap();
    let inspection = Inspection::open(&one).unwrap();
    let damage: BTreeSet<_> = inspection.damage().iter().map(|damage| (damage.file.as_str(), damage.kind.to_string())).collect();
    let expected = [(foreign, DamageKind::Foreign), ("000000000000000a-bulk.segment", DamageKind::NotAFile)];
    assert_eq!(damage, expected.map(|(file, kind)| (file, kind.to_string())).into());
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(matches!(Inspection::open(&empty), Err(InspectError::NotABuffer { is_empty: true, .. })));
    assert!(matches!(Inspection::open(&one.join("lock")), Err(InspectError::Directory { .. })));
}
