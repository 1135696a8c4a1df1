//! Files that are gone, cut, copied over each other, exchanged, doubled, or those of another directory: every file, and every pair of
//! files, of a fixed set of directories. Like the flips it knows nothing of the format: only which records a file holds.

use std::collections::BTreeMap;

use pipeline::RecordId;

use super::BUFFER;
use super::flips::{Sample, is_told, samples};
use crate::Recovery;

/// The records that each file alone holds.
fn holdings(sample: &Sample) -> BTreeMap<String, Vec<RecordId>> {
    let gone = |name: &String| {
        let disk = sample.copy();
        disk.remove_durably(name);
        let (lost, recovery) = sample.lost(&disk, name);
        assert!(lost.iter().all(|lost| is_told(&recovery, *lost)), "{name} is deleted in silence");
        (name.clone(), lost)
    };
    sample.files().iter().map(gone).collect()
}

/// Asserts that only records of the files touched are lost and, where the books are whole, that each of them is counted.
fn check(damage: &str, touched: &[(&String, &Vec<RecordId>)], (lost, recovery): (Vec<RecordId>, Recovery)) {
    let is_touched = |lost: &RecordId| touched.iter().any(|(_, held)| held.contains(lost));
    assert!(lost.iter().all(is_touched), "{damage} costs {lost:?}");
    let are_books_whole = touched.iter().all(|(name, _)| !name.starts_with("checkpoint"));
    assert!(!are_books_whole || lost.iter().all(|lost| is_told(&recovery, *lost)), "{damage} costs {lost:?} in silence");
}

#[test]
fn a_deleted_file_costs_its_own_records_and_every_one_is_counted() {
    for sample in samples(BUFFER) {
        let holdings = holdings(&sample);
        let mut all: Vec<RecordId> = holdings.values().flatten().copied().collect();
        all.sort_unstable();
        let mut held = sample.held.clone();
        held.sort_unstable();
        assert_eq!(all, held, "each record lies in one file");
        assert!(holdings.iter().all(|(name, held)| held.is_empty() || name.ends_with(".segment")));
    }
}

#[test]
fn a_segment_cut_at_any_byte_costs_what_lay_behind_the_cut() {
    for sample in samples(BUFFER) {
        for (name, held) in holdings(&sample).into_iter().filter(|(name, held)| name.ends_with("-normal.segment") && !held.is_empty()) {
            let content = sample.copy().content(&name);
            let mut before = held.len();
            for length in 0..content.len() {
                let (damage, disk) = (format!("{name} cut at {length}"), sample.copy());
                disk.place(&name, &content[..length]);
                let (lost, recovery) = sample.lost(&disk, &damage);
                assert!(lost.len() <= before && held.ends_with(&lost), "{damage} costs {lost:?}");
                assert!(lost.iter().all(|lost| is_told(&recovery, *lost)), "{damage} costs {lost:?} in silence");
                before = lost.len();
            }
            assert!(before <= 1, "{name}: one byte costs {before} records");
        }
    }
}

#[test]
fn files_copied_over_each_other_or_exchanged_cost_at_most_their_own_records() {
    for sample in samples(BUFFER) {
        let holdings = holdings(&sample);
        for one in &holdings {
            for other in holdings.iter().filter(|other| other.0 != one.0) {
                let (disk, damage) = (sample.copy(), format!("{} over {}", one.0, other.0));
                disk.place(other.0, &sample.copy().content(one.0));
                check(&damage, &[other], sample.lost(&disk, &damage));
                let (disk, damage) = (sample.copy(), format!("{} and {} exchanged", one.0, other.0));
                disk.place(one.0, &disk.content(other.0));
                disk.place(other.0, &sample.copy().content(one.0));
                check(&damage, &[one, other], sample.lost(&disk, &damage));
            }
        }
    }
}

#[test]
fn a_file_under_a_further_name_costs_nothing() {
    for sample in samples(BUFFER) {
        for name in sample.files() {
            for further in
                ["00000000000000ff-normal.segment", "0000000000000000-critical.segment", "0000000000000001-bulk.segment.spare", "stray"]
            {
                let (disk, damage) = (sample.copy(), format!("{name} again as {further}"));
                disk.place(further, &disk.content(&name));
                assert_eq!(sample.lost(&disk, &damage).0, [], "{damage}");
            }
        }
    }
}

#[test]
fn a_file_of_another_directory_costs_at_most_what_it_replaces() {
    let others = samples([3; 16]);
    // Each beside one whose records have another length, so that they would be told apart.
    for (sample, other) in samples(BUFFER).iter().zip(others.iter().cycle().skip(2)) {
        let holdings = holdings(sample);
        for foreign in other.files() {
            let content = other.copy().content(&foreign);
            for replaced in &holdings {
                let (disk, damage) = (sample.copy(), format!("a foreign {foreign} as {}", replaced.0));
                disk.place(replaced.0, &content);
                check(&damage, &[replaced], sample.lost(&disk, &damage));
            }
            let (disk, further) = (sample.copy(), "00000000000000ff-normal.segment");
            disk.place(further, &content);
            assert_eq!(sample.lost(&disk, &foreign).0, [], "a foreign {foreign} beside the others");
        }
    }
}
