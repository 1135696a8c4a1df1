//! What is kept when a scenario fails: everything a person would ask for first, in one folder.

use std::path::{Path, PathBuf};

use super::place::{LoadPod, Place};

/// Log lines kept per container.
const LOG_LINES: &str = "--tail=2000";
/// Namespace of the operator.
const OPERATOR: &str = "forebay-system";

/// Writes events, objects, logs, ledgers, truths and the sink's report below `folder`; what cannot be had is named in its file.
/// Returns the folder.
pub async fn collect(folder: &Path, place: &Place, loads: &[(String, LoadPod)]) -> PathBuf {
    let folder = folder.to_owned();
    if let Err(error) = std::fs::create_dir_all(&folder) {
        eprintln!("cannot make {}: {error}", folder.display());
        return folder;
    }
    let namespace = place.namespace.as_str();
    let queries: [(&str, &[&str]); 6] = [
        ("events.txt", &["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"]),
        ("objects.yaml", &["get", "all,configmaps,persistentvolumeclaims", "-n", namespace, "-o", "yaml"]),
        ("pipelines.yaml", &["get", "telemetrypipelines", "-A", "-o", "yaml"]),
        ("describe.txt", &["describe", "telemetrypipelines", "-n", namespace]),
        ("pods.txt", &["get", "pods", "-A", "-o", "wide"]),
        ("operator.log", &["logs", "-n", OPERATOR, "-l", "app.kubernetes.io/name=forebay-operator", "--prefix", LOG_LINES]),
    ];
    for (file, query) in queries {
        keep(&folder, file, place.kubectl.run(query).await);
    }
    for pod in place.kubectl.run(&["get", "pods", "-n", namespace, "-o", "name"]).await.unwrap_or_default().lines() {
        let name = pod.trim_start_matches("pod/");
        keep(&folder, &format!("{name}.log"), place.kubectl.run(&["logs", "-n", namespace, pod, LOG_LINES]).await);
        // Only a container that was restarted has an earlier log.
        if let Ok(earlier) = place.kubectl.run(&["logs", "-n", namespace, pod, "--previous", LOG_LINES]).await {
            keep(&folder, &format!("{name}.previous.log"), Ok(earlier));
        }
    }
    keep(&folder, "ledgers.txt", place.ledgers().await.map(|ledgers| format!("{ledgers:#?}")));
    keep(&folder, "sink.txt", place.report().await.map(|report| format!("{report:#?}")));
    for (name, load) in loads {
        keep(&folder, &format!("{name}.truth.txt"), load.truth().await.map(|truth| format!("{truth:#?}")));
    }
    folder
}

fn keep(folder: &Path, file: &str, content: anyhow::Result<String>) {
    let text = content.unwrap_or_else(|error| format!("could not be had: {error:#}\n"));
    if let Err(error) = std::fs::write(folder.join(file), text) {
        eprintln!("cannot write {file}: {error}");
    }
}
