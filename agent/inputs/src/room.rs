//! The receive budget: bytes of all requests from their first chunk until the engine or the disk has them, over all connections.
//! A limit per request does not bound a crowd of them.

#[cfg(not(feature = "loom"))]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "loom")]
use loom::sync::atomic::AtomicU64;

/// A shared budget in bytes.
#[derive(Clone, Debug)]
pub struct Room {
    used: Arc<AtomicU64>,
    bytes_max: Arc<AtomicU64>,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    room: Room,
    bytes: u64,
}

/// What one request has taken of the budget; given back with the last clone. Whoever keeps the body of an offer after its answer,
/// or while nobody waits for one, keeps a clone with it. Without a budget (`default`) nothing is charged.
#[derive(Clone, Debug, Default)]
pub struct Charge(Option<Arc<Mutex<Share>>>);

impl Charge {
    pub(crate) fn new(share: Share) -> Self {
        Self(Some(Arc::new(Mutex::new(share))))
    }

    /// Takes `more` bytes, or none of them if the budget has not that many left.
    pub(crate) fn grow(&self, more: u64) -> bool {
        self.share().is_none_or(|mut share| share.grow(more))
    }

    /// Makes the share exactly this large; false, and unchanged, if the budget has not enough left.
    pub(crate) fn resize(&self, bytes: u64) -> bool {
        self.share().is_none_or(|mut share| share.resize(bytes))
    }

    fn share(&self) -> Option<MutexGuard<'_, Share>> {
        self.0.as_ref().map(|share| share.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Room {
    /// A budget of this many bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self { used: Arc::new(AtomicU64::new(0)), bytes_max: Arc::new(AtomicU64::new(bytes_max)) }
    }

    /// Another budget for what comes; what is in use stays so.
    pub fn resize(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn share(&self) -> Share {
        Share { room: self.clone(), bytes: 0 }
    }
}

impl Share {
    /// Takes `more` bytes, or none of them if the budget has not that many left.
    pub(crate) fn grow(&mut self, more: u64) -> bool {
        let bytes_max = self.room.bytes_max.load(Ordering::Relaxed);
        let fits = |used: u64| used.checked_add(more).filter(|&sum| sum <= bytes_max);
        let taken = self.room.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if taken {
            self.bytes += more;
        }
        taken
    }

    /// Makes the share exactly this large; false, and unchanged, if the budget has not enough left.
    pub(crate) fn resize(&mut self, bytes: u64) -> bool {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        self.room.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        self.bytes = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_to_the_budget_and_gives_back_what_it_took() {
        let room = Room::new(100);
        let mut one = room.share();
        let mut two = room.share();
        assert!(one.grow(60) && !two.grow(41) && two.grow(40));
        assert!(!one.resize(61) && one.resize(10));
        assert_eq!(room.used(), 50);
        room.resize(50);
        assert!(!one.grow(1), "a smaller budget takes nothing more");
        room.resize(51);
        assert!(one.grow(1));
        drop((one, two));
        assert_eq!(room.used(), 0);
    }
}

/// Connections in every order in which they may meet: `cargo test -p inputs --lib --features loom interleavings`.
#[cfg(all(test, feature = "loom"))]
mod interleavings {
    use super::*;

    #[test]
    fn two_requests_together_never_take_more_than_there_is_and_give_all_of_it_back() {
        loom::model(|| {
            let room = Room::new(100);
            let of = |first: u64, last: u64| {
                let room = room.clone();
                move || {
                    let mut share = room.share();
                    let has_first = share.grow(first);
                    assert!(room.used() <= 100);
                    let has_last = share.resize(last);
                    assert!(room.used() <= 100);
                    has_first || has_last
                }
            };
            let other = loom::thread::spawn(of(60, 70));
            let one = of(50, 30)();
            let other = other.join().expect("taking does not panic");
            assert!(one || other, "one of them had room");
            assert_eq!(room.used(), 0);
        });
    }
}
