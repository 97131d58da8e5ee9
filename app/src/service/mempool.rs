use std::sync::Arc;

use counterpoint_abci::{
    MempoolRequest, MempoolResponse,
    proto::abci::{CheckTxType, ResponseCheckTx, ResponseInsertTx, ResponseReapTxs},
};

use super::{Answer, in_place};
use crate::mempool::{Mempool, Verdict};

/// Answers the mempool connection.
pub(crate) fn mempool(pool: &Arc<Mempool>, request: MempoolRequest) -> Answer<MempoolResponse> {
    let pool = Arc::clone(pool);
    in_place(move || {
        Ok(match request {
            MempoolRequest::CheckTx(request) => {
                let Verdict { code, log } = match request.r#type() {
                    CheckTxType::New => pool.check(&request.tx)?,
                    CheckTxType::Recheck => pool.recheck(&request.tx),
                };
                ResponseCheckTx {
                    code,
                    log,
                    ..ResponseCheckTx::default()
                }
                .into()
            }
            MempoolRequest::InsertTx(request) => ResponseInsertTx {
                code: pool.insert(&request.tx),
            }
            .into(),
            MempoolRequest::ReapTxs(_) => ResponseReapTxs { txs: pool.reap() }.into(),
        })
    })
}
