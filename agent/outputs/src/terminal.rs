//! The output of an agent without a configuration: one line per record, so that a person sees what arrives.

use std::io::Write;

use tokio::task::spawn_blocking;
use vocabulary::{ClassCounts, Signal};

use crate::attempt::Attempt;

/// Writes to standard output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terminal;

impl Terminal {
    pub(crate) async fn print(self, signal: Signal, counts: ClassCounts, bytes: usize) -> Attempt {
        let line = line(signal, counts, bytes);
        let written = spawn_blocking(move || std::io::stdout().lock().write_all(line.as_bytes())).await;
        match written {
            Ok(Ok(())) => Attempt::delivered(),
            Ok(Err(cause)) => Attempt::unwritable(&cause),
            Err(ended) => Attempt::unwritable(&std::io::Error::other(ended)),
        }
    }
}

fn line(signal: Signal, counts: ClassCounts, bytes: usize) -> String {
    let classes: Vec<_> =
        counts.iter().filter(|&(_, items)| items > 0).map(|(class, items)| format!("{items} {}", class.label())).collect();
    format!("{:<8} {:>7} items ({})  {bytes} bytes\n", signal.label(), counts.total(), classes.join(", "))
}

#[cfg(test)]
mod tests {
    use vocabulary::Class;

    use super::*;

    #[test]
    fn a_line_tells_signal_items_by_class_and_size() {
        let mut counts = ClassCounts::of(Class::Normal, 510);
        counts[Class::High] = 2;
        assert_eq!(line(Signal::Traces, counts, 190_000), "traces       512 items (2 high, 510 normal)  190000 bytes\n");
    }
}
