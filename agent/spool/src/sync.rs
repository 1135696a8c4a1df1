//! What threads of the log meet through, by one name for two builds: the real ones, and those of `loom`, with which a test goes
//! through every order in which they may meet.

#[cfg(feature = "loom")]
pub(crate) use loom::sync::{
    RwLock,
    atomic::{AtomicBool, AtomicU64},
};
#[cfg(not(feature = "loom"))]
pub(crate) use std::sync::{
    RwLock,
    atomic::{AtomicBool, AtomicU64},
};

/// Of the model of a disk: each of its operations is an instant at which another thread may go on.
#[cfg(all(feature = "loom", any(test, feature = "model")))]
pub(crate) use loom::sync::Mutex;
#[cfg(all(not(feature = "loom"), any(test, feature = "model")))]
pub(crate) use std::sync::Mutex;
