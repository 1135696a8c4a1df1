//! The log over the real file system, through the public interface.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use pipeline::RecordId;
use vocabulary::Class;

use super::{append, body, checkpoint, id, none_settled, open, open_within};
use crate::error::{AppendError, CommitError, OpenError, ReadError};
use crate::log::room::Limits;
use crate::model::ModelDisk;
use crate::{Options, Recovery, Spool};

fn options() -> Options {
    Options { segment_bytes: 64 << 10, budget_bytes: 0, identity: super::PIPELINE.to_owned(), host: "node-1".to_owned() }
}

fn open_at(path: &Path) -> (Spool, Recovery) {
    Spool::open(path, options()).unwrap()
}

fn store(spool: &mut Spool, ids: impl Iterator<Item = RecordId>, length: usize) {
    for id in ids {
        spool.append(&append(id, &body(id, length))).unwrap();
    }
    spool.commit().unwrap();
}

#[test]
fn records_of_every_class_come_back_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("not/there/yet");
    let ids: Vec<RecordId> = Class::ALL.into_iter().flat_map(|class| (1..=50).map(move |sequence| id(class, sequence))).collect();
    let (mut spool, recovery) = open_at(&path);
    assert!(recovery.recovered.stored.is_empty() && recovery.recovered.checkpoint.is_none());
    store(&mut spool, ids.iter().copied(), 3000);
    let written = checkpoint(1, none_settled(), none_settled());
    spool.write_checkpoint(&written).unwrap();
    let bytes = spool.bytes_on_disk();
    drop(spool);
    let (spool, recovery) = open_at(&path);
    assert_eq!(recovery.recovered.stored.iter().map(|stored| stored.id).collect::<Vec<_>>(), ids);
    assert_eq!((recovery.recovered.checkpoint.unwrap().books, recovery.damage), (written.books, Vec::new()));
    for id in ids {
        assert_eq!(spool.read(id).unwrap(), body(id, 3000));
    }
    assert_eq!(spool.bytes_on_disk(), bytes);
    assert!(std::fs::read_dir(&path).unwrap().count() > 4 * 2, "150 kB per class need more than one segment of 64 KiB");
}

#[test]
fn a_directory_in_use_names_its_owner_and_is_free_again_when_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open_at(directory.path());
    let refused = Spool::open(directory.path(), options()).map(|_| ()).unwrap_err();
    let expected = format!("process {} on node-1", std::process::id());
    assert!(matches!(&refused, OpenError::Locked { owner, .. } if *owner == expected), "{refused}");
    drop(spool);
    open_at(directory.path());
}

#[test]
fn files_are_private_and_links_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("buffer");
    let (mut spool, _) = open_at(&path);
    store(&mut spool, std::iter::once(id(Class::High, 1)), 10);
    drop(spool);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in std::fs::read_dir(&path).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    symlink(&path, directory.path().join("link")).unwrap();
    let refused = Spool::open(&directory.path().join("link"), options()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, OpenError::NotADirectory { .. }), "{refused}");
    std::fs::remove_file(path.join("lock")).unwrap();
    symlink("/dev/null", path.join("lock")).unwrap();
    let refused = Spool::open(&path, options()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, OpenError::Lock { .. }), "{refused}");
}

#[test]
fn release_deletes_settled_segments_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_at(directory.path());
    store(&mut spool, (1..=100).map(|sequence| id(Class::Normal, sequence)), 3000);
    let reader = spool.reader();
    let before = spool.bytes_on_disk();
    let mut settled = none_settled();
    settled[Class::Normal.index()].insert_range(1, 50);
    let released = spool.release(&settled).unwrap();
    assert_eq!((released.segments, spool.bytes_on_disk()), (2, before - released.bytes));
    assert!(matches!(reader.read(id(Class::Normal, 1)), Err(ReadError::NotFound { .. })));
    for sequence in 51..=100 {
        assert_eq!(reader.read(id(Class::Normal, sequence)).unwrap(), body(id(Class::Normal, sequence), 3000));
    }
    settled[Class::Normal.index()].insert_range(51, 100);
    spool.release(&settled).unwrap();
    assert_eq!(spool.bytes_on_disk(), 0, "a growing segment of some size is given back too");
    store(&mut spool, std::iter::once(id(Class::Normal, 101)), 10);
    assert_eq!(reader.read(id(Class::Normal, 101)).unwrap(), body(id(Class::Normal, 101), 10));
}

#[test]
fn a_directory_that_is_gone_takes_nothing_and_is_used_again_once_it_is_back() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("buffer");
    let (mut spool, _) = open_at(&path);
    let [before, without, after] = [1, 2, 3].map(|sequence| id(Class::Normal, sequence));
    store(&mut spool, std::iter::once(before), 10);
    for generation in 1..=2 {
        spool.write_checkpoint(&checkpoint(generation, none_settled(), none_settled())).unwrap();
    }
    std::fs::remove_dir_all(&path).unwrap();
    spool.append(&append(without, b"nowhere")).unwrap();
    assert!(matches!(spool.commit(), Err(CommitError::Sync { .. })));
    assert!(spool.append(&append(without, b"nowhere")).is_err(), "no segment can begin");
    assert!(spool.write_checkpoint(&checkpoint(3, none_settled(), none_settled())).is_err());
    assert_eq!(spool.read(before).unwrap(), body(before, 10), "what is open is read");
    std::fs::create_dir(&path).unwrap();
    store(&mut spool, std::iter::once(after), 10);
    let written = checkpoint(4, none_settled(), none_settled());
    spool.write_checkpoint(&written).unwrap();
    drop(spool);
    let (spool, recovery) = open_at(&path);
    assert_eq!(recovery.recovered.stored.iter().map(|stored| stored.id).collect::<Vec<_>>(), [after]);
    assert_eq!((spool.read(after).unwrap(), recovery.recovered.checkpoint.unwrap().books), (body(after, 10).into(), written.books));
}

#[test]
fn released_files_are_used_again_and_what_they_held_is_never_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let roomy = Options { budget_bytes: 16 << 20, ..options() };
    let (mut spool, _) = Spool::open(directory.path(), roomy.clone()).unwrap();
    let count = |ending: &str| {
        let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(ending)).count()
    };
    store(&mut spool, (1..=100).map(|sequence| id(Class::Normal, sequence)), 3000);
    let segments = count(".segment");
    let mut settled = none_settled();
    settled[Class::Normal.index()].insert_range(1, 100);
    spool.release(&settled).unwrap();
    assert_eq!((count(".segment"), count(".spare")), (0, segments.min(Class::COUNT)));
    store(&mut spool, (1..=30).map(|sequence| id(Class::High, sequence)), 3000);
    assert_eq!(count(".spare"), segments.min(Class::COUNT) - 2);
    drop(spool);
    let (spool, recovery) = Spool::open(directory.path(), roomy).unwrap();
    assert_eq!(recovery.damage, Vec::new());
    let expected: Vec<RecordId> = (1..=30).map(|sequence| id(Class::High, sequence)).collect();
    assert_eq!(recovery.recovered.stored.iter().map(|stored| stored.id).collect::<Vec<_>>(), expected);
    for id in expected {
        assert_eq!(spool.read(id).unwrap(), body(id, 3000));
    }
    assert_eq!((count(".spare"), count("reserve")), (0, 1));
}

#[test]
fn a_released_file_that_is_still_read_is_not_used_again() {
    let disk = ModelDisk::default();
    let (mut log, _) = open_within(&disk, Limits::new(256, 1 << 20));
    let first = id(Class::Normal, 1);
    log.append(&append(first, &body(first, 150))).unwrap();
    log.commit().unwrap();
    let reading = log.index().segments(Class::Normal);
    let mut settled = none_settled();
    settled[Class::Normal.index()].insert_range(1, 1);
    log.release(&settled).unwrap();
    assert!(disk.names().iter().all(|name| !name.ends_with(".spare")));
    drop(reading);
}

#[test]
fn readers_read_from_other_threads_while_the_log_grows() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_at(directory.path());
    store(&mut spool, (1..=20).map(|sequence| id(Class::Bulk, sequence)), 5000);
    let reader = spool.reader();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let reader = reader.clone();
            scope.spawn(move || {
                for sequence in (1..=20).cycle().take(200) {
                    assert_eq!(reader.read(id(Class::Bulk, sequence)).unwrap(), body(id(Class::Bulk, sequence), 5000));
                }
            });
        }
        store(&mut spool, (21..=60).map(|sequence| id(Class::Bulk, sequence)), 5000);
    });
    assert_eq!(reader.read(id(Class::Bulk, 60)).unwrap(), body(id(Class::Bulk, 60), 5000));
}

#[test]
fn a_record_larger_than_a_segment_and_an_empty_one_are_stored() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_at(directory.path());
    let (large, empty) = (id(Class::High, 1), id(Class::High, 2));
    spool.append(&append(large, &body(large, 3 << 20))).unwrap();
    spool.append(&append(empty, &[])).unwrap();
    spool.commit().unwrap();
    drop(spool);
    let (spool, _) = open_at(directory.path());
    assert_eq!((spool.read(large).unwrap(), spool.read(empty).unwrap().len()), (body(large, 3 << 20).into(), 0));
}

#[test]
fn a_body_above_the_limit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_at(directory.path());
    let refused = spool.append(&append(id(Class::High, 1), &vec![0; (64 << 20) + 1])).unwrap_err();
    assert!(matches!(refused, AppendError::TooLarge { .. }), "{refused}");
}

#[test]
fn a_record_is_readable_from_its_commit_on() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_at(directory.path());
    let id = id(Class::Normal, 1);
    spool.append(&append(id, b"body")).unwrap();
    assert!(matches!(spool.read(id), Err(ReadError::NotFound { .. })));
    spool.commit().unwrap();
    assert_eq!(spool.read(id).unwrap(), b"body"[..]);
}

#[test]
fn a_full_disk_refuses_fails_the_group_and_heals() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 1 << 20);
    let (first, second) = (id(Class::Normal, 1), id(Class::Normal, 2));
    log.append(&append(first, b"one")).unwrap();
    log.commit().unwrap();
    disk.set_room(Some(1000));
    let large = body(second, 300_000);
    assert!(matches!(log.append(&append(second, &large)), Err(AppendError::DiskFull { .. })));
    log.append(&append(second, b"fits")).unwrap();
    log.commit().unwrap();
    disk.set_room(Some(20));
    let third = id(Class::Normal, 3);
    log.append(&append(third, b"gathered, not written")).unwrap();
    assert!(matches!(log.commit(), Err(CommitError::DiskFull { .. })));
    assert!(log.index().read(third).is_err());
    let (_, recovery) = open(&disk.fork(), 1 << 20);
    assert_eq!((recovery.recovered.stored.len(), recovery.damage.len()), (2, 0), "a full disk opens, and nothing half-written is left");
    disk.set_room(None);
    log.append(&append(third, b"again")).unwrap();
    log.commit().unwrap();
    assert_eq!(log.index().read(third).unwrap(), b"again"[..]);
}

#[test]
fn after_a_failed_sync_the_group_is_gone_and_the_next_one_goes_to_a_new_file() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 1 << 20);
    let (first, second) = (id(Class::Normal, 1), id(Class::Normal, 2));
    log.append(&append(first, b"one")).unwrap();
    log.commit().unwrap();
    let files = disk.names().len();
    disk.fail_syncs(1);
    log.append(&append(second, b"two")).unwrap();
    assert!(matches!(log.commit(), Err(CommitError::Sync { .. })));
    assert!(log.index().read(second).is_err());
    log.append(&append(second, b"two")).unwrap();
    log.commit().unwrap();
    assert_eq!((disk.names().len(), log.index().read(second).unwrap()), (files + 1, b"two"[..].into()));
    let (log, _) = open(&disk.crash(&mut |_| 0), 1 << 20);
    assert_eq!((log.index().read(first).unwrap(), log.index().read(second).unwrap()), (b"one"[..].into(), b"two"[..].into()));
}

#[test]
fn what_a_failed_sync_left_in_the_page_cache_is_not_believed_after_a_restart() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 256);
    disk.fail_syncs(1);
    log.append(&append(id(Class::Normal, 1), &[1; 150])).unwrap();
    let refused = log.append(&append(id(Class::Normal, 2), &[2; 150])).unwrap_err();
    assert!(matches!(refused, AppendError::SyncSegment { .. }), "{refused}");
    drop(log);
    let (_, recovery) = open(&disk, 256);
    assert_eq!(recovery.recovered.stored, Vec::new());
}
