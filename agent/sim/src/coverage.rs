//! What has to happen sometimes: a simulation whose faults never fire proves nothing, so each is counted, and the suite fails on a zero.

/// Declares what is counted.
macro_rules! sometimes {
    ($($member:ident = $text:literal,)+) => {
        /// Something that must happen in some simulations.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Sometimes { $(#[doc = $text] $member,)+ }

        impl Sometimes {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$member),+];

            /// What happened, in words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$member => $text,)+ }
            }
        }
    };
}

sometimes! {
    PowerCut = "the power went",
    PowerCutInOperation = "the power went within an operation of the disk",
    WriteTorn = "an unsynced write was torn or zeroed",
    CrashInRecovery = "recovery was cut off",
    CrashInRecoveryTwice = "recovery was cut off twice in a row",
    Killed = "the process was killed, the page cache stayed",
    StoppedGracefully = "a shutdown ended by itself",
    StoppedByDeadline = "a shutdown met its deadline",
    StoppedBySecondSignal = "a second signal ended a shutdown",
    CrashInShutdown = "the process ended without warning within a shutdown",
    OpenFailed = "opening failed and was tried again",
    DiskFull = "the disk was full for a while",
    DiskHung = "an operation of the disk took seconds",
    SyncFailed = "a sync failed",
    WriteFailed = "a write failed",
    ReadFailed = "a record could not be read back for a while",
    AppendFailed = "a group was not stored",
    CheckpointFailed = "a checkpoint was not written",
    SegmentReleased = "segments were deleted",
    SegmentRetained = "segments that nobody needs were retained",
    Reconfigured = "the configuration changed while the agent ran",
    Removed = "a destination that held nothing was removed",
    RemovedHolding = "a destination was removed and held something",
    Returned = "a destination returned and held nothing",
    ReturnedHolding = "a destination returned and held something",
    ConfigRemoved = "what a removed destination held was dropped, as policy was to",
    ClockStepped = "the wall clock stepped",
    RequestLost = "a request was lost on its way to the agent",
    ReplyLost = "a reply was lost on its way to the client",
    ClientRetried = "a client sent a request again",
    DoublyAdmitted = "a request was admitted twice",
    ClientGaveUp = "a client gave up",
    RefusedHardLimit = "a request was refused for want of room",
    RefusedForShare = "a request was refused because the share of the disk of a destination that may lose nothing was full",
    RefusedTenant = "a request was refused because its tenant held its share",
    TenantWithoutPlace = "a tenant had no place of its own",
    RefusedShuttingDown = "a request was refused by an agent that ends",
    RefusedTooLarge = "a request was refused as too large",
    Shed = "items were shed and the client told",
    KernelDropped = "items of the kernel found no room",
    SplitByClass = "a mixed request was cut by class",
    NotSplit = "a mixed request was taken whole",
    EndedUnstored = "an end gave back what waited for the disk",
    StorageQueueFull = "a request waited for a place in the storage queue",
    PeerSlow = "a destination was slow",
    PeerDead = "a destination was dead",
    PeerFlaky = "a connection to a destination broke",
    PeerRejected = "a destination rejected a record",
    SentInSlices = "a record was searched for what its destination rejects",
    Quarantined = "what a destination finds bad was copied out of its record",
    QuarantineFull = "what a destination finds bad found the quarantine full",
    QuarantineFailed = "what a destination finds bad could not be copied out for a while",
    KilledAfterCopy = "the process ended between the copy and the engine's knowing of it",
    FoundCopied = "a record was settled at a start because its copy was there",
    Replaying = "a destination answered while its backlog was replayed",
    Panicked = "the sender broke over a record",
    DeliveredInSlices = "a record that its destination rejected was delivered but for some items",
    PeerTooLarge = "a destination found a record too large",
    PeerFailed = "a destination failed at a record and did not say why",
    FailureRejected = "a record that a destination kept failing at was rejected",
    PeerPartial = "a destination took a record in part",
    PeerThrottled = "a destination asked for a pause",
    PeerReplyLost = "a destination took a record and its answer was lost",
    ArrivedLate = "a record arrived after the agent had given up waiting",
    ArrivedAfterCrash = "a record arrived after its sender had ended",
    ReadBack = "a record was read back from disk to be sent",
    KilledUnsynced = "the process was killed with records that only the page cache had",
    PowerCutUnsynced = "the power went with records that only the page cache had",
    ArchiveSent = "what an archive held was sent by another mode",
    RetryExhausted = "a record was dropped at its retry deadline",
    Evicted = "a destination gave up its oldest record because its share of the disk was full",
    ShareFull = "a destination did without a record because its share of the disk was full",
    Expired = "a record was dropped at its age limit",
    CrashVolatile = "a crash took what memory alone held",
    ForcedShutdown = "an end took what memory alone held",
    FoundUnacknowledged = "a record that nobody had been told of was found on disk",
    SettledAgain = "a record was delivered again after a crash",
}

/// How often each of them happened.
#[derive(Clone, Debug)]
pub struct Coverage([u64; Sometimes::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; Sometimes::ALL.len()])
    }
}

impl Coverage {
    pub(crate) fn note(&mut self, what: Sometimes) {
        self.0[what as usize] += 1;
    }

    /// Adds what another simulation saw.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// Each of them with its number.
    pub fn iter(&self) -> impl Iterator<Item = (Sometimes, u64)> + '_ {
        Sometimes::ALL.iter().copied().zip(self.0)
    }
}
