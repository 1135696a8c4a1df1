//! The operator: effects and wiring. What is decided stands in `plan`; here it is gathered, applied and reported.
//!
//! One process leads. Every term starts anew: the authority, the controller, the fleet service and the reporter live and end
//! with it, and each write checks that the term has not ended.

mod admin;
mod apply;
mod args;
mod certificates;
mod fleet;
mod gather;
mod lease;
mod reconcile;
mod registry;
mod report;
mod token;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use futures::StreamExt;
use jiff::Timestamp;
use kube::Client;
use plan::build::Installation;
use plan::names;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::admin::Metrics;
use crate::args::Args;
use crate::certificates::Authority;
use crate::fleet::FleetService;
use crate::gather::Cluster;
use crate::lease::{Elector, Term};
use crate::reconcile::{Context, on_error, reconcile};
use crate::registry::Registry;
use crate::report::Reporter;
use crate::token::Tokens;

/// Time between two attempts to lead, after one failed.
const AGAIN: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).json().init();
    let provider = rustls::crypto::ring::default_provider();
    anyhow::ensure!(provider.install_default().is_ok(), "a cryptography provider was already chosen");
    let client = Client::try_default().await.context("cannot reach a cluster: run in one, or set KUBECONFIG")?;
    let metrics = Arc::new(Metrics::new());
    let registry = Arc::new(Registry::default());
    let (elector, term) = Elector::new(client.clone(), &args.namespace, args.pod_name.clone());
    let listener =
        tokio::net::TcpListener::bind(args.admin_listen).await.with_context(|| format!("cannot listen on {}", args.admin_listen))?;
    let admin = axum::serve(listener, admin::router(metrics.clone(), registry.clone()));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    info!(namespace = args.namespace, pod = args.pod_name, "started");
    // The elector ends last: it gives the lease back when nothing is written any more, because the term was over first.
    tokio::select! {
        () = elector.run(stop) => Ok(()),
        served = admin => served.context("the admin endpoint ended"),
        () = lead_for_ever(&args, &client, &term, &registry, &metrics) => Ok(()),
    }
}

async fn lead_for_ever(args: &Args, client: &Client, term: &Term, registry: &Arc<Registry>, metrics: &Arc<Metrics>) {
    loop {
        let mut begin = term.clone();
        begin.begun().await;
        metrics.leads(true);
        let mut end = term.clone();
        tokio::select! {
            led = lead(args, client, term, registry, metrics) => if let Err(error) = led {
                error!(error = format!("{error:#}"), "could not lead");
                tokio::time::sleep(AGAIN).await;
            },
            () = end.over() => info!("the term is over"),
        }
        metrics.leads(false);
        registry.lock().clear();
    }
}

/// One term. Ends only by an error, or by being dropped.
async fn lead(args: &Args, client: &Client, term: &Term, registry: &Arc<Registry>, metrics: &Arc<Metrics>) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let authority = authority(args, client, term, now).await?;
    let server_name = format!("{}.{}.svc", names::FLEET_SERVICE, args.namespace);
    let leaf = authority.issue(&server_name, now).context("cannot issue the fleet service's certificate")?;
    let (cluster, watches) = Cluster::watch(client);
    let controller = gather::controller(client);
    let store = controller.store();
    let context = Context {
        client: client.clone(),
        term: term.clone(),
        registry: registry.clone(),
        metrics: metrics.clone(),
        installation: Installation {
            agent_image: args.agent_image.clone(),
            agent_image_pull_policy: args.agent_image_pull_policy.clone(),
            namespace: args.namespace.clone(),
            fleet_ca: authority.certificate.clone(),
        },
    };
    let reconciling = controller.run(reconcile, on_error, Arc::new(context)).for_each(|_| async {});
    let reporter = Reporter {
        client: client.clone(),
        term: term.clone(),
        registry: registry.clone(),
        metrics: metrics.clone(),
        cluster,
        pipelines: store,
        identity: args.pod_name.clone(),
    };
    let tokens = Arc::new(Tokens::new(client.clone()));
    let service = FleetService { registry: registry.clone(), tokens, metrics: metrics.clone(), term: term.clone() };
    tokio::select! {
        () = reconciling => anyhow::bail!("the controller ended"),
        () = watches => anyhow::bail!("the watches ended"),
        () = reporter.run() => anyhow::bail!("the reporter ended"),
        served = service.serve(args.fleet_listen, &leaf) => served.with_context(|| format!("cannot serve the fleet on {}", args.fleet_listen)),
    }
}

/// The fleet's authority, made on the first start.
async fn authority(args: &Args, client: &Client, term: &Term, now: Timestamp) -> anyhow::Result<Authority> {
    let read = gather::authority(client, &args.namespace).await;
    let (secret, kept) = read.with_context(|| format!("cannot read the Secret {} that the chart makes", gather::AUTHORITY_SECRET))?;
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let made = Authority::generate(now).context("cannot make the fleet's certificate authority")?;
    apply::authority(client, term, secret, &made).await?;
    info!("made the fleet's certificate authority");
    Ok(made)
}
