//! The stages of the process that may break without taking it with them: each is begun again, after a pause that grows while it goes
//! on breaking. Apart from the stages because none of them should know of it.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use crate::board::Board;

/// First pause after a panic.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Longest pause: what is broken for good costs little, and a person who looks sees it try.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Pauses between two beginnings of one stage.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(PAUSE_FIRST)
    }
}

impl Pauses {
    /// The pause after a run of this length: the first again after a run longer than any pause.
    pub(crate) fn next(&mut self, ran: Duration) -> Duration {
        if ran > PAUSE_MAX {
            self.0 = PAUSE_FIRST;
        }
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

/// Runs a stage until it ends by itself; a panic begins it anew.
pub(crate) async fn keep_up<F: Future<Output = ()>>(name: &'static str, board: &Board, begin: impl FnMut() -> F) {
    keep_up_with(Pauses::default(), name, board, begin).await;
}

async fn keep_up_with<F: Future<Output = ()>>(mut pauses: Pauses, name: &'static str, board: &Board, mut begin: impl FnMut() -> F) {
    loop {
        let began = Instant::now();
        if AssertUnwindSafe(async { begin().await }).catch_unwind().await.is_ok() {
            return;
        }
        let pause = pauses.next(began.elapsed());
        board.note_panic(name);
        tracing::error!(
            stage = name,
            pause_seconds = pause.as_secs(),
            "a stage ended in a panic, which is a fault of the agent; it begins anew"
        );
        tokio::time::sleep(pause).await;
    }
}

/// Takes one step of a stage that is a thread; none if it panicked.
pub(crate) fn step<R>(name: &'static str, board: &Board, act: impl FnOnce() -> R) -> Option<R> {
    let done = catch_unwind(AssertUnwindSafe(act)).ok();
    if done.is_none() {
        board.note_panic(name);
        tracing::error!(stage = name, "a step ended in a panic, which is a fault of the agent; the stage goes on");
    }
    done
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A body that breaks whichever stage it gets to, in the tests of the stages.
    pub(crate) const BREAKS: &[u8] = b"breaks the stage";

    pub(crate) fn break_if_told(body: &[u8]) {
        assert!(body != BREAKS, "a body that breaks the stage");
    }

    #[tokio::test]
    async fn a_stage_that_breaks_begins_anew_until_it_ends_by_itself() {
        let board = Board::new();
        let mut runs = 0;
        keep_up_with(Pauses(Duration::ZERO), "test", &board, || {
            runs += 1;
            let breaks = runs <= 3;
            async move { assert!(!breaks, "a stage that breaks") }
        })
        .await;
        assert_eq!((runs, board.panics()), (4, vec![("test", 3)]));
    }

    #[test]
    fn the_pause_grows_to_its_bound_and_is_short_again_after_a_long_run() {
        let mut pauses = Pauses::default();
        let seconds: Vec<u64> = (0..9).map(|_| pauses.next(Duration::ZERO).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pauses.next(PAUSE_MAX * 2), PAUSE_FIRST);
    }

    #[test]
    fn a_step_that_breaks_is_counted_and_the_thread_goes_on() {
        let board = Board::new();
        assert_eq!(step("test", &board, || -> u8 { unreachable!("a step that breaks") }), None);
        assert_eq!((step("test", &board, || 7), board.panics()), (Some(7), vec![("test", 1)]));
    }
}
