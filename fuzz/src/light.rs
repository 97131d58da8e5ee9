use std::sync::LazyLock;

use counterpoint_core::{
    light::{
        TrustedState, decode_signed_header, decode_validators, encode_signed_header,
        encode_validators,
    },
    primitive::Hash,
};

use crate::samples;

static TRUSTED: LazyLock<TrustedState> =
    LazyLock::new(|| TrustedState::from_genesis(&samples::genesis_file()).expect("it is valid"));

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let header = samples::signed_header(&Hash::digest(&[b"data"]));
    let decoded = decode_signed_header(&header).expect("it is a header");
    let verified = TRUSTED.clone().verify(&decoded, None);
    verified.expect("the seed is a header that is trusted");
    vec![header, encode_validators(samples::validators())]
}

/// Protobuf has many encodings of a message: ours decodes to the same.
pub(crate) fn run(data: &[u8]) {
    if let Ok(header) = decode_signed_header(data) {
        let again = decode_signed_header(&encode_signed_header(header.clone()));
        assert_eq!(again.expect("what we write, we read"), header);
        if let Ok(verified) = TRUSTED.clone().verify(&header, None) {
            assert_eq!(verified.data_hash(), Hash::digest(&[b"data"]));
        }
        let _ = TRUSTED
            .clone()
            .verify(&header, Some(&samples::validators()));
    }
    if let Ok(set) = decode_validators(data) {
        let again = decode_validators(&encode_validators(set.clone()));
        assert_eq!(again.expect("what we write, we read"), set);
    }
}
