//! Finds the hierarchy by which containers are known, and walks it once. Separate because it is the only place here that reads the file tree.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;

use crate::error::CgroupError;

/// Magic numbers of the two file systems, from the kernel's `magic.h`.
const CGROUP_V1: u64 = 0x0027_e0eb;
const CGROUP_V2: u64 = 0x6367_7270;
/// Most cgroups that are walked: far above what a node of 250 pods holds.
const WALKED_MAX: usize = 65_536;

/// The hierarchy by which containers are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where the agent sees its root.
    pub(crate) path: PathBuf,
    /// Id of the cgroup that is mounted there.
    pub(crate) root: u64,
    /// Its number in the kernel; 0 is version 2.
    pub(crate) number: u32,
}

/// Finds the canonical hierarchy below (or at) the mounted tree: version 2 if it is mounted there itself, else the memory controller's.
pub(crate) fn find(mounted: &Path) -> Result<Hierarchy, CgroupError> {
    let memory = mounted.join("memory");
    let path = match file_system(mounted)? {
        CGROUP_V1 | CGROUP_V2 => mounted.to_path_buf(),
        _ if memory.is_dir() && file_system(&memory)? == CGROUP_V1 => memory,
        _ => return Err(CgroupError::NoHierarchy { path: mounted.into() }),
    };
    let number = if file_system(&path)? == CGROUP_V2 { 0 } else { memory_hierarchy()? };
    let root = inode(&path)?;
    Ok(Hierarchy { path, root, number })
}

/// Every cgroup of the canonical hierarchy at or below `mounted`, by id, with its path from there (beginning with a slash). One walk, at
/// the start; afterwards the kernel's events tell. What vanishes meanwhile is left out; at most 65,536 are looked at.
///
/// # Errors
/// When `mounted` is no cgroup tree, or cannot be read.
pub fn walk_cgroups(mounted: &Path) -> Result<Vec<(u64, String)>, CgroupError> {
    let root = find(mounted)?.path;
    let mut found = vec![(inode(&root)?, "/".to_string())];
    let mut waiting = vec![(root, String::new())];
    while let Some((directory, path)) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if found.len() >= WALKED_MAX {
                return Ok(found);
            }
            let below = format!("{path}/{}", entry.file_name().to_string_lossy());
            if let Ok(id) = inode(&entry.path()) {
                found.push((id, below.clone()));
                waiting.push((entry.path(), below));
            }
        }
    }
    Ok(found)
}

fn file_system(path: &Path) -> Result<u64, CgroupError> {
    let stat = statfs(path).map_err(|source| CgroupError::Read { path: path.into(), source: source.into() })?;
    Ok(stat.f_type as u64)
}

fn inode(path: &Path) -> Result<u64, CgroupError> {
    let metadata = fs::metadata(path).map_err(|source| CgroupError::Read { path: path.into(), source })?;
    Ok(metadata.ino())
}

/// Number of the hierarchy that the memory controller is attached to.
fn memory_hierarchy() -> Result<u32, CgroupError> {
    let path = Path::new("/proc/cgroups");
    let text = fs::read_to_string(path).map_err(|source| CgroupError::Read { path: path.into(), source })?;
    parse_memory_hierarchy(&text).ok_or_else(|| CgroupError::NoHierarchy { path: path.into() })
}

/// Reads `/proc/cgroups`: name, hierarchy, number of cgroups, enabled.
fn parse_memory_hierarchy(text: &str) -> Option<u32> {
    let mut fields = text.lines().map(str::split_whitespace).find_map(|mut fields| (fields.next()? == "memory").then_some(fields))?;
    fields.next()?.parse().ok().filter(|&number| number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_controllers_hierarchy_is_read_from_the_list() {
        let text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t12\t1\nmemory\t4\t80\t1\n";
        assert_eq!(parse_memory_hierarchy(text), Some(4));
        assert_eq!(parse_memory_hierarchy("memory 0 80 1\n"), None);
        assert_eq!(parse_memory_hierarchy(""), None);
    }

    #[test]
    fn a_directory_that_is_no_cgroup_tree_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = find(directory.path()).expect_err("it is no cgroup tree").to_string();
        assert!(error.contains("/sys/fs/cgroup"), "{error}");
        let error = find(&directory.path().join("missing")).expect_err("it is not there").to_string();
        assert!(error.contains("mount"), "{error}");
    }
}
