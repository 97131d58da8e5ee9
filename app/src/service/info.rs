use bytes::Bytes;
use counterpoint_abci::{
    BoxError, InfoRequest, InfoResponse,
    proto::abci::{ResponseInfo, ResponseQuery},
};

use counterpoint_machine::{AppVersion, query};

use super::{Answer, Consensus, in_place};
use crate::store::Store;

/// Code of an ABCI query; reads are served by gRPC.
const NO_QUERIES: u32 = 1;

/// Answers the query connection: where the chain stands, with the block that is being written.
pub(crate) fn info(
    store: &Store,
    consensus: &Consensus,
    request: InfoRequest,
) -> Answer<InfoResponse> {
    let (store, consensus) = (store.clone(), consensus.clone());
    in_place(move || match request {
        InfoRequest::Info(_) => {
            consensus.settle()?;
            Ok(read(&store)?.into())
        }
        InfoRequest::Query(query) => Ok(ResponseQuery {
            code: NO_QUERIES,
            log: format!("no query at {:?}: reads are served by gRPC", query.path),
            ..ResponseQuery::default()
        }
        .into()),
    })
}

fn read(store: &Store) -> Result<ResponseInfo, BoxError> {
    let tip = store.tip()?;
    let begun = tip.height.get() > 0;
    let app_version = if tip.initial.get() > 0 {
        query::chain(&store.state())?.app_version
    } else {
        // InitChain will say.
        AppVersion::NEWEST.number()
    };
    Ok(ResponseInfo {
        data: "counterpoint".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        app_version,
        last_block_height: i64::try_from(tip.height.get())?,
        last_block_app_hash: if begun {
            Bytes::copy_from_slice(tip.app_hash.as_bytes())
        } else {
            Bytes::new()
        },
    })
}
