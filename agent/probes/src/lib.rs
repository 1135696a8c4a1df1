//! Loads the kernel programs, and reads what they record.
//!
//! ```text
//!  tracepoints ─▶ programs ─┬─▶ ring URGENT     (wakes the reader)  ─▶ Probes::poll      ─▶ Event
//!                           ├─▶ ring LIFECYCLE  (read by a timer)   ─▶ Probes::poll      ─▶ Event
//!                           └─▶ hash CHURN, per time slot           ─▶ Probes::read_slot ─▶ Slot
//! ```
//!
//! Separate from the agent, because it is blocking, needs two capabilities (`BPF`, `PERFMON`) and is tested against a real kernel. The order
//! is [`start`], [`walk_cgroups`] once, then [`Probes::poll`] again and again, with [`Probes::read_slot`] at the end of each time slot.
//! Nothing here panics or ends the process when the kernel says no: [`StartError`] says what is missing and what to do, and a signal whose
//! tracepoint this kernel lacks is [`State::Off`] while the others run.
//!
//! **Accounting.** [`Probes::counters`] are those of the time slots that were read, so `attempted = produced + lost` holds exactly at
//! every instant. The unit is one kernel event: a record of a ring, or a fork, exec or exit within a slot's cells.
//!
//! **Which cgroup.** A container is known by its cgroup in the version 2 hierarchy, or in that of the memory controller where this still is
//! version 1 (version 2 stands almost empty beside it then). Only events below the cgroup that is mounted as the root are taken on: in
//! clusters whose nodes are containers, several nodes share one kernel.

mod account;
mod btf;
mod cgroups;
mod clock;
mod error;
mod layout;
mod load;
mod read;

pub use cgroups::walk_cgroups;
pub use clock::unix_nanos;
pub use error::{CgroupError, LayoutError, PollError, StartError};
pub use load::{Options, SignalState, State, start};
pub use read::{Event, KernelCounters, Probes, Slot};
