//! A disk that is full, fails, hangs, turns read-only or loses its directory under the running program: export goes on, nothing is
//! acknowledged that is not on disk, and it heals without a restart when the cause ends.

use std::time::{Duration, Instant};

use crate::chain::{Chain, Life, ON_THEIR_WAY};
use crate::oracle::Backend;
use crate::rig::destination_sum;
use crate::volume::Volume;

/// Linux' numbers of the errors.
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EROFS: i32 = 30;
/// How long a disk hangs.
const STALL: Duration = Duration::from_secs(10);

impl Chain {
    /// Loads until the agent refuses.
    async fn load_until_refused(&self, life: &mut Life) {
        let before = self.oracle.tally().refused;
        life.load(&self.oracle, u64::MAX);
        life.until("a refusal", || self.oracle.tally().refused > before).await;
    }

    /// Loads until so many more items are acknowledged.
    async fn load_until_acknowledged(&self, life: &mut Life, items: u64) {
        let enough = self.oracle.tally().acknowledged + items;
        life.load(&self.oracle, u64::MAX);
        life.until("acknowledged items", || self.oracle.tally().acknowledged >= enough).await;
    }

    /// Everything that was acknowledged so far arrives while the disk is as it is.
    async fn everything_arrives(&self, life: &mut Life) {
        self.oracle.behave(Backend::Takes);
        life.until("the export of what was acknowledged", || self.oracle.tally().missing == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_delivers_and_takes_again() {
    let volume = Volume::tmpfs(2048);
    let mut chain = Chain::at(volume.path().join("buffer"), "Mirror").await;
    let mut life = chain.start("").expect("it listens");
    chain.oracle.behave(Backend::Refuses);
    chain.load_until_refused(&mut life).await;
    life.stop_load().await;
    chain.judge_alive(&life).await;
    chain.load_until_acknowledged(&mut life, 2000).await;
    life.stop_load().await;
    chain.judge_alive(&life).await;
    chain.end(life).await;
    chain.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_others_fill_is_delivered_from_and_used_again_when_there_is_room() {
    let volume = Volume::ext4(64);
    let mut chain = Chain::at(volume.path().join("buffer"), "Mirror").await;
    let mut life = chain.start("").expect("it listens");
    chain.oracle.behave(Backend::Refuses);
    chain.load_until_acknowledged(&mut life, 2000).await;
    let filler = volume.fill();
    let before = chain.oracle.tally().refused;
    life.until("a refusal", || chain.oracle.tally().refused > before).await;
    life.stop_load().await;
    chain.everything_arrives(&mut life).await;
    std::fs::remove_file(filler).expect("it is there");
    chain.load_until_acknowledged(&mut life, 2000).await;
    life.stop_load().await;
    chain.judge_alive(&life).await;
    chain.end(life).await;
    chain.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_needs_no_room_on_the_volume() {
    let volume = Volume::tmpfs(2048);
    let mut chain = Chain::at(volume.path().join("buffer"), "Mirror").await;
    let mut life = chain.start("").expect("it listens");
    chain.oracle.behave(Backend::Refuses);
    chain.load_until_refused(&mut life).await;
    chain.end(life).await;
    let filler = volume.fill();
    let mut life = chain.start("").expect("it listens on a full volume");
    chain.everything_arrives(&mut life).await;
    chain.judge_alive(&life).await;
    std::fs::remove_file(filler).expect("it is there");
    chain.load_until_acknowledged(&mut life, 2000).await;
    chain.end(life).await;
    chain.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_for_a_while_costs_refusals_and_nothing_that_was_acknowledged() {
    let read_only = ["disk.write@40+2", "disk.truncate@3", "disk.create@6", "disk.rename@1", "disk.remove@1"];
    let read_only = read_only.map(|place| format!("{place}={EROFS}")).join(",");
    let once = |place: &str, number: i32| format!("{place}@8+2={number}");
    let failures =
        [once("disk.sync", EIO), once("disk.sync-directory", EIO), once("disk.write", EIO), once("disk.create", EACCES), read_only];
    for failure in failures {
        let mut chain = Chain::new("Mirror").await;
        let mut life = chain.start(&failure).expect("it listens");
        chain.load_until_refused(&mut life).await;
        let enough = chain.oracle.tally().acknowledged + 2000;
        life.until("healing", || chain.oracle.tally().acknowledged >= enough).await;
        life.stop_load().await;
        chain.judge_alive(&life).await;
        chain.end(life).await;
        chain.judge().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_holds_back_answers_and_nothing_else() {
    let volume = Volume::ext4(64);
    let mut chain = Chain::at(volume.path().join("buffer"), "Mirror").await;
    let mut life = chain.start("").expect("it listens");
    chain.load_until_acknowledged(&mut life, 2000).await;
    let (began, frozen) = (Instant::now(), volume.freeze());
    chain.everything_arrives(&mut life).await;
    let (alive, before) = (life.agent.page("/healthz").await.0, chain.oracle.tally().acknowledged);
    life.until("the end of the stall", || began.elapsed() >= STALL).await;
    let (still_alive, after) = (life.agent.page("/healthz").await.0, chain.oracle.tally().acknowledged);
    drop(frozen);
    assert!(alive.contains("200") && still_alive.contains("200"), "{alive}, {still_alive}");
    assert!(after <= before + ON_THEIR_WAY, "{} items were acknowledged by a disk that stood still", after - before);
    let enough = chain.oracle.tally().acknowledged + 2000;
    life.until("answers after the thaw", || chain.oracle.tally().acknowledged >= enough).await;
    life.stop_load().await;
    chain.judge_alive(&life).await;
    chain.end(life).await;
    chain.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_turns_read_only_is_delivered_from_and_loses_nothing() {
    let volume = Volume::ext4(64);
    let mut chain = Chain::at(volume.path().join("buffer"), "Mirror").await;
    let mut life = chain.start("").expect("it listens");
    chain.oracle.behave(Backend::Refuses);
    chain.load_until_acknowledged(&mut life, 2000).await;
    volume.abort();
    chain.load_until_refused(&mut life).await;
    life.stop_load().await;
    chain.everything_arrives(&mut life).await;
    chain.end(life).await;
    volume.mount_again();
    chain.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_removed_and_made_again_is_used_again() {
    let mut chain = Chain::new("Mirror").await;
    let mut life = chain.start("").expect("it listens");
    chain.oracle.behave(Backend::Refuses);
    chain.load_until_acknowledged(&mut life, 2000).await;
    std::fs::remove_dir_all(chain.buffer()).expect("it is there");
    life.until("a refusal", || chain.oracle.tally().refused > 0).await;
    let before = chain.oracle.tally().acknowledged;
    chain.everything_arrives(&mut life).await;
    assert!(chain.oracle.tally().acknowledged <= before + ON_THEIR_WAY, "answers for what lies nowhere");
    life.stop_load().await;
    std::fs::create_dir(chain.buffer()).expect("its parent is there");
    let arrived = chain.oracle.tally().arrived;
    life.agent.await_ledger("a checkpoint in the new directory", |ledger| destination_sum(ledger, "/delivered") >= arrived).await;
    chain.oracle.behave(Backend::Refuses);
    chain.load_until_acknowledged(&mut life, 2000).await;
    // All that is held was acknowledged since, and the next life finds it in the new directory.
    chain.end(life).await;
    chain.judge().await;
}
