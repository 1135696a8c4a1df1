//! One moment of an agent, from which metrics, the ledger page and reports are made; none of them counts anything itself.

use pipeline::{Books, Gauges};

/// Books that may be published, gauges, and whether the books hold.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) books: Books,
    pub(crate) gauges: Gauges,
    /// The identity that does not hold, with both sides.
    pub(crate) broken: Option<String>,
}
