//! What an application implements: one `tower::Service` per connection of CometBFT.

use crate::proto::abci::{
    RequestApplySnapshotChunk, RequestCheckTx, RequestCommit, RequestExtendVote,
    RequestFinalizeBlock, RequestInfo, RequestInitChain, RequestInsertTx, RequestListSnapshots,
    RequestLoadSnapshotChunk, RequestOfferSnapshot, RequestPrepareProposal, RequestProcessProposal,
    RequestQuery, RequestReapTxs, RequestVerifyVoteExtension, ResponseApplySnapshotChunk,
    ResponseCheckTx, ResponseCommit, ResponseExtendVote, ResponseFinalizeBlock, ResponseInfo,
    ResponseInitChain, ResponseInsertTx, ResponseListSnapshots, ResponseLoadSnapshotChunk,
    ResponseOfferSnapshot, ResponsePrepareProposal, ResponseProcessProposal, ResponseQuery,
    ResponseReapTxs, ResponseVerifyVoteExtension, request, response,
};

/// Any error; a service's error ends the server, since a fault stops the node instead of voting.
pub type BoxError = tower::BoxError;

/// Declares one connection's requests and responses, and their way into the protobuf enums.
macro_rules! connection {
    ($(#[$doc:meta])* $request:ident, $response:ident {
        $($variant:ident($input:ty) -> $output:ty),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each variant is the message of its name")]
        pub enum $request {
            $($variant($input),)*
        }

        /// The answers, under the names of their requests.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each variant is the message of its name")]
        pub enum $response {
            $($variant($output),)*
        }

        $(impl From<$output> for $response {
            fn from(output: $output) -> Self {
                Self::$variant(output)
            }
        })*

        impl From<$response> for response::Value {
            fn from(response: $response) -> Self {
                match response {
                    $($response::$variant(output) => Self::$variant(output),)*
                }
            }
        }
    };
}

connection!(
    /// The consensus connection: strictly one after another.
    ConsensusRequest, ConsensusResponse {
        InitChain(RequestInitChain) -> ResponseInitChain,
        PrepareProposal(RequestPrepareProposal) -> ResponsePrepareProposal,
        ProcessProposal(RequestProcessProposal) -> ResponseProcessProposal,
        ExtendVote(RequestExtendVote) -> ResponseExtendVote,
        VerifyVoteExtension(RequestVerifyVoteExtension) -> ResponseVerifyVoteExtension,
        FinalizeBlock(RequestFinalizeBlock) -> ResponseFinalizeBlock,
        Commit(RequestCommit) -> ResponseCommit,
    }
);

connection!(
    /// The mempool connection; Commit waits for it, so nothing here may wait for consensus.
    MempoolRequest, MempoolResponse {
        CheckTx(RequestCheckTx) -> ResponseCheckTx,
        InsertTx(RequestInsertTx) -> ResponseInsertTx,
        ReapTxs(RequestReapTxs) -> ResponseReapTxs,
    }
);

connection!(
    /// The query connection.
    InfoRequest, InfoResponse {
        Info(RequestInfo) -> ResponseInfo,
        Query(RequestQuery) -> ResponseQuery,
    }
);

connection!(
    /// The snapshot connection.
    SnapshotRequest, SnapshotResponse {
        ListSnapshots(RequestListSnapshots) -> ResponseListSnapshots,
        OfferSnapshot(RequestOfferSnapshot) -> ResponseOfferSnapshot,
        LoadSnapshotChunk(RequestLoadSnapshotChunk) -> ResponseLoadSnapshotChunk,
        ApplySnapshotChunk(RequestApplySnapshotChunk) -> ResponseApplySnapshotChunk,
    }
);

/// A request on its way to the service that answers it.
pub(crate) enum Routed {
    /// Answered by the server itself.
    Immediate(response::Value),
    Consensus(ConsensusRequest),
    Mempool(MempoolRequest),
    Info(InfoRequest),
    Snapshot(SnapshotRequest),
}

/// Connections are not labelled: the type of a request alone says where it belongs.
pub(crate) fn route(request: request::Value) -> Routed {
    use request::Value;
    match request {
        Value::Echo(echo) => {
            let echo = crate::proto::abci::ResponseEcho {
                message: echo.message,
            };
            Routed::Immediate(response::Value::Echo(echo))
        }
        Value::Flush(_) => {
            Routed::Immediate(response::Value::Flush(crate::proto::abci::ResponseFlush {}))
        }
        Value::InitChain(request) => Routed::Consensus(ConsensusRequest::InitChain(request)),
        Value::PrepareProposal(request) => {
            Routed::Consensus(ConsensusRequest::PrepareProposal(request))
        }
        Value::ProcessProposal(request) => {
            Routed::Consensus(ConsensusRequest::ProcessProposal(request))
        }
        Value::ExtendVote(request) => Routed::Consensus(ConsensusRequest::ExtendVote(request)),
        Value::VerifyVoteExtension(request) => {
            Routed::Consensus(ConsensusRequest::VerifyVoteExtension(request))
        }
        Value::FinalizeBlock(request) => {
            Routed::Consensus(ConsensusRequest::FinalizeBlock(request))
        }
        Value::Commit(request) => Routed::Consensus(ConsensusRequest::Commit(request)),
        Value::CheckTx(request) => Routed::Mempool(MempoolRequest::CheckTx(request)),
        Value::InsertTx(request) => Routed::Mempool(MempoolRequest::InsertTx(request)),
        Value::ReapTxs(request) => Routed::Mempool(MempoolRequest::ReapTxs(request)),
        Value::Info(request) => Routed::Info(InfoRequest::Info(request)),
        Value::Query(request) => Routed::Info(InfoRequest::Query(request)),
        Value::ListSnapshots(request) => Routed::Snapshot(SnapshotRequest::ListSnapshots(request)),
        Value::OfferSnapshot(request) => Routed::Snapshot(SnapshotRequest::OfferSnapshot(request)),
        Value::LoadSnapshotChunk(request) => {
            Routed::Snapshot(SnapshotRequest::LoadSnapshotChunk(request))
        }
        Value::ApplySnapshotChunk(request) => {
            Routed::Snapshot(SnapshotRequest::ApplySnapshotChunk(request))
        }
    }
}
