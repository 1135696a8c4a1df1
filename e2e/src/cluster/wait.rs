//! Waiting for a state with a deadline; the state is what counts, never a pause that was long enough once.

use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks until `look` finds something; a failed look counts as "not yet" and is told when time is up.
///
/// # Errors
/// When the deadline passes, with `what` was waited for and the last failure or state.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Result<T, String>>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        let last = match look().await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(state)) => state,
            Err(error) => format!("{error:#}"),
        };
        if started.elapsed() > deadline {
            bail!("waited {} s for: {what}; last seen: {last}", deadline.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// As [`until`], for a condition without a value.
///
/// # Errors
/// When the deadline passes.
pub async fn eventually(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    until(what, deadline, async || Ok(if look().await? { Ok(()) } else { Err("not yet".to_owned()) })).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_state_that_never_comes_is_told_with_what_was_seen_last() {
        let look = async || Ok(Err::<(), _>("0 of 2 ready".to_owned()));
        let error = until("both pods", Duration::ZERO, look).await.expect_err("it never comes").to_string();
        assert!(error.contains("both pods") && error.contains("0 of 2 ready"), "{error}");
    }
}
