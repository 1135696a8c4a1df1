//! Which of the intended objects have to be applied, and which Services are intended no more. What was applied, unchanged, and is untouched since, costs no request.

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

/// A Service that wears the pipeline's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledService {
    /// Its name.
    pub name: String,
    /// Its UID, so that only this one is deleted.
    pub uid: String,
    /// UID of the object that controls it.
    pub owner: Option<String>,
}

/// The Services of this pipeline that it does not want any more, such as the OTLP port of one that only takes in kernel events.
#[must_use]
pub fn surplus<'a>(children: &[Child], services: &'a [LabelledService], uid: &str) -> Vec<&'a LabelledService> {
    let is_wanted = |name: &str| children.iter().any(|child| child.kind == ChildKind::Service && child.name == name);
    services.iter().filter(|service| service.owner.as_deref() == Some(uid) && !is_wanted(&service.name)).collect()
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

    #[test]
    fn only_our_own_services_that_are_not_intended_are_surplus() {
        let wanted = Child { kind: ChildKind::Service, name: "wanted".into(), body: serde_json::Value::Null, hash: String::new() };
        let account = Child { kind: ChildKind::ServiceAccount, name: "left".into(), ..wanted.clone() };
        let service = |name: &str, owner: Option<&str>| LabelledService {
            name: name.into(),
            uid: format!("uid-{name}"),
            owner: owner.map(str::to_owned),
        };
        let services =
            [service("wanted", Some("me")), service("left", Some("me")), service("yours", Some("you")), service("nobodys", None)];
        let names: Vec<_> = surplus(&[wanted, account], &services, "me").into_iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["left"]);
    }
}
