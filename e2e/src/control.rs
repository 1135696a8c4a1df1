//! How a scenario talks to load generator, sink and agent: HTTP GET, directly on loopback or through the API server's proxy to
//! a pod; and how those processes learn that they shall end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::Kubectl;

/// Longest time an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// A process that answers HTTP GET.
#[derive(Clone, Debug)]
pub enum Control {
    /// On this machine.
    Loopback(SocketAddr),
    /// In a pod.
    Pod {
        /// The cluster.
        kubectl: Kubectl,
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        pod: String,
        /// Port of its HTTP server.
        port: u16,
    },
}

impl Control {
    /// GET `path`, which may have a query; the answer's text.
    ///
    /// # Errors
    /// When nobody answers in time, or the answer is no success.
    pub async fn get(&self, path: &str) -> anyhow::Result<String> {
        match self {
            Self::Loopback(address) => tokio::time::timeout(ANSWER_TIMEOUT, loopback(*address, path))
                .await
                .with_context(|| format!("http://{address}{path} gave no answer within {ANSWER_TIMEOUT:?}"))?
                .with_context(|| format!("get http://{address}{path}")),
            Self::Pod { kubectl, namespace, pod, port } => {
                kubectl.run(&["get", "--raw", &format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}")]).await
            }
        }
    }

    /// GET `path` and read the answer as JSON.
    ///
    /// # Errors
    /// As [`Control::get`], and when the answer is not the JSON expected.
    pub async fn json<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let text = self.get(path).await?;
        serde_json::from_str(&text).with_context(|| format!("{path} answered: {}", text.chars().take(200).collect::<String>()))
    }
}

async fn loopback(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection is polled beside the exchange and ends with it; no task outlives the call.
    tokio::pin!(exchange);
    let (status, text) = tokio::select! {
        answer = &mut exchange => answer?,
        ended = connection => {
            ended?;
            exchange.await?
        }
    };
    ensure!(status.is_success(), "{status}: {text}");
    Ok(text)
}

/// Ends at SIGTERM or SIGINT. A process with id 1 in its container ignores both unless it asks for them.
pub async fn terminated() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}
