//! A request's body that charges each chunk to the receive budget before anybody keeps it, and that says why it ended early.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::room::Charge;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The receive budget is used up.
    #[error("the receive budget is used up")]
    NoRoom,
    /// The connection failed or the client gave up.
    #[error("the client went away")]
    Gone(#[source] BoxError),
}

/// The body and the share of the budget it has taken so far. The charge outlives the body: it goes on with the message.
pub(crate) struct Metered<B> {
    inner: B,
    charge: Charge,
}

impl<B> Metered<B> {
    pub(crate) fn new(inner: B, charge: Charge) -> Self {
        Self { inner, charge }
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = ReadError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReadError>>> {
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(cause)) => return Poll::Ready(Some(Err(ReadError::Gone(cause.into())))),
            None => return Poll::Ready(None),
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        let taken = self.charge.grow(bytes);
        Poll::Ready(Some(if taken { Ok(frame) } else { Err(ReadError::NoRoom) }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
