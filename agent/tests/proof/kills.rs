//! SIGKILL at every named place of the running program, under load, again and again in the same directory.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::chain::{Chain, REACHED_WITHIN};
use crate::oracle::{Backend, Tally};
use crate::points::{POINTS, Point, Scene};
use crate::rig::destination_sum;
use crate::{number, seed};

/// Kills of a run unless told otherwise.
const ROUNDS: u64 = 50;
/// Kills that one directory lives through.
const CHAIN: u32 = 8;
/// Further tries at a place that a run missed: whether a write that is cut short is one of records or of a checkpoint is chance.
const TRIES: u32 = 8;
/// Requests before an end by SIGTERM.
const REQUESTS_BEFORE_END: u64 = 12;

/// Places at which a buffer is killed that answers before it syncs.
const UNSYNCED: [&str; 7] =
    ["disk.wrote-half", "disk.wrote", "disk.sync", "log.written", "storage.settled", "intake.stored", "checkpoint.taken"];

/// What a whole run came to.
#[derive(Default)]
struct Run {
    /// What is answered before it is synced; else every answer comes after a sync.
    is_buffered: bool,
    kills: u64,
    at: BTreeMap<&'static str, u64>,
    elsewhere: u64,
    slowest_start: Duration,
    tally: Tally,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_named_place_loses_nothing_that_was_acknowledged_from_disk() {
    let (rounds, seed) = (number("FOREBAY_ROUNDS").unwrap_or(ROUNDS), seed());
    println!("\nreplay: FOREBAY_SEED={seed} FOREBAY_ROUNDS={rounds} cargo xtask test --only kills");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut run = Run::default();
    let mut chain: Option<Chain> = None;
    while run.kills < rounds {
        let mut points = POINTS;
        points.shuffle(&mut chance);
        for point in points.into_iter().take((rounds - run.kills) as usize) {
            chain = Some(run.kill_at(point, chain, &mut chance).await);
        }
    }
    if let Some(chain) = chain {
        run.judge(chain).await;
    }
    let missed: Vec<Point> = POINTS.into_iter().filter(|point| !run.at.contains_key(point.name)).collect();
    for point in missed.into_iter().filter(|_| rounds >= ROUNDS) {
        // Chance missed it: again, at the first time it is reached.
        for _ in 0..TRIES {
            if !run.at.contains_key(point.name) {
                let chain = run.kill_at(Point { most: 1, ..point }, None, &mut chance).await;
                run.judge(chain).await;
            }
        }
        assert!(run.at.contains_key(point.name), "{point:?} is never reached");
    }
    run.tell();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_nothing_that_only_the_operating_system_has() {
    let mut chance = StdRng::seed_from_u64(seed());
    let mut run = Run { is_buffered: true, ..Run::default() };
    let mut chain = None;
    for point in POINTS.into_iter().filter(|point| UNSYNCED.contains(&point.name)) {
        // Within the first seconds of a life: afterwards syncs are few.
        chain = Some(run.kill_at(Point { most: point.most.min(10), ..point }, chain, &mut chance).await);
    }
    run.judge(chain.expect("there are places")).await;
    assert!(run.tally.acknowledged > 0 && run.tally.missing == 0, "{:?}", run.tally);
    run.tell();
}

impl Run {
    /// One kill, in the chain's directory or a new one.
    async fn kill_at(&mut self, point: Point, chain: Option<Chain>, chance: &mut StdRng) -> Chain {
        let needs_new = matches!(point.scene, Scene::FirstStart | Scene::Flush);
        let mode = match point.scene {
            Scene::Flush => "Spill",
            _ if self.is_buffered => "Mirror, acknowledge: OsBuffered",
            _ => "Mirror",
        };
        let may_go_on = |chain: &Chain| !needs_new && chain.lives < CHAIN && chain.document.contains(mode);
        let mut chain = match chain {
            Some(chain) if may_go_on(&chain) => chain,
            Some(chain) => {
                self.judge(chain).await;
                Chain::new(mode).await
            }
            None => Chain::new(mode).await,
        };
        // What a start recovers from.
        let before = match point.scene {
            Scene::TornStart => Some(format!("disk.wrote-half@{}=kill", chance.random_range(20..=60))),
            Scene::Start if chain.lives == 0 => Some("storage.settled@20=kill".to_owned()),
            _ => None,
        };
        if let Some(before) = before {
            chain.oracle.behave(Backend::Takes);
            self.live(&mut chain, &before, Scene::Load).await;
            self.kills += 1;
        }
        // Now and then there is nowhere to go, so that the next life finds a backlog.
        chain.oracle.behave(match point.scene {
            Scene::Flush => Backend::Hangs,
            Scene::Load | Scene::Start | Scene::Drain if chance.random_ratio(1, 4) => Backend::Refuses,
            _ => Backend::Takes,
        });
        let armed = format!("{}@{}=kill", point.name, chance.random_range(1..=point.most));
        if self.live(&mut chain, &armed, point.scene).await {
            *self.at.entry(point.name).or_default() += 1;
        } else {
            self.elsewhere += 1;
        }
        self.kills += 1;
        chain
    }

    /// A life from start to kill; whether it ended at the armed place.
    async fn live(&mut self, chain: &mut Chain, armed: &str, scene: Scene) -> bool {
        let Some(mut life) = chain.start(armed) else { return true };
        self.slowest_start = self.slowest_start.max(life.start);
        if matches!(scene, Scene::Drain | Scene::Flush) {
            life.load(&chain.oracle, REQUESTS_BEFORE_END);
            life.loaded().await;
            if scene == Scene::Flush {
                // Memory alone holds nothing before the first checkpoint.
                life.agent.await_ledger("a checkpoint", |ledger| destination_sum(ledger, "/routed") > 0).await;
                life.load(&chain.oracle, REQUESTS_BEFORE_END);
                life.loaded().await;
            }
            life.agent.signal("TERM");
        } else {
            life.load(&chain.oracle, u64::MAX);
        }
        let ended = life.ended(REACHED_WITHIN).await;
        chain.end(life).await;
        ended.is_some_and(|status| status.signal() == Some(9))
    }

    async fn judge(&mut self, chain: Chain) {
        self.tally = self.tally + chain.judge().await.0;
    }

    fn tell(&self) {
        let Self { kills, at, elsewhere, slowest_start, tally, .. } = self;
        println!(
            "figure: {kills} kills, {} at {} places, {elsewhere} elsewhere; slowest start {} ms; {tally:?}",
            kills - elsewhere,
            at.len(),
            slowest_start.as_millis()
        );
    }
}
