//! What happened, in lines, if anybody wants to read it. The same seed gives the same lines.

use std::fmt::Write as _;
use std::time::Duration;

/// A log that costs nothing while it is off.
#[derive(Default)]
pub struct Trace(Option<String>);

impl Trace {
    /// One that keeps every line.
    #[must_use]
    pub fn on() -> Self {
        Self(Some(String::new()))
    }

    pub(crate) fn line(&mut self, now: Duration, line: impl FnOnce() -> String) {
        if let Some(text) = &mut self.0 {
            writeln!(text, "{:>12.6} {}", now.as_secs_f64(), line()).unwrap_or_default();
        }
    }

    /// All lines.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}
