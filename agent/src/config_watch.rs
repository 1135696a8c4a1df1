//! Looks at the configuration document while it is in use, every few seconds and at SIGHUP. A changed one is applied live, but for an
//! agent of a cluster's pipeline, whose operator rolls the pods; one that is wrong or needs a restart is said at once, while the one
//! before goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::board::{Board, Reload};
use crate::check;
use crate::reload::RefusedReload;
use crate::settings::Settings;
use crate::storage::chain;

/// Time between two looks. A small file is read, and a person who waits for it does not wonder.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A document that is to run from here on.
pub(crate) struct Change {
    pub(crate) settings: Settings,
    pub(crate) answer: oneshot::Sender<Result<(), RefusedReload>>,
}

/// Watches one file.
pub(crate) struct ConfigWatch {
    file: PathBuf,
    /// The document that runs.
    text: String,
    board: Arc<Board>,
    changes: mpsc::Sender<Change>,
    hangup: Signal,
}

impl ConfigWatch {
    /// `text` is the document that runs.
    pub(crate) fn new(file: PathBuf, text: String, board: Arc<Board>, changes: mpsc::Sender<Change>) -> std::io::Result<Self> {
        Ok(Self { file, text, board, changes, hangup: signal(SignalKind::hangup())? })
    }

    /// Watches until it is dropped.
    pub(crate) async fn run(&mut self) {
        let mut seen = Ok(self.text.clone());
        loop {
            let is_asked = tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => false,
                _ = self.hangup.recv() => true,
            };
            let file = self.file.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || std::fs::read_to_string(file).map_err(|error| error.to_string())).await
            else {
                continue;
            };
            if is_asked || found != seen {
                self.take(found.clone(), is_asked).await;
                seen = found;
            }
        }
    }

    async fn take(&mut self, found: Result<String, String>, is_asked: bool) {
        if found.as_ref() == Ok(&self.text) {
            self.board.set_config_error(None);
            if is_asked {
                tracing::info!(file = %self.file.display(), "the configuration did not change");
            }
            return;
        }
        let read = found.map_err(anyhow::Error::msg).with_context(|| format!("cannot read {}", self.file.display()));
        let parsed = read.and_then(|text| Ok((check::parse(&self.file, &text)?, text)));
        let (settings, text) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return self.refuse(Reload::Invalid, format!("{error:#}")),
        };
        if settings.document.pipeline.is_some() {
            tracing::info!(file = %self.file.display(), "the configuration changed; it takes effect with the next start");
        } else {
            let (answer, answered) = oneshot::channel();
            if self.changes.send(Change { settings, answer }).await.is_err() {
                return;
            }
            match answered.await {
                Ok(Ok(())) => {}
                Ok(Err(refused)) => return self.refuse(refused.reload(), chain(&refused)),
                // The agent ends.
                Err(_) => return,
            }
            self.board.count_reload(Reload::Applied);
            tracing::info!(file = %self.file.display(), "the changed configuration runs");
        }
        self.text = text;
        self.board.set_config_error(None);
    }

    fn refuse(&self, how: Reload, why: String) {
        self.board.count_reload(how);
        self.board.set_config_error(Some(why));
    }
}
