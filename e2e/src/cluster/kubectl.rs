//! The one way to the cluster: the `kubectl` a user has, so that what a scenario does can be typed.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Longest time one command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(90);

/// `kubectl` on the `PATH`, with the cluster that `KUBECONFIG` names.
#[derive(Clone, Debug, Default)]
pub struct Kubectl;

impl Kubectl {
    /// Checks that there is a cluster to talk to.
    ///
    /// # Errors
    /// When `KUBECONFIG` is missing, or the cluster does not answer.
    pub async fn connect() -> anyhow::Result<Self> {
        if std::env::var_os("KUBECONFIG").is_none_or(|path| path.is_empty()) {
            bail!("KUBECONFIG is not set: start me by `cargo xtask test --only e2e` or `cargo xtask demo`, which bring a cluster");
        }
        let kubectl = Self;
        kubectl.run(&["version", "-o", "json"]).await.context("reach the cluster that KUBECONFIG names")?;
        Ok(kubectl)
    }

    /// Runs a command; its standard output.
    ///
    /// # Errors
    /// When it fails or takes too long; the message has what it said.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.feed(arguments, None).await
    }

    /// Applies a manifest in JSON or YAML.
    ///
    /// # Errors
    /// When the API server refuses it; the message has its reasons.
    pub async fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        self.feed(&["apply", "-f", "-"], Some(manifest)).await
    }

    /// Runs a command that prints JSON.
    ///
    /// # Errors
    /// As [`Kubectl::run`], and when the output is no JSON.
    pub async fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.run(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&output).with_context(|| format!("read the output of kubectl {}", arguments.join(" ")))
    }

    async fn feed(&self, arguments: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let shown = format!("kubectl {}", arguments.join(" "));
        let mut command = Command::new("kubectl");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("start kubectl: is it on the PATH?")?;
        if let Some(mut stdin) = child.stdin.take()
            && let Some(input) = input
        {
            stdin.write_all(input.as_bytes()).await.with_context(|| format!("hand its input to {shown}"))?;
        }
        let output = tokio::time::timeout(COMMAND_TIMEOUT, child.wait_with_output())
            .await
            .with_context(|| format!("{shown} did not end within {COMMAND_TIMEOUT:?}"))?
            .with_context(|| format!("wait for {shown}"))?;
        if !output.status.success() {
            bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
