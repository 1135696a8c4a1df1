//! Looks at the configuration document while it is in use. A changed document takes effect with the next process (the operator
//! rolls the pods); a bad one is said at once, while the last good one goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::board::Board;
use crate::check::read;

/// A mounted ConfigMap follows its object within a minute; looking more often shows nothing earlier.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Watches until it is dropped. `text` is the document that runs.
pub(crate) async fn watch(file: PathBuf, mut text: String, board: Arc<Board>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let looked_at = file.clone();
        let Ok((found, result)) = tokio::task::spawn_blocking(move || {
            let found = std::fs::read_to_string(&looked_at).unwrap_or_default();
            (found, read(&looked_at).map(drop))
        })
        .await
        else {
            continue;
        };
        let is_good = result.is_ok();
        board.set_config_error(result.err().map(|error| format!("{error:#}")));
        if is_good && found != text {
            tracing::info!(file = %file.display(), "the configuration changed; it takes effect with the next start");
            text = found;
        }
    }
}
