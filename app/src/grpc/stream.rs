//! A reader's stream: bounded, and honest about why it ends.
//!
//! A block's part is encoded once, for its first reader; a reader's share of memory is the few bytes
//! that wait for it here. One that keeps its stream waiting too long is told where to resume; one that
//! does not even listen to that loses its connection, and with it all that HTTP/2 holds for it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use counterpoint_core::primitive::Height;
use counterpoint_proto::sequencer::RollupBlock;
use metrics::{counter, gauge};
use prost::Message;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tracing::debug;

use crate::metric;

/// Blocks that wait for one reader; then the stream waits for the reader.
const BUFFER: usize = 8;
/// Bytes of them, in KiB; a greater block waits alone.
const BUFFER_KIB: u32 = 1_024;
/// How long a reader may keep its stream waiting before it is told to come back, and then before it
/// is cut off.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What a reader of blocks gets.
pub(crate) type BlockStream = Feed<RollupBlock>;

/// What a reader gets: items, then the reason of the end.
#[derive(Debug)]
pub(crate) struct Feed<T> {
    items: mpsc::Receiver<Buffered<T>>,
    end: oneshot::Receiver<Status>,
    _seat: Seat,
    _gone: DropGuard,
}

/// An item that waits for its reader, and its share of the buffer, if that is counted in bytes.
pub(super) type Buffered<T> = (T, Option<OwnedSemaphorePermit>);

/// Counts a reader while it reads.
#[derive(Debug)]
struct Seat {
    _places: [OwnedSemaphorePermit; 2],
}

impl Seat {
    fn take(places: [OwnedSemaphorePermit; 2]) -> Self {
        gauge!(metric::STREAMS).increment(1);
        Self { _places: places }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        gauge!(metric::STREAMS).decrement(1);
    }
}

impl<T> Stream for Feed<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(self.items.poll_recv(ctx));
        let end = || self.end.try_recv().ok().map(Err);
        Poll::Ready(item.map(|(item, _)| Ok(item)).or_else(end))
    }
}

/// Reads the block of one height.
pub(crate) trait Read:
    FnMut(Height) -> Result<RollupBlock, Status> + Send + 'static
{
}

impl<F: FnMut(Height) -> Result<RollupBlock, Status> + Send + 'static> Read for F {}

/// Where a stream's blocks come from.
#[derive(Debug)]
pub(crate) struct Source<R> {
    pub(crate) read: R,
    /// Places for those who read at the same time.
    pub(crate) working: Arc<Semaphore>,
    /// The last height that can be read.
    pub(crate) streamable: watch::Receiver<Height>,
}

/// Streams every block from `next` on, as soon as it can be read.
pub(crate) fn open(source: Source<impl Read>, next: Height, reader: Reader) -> BlockStream {
    let patience = reader.patience;
    serve(BUFFER, reader, |sender| async move {
        feed(source, next, patience, &sender).await
    })
}

/// Whom a stream is for.
#[derive(Debug)]
pub(crate) struct Reader {
    /// How long it may keep the stream waiting.
    pub(crate) patience: Duration,
    /// Ends its connection.
    pub(crate) cut: CancellationToken,
    /// Held as long as it reads: one among all readers, one among those from the same address.
    pub(crate) places: [OwnedSemaphorePermit; 2],
    pub(crate) shutdown: CancellationToken,
}

/// Streams what `feed` sends, of which at most `buffer` items wait; it returns why there are no more.
pub(super) fn serve<T: Send + 'static, F: Future<Output = Status> + Send + 'static>(
    buffer: usize,
    reader: Reader,
    feed: impl FnOnce(mpsc::Sender<Buffered<T>>) -> F,
) -> Feed<T> {
    let Reader {
        patience,
        cut,
        places,
        shutdown,
    } = reader;
    let (sender, items) = mpsc::channel(buffer);
    let (reason, end) = oneshot::channel();
    let gone = CancellationToken::new();
    let left = gone.clone();
    let feeding = feed(sender.clone());
    tokio::spawn(async move {
        let status = tokio::select! {
            () = sender.closed() => return,
            () = shutdown.cancelled() => Status::unavailable("the node stops"),
            status = feeding => status,
        };
        let _ = reason.send(status);
        // Only now does the reader see the end, and finds the reason there.
        drop(sender);
        if timeout(patience, left.cancelled()).await.is_err() {
            debug!("reader is stuck, its connection is cut");
            cut.cancel();
        }
    });
    Feed {
        items,
        end,
        _seat: Seat::take(places),
        _gone: gone.drop_guard(),
    }
}

/// Sends block after block; returns why there are no more.
async fn feed(
    source: Source<impl Read>,
    mut next: Height,
    patience: Duration,
    sender: &mpsc::Sender<Buffered<RollupBlock>>,
) -> Status {
    let Source {
        mut read,
        working,
        mut streamable,
    } = source;
    let buffer = Arc::new(Semaphore::new(BUFFER_KIB as usize));
    loop {
        if streamable.wait_for(|height| *height >= next).await.is_err() {
            return Status::unavailable("the node stops");
        }
        let height = next;
        let turn = match Arc::clone(&working).acquire_owned().await {
            Ok(turn) => turn,
            Err(closed) => return super::internal(closed),
        };
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let block = read(height);
            (block, read)
        });
        let block = match reading.await {
            Ok((Ok(block), reader)) => {
                read = reader;
                block
            }
            Ok((Err(status), _)) => return status,
            Err(panic) => return super::internal(panic),
        };
        let kib = u32::try_from(block.encoded_len() / 1_024).unwrap_or(u32::MAX);
        let share = Arc::clone(&buffer).acquire_many_owned(kib.saturating_add(1).min(BUFFER_KIB));
        let sent = timeout(patience, async {
            let share = share.await.ok()?;
            sender.send((block, Some(share))).await.ok()
        });
        if !matches!(sent.await, Ok(Some(()))) {
            return too_slow(&format!("resume from height {next}"));
        }
        next = Height::new(next.get() + 1);
    }
}

/// Why a reader gets no more, and what it is to do.
pub(super) fn too_slow(remedy: &str) -> Status {
    counter!(metric::SLOW_READERS).increment(1);
    Status::resource_exhausted(format!("reader is too slow; {remedy}"))
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::*;

    fn read(height: Height) -> Result<RollupBlock, Status> {
        if height.get() == 100 {
            return Err(Status::not_found("no leaf"));
        }
        Ok(RollupBlock {
            height: height.get(),
            ..RollupBlock::default()
        })
    }

    fn start(from: u64, tip: u64) -> (BlockStream, watch::Sender<Height>, CancellationToken) {
        let (sender, streamable) = watch::channel(Height::new(tip));
        let shutdown = CancellationToken::new();
        let working = Arc::new(Semaphore::new(3));
        let places = [(); 2].map(|()| Arc::clone(&working).try_acquire_owned().unwrap());
        let source = Source {
            read,
            working,
            streamable,
        };
        let reader = Reader {
            patience: PATIENCE,
            cut: CancellationToken::new(),
            places,
            shutdown: shutdown.clone(),
        };
        let stream = open(source, Height::new(from), reader);
        (stream, sender, shutdown)
    }

    #[tokio::test]
    async fn blocks_come_in_order_and_future_ones_are_waited_for() {
        let (mut stream, tip, _shutdown) = start(3, 5);
        for height in 3..=5 {
            assert_eq!(stream.next().await.unwrap().unwrap().height, height);
        }
        tip.send_replace(Height::new(6));
        assert_eq!(stream.next().await.unwrap().unwrap().height, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_told_where_to_resume() {
        let (mut stream, _tip, _shutdown) = start(1, 50);
        tokio::time::sleep(PATIENCE * 2).await;
        let mut last = 0;
        let status = loop {
            match stream.next().await.unwrap() {
                Ok(block) => last = block.height,
                Err(status) => break status,
            }
        };
        assert_eq!(last, BUFFER as u64, "what was buffered still arrives");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(
            status.message().ends_with("resume from height 9"),
            "{status}"
        );
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn the_reason_of_the_end_arrives() {
        let (mut stream, _tip, _shutdown) = start(100, 100);
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        let (mut stream, _tip, shutdown) = start(101, 100);
        shutdown.cancel();
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
    }
}
