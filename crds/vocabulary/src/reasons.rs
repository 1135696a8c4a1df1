//! Why an item did not get through: the closed lists of the ledger. Adding a member is an API change.

use crate::names::words;

words! {
    /// Why an accepted item will never be delivered. Each is counted once, per signal, class and destination.
    DropReason {
        /// Shed above the soft limit; the client was told by partial success.
        SoftLimit = 0 "soft_limit",
        /// A source that cannot be refused met the hard limit: memory and disk full.
        QueueFull = 1 "queue_full",
        /// The volume's budget was used up, and policy was to go on.
        DiskFull = 2 "disk_full",
        /// The disk itself failed, and policy was to go on.
        DiskError = 3 "disk_error",
        /// Older than the pipeline's maximum age.
        Expired = 4 "expired",
        /// Oldest of the lowest class, removed to make room.
        Evicted = 5 "evicted",
        /// Could never be delivered because of its size; found after acceptance.
        TooLarge = 6 "too_large",
        /// Could never be delivered because it cannot be read; found after acceptance.
        Undecodable = 7 "undecodable",
        /// The destination refused it permanently, or reported it in partial success.
        Rejected = 8 "rejected",
        /// The retry deadline passed and policy was to drop.
        RetryExhausted = 9 "retry_exhausted",
        /// A damaged record was found on disk.
        Corrupt = 10 "corrupt",
        /// Held only in memory when the process was told to end and its deadline passed.
        ForcedShutdown = 11 "forced_shutdown",
        /// Held only in memory when the process ended without warning.
        CrashVolatile = 12 "crash_volatile",
        /// On a node, pod or volume that is gone for good.
        VolumeLost = 13 "volume_lost",
        /// Over a tenant's share.
        TenantQuota = 14 "tenant_quota",
        /// Its destination was removed from the pipeline.
        ConfigRemoved = 15 "config_removed",
        /// A drain was told to proceed without it.
        DrainDeadline = 16 "drain_deadline",
        /// A log file vanished before it was read.
        SourceRotated = 17 "source_rotated",
    }
}

words! {
    /// Why a request was not accepted; the client will try again where the answer says so.
    RefuseReason {
        /// Memory and, where there is one, disk are full.
        HardLimit = 0 "hard_limit",
        /// Requests in flight already use the receive budget.
        MemoryPressure = 1 "memory_pressure",
        /// Over a tenant's share.
        TenantQuota = 2 "tenant_quota",
        /// The agent is draining.
        ShuttingDown = 3 "shutting_down",
        /// Larger, deeper or of more items than a limit allows.
        TooLarge = 4 "too_large",
        /// Not a well-formed export request.
        Undecodable = 5 "undecodable",
        /// A method, signal or encoding that is not served.
        Unsupported = 6 "unsupported",
        /// No or wrong credentials.
        Unauthenticated = 7 "unauthenticated",
        /// Credentials without the right to send here.
        Forbidden = 8 "forbidden",
    }
}

words! {
    /// Why a kernel record never reached user space. Counted by the kernel programs, monotone.
    LossReason {
        /// No ring space.
        RingFull = 0 "ring_full",
        /// No map slot.
        MapFull = 1 "map_full",
        /// Map update contended.
        MapBusy = 2 "map_busy",
        /// A time slot was not read in time.
        SlotOverrun = 3 "slot_overrun",
        /// Over the cgroup's token bucket.
        RateLimited = 4 "rate_limited",
        /// The program was re-entered.
        Recursion = 5 "recursion",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_leads_back_to_its_reason_and_an_unknown_one_to_none() {
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_code(reason.code()), Some(reason));
            assert_eq!(DropReason::from_name(reason.name()), Some(reason));
        }
        assert_eq!(DropReason::from_code(u8::MAX), None);
    }

    #[test]
    fn a_label_is_the_snake_case_of_the_name() {
        let snake = |name: &str| {
            let mut label = String::new();
            for letter in name.chars() {
                if letter.is_uppercase() && !label.is_empty() {
                    label.push('_');
                }
                label.extend(letter.to_lowercase());
            }
            label
        };
        for reason in DropReason::ALL {
            assert_eq!(reason.label(), snake(reason.name()));
        }
        for reason in RefuseReason::ALL {
            assert_eq!(reason.label(), snake(reason.name()));
        }
        for reason in LossReason::ALL {
            assert_eq!(reason.label(), snake(reason.name()));
        }
    }
}
