//! Wrong values, refused by name before anything is changed.

use crate::render::{examples, render};

/// A chart, a value that is not right for the first of its examples that ends so, and what Helm
/// says.
const WRONG: &[(&str, &str, &str, &str)] = &[
    (
        "sequencer",
        "validator",
        "replicas=2",
        "at '/replicas': value must be 1",
    ),
    (
        "sequencer",
        "validator",
        "replica=1",
        "additional properties 'replica' not allowed",
    ),
    (
        "sequencer",
        "validator",
        "genesis.existingConfigMap=\"\"",
        "at '/genesis/existingConfigMap'",
    ),
    (
        "sequencer",
        "validator",
        "app.config.atestation_grace_ms=1",
        "additional properties 'atestation_grace_ms'",
    ),
    (
        "sequencer",
        "validator",
        "app.config.attestation_grace_ms=500",
        "at '/app/config/attestation_grace_ms': maximum",
    ),
    (
        "sequencer",
        "validator",
        "app.config.mempool=\"clist\"",
        "at '/app/config/mempool'",
    ),
    (
        "sequencer",
        "validator",
        "remoteSigner.enabled=true",
        "'not' failed",
    ),
    (
        "sequencer",
        "validator",
        "cometbft.persistentPeers=[\"host:26656\"]",
        "at '/cometbft/persistentPeers/0'",
    ),
    (
        "sequencer",
        "full-node",
        "cometbft.stateSync.trustHash=\"\"",
        "at '/cometbft/stateSync/trustHash'",
    ),
    (
        "sequencer",
        "full-node",
        "cometbft.stateSync.rpcServers=[\"http://one:26657\"]",
        "at '/cometbft/stateSync/rpcServers'",
    ),
    (
        "sequencer",
        "validator",
        "persistence.app.size=\"lots\"",
        "at '/persistence/app/size'",
    ),
    (
        "sequencer",
        "validator",
        "image.digest=\"latest\"",
        "at '/image/digest'",
    ),
    (
        "sequencer",
        "remote-signer",
        "p2p.nodePort=80",
        "at '/p2p/nodePort'",
    ),
    (
        "composer",
        "default",
        "accountKey.existingSecret=\"\"",
        "at '/accountKey/existingSecret'",
    ),
    (
        "composer",
        "default",
        "config.rollups=[]",
        "at '/config/rollups'",
    ),
    (
        "composer",
        "default",
        "config.rollups=[{\"name\":\"alpha\"}]",
        "missing property 'execution_url'",
    ),
    (
        "composer",
        "default",
        "config.sequencers=[]",
        "at '/config/sequencers'",
    ),
    (
        "composer",
        "default",
        "config.limits={\"api_keys_required\":true}",
        "'not' failed",
    ),
    (
        "composer",
        "default",
        "config.limits={\"max_conections\":1}",
        "additional properties 'max_conections'",
    ),
    (
        "composer",
        "default",
        "config.bundles={\"max_tips\":1}",
        "at '/bundlesKey/existingSecret'",
    ),
    (
        "composer",
        "default",
        "config.key_file=\"/a\"",
        "additional properties 'key_file'",
    ),
    (
        "composer",
        "public",
        "ingress.tlsSecret=\"\"",
        "at '/ingress/tlsSecret'",
    ),
    (
        "conductor",
        "sidecar",
        "jwt.existingSecret=\"\"",
        "at '/jwt/existingSecret'",
    ),
    (
        "conductor",
        "sidecar",
        "client.mode=\"external\"",
        "at '/client/external/engineUrl'",
    ),
    (
        "conductor",
        "sidecar",
        "client.sidecar.chainId=0",
        "at '/client/sidecar/chainId'",
    ),
    (
        "conductor",
        "sidecar",
        "client.sidecar.preset=\"besu\"",
        "at '/client/sidecar/preset'",
    ),
    (
        "conductor",
        "thin",
        "client.sidecar.preset=\"reth\"",
        "'not' failed",
    ),
    (
        "conductor",
        "thin",
        "attesterKey.existingSecret=\"alpha-attester\"",
        "at '/attesterKey/existingSecret'",
    ),
    (
        "conductor",
        "external",
        "config.mode=\"thin\"",
        "'not' failed",
    ),
    (
        "conductor",
        "reth",
        "snapshot.sha256=\"\"",
        "at '/snapshot/sha256'",
    ),
    (
        "attester",
        "default",
        "replicas=2",
        "at '/replicas': value must be 1",
    ),
    (
        "attester",
        "default",
        "key.existingSecret=\"\"",
        "at '/key/existingSecret'",
    ),
    ("attester", "default", "rollups=[]", "at '/rollups'"),
    (
        "attester",
        "default",
        "config.votes_dir=\"/a\"",
        "additional properties 'votes_dir' not allowed",
    ),
    (
        "devnet",
        "default",
        "validators=17",
        "at '/validators': maximum",
    ),
    ("devnet", "default", "rollups=0", "at '/rollups': minimum"),
    ("devnet", "default", "seed=\"\"", "at '/seed'"),
    (
        "devnet",
        "default",
        "blockInterval=200",
        "at '/blockInterval'",
    ),
    (
        "devnet",
        "default",
        "validator=2",
        "additional properties 'validator' not allowed",
    ),
];

#[test]
fn wrong_values_are_refused_by_name() {
    for (name, example, set, expected) in WRONG {
        let examples = examples(name);
        let named = |path: &&std::path::PathBuf| {
            let file = path.file_name().unwrap().to_str().unwrap();
            file == format!("{example}-values.yaml")
        };
        let values = examples.iter().find(named).unwrap();
        let said = render(name, values, &[set]).expect_err(set);
        assert!(said.contains(expected), "{name} {set}: {said}");
    }
}
