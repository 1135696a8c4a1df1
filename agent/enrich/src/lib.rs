//! From a cgroup's id to the container and the pod it belongs to.
//!
//! Pure and apart from the probes, so that attribution is tested without a kernel and without a cluster. Paths alone give the container's id
//! and the pod's UID; names come from pods that someone else watches. Either may arrive first. What is removed is kept for
//! [`KEEP`], because the last records of a container are read after it is gone.
//!
//! Bounds: [`CGROUPS_MAX`] cgroups and [`PODS_MAX`] pods. Beyond them the one that was removed first makes room, and if none was removed the
//! newcomer is not remembered and [`Index::refused`] counts it: its records go out without names.

mod index;
mod path;

pub use index::{Attribution, CGROUPS_MAX, Index, KEEP, PODS_MAX, Pod};
pub use path::{ContainerPath, parse_cgroup_path};
