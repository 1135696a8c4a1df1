//! The quarantine: what was confirmed is there after any loss of power, what a tool takes out is counted once, and its bound holds.

use bytes::Bytes;
use pipeline::RecordId;
use vocabulary::{Class, ClassCounts, DropReason, Signal};

use crate::model::ModelDisk;
use crate::quarantine::{Quarantine, QuarantineFile, QuarantineState, Shelf, decode_quarantine_file};
use crate::storage::Storage;

const ROOM: u64 = 1 << 20;

fn file(sequence: u64, destination: &str) -> QuarantineFile {
    QuarantineFile {
        destination: destination.to_owned(),
        id: RecordId { class: Class::High, sequence },
        signal: Signal::Logs,
        counts: ClassCounts([0, 2, 1, 0]),
        rejected: ClassCounts([0, 0, 0, 4]),
        reason: DropReason::Rejected,
        received_unix_ms: 1_700_000_000_123,
        items: vec![3..5, 9..10],
        body: Bytes::from(vec![sequence as u8; 100]),
    }
}

fn without_body(file: &QuarantineFile) -> QuarantineFile {
    QuarantineFile { body: Bytes::new(), ..file.clone() }
}

fn names(disk: &ModelDisk) -> Vec<String> {
    disk.names()
}

fn open(disk: &ModelDisk, generation: u64) -> (Shelf<ModelDisk>, Vec<QuarantineFile>) {
    Shelf::open(disk.clone(), ROOM, generation).expect("no content makes opening fail")
}

#[test]
fn what_was_confirmed_is_held_whole_after_power_is_lost_at_any_step() {
    let files = [file(1, "backend"), file(2, "backend"), file(2, "other/../name")];
    for steps in 0..40 {
        for fate in 0..5 {
            let disk = ModelDisk::default();
            disk.lose_power_after(steps);
            let mut confirmed = Vec::new();
            if let Ok((mut shelf, _)) = Shelf::open(disk.clone(), ROOM, 0) {
                confirmed.extend(files.iter().filter(|file| shelf.store(file).is_ok()).map(without_body));
            }
            let disk = disk.crash(&mut |possibilities| fate % possibilities);
            let (shelf, held) = open(&disk, 0);
            assert!(confirmed.iter().all(|file| held.contains(file)), "{steps} steps, fate {fate}: {held:?}");
            assert!(held.iter().all(|held| files.iter().any(|file| without_body(file) == *held)));
            assert!(!names(&disk).iter().any(|name| name.ends_with(".part")), "leftovers take room for ever");
            drop(shelf);
        }
    }
}

#[test]
fn a_file_reads_as_it_was_written_and_a_damaged_one_not_at_all() {
    let disk = ModelDisk::default();
    let (mut shelf, _) = open(&disk, 0);
    shelf.store(&file(7, "backend")).expect("there is room");
    let name = names(&disk).into_iter().next().expect("one file");
    assert_eq!(name, "0000000000000007-high-backend.quarantined");
    assert_eq!(decode_quarantine_file(&Bytes::from(disk.content(&name))), Some(file(7, "backend")));
    for offset in 0..disk.content(&name).len() {
        let fork = disk.fork();
        fork.flip(&name, offset, 0x10);
        assert_eq!(decode_quarantine_file(&Bytes::from(fork.content(&name))), None, "byte {offset}");
        // What a start counts stands in the head; the body is for who reads it.
        assert_eq!(open(&fork, 0).1.len(), usize::from(offset >= disk.content(&name).len() - 100));
    }
}

#[test]
fn a_file_with_a_long_head_is_found_and_one_that_is_cut_short_is_not() {
    let disk = ModelDisk::default();
    let (mut shelf, _) = open(&disk, 0);
    let items: Vec<_> = (0..1000).map(|at| at * 3..at * 3 + 1).collect();
    let long = QuarantineFile { items, ..file(7, "backend") };
    shelf.store(&long).expect("there is room");
    assert_eq!(open(&disk, 0).1, [without_body(&long)]);
    let name = names(&disk).into_iter().next().expect("one file");
    let content = disk.content(&name);
    for length in [0, 79, 80, 5_000, content.len() - 1] {
        let cut = ModelDisk::default();
        cut.place(&name, &content[..length]);
        assert!(open(&cut, 0).1.is_empty(), "{length} bytes");
    }
}

#[test]
fn storing_a_record_again_replaces_its_file() {
    let disk = ModelDisk::default();
    let (mut shelf, _) = open(&disk, 0);
    shelf.store(&file(7, "backend")).expect("there is room");
    let bytes = shelf.bytes();
    shelf.store(&file(7, "backend")).expect("there is room");
    assert_eq!((shelf.bytes(), names(&disk).len()), (bytes, 1));
}

#[test]
fn a_file_that_nobody_counts_can_be_withdrawn() {
    let disk = ModelDisk::default();
    let (mut shelf, _) = open(&disk, 0);
    shelf.store(&file(7, "backend")).expect("there is room");
    shelf.withdraw(&file(7, "backend")).expect("the disk works");
    assert_eq!((shelf.bytes(), names(&disk).len(), open(&disk, 0).1.len()), (0, 0, 0));
}

#[test]
fn a_full_quarantine_takes_no_more_until_somebody_empties_it() {
    let disk = ModelDisk::default();
    let (mut shelf, _) = Shelf::open(disk.clone(), 500, 0).expect("it opens");
    shelf.store(&file(1, "backend")).expect("there is room for two");
    shelf.store(&file(2, "backend")).expect("there is room for two");
    shelf.store(&file(3, "backend")).expect_err("there is no room for three");
    assert!(shelf.bytes() <= 500);
    disk.rename("0000000000000001-high-backend.quarantined", "0000000000000001-high-backend.removed").expect("it is there");
    assert_eq!(shelf.take_out(1).expect("the disk works").len(), 1);
    shelf.forget(1).expect("the disk works");
    shelf.store(&file(3, "backend")).expect("there is room again");
}

#[test]
fn what_a_tool_takes_out_is_counted_once_whenever_the_process_ends() {
    let disk = ModelDisk::default();
    let (mut shelf, _) = open(&disk, 0);
    shelf.store(&file(1, "backend")).expect("there is room");
    shelf.store(&file(2, "backend")).expect("there is room");
    let taken = "0000000000000001-high-backend";
    let suffix = |state: QuarantineState| state.suffix();
    disk.rename(&format!("{taken}{}", suffix(QuarantineState::Held)), &format!("{taken}{}", suffix(QuarantineState::Replayed)))
        .expect("it is there");
    let out = shelf.take_out(5).expect("the disk works");
    assert_eq!(out.iter().map(|out| (out.was.clone(), out.is_replayed)).collect::<Vec<_>>(), [(without_body(&file(1, "backend")), true)]);
    assert!(shelf.take_out(6).expect("the disk works").is_empty(), "it is told once");
    // Before checkpoint 5 is durable it is held, in the books of checkpoint 4, and told again.
    let before = disk.fork();
    let (mut again, held) = open(&before, 4);
    assert_eq!((held.len(), again.take_out(5).expect("the disk works").len()), (2, 1));
    // Afterwards it is gone, whether or not the process came to delete it.
    assert_eq!(open(&disk.fork(), 5).1, [without_body(&file(2, "backend"))]);
    shelf.forget(4).expect("the disk works");
    assert_eq!(names(&disk).len(), 2);
    shelf.forget(5).expect("the disk works");
    assert_eq!(names(&disk), ["0000000000000002-high-backend.quarantined"]);
}

#[test]
fn a_quarantine_of_real_files_is_found_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut quarantine, held) = Quarantine::open(directory.path(), ROOM, "here", 0).expect("an empty directory can be opened");
    assert!(held.is_empty());
    quarantine.store(&file(1, "backend")).expect("there is room");
    drop(quarantine);
    let (quarantine, held) = Quarantine::open(directory.path(), ROOM, "here", 0).expect("it can be opened again");
    assert_eq!((held, quarantine.bytes() > 100), (vec![without_body(&file(1, "backend"))], true));
}
