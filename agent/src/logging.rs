//! Where log lines go: to standard error, as text for a person and as JSON for a machine.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Installs the subscriber; `RUST_LOG` overrides the level. A panic becomes a line like any other: what it said and where. What is lost by
/// it is told by whoever goes on.
pub(crate) fn install() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        lines.with_target(false).init();
    } else {
        lines.json().flatten_event(true).init();
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let (thread, said) = (thread.name().unwrap_or_default(), panic.payload_as_str().unwrap_or_default());
        tracing::error!(place, thread, said, "a part of the agent panicked");
    }));
}
