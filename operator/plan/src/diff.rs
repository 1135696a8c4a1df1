//! Which of the intended objects have to be applied. What was applied, unchanged, and is untouched since, costs no request.

use std::collections::BTreeMap;

use crate::build::{Child, ChildKind};

/// What the API server holds of an intended object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Changes with every edit: the generation of a workload, the resource version of the rest.
    pub version: String,
    /// UID of the object that controls it.
    pub owner: Option<String>,
}

/// What was applied: hash of the intention, and the version the API server answered with.
pub type Memory = BTreeMap<(ChildKind, String), (String, String)>;

/// What is there: by kind and name.
pub type World = BTreeMap<(ChildKind, String), Live>;

/// An object of that name is there and belongs to somebody else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name} exists and does not belong to this pipeline: delete it, or give the pipeline another name")]
pub struct Foreign {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

/// The children that have to be applied.
///
/// # Errors
/// When one of them would overwrite an object of somebody else.
pub fn diff<'a>(children: &'a [Child], world: &World, memory: &Memory, uid: &str) -> Result<Vec<&'a Child>, Foreign> {
    let mut changed = Vec::new();
    for child in children {
        let key = (child.kind, child.name.clone());
        let live = world.get(&key);
        if live.is_some_and(|live| live.owner.as_deref() != Some(uid)) {
            return Err(Foreign { kind: child.kind.name(), name: child.name.clone() });
        }
        let is_untouched =
            live.zip(memory.get(&key)).is_some_and(|(live, (hash, version))| *hash == child.hash && *version == live.version);
        if !is_untouched {
            changed.push(child);
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_changed_or_touched_is_applied_and_nothing_of_others() {
        let child = Child { kind: ChildKind::Service, name: "a".into(), body: serde_json::Value::Null, hash: "h1".into() };
        let children = [child];
        let key = (ChildKind::Service, "a".to_owned());
        let live = |version: &str, owner: &str| World::from([(key.clone(), Live { version: version.into(), owner: Some(owner.into()) })]);
        let memory = |hash: &str| Memory::from([(key.clone(), (hash.to_owned(), "7".to_owned()))]);
        let applied = |world: &World, memory: &Memory| diff(&children, world, memory, "me").map(|changed| changed.len());
        assert_eq!(applied(&World::new(), &memory("h1")), Ok(1));
        assert_eq!(applied(&live("7", "me"), &memory("h1")), Ok(0));
        assert_eq!(applied(&live("8", "me"), &memory("h1")), Ok(1));
        assert_eq!(applied(&live("7", "me"), &memory("h0")), Ok(1));
        assert!(applied(&live("7", "you"), &memory("h1")).is_err());
    }
}
