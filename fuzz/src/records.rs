//! What chains and rollups keep: configurations, chain specifications, extra data.

use counterpoint_core::{chain_spec::ChainSpec, cursor::ExtraData, registry::RollupConfig};

use crate::{encode, is_canonical, samples::golden};

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    vec![
        encode(&RollupConfig::example("alpha")),
        golden(include_str!(
            "../../core/src/snapshots/counterpoint_core__chain_spec__tests__encoding_is_frozen.snap"
        )),
        golden(include_str!(
            "../../core/src/snapshots/counterpoint_core__cursor__tests__decoding_inverts_encoding.snap"
        )),
    ]
}

pub(crate) fn run(data: &[u8]) {
    if let Some(config) = is_canonical::<RollupConfig>(data) {
        let _ = (config.check(), config.hash());
    }
    if let Some(spec) = is_canonical::<ChainSpec>(data) {
        let _ = spec.hash();
    }
    if let Ok(extra) = ExtraData::decode(data) {
        assert_eq!(extra.encode()[..], *data);
    }
}
