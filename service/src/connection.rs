//! Connections of a gRPC API: counted, bounded, and cut when their peer is stuck.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use metrics::gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, PollSemaphore, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::debug;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At a time; further ones wait until one ends.
    pub all: usize,
    /// From one address; further ones are closed at once.
    pub per_address: usize,
    /// Readers of rollup blocks from one address.
    pub readers_per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            all: 256,
            per_address: 64,
            readers_per_address: 64,
        }
    }
}

/// The connections that come in at a listener.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    limits: Limits,
    gauge: &'static str,
    places: PollSemaphore,
    /// For the next connection.
    place: Option<OwnedSemaphorePermit>,
    neighbours: HashMap<IpAddr, Neighbour>,
}

/// What all connections from one address share.
#[derive(Debug)]
struct Neighbour {
    connections: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: Peer,
    is_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _seat: Seat,
}

/// Who is at the other end of the connection that a request came by.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Ends the connection.
    pub cut: CancellationToken,
    /// Places for the readers from its address.
    pub readers: Arc<Semaphore>,
}

/// Counts a connection while it lasts.
#[derive(Debug)]
struct Seat {
    gauge: &'static str,
    _place: OwnedSemaphorePermit,
    _of_address: OwnedSemaphorePermit,
}

impl Incoming {
    /// Takes connections of `listener` in; the metric `gauge` counts them.
    #[must_use]
    pub fn new(listener: TcpListener, limits: Limits, gauge: &'static str) -> Self {
        Self {
            listener,
            limits,
            gauge,
            places: PollSemaphore::new(Arc::new(Semaphore::new(limits.all))),
            place: None,
            neighbours: HashMap::new(),
        }
    }

    /// A seat for a connection from `address`, unless it has as many as it may.
    fn seat(&mut self, address: IpAddr) -> Option<(Seat, Arc<Semaphore>)> {
        let limits = self.limits;
        let idle =
            |neighbour: &Neighbour| neighbour.connections.available_permits() == limits.per_address;
        self.neighbours.retain(|_, neighbour| !idle(neighbour));
        let neighbour = self.neighbours.entry(address).or_insert_with(|| Neighbour {
            connections: Arc::new(Semaphore::new(limits.per_address)),
            readers: Arc::new(Semaphore::new(limits.readers_per_address)),
        });
        let of_address = Arc::clone(&neighbour.connections)
            .try_acquire_owned()
            .ok()?;
        let seat = Seat::take(self.gauge, self.place.take()?, of_address);
        Some((seat, Arc::clone(&neighbour.readers)))
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.place.is_none() {
                // The semaphore is never closed.
                self.place = ready!(self.places.poll_acquire(ctx));
            }
            let (stream, address) = match ready!(self.listener.poll_accept(ctx)) {
                Ok(accepted) => accepted,
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            let Some((seat, readers)) = self.seat(address.ip()) else {
                debug!(%address, "too many connections from one address");
                continue;
            };
            stream.set_nodelay(true)?;
            let cut = CancellationToken::new();
            return Poll::Ready(Some(Ok(Connection {
                stream,
                is_cut: Box::pin(cut.clone().cancelled_owned()),
                peer: Peer { cut, readers },
                _seat: seat,
            })));
        }
    }
}

impl Seat {
    fn take(
        gauge: &'static str,
        place: OwnedSemaphorePermit,
        of_address: OwnedSemaphorePermit,
    ) -> Self {
        gauge!(gauge).increment(1);
        Self {
            gauge,
            _place: place,
            _of_address: of_address,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        gauge!(self.gauge).decrement(1);
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // There is always somebody who waits to read, and so hears of it.
        if self.is_cut.as_mut().poll(ctx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(ctx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(ctx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(ctx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(ctx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(ctx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
