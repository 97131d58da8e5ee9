//! What a reader sees of a node that keeps no more than it must.

use counterpoint_proto::sequencer::sequencer_server::Sequencer as _;
use tempfile::tempdir;
use tokio_stream::StreamExt;
use tonic::Code;

use super::super::*;
use crate::testing::{Node, Template, rollup};

fn block(height: u64) -> Request<GetRollupBlockRequest> {
    Request::new(GetRollupBlockRequest {
        height,
        rollup_id: Bytes::copy_from_slice(rollup().as_bytes()),
    })
}

fn blocks(from_height: u64) -> Request<StreamRollupBlocksRequest> {
    let mut request = Request::new(StreamRollupBlocksRequest {
        rollup_id: Bytes::copy_from_slice(rollup().as_bytes()),
        from_height,
    });
    request.extensions_mut().insert(Peer {
        cut: CancellationToken::new(),
        readers: Arc::new(Semaphore::new(1)),
    });
    request
}

fn header(height: u64) -> Request<GetHeaderRequest> {
    Request::new(GetHeaderRequest { height })
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_told_what_is_not_here_any_more() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let template = Template::of(&node).await;
    for height in 3..=40 {
        node.store.commit(template.block(height, height)).unwrap();
        let validators = (height == 3).then_some(&b"validators"[..]);
        let at = Height::new(height);
        node.store.put_header(at, b"header", validators).unwrap();
    }
    let (_streamable, streamable) = watch::channel(Height::new(40));
    let (mempool, shutdown) = (Arc::clone(&node.mempool), CancellationToken::new());
    let rpc = crate::health::rpc_client("http://127.0.0.1:1").unwrap();
    let sequencer = {
        let bundles = node.bundles.clone();
        Sequencer::new(
            node.store.clone(),
            mempool,
            bundles,
            rpc,
            streamable,
            shutdown,
        )
    };
    let lowest = async || {
        let info = sequencer.get_info(Request::new(GetInfoRequest {})).await;
        info.unwrap().into_inner().lowest_height
    };
    let gone = |status: Status, height: u64, lowest: u64| {
        assert_eq!(status.code(), Code::OutOfRange);
        let expected = format!(
            "the lowest height that this node serves is {lowest}, not {height}: ask an archive node"
        );
        assert_eq!(status.message(), expected);
    };
    assert_eq!(lowest().await, 1);
    gone(
        sequencer.get_rollup_block(block(0)).await.unwrap_err(),
        0,
        1,
    );
    let mut stream = sequencer
        .stream_rollup_blocks(blocks(3))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stream.next().await.unwrap().unwrap().height, 3);

    node.store.raise_lowest(Height::new(30)).unwrap();
    while node.store.prune().unwrap().is_continue() {}
    assert_eq!(lowest().await, 30);
    gone(
        sequencer.get_rollup_block(block(29)).await.unwrap_err(),
        29,
        30,
    );
    let refused = sequencer.stream_rollup_blocks(blocks(29)).await;
    gone(refused.unwrap_err(), 29, 30);
    let kept = sequencer.get_rollup_block(block(30)).await.unwrap();
    let kept = kept.into_inner();
    assert_eq!(kept.height, 30);
    assert!(!kept.validators.is_empty() && !kept.borsh_config.is_empty());
    gone(sequencer.get_header(header(29)).await.unwrap_err(), 29, 30);
    let kept = sequencer.get_header(header(30)).await.unwrap().into_inner();
    assert_eq!(&kept.signed_header[..], b"header");
    assert_eq!(&kept.validators[..], b"validators");
    let brief = |height| Request::new(GetBlockRequest { height });
    gone(sequencer.get_block(brief(29)).await.unwrap_err(), 29, 30);
    let kept = sequencer.get_block(brief(30)).await.unwrap().into_inner();
    assert_eq!(&kept.signed_header[..], b"header");
    assert_eq!(kept.borsh_leaves.len(), kept.rollups as usize);
    assert_eq!(kept.item_hashes.len(), kept.items as usize);
    let later = sequencer.get_block(brief(41)).await.unwrap_err();
    assert_eq!(later.code(), Code::NotFound);
    let later = sequencer.get_header(header(41)).await.unwrap_err();
    assert_eq!(later.code(), Code::NotFound);
    // A reader that fell behind gets what it was sent before, then the reason.
    let mut last = 3;
    let status = loop {
        match stream.next().await.unwrap() {
            Ok(block) => last = block.height,
            Err(status) => break status,
        }
    };
    assert!(last < 29);
    gone(status, last + 1, 30);
}
