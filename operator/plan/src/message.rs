//! Words and numbers for people: messages of conditions and the cells of `kubectl get`.

use jiff::Timestamp;
use vocabulary::DropReason;

/// Longest message of a condition, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 512;

/// Cuts a text to at most `bytes`, at a character.
#[must_use]
pub(crate) fn bounded(text: &str, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// Time of day, in UTC.
#[must_use]
pub(crate) fn clock(time: Timestamp) -> String {
    time.strftime("%H:%M:%S UTC").to_string()
}

/// `1.4Gi`; whole numbers below 1Ki.
#[must_use]
pub(crate) fn bytes(bytes: u64) -> String {
    scaled(bytes, 1024, &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
}

/// `412k/s`.
#[must_use]
pub(crate) fn rate(per_second: u64) -> String {
    format!("{}/s", scaled(per_second, 1000, &["", "k", "M", "G", "T", "P", "E"]))
}

fn scaled(number: u64, step: u64, suffixes: &[&str]) -> String {
    let (mut unit, mut power) = (1, 0);
    while number / unit >= step && power + 1 < suffixes.len() {
        unit *= step;
        power += 1;
    }
    let suffix = suffixes.get(power).copied().unwrap_or_default();
    let (whole, tenth) = (number / unit, number % unit * 10 / unit);
    if power == 0 || whole >= 10 || tenth == 0 { format!("{whole}{suffix}") } else { format!("{whole}.{tenth}{suffix}") }
}

/// `5m21s`; `-` for nothing.
#[must_use]
pub(crate) fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match (milliseconds, seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, ..) => "-".into(),
        (_, 0, 0, seconds) => format!("{seconds}s"),
        (_, 0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (_, hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

/// What to do about drops of this reason.
#[must_use]
pub(crate) const fn advice(reason: DropReason) -> &'static str {
    match reason {
        DropReason::SoftLimit | DropReason::QueueFull => {
            "raise resources.limits.memory, add buffer.disk, or give the destination more capacity"
        }
        DropReason::DiskFull | DropReason::Evicted => "raise buffer.disk.size, or give the destination more capacity",
        DropReason::DiskError | DropReason::Corrupt => "look at the agent's log and at the node's disk",
        DropReason::Expired => "look at the destination, or raise buffer.maxAgeSeconds",
        DropReason::RetryExhausted => "look at the destination, or raise its retry.deadlineSeconds",
        DropReason::TooLarge | DropReason::Undecodable => "look at the senders: these items can never be delivered",
        DropReason::Rejected => "look at the destination's log: it refuses these items for good",
        DropReason::ForcedShutdown | DropReason::DrainDeadline => "raise drain.deadlineSeconds, or use buffer.mode: Mirror",
        DropReason::CrashVolatile => "use buffer.mode: Mirror if what was acknowledged must survive a crash",
        DropReason::VolumeLost => "nothing brings these back; use a medium that outlives pod and node",
        DropReason::TenantQuota => "raise buffer.memory.size or buffer.disk.size, or have the tenant send less",
        DropReason::ConfigRemoved => "drain a destination before you remove it, or set buffer.onDestinationRemoved: Keep",
        DropReason::SourceRotated => "raise the limits of the agent: it reads slower than the files rotate",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_in_the_manual() {
        assert_eq!((bytes(0).as_str(), bytes(1_503_238_553).as_str(), bytes(2 << 30).as_str()), ("0", "1.3Gi", "2Gi"));
        assert_eq!((rate(7).as_str(), rate(1_100).as_str(), rate(412_345).as_str()), ("7/s", "1.1k/s", "412k/s"));
        assert_eq!((age(0).as_str(), age(321_000).as_str(), age(7_260_000).as_str()), ("-", "5m21s", "2h1m"));
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(bounded("aé", 2), "a");
    }
}
