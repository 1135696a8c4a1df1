//! Named places at which a test ends the process or has the disk fail. Without the feature `failpoints` they are nothing at all.
//!
//! The feature concerns this crate and the agent alone and brings no dependency: a library for it would bring features of crates that
//! nearly everything rests on, and so a second build of the world.
//!
//! What is to happen is told once, at the start: `log.commit@3=kill` ends the process by SIGKILL when it reaches the place for the third
//! time; `disk.sync@2+4=5` has the second to the fifth sync fail with the error of number 5 (EIO). Several are separated by commas.

#[cfg(feature = "failpoints")]
pub use armed::arm;

/// The process got to a place of this name.
#[inline]
pub fn reach(name: &'static str) {
    try_reach(name).unwrap_or(());
}

/// The process got to a place of this name, where the disk may fail.
#[inline]
pub(crate) fn try_reach(name: &'static str) -> std::io::Result<()> {
    #[cfg(feature = "failpoints")]
    return armed::act(name);
    #[cfg(not(feature = "failpoints"))]
    {
        // The name serves only those who read the code.
        let _ = name;
        Ok(())
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    static ARMED: OnceLock<Vec<Point>> = OnceLock::new();

    struct Point {
        name: String,
        /// First time at which it acts, counted from 1, and how often from then on.
        first: u64,
        times: u64,
        act: Act,
        reached: AtomicU64,
    }

    enum Act {
        Kill,
        Fail(i32),
    }

    /// Tells the places what to do; once per process.
    ///
    /// # Errors
    /// If the text cannot be understood, or there was one before.
    pub fn arm(text: &str) -> Result<(), String> {
        let points = text.split(',').filter(|part| !part.is_empty());
        let points = points.map(|part| parse(part).ok_or_else(|| format!("`{part}` is not NAME@FIRST=kill or NAME@FIRST+TIMES=ERRNO")));
        ARMED.set(points.collect::<Result<_, _>>()?).map_err(|_| "the places were told before".to_owned())
    }

    fn parse(text: &str) -> Option<Point> {
        let (place, act) = text.split_once('=')?;
        let (name, times) = place.split_once('@')?;
        let (first, times) = times.split_once('+').unwrap_or((times, "1"));
        let act = if act == "kill" { Act::Kill } else { Act::Fail(act.parse().ok()?) };
        Some(Point { name: name.to_owned(), first: first.parse().ok()?, times: times.parse().ok()?, act, reached: AtomicU64::new(0) })
    }

    pub(super) fn act(name: &'static str) -> io::Result<()> {
        for point in ARMED.get().into_iter().flatten().filter(|point| point.name == name) {
            let reached = point.reached.fetch_add(1, Ordering::Relaxed) + 1;
            if reached < point.first || reached - point.first >= point.times {
                continue;
            }
            match point.act {
                Act::Fail(number) => return Err(io::Error::from_raw_os_error(number)),
                Act::Kill => {
                    kill_process(getpid(), Signal::KILL)?;
                    // Nothing of this thread may happen any more, though other threads may run for a moment.
                    loop {
                        std::hint::spin_loop();
                    }
                }
            }
        }
        Ok(())
    }
}
