//! Power cuts: the real program on a real ext4 that loses everything it had not synced, under load, at named places, and while a start
//! repairs what the cut before left.

use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::chain::{Chain, REACHED_WITHIN};
use crate::oracle::{Backend, Tally};
use crate::points::{POINTS, Point, Scene};
use crate::volume::Volume;
use crate::{number, seed};

/// Cuts of a run unless told otherwise.
const ROUNDS: u64 = 20;
/// Cuts that one volume lives through.
const CHAIN: u64 = 10;

/// What a whole run came to.
#[derive(Debug, Default)]
struct Cuts {
    /// Under load, at any instant.
    anywhere: u64,
    /// Where the program was killed at a named place just before.
    at_places: u64,
    /// In the middle of a start.
    within_recovery: u64,
    /// Of all, those that took bytes which the program had written.
    took_bytes: u64,
}

impl Cuts {
    fn sum(&self) -> u64 {
        self.anywhere + self.at_places + self.within_recovery
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_loses_nothing_that_was_acknowledged_from_disk() {
    let tally = cut_in_rounds("Mirror", number("FOREBAY_ROUNDS").unwrap_or(ROUNDS)).await;
    assert_eq!(tally.missing, 0, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_no_more_of_what_was_not_synced_than_the_books_bound() {
    let rounds = number("FOREBAY_ROUNDS").unwrap_or(ROUNDS) / 2;
    let tally = cut_in_rounds("Mirror, acknowledge: OsBuffered", rounds).await;
    assert!(tally.arrived > 0, "{tally:?}");
}

/// So many cuts, each chain of them judged by its books.
async fn cut_in_rounds(mode: &str, rounds: u64) -> Tally {
    let seed = seed();
    println!("\nreplay: FOREBAY_SEED={seed} FOREBAY_ROUNDS={rounds} cargo xtask test --only power");
    let mut chance = StdRng::seed_from_u64(seed);
    let (mut cuts, mut tally) = (Cuts::default(), Tally::default());
    while cuts.sum() < rounds {
        let volume = Volume::ext4(64);
        let mut chain = Chain::at(volume.path().join("buffer"), mode).await;
        chain.loses_unsynced = mode.contains("OsBuffered");
        for _ in 0..CHAIN.min(rounds - cuts.sum()) {
            chain.oracle.behave(if chance.random_ratio(1, 4) { Backend::Refuses } else { Backend::Takes });
            cuts.cut(&volume, &mut chain, &mut chance).await;
        }
        tally = tally + chain.judge().await.0;
    }
    println!("figure: {} power cuts, {mode}: {cuts:?}; {tally:?}", cuts.sum());
    tally
}

impl Cuts {
    /// One life until the power goes.
    async fn cut(&mut self, volume: &Volume, chain: &mut Chain, chance: &mut StdRng) {
        let written = match chance.random_range(0..8) {
            0 => {
                assert!(chain.start("recovery.swept@1=kill").is_none(), "every start passes this place");
                self.within_recovery += 1;
                cut(volume, chain)
            }
            1..4 => {
                let places: Vec<Point> = POINTS.into_iter().filter(|point| point.scene == Scene::Load).collect();
                let place = places.choose(chance).expect("there are some");
                let armed = format!("{}@{}=kill", place.name, chance.random_range(1..=place.most));
                self.at_places += 1;
                // A place that the start passes too may end it there.
                let Some(mut life) = chain.start(&armed) else { return self.boot(volume, cut(volume, chain), chain) };
                life.load(&chain.oracle, u64::MAX);
                life.ended(REACHED_WITHIN).await;
                let written = cut(volume, chain);
                chain.end(life).await;
                written
            }
            _ => {
                let mut life = chain.start("").expect("it listens, whatever the cut left");
                let enough = chain.oracle.tally().acknowledged + chance.random_range(1..2500);
                life.load(&chain.oracle, u64::MAX);
                life.until("enough acknowledged items", || chain.oracle.tally().acknowledged >= enough).await;
                self.anywhere += 1;
                let written = cut(volume, chain);
                chain.end(life).await;
                written
            }
        };
        self.boot(volume, written, chain);
    }

    fn boot(&mut self, volume: &Volume, written: u64, chain: &Chain) {
        volume.mount_again();
        chain.oracle.set_dark(false);
        self.took_bytes += u64::from(bytes_in(&volume.path().join("buffer")) < written);
    }
}

/// Cuts the power; how much was written before.
fn cut(volume: &Volume, chain: &Chain) -> u64 {
    let written = bytes_in(&volume.path().join("buffer"));
    chain.oracle.set_dark(true);
    volume.cut_power();
    written
}

/// The length of all files.
fn bytes_in(folder: &Path) -> u64 {
    // The directory itself may be one of the things that a cut takes.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}
