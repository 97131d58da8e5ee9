use bytes::BytesMut;
use counterpoint_abci::{
    frame::{decode, encode},
    proto::abci::{
        Request, RequestFinalizeBlock, RequestFlush, RequestInfo, Response, request::Value,
    },
};
use prost::Message;

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let block = RequestFinalizeBlock {
        txs: vec![b"one".as_slice().into(), b"two".as_slice().into()],
        height: 7,
        ..RequestFinalizeBlock::default()
    };
    let values = [
        Value::Info(RequestInfo::default()),
        Value::Flush(RequestFlush {}),
        Value::FinalizeBlock(block),
    ];
    let mut frames = BytesMut::new();
    for value in values {
        encode(&Request { value: Some(value) }, &mut frames);
    }
    vec![frames.to_vec()]
}

pub(crate) fn run(data: &[u8]) {
    messages::<Request>(data);
    messages::<Response>(data);
}

/// Protobuf has many encodings of a message; ours decodes to the same, and is a fixed point.
fn messages<M: Message + Default + PartialEq>(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(message)) = decode::<M>(&mut buffer) {
        let mut encoded = BytesMut::new();
        encode(&message, &mut encoded);
        let again = decode::<M>(&mut encoded).expect("what we encode is a frame");
        assert!(again == Some(message) && encoded.is_empty());
    }
}
