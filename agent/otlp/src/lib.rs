//! OTLP export requests as bytes: proved well formed, counted and classified in one walk, cut by class where needed, and never
//! built into objects.
//!
//! # Model
//!
//! All three requests have one shape: a list of resource groups, each a list of scope groups, each a list of items (spans, log
//! records, or metrics whose data points are the items). The walk follows tables of the message types (`schema`) and accepts
//! what a protobuf decoder accepts: fields in any order, unknown fields and matched groups, packed or unpacked numbers, last value
//! wins. What it accepts can be decoded by every receiver.
//!
//! ```text
//!   body ──▶ inspect ──▶ items per class          (one pass, no allocation)
//!        ├─▶ tenant  ──▶ whose it is           (the resources alone, no allocation)
//!        ├─▶ split   ──▶ one request per class    (only under pressure; same resource and scope envelopes)
//!        └─▶ slice   ──▶ a request of some items  (to find the bad ones of a request that was refused)
//! ```
//!
//! # Limits
//!
//! Nesting of attribute values and items per request are bounded by [`Limits`]; message depth by 100, where common decoders stop.
//! No length read from the body is trusted before the bytes behind it are there.

pub mod response;
mod schema;
mod slice;
mod split;
mod tenant;
mod walk;
mod wire;

pub use slice::slice;
pub use split::split;
pub use tenant::tenant;
pub use walk::{Limits, Rules, inspect};
pub use wire::Malformed;
