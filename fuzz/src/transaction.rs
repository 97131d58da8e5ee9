use bytes::Bytes;
use counterpoint_core::transaction::{RawTransaction, SignedTransaction, TransactionBody};

use crate::{encode, is_canonical, samples};

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let signed = samples::golden(include_str!(
        "../../core/src/transaction/snapshots/counterpoint_core__transaction__tests__bytes.snap"
    ));
    // Tag before, signature behind.
    let body = signed[1..signed.len() - 64].to_vec();
    vec![signed, body]
}

pub(crate) fn run(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(tx) = SignedTransaction::decode(&bytes) {
        let body = encode(tx.body());
        let signature = encode(tx.signature());
        assert_eq!([&[0x10], &body[..], &signature].concat(), data);
        assert_eq!(tx.hash(), RawTransaction::new(bytes).hash());
    }
    // What lies behind the signature, which no mutation survives.
    if let Some(body) = is_canonical::<TransactionBody>(data) {
        let _ = body.signing_hash();
    }
}
