//! The listening socket and the bounds of what may hang on it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use otlp::{Limits, Rules};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::export::{Export, Shared};
use crate::gate::Gate;
use crate::room::Room;

/// Connections served at once; a further one waits in the kernel's backlog until one ends.
const CONNECTIONS_MAX: usize = 1024;
/// Streams per connection: what gRPC clients assume of a server.
const STREAMS_MAX: u32 = 100;
/// Headers of one request, in bytes; a bearer token fits several times.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Receive windows, in bytes: one large request without a round trip, and a few of them per connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Largest frame a peer is allowed, in bytes: a frame is read at once and handed on by itself, so that small ones cost a request many
/// system calls and copies.
const FRAME_BYTES: u32 = 256 << 10;
/// A peer that answers no ping within the second after the first is gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept (out of file descriptors), so that it is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What a listener serves with.
#[derive(Debug)]
pub struct Settings {
    /// Largest request after decompression, in bytes.
    pub request_bytes_max: u64,
    /// Budget of the bytes of all requests, from their first chunk until the engine's memory or the disk has them.
    pub room: Room,
    /// How items are classified.
    pub rules: Rules,
    /// Bounds of one request's content.
    pub limits: Limits,
}

/// The address could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It is no address.
    #[error("`{address}` is no address to listen on: write it as host:port, e.g. 127.0.0.1:4317")]
    Resolve {
        /// As configured.
        address: String,
        /// What the resolver said.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("the port of {address} is taken: end the process that listens there or choose another port")]
    Taken {
        /// As configured.
        address: String,
    },
    /// The system refuses it.
    #[error("cannot listen on {address}")]
    Bind {
        /// As configured.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The server ended on its own.
#[derive(Debug, thiserror::Error)]
#[error("the OTLP server ended")]
pub struct ServeError(#[from] tonic::transport::Error);

/// A bound socket that does not serve yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// When it is no address, is taken, or may not be bound.
    pub async fn bind(address: &str) -> Result<Self, BindError> {
        let resolved: Vec<_> =
            tokio::net::lookup_host(address).await.map_err(|source| BindError::Resolve { address: address.to_owned(), source })?.collect();
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => BindError::Taken { address: address.to_owned() },
            _ => BindError::Bind { address: address.to_owned(), source },
        };
        let socket = TcpListener::bind(resolved.as_slice()).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// The bound address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` resolves and the requests that were on their way are answered.
    ///
    /// # Errors
    /// When the server itself fails; a failing connection does not end it.
    pub async fn serve(self, gate: Gate, settings: Settings, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let export = Export::new(Shared {
            gate,
            room: settings.room,
            request_bytes_max: usize::try_from(settings.request_bytes_max).unwrap_or(usize::MAX),
            rules: settings.rules,
            limits: settings.limits,
        });
        Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .http2_max_header_list_size(HEADERS_BYTES_MAX)
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .serve_with_incoming_shutdown(export, connections(self.socket), stop)
            .await?;
        Ok(())
    }
}

/// Accepted connections, each with its permit; no further one is accepted while all permits are out.
fn connections(socket: TcpListener) -> impl futures::Stream<Item = Result<Connection, std::io::Error>> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    futures::stream::unfold((socket, permits), |(socket, permits)| async move {
        let permit = permits.clone().acquire_owned().await.ok()?;
        let accepted = match socket.accept().await {
            Ok((stream, _)) => stream.set_nodelay(true).map(|()| Connection { stream, _permit: permit }),
            Err(cause) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                Err(cause)
            }
        };
        Some((accepted, (socket, permits)))
    })
}

/// A connection that gives its permit back when it ends.
struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
