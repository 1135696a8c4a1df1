//! Bytes that are not what was written: flipped, cut, exchanged, foreign, random. Opening always succeeds, what is untouched is
//! delivered, and nothing else is.

use pipeline::RecordId;
use proptest::prelude::*;
use vocabulary::Class;

use super::{PIPELINE, append, body, checkpoint, id, none_settled, open};
use crate::Verified;
use crate::damage::{Damage, DamageKind};
use crate::error::{OpenError, ReadError};
use crate::format::{RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, record_bytes};
use crate::identity;
use crate::log::room::Limits;
use crate::model::ModelDisk;
use crate::recovery;

const LENGTH: usize = 40;
const RECORD_BYTES: usize = 96;
/// Two records per segment.
const SEGMENT_BYTES: u64 = 256;

/// Four committed records in two segments, all named by a checkpoint.
fn disk_of_four() -> ModelDisk {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, SEGMENT_BYTES);
    for sequence in 1..=4 {
        let id = id(Class::Normal, sequence);
        log.append(&append(id, &body(id, LENGTH))).unwrap();
    }
    log.commit().unwrap();
    let mut stored = none_settled();
    stored[Class::Normal.index()].insert_range(1, 4);
    log.write_checkpoint(&checkpoint(1, stored, none_settled())).unwrap();
    disk
}

fn segments(disk: &ModelDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.ends_with(".segment")).collect()
}

/// Which records of four are delivered; every one delivered is what was written.
fn delivered(disk: &ModelDisk) -> (Vec<u64>, Vec<Damage>) {
    let (log, recovery) = open(disk, SEGMENT_BYTES);
    let mut delivered = Vec::new();
    for id in recovery.recovered.stored.iter().map(|stored| stored.id) {
        match log.index().read(id) {
            Ok(read) => {
                assert_eq!(read, body(id, LENGTH));
                delivered.push(id.sequence);
            }
            Err(error) => assert!(matches!(error, ReadError::Corrupt { .. }), "{error}"),
        }
    }
    (delivered, recovery.damage)
}

#[test]
fn one_flipped_bit_anywhere_costs_at_most_the_record_it_lies_in() {
    let whole = disk_of_four();
    for (position, name) in segments(&whole).iter().enumerate() {
        for offset in 0..whole.content(name).len() {
            let disk = whole.fork();
            // Copies share nothing but what was durable, which a boot without any choice keeps.
            let disk = disk.crash(&mut |possibilities| possibilities.min(2) - 1);
            assert!(disk.flip(name, offset, 1 << (offset % 8)));
            let (delivered, _) = delivered(&disk);
            let hit = offset.checked_sub(SEGMENT_HEADER_BYTES).map(|at| at / RECORD_BYTES).filter(|&at| at < 2);
            let hit = hit.map(|at| (2 * position + at + 1) as u64);
            let untouched: Vec<u64> = (1..=4).filter(|&sequence| Some(sequence) != hit).collect();
            assert!(untouched.iter().all(|sequence| delivered.contains(sequence)), "{name} {offset}: {delivered:?}");
        }
    }
}

#[test]
fn a_segment_cut_at_any_byte_gives_what_lies_before_the_cut() {
    let whole = disk_of_four();
    for (position, name) in segments(&whole).iter().enumerate() {
        let content = whole.content(name);
        for length in 0..content.len() {
            let disk = whole.crash(&mut |_| 1);
            disk.place(name, &content[..length]);
            let (delivered, _) = delivered(&disk);
            let before = (length.saturating_sub(SEGMENT_HEADER_BYTES) / RECORD_BYTES).min(2) as u64;
            let expected = |sequence: u64| (sequence - 1) / 2 != position as u64 || (sequence - 1) % 2 < before;
            assert_eq!(delivered, (1..=4).filter(|&sequence| expected(sequence)).collect::<Vec<_>>(), "{name} cut at {length}");
        }
    }
}

#[test]
fn damage_in_a_body_that_no_checkpoint_knows_is_reported_with_its_record() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, SEGMENT_BYTES);
    for sequence in 1..=2 {
        let id = id(Class::High, sequence);
        log.append(&append(id, &body(id, LENGTH))).unwrap();
    }
    log.commit().unwrap();
    drop(log);
    let name = segments(&disk).remove(0);
    disk.flip(&name, SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 5, 4);
    let (_, recovery) = open(&disk, SEGMENT_BYTES);
    let offset = SEGMENT_HEADER_BYTES as u64;
    let lost = Some(id(Class::High, 1));
    let expected = Damage { file: name, offset, bytes: record_bytes(LENGTH as u64), kind: DamageKind::Body, lost };
    assert_eq!(recovery.damage, [expected]);
    assert_eq!(recovery.recovered.stored.len(), 1);
    assert_eq!(recovery.recovered.damaged.iter().map(|stored| stored.id).collect::<Vec<_>>(), [id(Class::High, 1)]);
}

#[test]
fn a_damaged_header_that_no_checkpoint_names_is_told_by_its_footer() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, SEGMENT_BYTES);
    for sequence in 1..=4 {
        let id = id(Class::High, sequence);
        log.append(&append(id, &body(id, LENGTH))).unwrap();
    }
    log.commit().unwrap();
    drop(log);
    let sealed = segments(&disk).remove(0);
    // The newest segment is the sealed one: what followed it never came to be.
    segments(&disk).into_iter().skip(1).for_each(|name| disk.remove_durably(&name));
    disk.flip(&sealed, SEGMENT_HEADER_BYTES + 5, 4);
    let (_, recovery) = open(&disk, SEGMENT_BYTES);
    let ids = |records: &[pipeline::Stored]| records.iter().map(|stored| stored.id.sequence).collect::<Vec<_>>();
    assert_eq!((ids(&recovery.recovered.stored), ids(&recovery.recovered.damaged)), (vec![2], vec![1]));
}

#[test]
fn a_record_that_the_checkpoint_names_is_never_cut_off_as_torn() {
    let disk = disk_of_four();
    let last = segments(&disk).remove(1);
    let length = disk.content(&last).len();
    disk.flip(&last, SEGMENT_HEADER_BYTES + RECORD_BYTES, 1);
    let (delivered, damage) = delivered(&disk);
    assert_eq!(delivered, [1, 2, 3]);
    assert_eq!(damage.iter().map(|damage| (damage.kind, damage.bytes)).collect::<Vec<_>>(), [(DamageKind::Hole, RECORD_BYTES as u64)]);
    assert_eq!(disk.content(&last).len(), length, "the evidence stays");
}

#[test]
fn a_torn_tail_is_cut_in_silence() {
    let disk = disk_of_four();
    let last = segments(&disk).remove(1);
    let mut content = disk.content(&last);
    let length = content.len();
    content.extend_from_slice(&[7; 77]);
    disk.place(&last, &content);
    let (delivered, damage) = delivered(&disk);
    assert_eq!((delivered, damage), (vec![1, 2, 3, 4], Vec::new()));
    assert_eq!(disk.content(&last).len(), length);
}

#[test]
fn a_released_segment_with_damage_is_kept_as_evidence_within_a_bound() {
    let disk = disk_of_four();
    let first = segments(&disk).remove(0);
    disk.flip(&first, SEGMENT_HEADER_BYTES, 1);
    let (mut log, _) = open(&disk, 4 * SEGMENT_BYTES);
    log.verify_step(u64::MAX).unwrap();
    let mut settled = none_settled();
    settled[Class::Normal.index()].insert_range(1, 4);
    log.release(&settled).unwrap();
    assert!(disk.names().contains(&format!("{first}.damaged")), "{:?}", disk.names());
    drop(log);
    disk.place("00000000000000aa-normal.segment.damaged", &[0; 8 * SEGMENT_BYTES as usize]);
    drop(open(&disk, 4 * SEGMENT_BYTES));
    assert!(!disk.names().contains(&format!("{first}.damaged")), "the oldest evidence goes first");
}

#[test]
fn damage_that_a_footer_hides_is_found_by_verification_with_its_record() {
    let disk = disk_of_four();
    let first = segments(&disk).remove(0);
    disk.flip(&first, SEGMENT_HEADER_BYTES + RECORD_BYTES + RECORD_HEADER_BYTES + 3, 1);
    let (mut log, recovery) = open(&disk, SEGMENT_BYTES);
    assert_eq!((recovery.recovered.stored.len(), recovery.damage), (4, Vec::new()));
    let steps: Vec<Verified> = std::iter::repeat_with(|| log.verify_step(1).unwrap()).take(5).collect();
    assert_eq!(steps.iter().map(|step| step.bytes).collect::<Vec<_>>(), [96, 96, 96, 96, 0]);
    assert_eq!(steps.iter().map(|step| step.is_done).collect::<Vec<_>>(), [false, false, false, false, true]);
    let lost = Some(id(Class::Normal, 2));
    let (offset, bytes) = ((SEGMENT_HEADER_BYTES + RECORD_BYTES) as u64, RECORD_BYTES as u64);
    let expected = Damage { file: first, offset, bytes, kind: DamageKind::Body, lost };
    assert_eq!(steps.into_iter().flat_map(|step| step.damage).collect::<Vec<_>>(), [expected]);
}

#[test]
fn a_released_segment_is_verified_no_more() {
    let disk = disk_of_four();
    let (mut log, _) = open(&disk, SEGMENT_BYTES);
    assert_eq!(log.verify_step(1).unwrap().bytes, 96);
    let mut settled = none_settled();
    settled[Class::Normal.index()].insert_range(1, 2);
    log.release(&settled).unwrap();
    let rest = log.verify_step(u64::MAX).unwrap();
    assert_eq!((rest.bytes, rest.is_done), (2 * RECORD_BYTES as u64, true));
}

#[test]
fn a_segment_whose_footer_is_damaged_is_walked_and_the_others_are_not() {
    let disk = disk_of_four();
    let first = segments(&disk).remove(0);
    let footer = SEGMENT_HEADER_BYTES + 2 * RECORD_BYTES;
    disk.flip(&first, footer + RECORD_HEADER_BYTES + 3, 1);
    let (delivered, damage) = delivered(&disk);
    assert_eq!((delivered, damage.len()), (vec![1, 2, 3, 4], 1));
    assert_eq!((damage[0].kind, damage[0].offset), (DamageKind::Footer, footer as u64));
}

#[test]
fn a_sealed_segment_that_is_the_last_of_its_class_is_whole_and_grows_no_more() {
    let disk = disk_of_four();
    let names = segments(&disk);
    disk.remove_durably(&names[1]);
    disk.remove_durably("checkpoint-0");
    let (mut log, recovery) = open(&disk, SEGMENT_BYTES);
    assert_eq!((recovery.recovered.stored.len(), recovery.damage), (2, Vec::new()));
    let before = disk.content(&names[0]);
    log.append(&append(id(Class::Normal, 5), b"next")).unwrap();
    log.commit().unwrap();
    assert_eq!((disk.content(&names[0]), segments(&disk).len()), (before, 2));
}

#[test]
fn a_start_reads_footers_and_the_last_segments_whatever_the_records_weigh() {
    let read_at_start = |records: u64| {
        let disk = ModelDisk::default();
        let (mut log, _) = open(&disk, 1 << 20);
        for sequence in 1..=records {
            let id = id(Class::Normal, sequence);
            log.append(&append(id, &body(id, 100_000))).unwrap();
        }
        log.commit().unwrap();
        drop(log);
        let before = disk.bytes_read();
        let (_, recovery) = open(&disk, 1 << 20);
        assert_eq!(recovery.recovered.stored.len() as u64, records);
        disk.bytes_read() - before
    };
    // Ten records to a segment; each sealed one costs its header and its footer.
    let (few, many) = (read_at_start(20), read_at_start(200));
    assert!(many - few < 18 * 1024, "{few} bytes read of 2 MB, {many} of 20 MB");
}

#[test]
fn deleted_duplicated_and_exchanged_segments_cost_only_what_is_gone() {
    let disk = disk_of_four();
    let names = segments(&disk);
    let contents: Vec<Vec<u8>> = names.iter().map(|name| disk.content(name)).collect();
    disk.place(&names[0], &contents[1]);
    disk.place(&names[1], &contents[0]);
    disk.place("00000000000000ff-normal.segment", &contents[0]);
    assert_eq!(delivered(&disk).0, [1, 2, 3, 4]);
    let disk = disk_of_four();
    disk.remove_durably(&names[0]);
    assert_eq!(delivered(&disk).0, [3, 4]);
}

#[test]
fn ids_that_the_disk_has_seen_are_never_given_again() {
    let disk = disk_of_four();
    let last = segments(&disk).remove(1);
    // The body, not the header: the record is lost and its id is known.
    disk.flip(&last, SEGMENT_HEADER_BYTES + RECORD_BYTES + RECORD_HEADER_BYTES, 1);
    let (_, recovery) = open(&disk, SEGMENT_BYTES);
    assert_eq!(recovery.recovered.checkpoint.unwrap().next_sequence[Class::Normal.index()], 5);
}

#[test]
fn a_lost_identity_is_restored_from_the_segments() {
    let disk = disk_of_four();
    let identity = disk.content("identity");
    disk.place("identity", b"rubbish");
    let (log, recovery) = recovery::open(disk.clone(), PIPELINE, [9; 16], Limits::new(SEGMENT_BYTES, 0)).unwrap();
    assert_eq!(recovery.recovered.stored.len(), 4);
    assert_eq!(recovery.damage.iter().map(|damage| damage.kind).collect::<Vec<_>>(), [DamageKind::Identity]);
    assert_eq!(disk.content("identity"), identity);
    drop(log);
}

#[test]
fn another_pipelines_directory_and_a_newer_releases_are_refused_untouched() {
    let disk = disk_of_four();
    let before: Vec<Vec<u8>> = disk.names().iter().map(|name| disk.content(name)).collect();
    let refused = recovery::open(disk.clone(), "another pipeline", [9; 16], Limits::new(SEGMENT_BYTES, 0)).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, OpenError::ForeignBuffer { found, .. } if found == PIPELINE), "{refused}");
    let mut newer = identity::encode([1; 16], PIPELINE);
    newer[8] = 3;
    let end = newer.len() - 4;
    let crc = crc32c::crc32c(&newer[..end]);
    newer[end..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(before, disk.names().iter().map(|name| disk.content(name)).collect::<Vec<_>>());
    disk.place("identity", &newer);
    let refused = recovery::open(disk, PIPELINE, [9; 16], Limits::new(SEGMENT_BYTES, 0)).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, OpenError::NewerVersion { path, version: 3 } if path.ends_with("identity")), "{refused}");
}

#[test]
fn a_segment_of_another_buffer_is_left_untouched_and_one_of_a_newer_format_is_named_and_nothing_is_written() {
    let other = ModelDisk::default();
    let (mut log, _) = recovery::open(other.clone(), PIPELINE, [3; 16], Limits::new(SEGMENT_BYTES, 0)).unwrap();
    let foreign_id = id(Class::Normal, 77);
    log.append(&append(foreign_id, b"not ours")).unwrap();
    log.commit().unwrap();
    let mut newer = other.content(&segments(&other)[0]);
    let disk = disk_of_four();
    disk.place("00000000000000f0-normal.segment", &newer);
    newer[8] = 3;
    let crc = crc32c::crc32c(&newer[..60]);
    newer[60..64].copy_from_slice(&crc.to_le_bytes());
    let (delivered, damage) = delivered(&disk);
    assert_eq!(delivered, [1, 2, 3, 4]);
    assert_eq!(damage.iter().map(|damage| damage.kind).collect::<Vec<_>>(), [DamageKind::Foreign]);
    let name = "00000000000000f1-normal.segment";
    disk.place(name, &newer);
    disk.place("00000000000000f2-normal.segment", b"torn");
    let content = || disk.names().into_iter().map(|name| (disk.content(&name), name)).collect::<Vec<_>>();
    let before = content();
    let refused = recovery::open(disk.clone(), PIPELINE, [9; 16], Limits::new(SEGMENT_BYTES, 1 << 20)).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, OpenError::NewerVersion { path, version: 3 } if path.ends_with(name)), "{refused}");
    assert_eq!(content(), before);
}

#[test]
fn without_a_checkpoint_the_next_id_lies_above_every_one_that_damaged_records_footers_and_evidence_tell() {
    let next = |disk: &ModelDisk| open(disk, SEGMENT_BYTES).1.recovered.next_sequence[Class::Normal.index()];
    let disk = disk_of_four();
    disk.remove_durably("checkpoint-0");
    for name in segments(&disk) {
        for position in 0..2 {
            disk.flip(&name, SEGMENT_HEADER_BYTES + position * RECORD_BYTES + RECORD_HEADER_BYTES, 1);
        }
    }
    let names = segments(&disk);
    let headers_gone = disk.crash(&mut |_| 1);
    let evidence = disk.crash(&mut |_| 1);
    assert_eq!(next(&disk), 5, "every body is damaged");
    // Only the header of the last segment is whole: it tells its first record.
    headers_gone.place(&names[1], &headers_gone.content(&names[1])[..SEGMENT_HEADER_BYTES]);
    assert_eq!(next(&headers_gone), 4);
    for name in &names {
        evidence.place(&format!("{name}.damaged"), &evidence.content(name));
        evidence.remove_durably(name);
    }
    assert_eq!(next(&evidence), 5);
    // The records' headers are gone, and the footer of the first segment still names them.
    let footer = disk_of_four();
    footer.remove_durably("checkpoint-0");
    footer.remove_durably(&names[1]);
    let mut content = footer.content(&names[0]);
    content[SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + 2 * RECORD_BYTES].fill(0xff);
    footer.place(&names[0], &content);
    assert_eq!(next(&footer), 3);
}

#[test]
fn reports_are_bounded_and_the_rest_is_counted() {
    let disk = disk_of_four();
    for at in 0..1100u64 {
        disk.place(&format!("{:016x}-bulk.segment", 0x1000 + at), b"no segment at all");
    }
    let (_, recovery) = open(&disk, SEGMENT_BYTES);
    assert_eq!((recovery.damage.len(), recovery.damage_unlisted), (1024, 1099 - 1024));
}

fn place_and_open(files: &[(&str, &[u8])]) -> Vec<RecordId> {
    let disk = disk_of_four();
    for (name, content) in files {
        disk.place(name, content);
    }
    let (log, recovery) = open(&disk, SEGMENT_BYTES);
    let ids: Vec<RecordId> = recovery.recovered.stored.iter().map(|stored| stored.id).collect();
    for id in &ids {
        if let Ok(read) = log.index().read(*id) {
            assert_eq!(read, body(*id, LENGTH));
        }
    }
    ids
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_in_any_file_neither_panic_nor_deliver_anything(
        segment in prop::collection::vec(any::<u8>(), 0..2000),
        slot in prop::collection::vec(any::<u8>(), 0..600),
        header in any::<bool>(),
    ) {
        let whole = disk_of_four();
        let name = segments(&whole).remove(0);
        let mut content = if header { whole.content(&name)[..SEGMENT_HEADER_BYTES].to_vec() } else { Vec::new() };
        content.extend_from_slice(&segment);
        let ids = place_and_open(&[(&name, &content), ("checkpoint-0", &slot), ("checkpoint-1", &slot), ("lost+found", &segment)]);
        prop_assert_eq!(ids, vec![id(Class::Normal, 3), id(Class::Normal, 4)]);
    }

    #[test]
    fn mutated_files_deliver_only_what_was_written(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u8..), 1..12)) {
        let disk = disk_of_four();
        for (name, offset, mask) in flips {
            let names = disk.names();
            let name = name.get(&names);
            let length = disk.content(name).len();
            disk.flip(name, offset.index(length.max(1)), mask);
        }
        // Flips may hit the identity with a foreign name only by a checksum collision.
        let (delivered, _) = delivered(&disk);
        prop_assert!(delivered.len() <= 4);
    }
}
