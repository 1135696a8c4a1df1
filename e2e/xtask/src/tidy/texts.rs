//! Rules about every tracked text: no path of the machine it was written on, no registry that only one network reaches.

use super::{Violation, violation};

/// Split so that this file does not break its own rule.
const MACHINE: [&str; 9] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/home", "/"),
    concat!("/tmp/", "bash"),
    concat!("docker", ".io/"),
    concat!("gcr", ".io/"),
    concat!("ghcr", ".io/"),
    concat!("quay", ".io/"),
    concat!("arti", "factory"),
];

/// kubeadm's own names for the images that the node image brings along.
const NODE_IMAGE: &str = "e2e/cluster/";

pub(super) fn check(path: &str, text: &str) -> Vec<Violation> {
    if path == "Cargo.lock" || path.ends_with("/Cargo.lock") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for word in MACHINE.iter().filter(|word| names(line, word)) {
            found.push(violation("machine", path, format!("line {number} names `{word}`, which only some machines have")));
        }
        if line.contains(concat!("registry", ".k8s.io")) && !path.starts_with(NODE_IMAGE) {
            found.push(violation("machine", path, format!("line {number} names a registry")));
        }
    }
    found
}

/// Whether the line holds the word from its beginning: a folder `root` below a variable is nobody's home.
fn names(line: &str, word: &str) -> bool {
    let within = |at: usize| {
        line.get(..at).and_then(|before| before.chars().next_back()).is_some_and(|c| c.is_alphanumeric() || "$_.}\"".contains(c))
    };
    line.match_indices(word).any(|(at, _)| !within(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_below_a_variable_is_nobodys_home() {
        assert!(check("e2e/build", concat!("cp \"$tree\"/ro", "ot/x context/ro", "ot/y")).is_empty());
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        assert_eq!(check("README.md", concat!("cd /wo", "rk/forebay")).len(), 1);
        assert!(check("README.md", "cd forebay\ncargo xtask demo").is_empty());
    }
}
