//! What the operator is started with; the chart fills it in.

use std::net::SocketAddr;

use clap::Parser;

/// Turns TelemetryPipeline objects into fleets of agents and shows how they do.
#[derive(Clone, Debug, Parser)]
#[command(version, name = "forebay-operator")]
pub(crate) struct Args {
    /// Image of the agents.
    #[arg(long, env = "FOREBAY_AGENT_IMAGE", default_value = concat!("forebay/agent:", env!("CARGO_PKG_VERSION")))]
    pub(crate) agent_image: String,
    /// When the agents' image is pulled: Always, IfNotPresent or Never.
    #[arg(long, env = "FOREBAY_AGENT_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub(crate) agent_image_pull_policy: String,
    /// Namespace the operator runs in.
    #[arg(long, env = "FOREBAY_POD_NAMESPACE", default_value = "forebay-system")]
    pub(crate) namespace: String,
    /// Name of the operator's pod: its identity in the election.
    #[arg(long, env = "FOREBAY_POD_NAME", default_value = "forebay-operator")]
    pub(crate) pod_name: String,
    /// Where metrics, health and the ledgers are served.
    #[arg(long, env = "FOREBAY_ADMIN_LISTEN", default_value = "0.0.0.0:8080")]
    pub(crate) admin_listen: SocketAddr,
    /// Where agents report to.
    #[arg(long, env = "FOREBAY_FLEET_LISTEN", default_value = "0.0.0.0:9443")]
    pub(crate) fleet_listen: SocketAddr,
}
