use bytes::Bytes;
use counterpoint_core::transaction::GossipBundle;

use crate::samples;

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    vec![samples::golden(include_str!(
        "../../core/src/transaction/snapshots/counterpoint_core__transaction__gossip__tests__encoding_is_frozen.snap"
    ))]
}

pub(crate) fn run(data: &[u8]) {
    if let Ok(members) = GossipBundle::unpack(data)
        && !members.is_empty()
    {
        assert_eq!(GossipBundle::pack(members), [Bytes::copy_from_slice(data)]);
    }
}
