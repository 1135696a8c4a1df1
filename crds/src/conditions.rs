//! Conditions of a `TelemetryPipeline` and their reasons: the table of the API as code. Separate from the kinds because every
//! string that a user may read in `kubectl describe`, an event or a log about a condition comes from here.

use crate::words::word;

macro_rules! names {
    ($(#[$about:meta])* $name:ident: $kind:literal { $($(#[$doc:meta])* $member:ident,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $member,)+ }

        impl $name {
            /// Every member.
            pub const ALL: [Self; [$(stringify!($member)),+].len()] = [$(Self::$member),+];

            /// CamelCase: the name in the API.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$member => stringify!($member),)+ }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                formatter.write_str(self.name())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                crate::words::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::words::deserialize(deserializer)
            }
        }

        word!($name: $kind);
    };
}

names! {
    /// What is true, false or unknown of a pipeline. All nine are written on the first visit.
    ConditionType: "condition" {
        /// Our rollout is complete; says nothing of destinations.
        Ready,
        /// Work is under way.
        Reconciling,
        /// Nothing will move without an edit.
        Stalled,
        /// The specification can be carried out.
        ConfigValid,
        /// Enough agents run.
        WorkloadAvailable,
        /// Items pass, and none is dropped.
        FlowHealthy,
        /// Queues and disks have room.
        BuffersHealthy,
        /// Destinations take what is sent.
        DestinationsReachable,
        /// Agents report.
        ReportsFresh,
    }
}

names! {
    /// Status of a condition.
    ConditionStatus: "condition status" {
        /// It holds.
        True,
        /// It does not.
        False,
        /// Nobody knows yet.
        Unknown,
    }
}

names! {
    /// How a pipeline is, in one word.
    Health: "health" {
        /// Every condition is as it should be.
        Healthy,
        /// A condition is not.
        Degraded,
        /// Some items are dropped.
        Dropping,
        /// No pod is ready, all items are dropped, or nothing is delivered.
        Down,
        /// No agent reports.
        Unknown,
    }
}

names! {
    /// Why a condition is what it is. One word may serve two conditions; with its condition it decides the status.
    Reason: "reason of a condition" {
        /// Everything asked for is rolled out.
        Ready,
        /// No node matches the placement, so there is nothing to do.
        NoMatchingNodes,
        /// Being rolled out.
        Progressing,
        /// The specification cannot be carried out.
        InvalidConfig,
        /// Too few agents run.
        WorkloadUnavailable,
        /// Changes are held back on request.
        Paused,
        /// Not looked at yet.
        Pending,
        /// A changed specification was met.
        NewGeneration,
        /// Pods are being replaced.
        RollingOut,
        /// Replicas empty their buffers before they go.
        Draining,
        /// Resources or volumes change their size.
        Resizing,
        /// The last good configuration is being brought back.
        RollingBack,
        /// Replicas are added.
        ScalingUp,
        /// Replicas are removed.
        ScalingDown,
        /// Nothing to do, or nothing flows.
        Idle,
        /// The rollout stopped.
        RolloutFailed,
        /// An object that is named does not exist.
        ReferenceNotFound,
        /// The class does not allow it.
        ForbiddenByClass,
        /// The storage class cannot enlarge a volume.
        StorageNotExpandable,
        /// A drain outlasted its deadline.
        DrainDeadlineExceeded,
        /// The configuration does not fit into a ConfigMap.
        ConfigTooLarge,
        /// The operator may not do what is asked for.
        PermissionDenied,
        /// A resource quota is used up.
        QuotaExceeded,
        /// Nothing is in the way.
        NotStalled,
        /// The specification was taken.
        Accepted,
        /// A certificate ends soon.
        CertificateExpiring,
        /// A secret does not exist.
        SecretMissing,
        /// An endpoint cannot be used.
        EndpointInvalid,
        /// A certificate cannot be used.
        CertificateInvalid,
        /// A certificate has ended.
        CertificateExpired,
        /// An expression does not compile.
        ExpressionInvalid,
        /// No source that is asked for can be collected.
        SourceUnsupported,
        /// The limits are too small to work within.
        BudgetTooSmall,
        /// Not evaluated yet.
        NotEvaluated,
        /// As many agents run as must.
        MinimumAvailable,
        /// Pods find no node.
        PodsUnschedulable,
        /// An image cannot be pulled.
        ImagePullFailed,
        /// Agents end again and again.
        CrashLooping,
        /// Agents were killed for memory.
        OutOfMemory,
        /// Admission refused the pods' privileges.
        PrivilegeDenied,
        /// The kernel lacks what the only source needs.
        KernelUnsupported,
        /// Not observed yet.
        NotObserved,
        /// Items pass.
        Flowing,
        /// Nothing but drops.
        AllDataDropped,
        /// Some items are dropped.
        SomeDataDropped,
        /// Items come in, none is delivered.
        NothingDelivered,
        /// Items are refused at the door.
        IntakeRefused,
        /// No agent has reported.
        NoReports,
        /// Queues and disks have room.
        WithinLimits,
        /// A disk budget is used up.
        DiskFull,
        /// A disk fails.
        DiskErrors,
        /// Memory is full.
        MemoryQueueFull,
        /// Fills faster than it drains.
        FillingUp,
        /// The oldest item waits for too long.
        BacklogOld,
        /// Segments were set aside.
        SegmentsQuarantined,
        /// An identity of the ledger does not hold.
        LedgerBroken,
        /// Every destination takes what is sent.
        AllReachable,
        /// Credentials are refused.
        AuthenticationFailed,
        /// The name has no address.
        NameResolutionFailed,
        /// Refused, reset or unreachable.
        ConnectionFailed,
        /// The handshake fails.
        TlsFailed,
        /// The destination asks to slow down.
        RateLimited,
        /// It rejects items of what it takes.
        PartialRejects,
        /// No answer in time.
        TimedOut,
        /// Every agent reports.
        AllReporting,
        /// Agents are silent.
        AgentsSilent,
        /// Reports are being collected after a start.
        CollectingAfterRestart,
    }
}

/// Reasons of `FlowHealthy`, worst first: where several hold, the first is shown.
pub const FLOW_BY_SEVERITY: [Reason; 6] =
    [Reason::AllDataDropped, Reason::SomeDataDropped, Reason::NothingDelivered, Reason::IntakeRefused, Reason::Flowing, Reason::Idle];

impl ConditionType {
    /// The reasons this condition may have with this status.
    #[must_use]
    pub const fn reasons(self, status: ConditionStatus) -> &'static [Reason] {
        use Reason as R;
        match (self, status) {
            (Self::Ready, ConditionStatus::True) => &[R::Ready, R::NoMatchingNodes],
            (Self::Ready, ConditionStatus::False) => &[R::Progressing, R::InvalidConfig, R::WorkloadUnavailable, R::Paused],
            (Self::Ready, ConditionStatus::Unknown) => &[R::Pending],
            (Self::Reconciling, ConditionStatus::True) => {
                &[R::NewGeneration, R::RollingOut, R::Draining, R::Resizing, R::RollingBack, R::ScalingUp, R::ScalingDown]
            }
            (Self::Reconciling, ConditionStatus::False) => &[R::Idle],
            (Self::Stalled, ConditionStatus::True) => &[
                R::InvalidConfig,
                R::RolloutFailed,
                R::ReferenceNotFound,
                R::ForbiddenByClass,
                R::StorageNotExpandable,
                R::DrainDeadlineExceeded,
                R::ConfigTooLarge,
                R::PermissionDenied,
                R::QuotaExceeded,
            ],
            (Self::Stalled, ConditionStatus::False) => &[R::NotStalled],
            (Self::Reconciling | Self::Stalled, ConditionStatus::Unknown) => &[],
            (Self::ConfigValid, ConditionStatus::True) => &[R::Accepted, R::CertificateExpiring],
            (Self::ConfigValid, ConditionStatus::False) => &[
                R::SecretMissing,
                R::EndpointInvalid,
                R::CertificateInvalid,
                R::CertificateExpired,
                R::ExpressionInvalid,
                R::SourceUnsupported,
                R::BudgetTooSmall,
            ],
            (Self::ConfigValid, ConditionStatus::Unknown) => &[R::NotEvaluated],
            _ => self.reasons_of_what_runs(status),
        }
    }

    /// The second half of the table: what agents and pods are seen to do.
    const fn reasons_of_what_runs(self, status: ConditionStatus) -> &'static [Reason] {
        use Reason as R;
        match (self, status) {
            (Self::WorkloadAvailable, ConditionStatus::True) => &[R::MinimumAvailable, R::NoMatchingNodes],
            (Self::WorkloadAvailable, ConditionStatus::False) => {
                &[R::PodsUnschedulable, R::ImagePullFailed, R::CrashLooping, R::OutOfMemory, R::PrivilegeDenied, R::KernelUnsupported]
            }
            (Self::WorkloadAvailable, ConditionStatus::Unknown) => &[R::NotObserved],
            (Self::FlowHealthy, ConditionStatus::True) => &[R::Flowing, R::Idle],
            (Self::FlowHealthy, ConditionStatus::False) => &[R::AllDataDropped, R::SomeDataDropped, R::NothingDelivered, R::IntakeRefused],
            (Self::BuffersHealthy, ConditionStatus::True) => &[R::WithinLimits],
            (Self::BuffersHealthy, ConditionStatus::False) => {
                &[R::DiskFull, R::DiskErrors, R::MemoryQueueFull, R::FillingUp, R::BacklogOld, R::SegmentsQuarantined, R::LedgerBroken]
            }
            (Self::DestinationsReachable, ConditionStatus::True) => &[R::AllReachable],
            (Self::DestinationsReachable, ConditionStatus::False) => &[
                R::AuthenticationFailed,
                R::NameResolutionFailed,
                R::ConnectionFailed,
                R::TlsFailed,
                R::RateLimited,
                R::PartialRejects,
                R::TimedOut,
            ],
            (Self::ReportsFresh, ConditionStatus::True) => &[R::AllReporting],
            (Self::ReportsFresh, ConditionStatus::False) => &[R::AgentsSilent],
            (Self::ReportsFresh, ConditionStatus::Unknown) => &[R::CollectingAfterRestart],
            (_, ConditionStatus::Unknown) => &[R::NoReports],
            (_, _) => &[],
        }
    }

    /// The status that this reason gives this condition; none if the reason is not one of its own.
    #[must_use]
    pub fn status_of(self, reason: Reason) -> Option<ConditionStatus> {
        ConditionStatus::ALL.into_iter().find(|&status| self.reasons(status).contains(&reason))
    }

    /// The status that is good news: `False` for `Reconciling` and `Stalled`, `True` for the others.
    #[must_use]
    pub const fn good_status(self) -> ConditionStatus {
        match self {
            Self::Reconciling | Self::Stalled => ConditionStatus::False,
            _ => ConditionStatus::True,
        }
    }
}

impl From<crate::fleet::DestinationCondition> for Reason {
    fn from(condition: crate::fleet::DestinationCondition) -> Self {
        use crate::fleet::DestinationCondition as D;
        match condition {
            D::Reachable => Self::AllReachable,
            D::AuthenticationFailed => Self::AuthenticationFailed,
            D::NameResolutionFailed => Self::NameResolutionFailed,
            D::ConnectionFailed => Self::ConnectionFailed,
            D::TlsFailed => Self::TlsFailed,
            D::RateLimited => Self::RateLimited,
            D::PartialRejects => Self::PartialRejects,
            D::TimedOut => Self::TimedOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_and_its_condition_decide_the_status() {
        for condition in ConditionType::ALL {
            let rows: Vec<Reason> = ConditionStatus::ALL.iter().flat_map(|&status| condition.reasons(status)).copied().collect();
            let mut once = rows.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), rows.len(), "{condition} has a reason with two statuses");
            assert!(!condition.reasons(condition.good_status()).is_empty(), "{condition} can never be good");
        }
    }

    #[test]
    fn every_reason_belongs_to_a_condition() {
        for reason in Reason::ALL {
            assert!(ConditionType::ALL.iter().any(|condition| condition.status_of(reason).is_some()), "{reason} is used nowhere");
        }
    }

    #[test]
    fn every_state_of_flow_has_its_severity() {
        for status in [ConditionStatus::True, ConditionStatus::False] {
            for reason in ConditionType::FlowHealthy.reasons(status) {
                assert!(FLOW_BY_SEVERITY.contains(reason), "{reason} has no severity");
            }
        }
    }

    #[test]
    fn what_stands_between_an_agent_and_its_destination_is_a_reason_of_the_condition() {
        use crate::fleet::DestinationCondition as D;
        for condition in [
            D::AuthenticationFailed,
            D::NameResolutionFailed,
            D::ConnectionFailed,
            D::TlsFailed,
            D::RateLimited,
            D::PartialRejects,
            D::TimedOut,
        ] {
            assert_eq!(ConditionType::DestinationsReachable.status_of(condition.into()), Some(ConditionStatus::False));
        }
        assert_eq!(ConditionType::DestinationsReachable.status_of(D::Reachable.into()), Some(ConditionStatus::True));
    }
}
