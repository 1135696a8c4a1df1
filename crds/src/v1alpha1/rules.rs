//! What fields may not say to each other, as CEL: the API server evaluates it, so that a contradiction never reaches the
//! operator. Each rule is a function with the name of what it refuses or demands; its message names both sides.
//!
//! A quantity is an integer or a string, hence `quantity(string(x))`. Messages with values are expressions. `cel.bind` is not
//! used because the local evaluator lacks it. Numbers are put into messages by `format`: the API server cannot bound the length of
//! `string(integer)`, and refuses the definition for its estimated cost.

use kube::core::{Message, Rule};

/// A rule whose message is fixed.
fn refuse(rule: &str, message: &str) -> Rule {
    Rule::new(rule).message(message)
}

/// A rule whose message is a CEL expression.
fn explain(rule: &str, expression: &str) -> Rule {
    Rule::new(rule).message(Message::Expression(expression.into()))
}

pub(super) fn name_length() -> Rule {
    explain(
        "size(self.metadata.name) <= 40 && !self.metadata.name.contains('.')",
        "'metadata.name has %d characters; at most 40 and no dot are allowed, because pods and services are named after it'.format([size(self.metadata.name)])",
    )
}

pub(super) fn workload_kind_immutable() -> Rule {
    explain(
        "self == oldSelf",
        "'workload.kind cannot change from ' + oldSelf + ' to ' + self + ': create a second pipeline, then delete this one'",
    )
}

pub(super) fn replicas_forbidden() -> Rule {
    explain(
        "self.kind != 'DaemonSet' || !has(self.replicas)",
        "'workload.replicas is %d, but workload.kind DaemonSet has one agent per node: remove replicas'.format([self.replicas])",
    )
}

pub(super) fn replicas_required() -> Rule {
    explain("self.kind == 'DaemonSet' || has(self.replicas)", "'workload.replicas is required for workload.kind ' + self.kind")
}

pub(super) fn toleration_exists_has_no_value() -> Rule {
    explain(
        "!has(self.operator) || self.operator != 'Exists' || !has(self.value)",
        "'toleration value ' + self.value + ' has no meaning with operator Exists: remove it'",
    )
}

pub(super) fn at_least_one_source() -> Rule {
    refuse("has(self.ebpf) || has(self.otlp)", "sources is empty: add ebpf or otlp")
}

pub(super) fn ebpf_needs_daemon_set() -> Rule {
    explain(
        "!has(self.sources.ebpf) || self.workload.kind == 'DaemonSet'",
        "'sources.ebpf needs workload.kind DaemonSet, an agent on every node; it is ' + self.workload.kind",
    )
}

pub(super) fn exposure_needs_daemon_set() -> Rule {
    explain(
        "!has(self.sources.otlp) || !has(self.sources.otlp.exposure) || self.sources.otlp.exposure == 'ClusterService' || self.workload.kind == 'DaemonSet'",
        "'sources.otlp.exposure ' + self.sources.otlp.exposure + ' needs workload.kind DaemonSet; it is ' + self.workload.kind + ': use ClusterService'",
    )
}

/// A class that is not named keeps its default share, as does one that is named without a share.
pub(super) fn reserved_sum() -> Rule {
    let listed =
        "self.classes.map(c, has(c.reservedPercent) ? c.reservedPercent : (c.name == 'Critical' || c.name == 'High') ? 10 : 0).sum()";
    let sum = format!(
        "({listed} + (self.classes.exists(c, c.name == 'Critical') ? 0 : 10) + (self.classes.exists(c, c.name == 'High') ? 0 : 10))"
    );
    explain(
        &format!("!has(self.classes) || {sum} <= 100"),
        &format!("'reservedPercent of all priorities.classes is %d, more than 100'.format([{sum}])"),
    )
}

pub(super) fn soft_percent_needs_backpressure() -> Rule {
    explain(
        "!has(self.mode) || self.mode != 'Disabled' || !has(self.softPercent)",
        "'priorities.backpressure.softPercent is %d, but mode Disabled has no soft limit: remove one of them'.format([self.softPercent])",
    )
}

pub(super) fn disk_required() -> Rule {
    explain("self.mode == 'Memory' || has(self.disk)", "'buffer.mode ' + self.mode + ' needs buffer.disk'")
}

pub(super) fn disk_forbidden() -> Rule {
    refuse("self.mode != 'Memory' || !has(self.disk)", "buffer.mode Memory does not use buffer.disk: remove it, or use Spill")
}

/// The pairs of `agent::BufferMode::acknowledges`.
pub(super) fn acknowledge_fits_mode() -> Rule {
    explain(
        "!has(self.acknowledge) || (self.acknowledge == 'Delivered' ? self.mode != 'Archive' : (self.acknowledge == 'Memory') == (self.mode in ['Memory', 'Spill']))",
        "'buffer.acknowledge ' + self.acknowledge + ' does not go with buffer.mode ' + self.mode + ', which answers after ' + (self.mode in ['Memory', 'Spill'] ? 'Memory or Delivered' : self.mode == 'Mirror' ? 'OsBuffered, Fsync or Delivered' : 'OsBuffered or Fsync')",
    )
}

pub(super) fn host_path_needs_daemon_set() -> Rule {
    explain(
        "!has(self.buffer.disk) || self.buffer.disk.medium != 'HostPath' || self.workload.kind == 'DaemonSet'",
        "'buffer.disk.medium HostPath needs workload.kind DaemonSet, or two agents may meet on one directory; it is ' + self.workload.kind",
    )
}

pub(super) fn claim_needs_stateful_set() -> Rule {
    explain(
        "!has(self.buffer.disk) || self.buffer.disk.medium != 'PersistentVolumeClaim' || self.workload.kind == 'StatefulSet'",
        "'buffer.disk.medium PersistentVolumeClaim needs workload.kind StatefulSet, a claim per replica; it is ' + self.workload.kind",
    )
}

pub(super) fn host_path_only_with_its_medium() -> Rule {
    explain(
        "!has(self.hostPath) || self.medium == 'HostPath'",
        "'buffer.disk.hostPath has no meaning with medium ' + self.medium + ': remove one of them'",
    )
}

pub(super) fn claim_only_with_its_medium() -> Rule {
    explain(
        "!has(self.claim) || self.medium == 'PersistentVolumeClaim'",
        "'buffer.disk.claim has no meaning with medium ' + self.medium + ': remove one of them'",
    )
}

pub(super) fn claim_may_not_shrink() -> Rule {
    explain(
        "self.medium != 'PersistentVolumeClaim' || quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0",
        "'buffer.disk.size cannot shrink from ' + string(oldSelf.size) + ' to ' + string(self.size) + ': a claim only grows'",
    )
}

pub(super) fn exactly_one_retention() -> Rule {
    refuse("has(self.segments) != has(self.seconds)", "buffer.disk.retention needs exactly one of segments and seconds")
}

pub(super) fn medium_immutable() -> Rule {
    explain(
        "self == oldSelf",
        "'buffer.disk.medium cannot change from ' + oldSelf + ' to ' + self + ': what waits on the old one would be left behind'",
    )
}

pub(super) fn host_path_immutable() -> Rule {
    explain(
        "self == oldSelf",
        "'buffer.disk.hostPath.path cannot change from ' + oldSelf + ' to ' + self + ': what waits there would be left behind'",
    )
}

pub(super) fn storage_class_immutable() -> Rule {
    refuse(
        "has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
        "buffer.disk.claim.storageClassName cannot change: claims keep the class they were made with",
    )
}

pub(super) fn path_absolute() -> Rule {
    explain(
        "self.startsWith('/') && !self.contains('/../') && !self.endsWith('/..') && !self.contains('//')",
        "'path ' + self + ' must be absolute, without .. and without //'",
    )
}

pub(super) fn paths_absolute() -> Rule {
    refuse(
        "self.all(p, p.startsWith('/') && !p.contains('/../') && !p.endsWith('/..') && !p.contains('//'))",
        "every path of hostPaths must be absolute, without .. and without //",
    )
}

pub(super) fn memory_below_limit() -> Rule {
    explain(
        "!has(self.buffer.memory) || !has(self.resources) || !has(self.resources.limits) || !has(self.resources.limits.memory) || quantity(string(self.buffer.memory.size)).isLessThan(quantity(string(self.resources.limits.memory)))",
        "'buffer.memory.size ' + string(self.buffer.memory.size) + ' must be less than resources.limits.memory ' + string(self.resources.limits.memory)",
    )
}

pub(super) fn required_is_never_dropped() -> Rule {
    explain(
        "!has(self.buffer.disk) || !has(self.buffer.disk.onFull) || self.buffer.disk.onFull == 'RefuseIntake' || !self.destinations.exists(d, has(d.delivery) && d.delivery == 'Required')",
        "'a destination has delivery Required, but buffer.disk.onFull ' + self.buffer.disk.onFull + ' drops items: use RefuseIntake, or remove delivery'",
    )
}

pub(super) fn tenants_need_otlp() -> Rule {
    refuse(
        "!has(self.tenants) || has(self.sources.otlp)",
        "tenants is set, but sources.otlp is not: what the kernel gives has no tenant; add sources.otlp, or remove tenants",
    )
}

pub(super) fn best_effort_needs_disk() -> Rule {
    refuse(
        "self.buffer.mode != 'Memory' || !self.destinations.exists(d, has(d.delivery) && d.delivery == 'BestEffort')",
        "a destination has delivery BestEffort, but buffer.mode Memory has no share of a disk to drop from: remove delivery, or use Spill",
    )
}

pub(super) fn retry_deadline_within_age() -> Rule {
    let beyond =
        "self.destinations.filter(d, has(d.retry) && has(d.retry.deadlineSeconds) && d.retry.deadlineSeconds > self.buffer.maxAgeSeconds)";
    explain(
        &format!("!has(self.buffer.maxAgeSeconds) || {beyond}.size() == 0"),
        &format!(
            "'retry.deadlineSeconds %d of destination %s is more than buffer.maxAgeSeconds %d, which would always drop first'.format([{beyond}[0].retry.deadlineSeconds, {beyond}[0].name, self.buffer.maxAgeSeconds])"
        ),
    )
}

/// `resource` is `cpu` or `memory`.
pub(super) fn request_below_limit(resource: &str) -> Rule {
    let both = format!("has(self.requests) && has(self.limits) && has(self.requests.{resource}) && has(self.limits.{resource})");
    explain(
        &format!("!({both}) || quantity(string(self.requests.{resource})).compareTo(quantity(string(self.limits.{resource}))) <= 0"),
        &format!(
            "'resources.requests.{resource} ' + string(self.requests.{resource}) + ' is more than resources.limits.{resource} ' + string(self.limits.{resource})"
        ),
    )
}

pub(super) fn exactly_one_protocol() -> Rule {
    explain("[has(self.otlpGrpc)].filter(set, set).size() == 1", "'destination ' + self.name + ' needs exactly one protocol: otlpGrpc'")
}

pub(super) fn endpoint_form() -> Rule {
    explain(
        "self.matches('^https?://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\\\\[[0-9a-fA-F:.]+\\\\]):[1-9][0-9]{0,4}$')",
        "'endpoint ' + self + ' must be http://host:port or https://host:port'",
    )
}

pub(super) fn retry_initial_below_max() -> Rule {
    explain(
        "(has(self.initialMilliseconds) ? self.initialMilliseconds : 500) <= (has(self.maxMilliseconds) ? self.maxMilliseconds : 10000)",
        "'retry.initialMilliseconds %d is more than retry.maxMilliseconds %d'.format([has(self.initialMilliseconds) ? self.initialMilliseconds : 500, has(self.maxMilliseconds) ? self.maxMilliseconds : 10000])",
    )
}

pub(super) fn retry_max_below_deadline() -> Rule {
    explain(
        "!has(self.deadlineSeconds) || (has(self.maxMilliseconds) ? self.maxMilliseconds : 10000) <= self.deadlineSeconds * 1000",
        "'retry.maxMilliseconds %d is more than retry.deadlineSeconds %d (%d milliseconds)'.format([has(self.maxMilliseconds) ? self.maxMilliseconds : 10000, self.deadlineSeconds, self.deadlineSeconds * 1000])",
    )
}
