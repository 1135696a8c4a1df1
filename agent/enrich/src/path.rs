//! Reads a container out of a cgroup's path. Separate because the two forms are fixed by the kubelet's cgroup drivers and by container
//! runtimes, not by us: the kubelet names `pod<uid>` (cgroupfs) or `…-pod<uid with underscores>.slice` (systemd), the runtime adds
//! `<id>` or `<runtime>-<id>.scope` below it.

/// What a path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPath {
    /// UID of the pod.
    pub pod_uid: String,
    /// Id of the container.
    pub container_id: String,
}

/// Container ids are 64 hexadecimal digits with every runtime that Kubernetes knows.
const CONTAINER_ID_CHARS: usize = 64;

/// The container a cgroup belongs to: its own, or the one it is nested in. None for a pod's own cgroup and for everything outside pods.
/// Whatever stands before the pod (`/kubepods.slice`, `/kubelet/kubepods`, `/docker/<node>/…` in front of it) does not matter.
#[must_use]
pub fn parse_cgroup_path(path: &str) -> Option<ContainerPath> {
    let mut parts = path.split('/');
    let pod_uid = parts.find_map(pod_uid)?;
    let container_id = container_id(parts.next()?)?;
    Some(ContainerPath { pod_uid, container_id })
}

/// The pod's UID if this part of a path is a pod's cgroup. Static pods have the 32 digits of a hash instead of a UUID.
fn pod_uid(part: &str) -> Option<String> {
    let uid = match part.strip_suffix(".slice") {
        Some(slice) => {
            slice.strip_prefix("kubepods-").or_else(|| slice.split_once("-kubepods-").map(|(_, rest)| rest)).and_then(systemd_pod)?
        }
        None => part.strip_prefix("pod")?.to_string(),
    };
    let digits = uid.chars().filter(|letter| *letter != '-');
    let is_uid = digits.clone().all(|digit| digit.is_ascii_hexdigit()) && digits.count() == 32;
    is_uid.then_some(uid)
}

/// `pod<uid>` or `<qos>-pod<uid>`; systemd uses dashes for nesting, so those of the UID became underscores.
fn systemd_pod(name: &str) -> Option<String> {
    let pod = name.strip_prefix("burstable-").or_else(|| name.strip_prefix("besteffort-")).unwrap_or(name);
    Some(pod.strip_prefix("pod")?.replace('_', "-"))
}

/// The container's id if this part of a path is a container's cgroup. CRI-O's `crio-conmon-<id>.scope` is its monitor, not the container.
fn container_id(part: &str) -> Option<String> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let (runtime, id) = name.rsplit_once('-').unwrap_or(("", name));
    let is_id = id.len() == CONTAINER_ID_CHARS && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    (is_id && !runtime.ends_with("conmon")).then(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4a1c0c5c7c1f4a7d8a6a5d1b1f6e2c3d4a1c0c5c7c1f4a7d8a6a5d1b1f6e2c3d";
    const UID: &str = "0b7a6c1e-2f3d-4a5b-8c9d-0e1f2a3b4c5d";

    fn found() -> Option<ContainerPath> {
        Some(ContainerPath { pod_uid: UID.into(), container_id: ID.into() })
    }

    #[test]
    fn both_drivers_and_every_prefix_lead_to_the_same_container() {
        let underscored = UID.replace('-', "_");
        for path in [
            format!("/kubepods/pod{UID}/{ID}"),
            format!("/kubepods/burstable/pod{UID}/{ID}"),
            format!("/kubelet/kubepods/besteffort/pod{UID}/{ID}"),
            format!("/docker/{ID}/kubelet/kubepods/burstable/pod{UID}/{ID}"),
            format!("/kubepods.slice/kubepods-pod{underscored}.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice/crio-{ID}.scope"),
            format!(
                "/system.slice/docker-{ID}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{underscored}.slice/cri-containerd-{ID}.scope"
            ),
            format!("/kubepods/burstable/pod{UID}/{ID}/init.scope/nested"),
        ] {
            assert_eq!(parse_cgroup_path(&path), found(), "{path}");
        }
    }

    #[test]
    fn a_static_pod_is_known_by_its_hash() {
        let hash = "0123456789abcdef0123456789abcdef";
        let read = parse_cgroup_path(&format!("/kubepods/burstable/pod{hash}/{ID}")).expect("it is a container");
        assert_eq!(read.pod_uid, hash);
    }

    #[test]
    fn what_is_no_container_of_a_pod_is_none() {
        for path in [
            String::new(),
            "/".into(),
            "/system.slice/sshd.service".into(),
            format!("/docker/{ID}"),
            format!("/kubepods/burstable/pod{UID}"),
            format!("/kubepods/burstable/pod{UID}/not-an-id"),
            format!("/kubepods/burstable/podium/{ID}"),
            format!("/kubepods/pod{UID}/crio-conmon-{ID}.scope"),
            format!("/kubepods/pod\u{fc}{UID}/{ID}"),
        ] {
            assert_eq!(parse_cgroup_path(&path), None, "{path}");
        }
    }
}
