//! Where trust in the sequencer starts.

use std::{path::Path, time::Duration};

use counterpoint_core::{
    light::{TrustedHeader, TrustedState, decode_signed_header, decode_validators},
    primitive::{Hash, Height},
};
use counterpoint_proto::sequencer::GetHeaderResponse;
use eyre::{ensure, eyre};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{Client, NodeId, VerifyError, reader::unix_secs};
use crate::{ConfigError, files};

/// Pause before the nodes are asked again for the header that is trusted.
const RETRY: Duration = Duration::from_secs(1);

/// What an operator trusts: the sequencer's genesis, and maybe a later header of its chain.
#[derive(Clone, Debug)]
pub struct TrustRoot {
    genesis: TrustedState,
    header: Option<TrustedHeader>,
}

impl TrustRoot {
    /// Reads the configuration keys `sequencer_genesis`, `trust_height` and `trust_hash`.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn read(genesis: &Path, height: Option<u64>, hash: Option<&str>) -> eyre::Result<Self> {
        let genesis = files::read_trust(genesis)?;
        let header = match (height, hash) {
            (None, None) => None,
            (Some(height), Some(hash)) => {
                if height == 0 {
                    return Err(invalid("trust_height must be greater than 0"));
                }
                let (height, hash) = (Height::new(height), read_hash(hash)?);
                Some(TrustedHeader { height, hash })
            }
            (Some(_), None) => {
                return Err(invalid(
                    "trust_height is set and trust_hash is not: set both or none",
                ));
            }
            (None, Some(_)) => {
                return Err(invalid(
                    "trust_hash is set and trust_height is not: set both or none",
                ));
            }
        };
        Ok(Self { genesis, header })
    }

    /// Trusts these, for tests.
    #[cfg(any(test, feature = "test-utils"))]
    #[must_use]
    pub fn unchecked(genesis: TrustedState, header: Option<TrustedHeader>) -> Self {
        Self { genesis, header }
    }

    /// The chain, as the genesis file names it.
    #[must_use]
    pub fn chain_id(&self) -> &str {
        self.genesis.chain_id()
    }

    /// What the genesis file says.
    #[must_use]
    pub fn genesis(&self) -> &TrustedState {
        &self.genesis
    }

    /// The later header that the operator names, if he does.
    #[must_use]
    pub fn header(&self) -> Option<TrustedHeader> {
        self.header
    }

    /// Goes on from what was verified and stored before, or starts where the operator says. Waits
    /// until a node has the header that he names.
    ///
    /// # Errors
    /// Trust has grown too old, or is in another chain.
    pub async fn start(
        &self,
        stored: Option<&TrustedState>,
        client: &Client,
    ) -> eyre::Result<TrustedState> {
        if let Some(trusted) = self.known(stored, unix_secs())? {
            return Ok(trusted);
        }
        let Some(root) = self.header else {
            return Ok(self.genesis.clone());
        };
        loop {
            match self.fetch(root, client).await {
                Some(trusted) => {
                    info!(height = %root.height, hash = %root.hash, "trust starts");
                    return Ok(trusted);
                }
                None => warn!(height = %root.height, "no node has the header of trust_height"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// What can be trusted without asking anybody; nothing if the operator names a header.
    fn known(
        &self,
        stored: Option<&TrustedState>,
        now_secs: u64,
    ) -> eyre::Result<Option<TrustedState>> {
        let Some(stored) = stored else {
            if self.header.is_some() {
                return Ok(None);
            }
            ensure!(
                !self.genesis.is_expired(now_secs),
                "sequencer_genesis is more than 30 days old: set trust_height and trust_hash to a \
                 header that you know from a source you trust"
            );
            return Ok(Some(self.genesis.clone()));
        };
        ensure!(
            stored.chain_id() == self.chain_id(),
            "data_dir is of chain {}, sequencer_genesis of {}: use another data_dir",
            stored.chain_id(),
            self.chain_id()
        );
        match stored.header() {
            Some(header) if stored.is_expired(now_secs) && self.header != Some(header) => {
                let TrustedHeader { height, hash } = header;
                Err(eyre!(
                    "the last verified header, height {height}, is more than 30 days old: if a \
                     source you trust has the same, set trust_height = {height} and trust_hash = \
                     \"{hash}\""
                ))
            }
            // Nothing was verified yet.
            None => self.known(None, now_secs),
            Some(_) => Ok(Some(stored.clone())),
        }
    }

    /// Asks all nodes at once; the first that has the header is enough. Those that have another one
    /// are reported.
    async fn fetch(&self, root: TrustedHeader, client: &Client) -> Option<TrustedState> {
        let mut asked = JoinSet::new();
        for node in client.order() {
            let (this, client) = (self.clone(), client.clone());
            asked.spawn(async move { this.fetch_from(root, &client, node).await });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some(trusted)) = answer {
                asked.detach_all(); // The others may still be found out.
                return Some(trusted);
            }
        }
        None
    }

    async fn fetch_from(
        &self,
        root: TrustedHeader,
        client: &Client,
        node: NodeId,
    ) -> Option<TrustedState> {
        let answer = match client.header(node, root.height).await {
            Ok(answer) => answer,
            Err(status) => {
                warn!(url = client.url(node), %status, "no header of trust_height");
                return None;
            }
        };
        let verified = self.verify(root, &answer);
        let report =
            |error: &VerifyError| client.report(node, &self.genesis, root.height, error, &answer);
        verified.inspect_err(report).ok()
    }

    fn verify(
        &self,
        root: TrustedHeader,
        answer: &GetHeaderResponse,
    ) -> Result<TrustedState, VerifyError> {
        let signed = decode_signed_header(&answer.signed_header)?;
        let validators = decode_validators(&answer.validators)?;
        Ok(self.genesis.from_root(root, &signed, &validators)?)
    }
}

fn read_hash(text: &str) -> eyre::Result<Hash> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim(), &mut bytes)
        .map_err(|_| invalid("trust_hash must be 64 hexadecimal digits"))?;
    Ok(Hash::new(bytes))
}

fn invalid(reason: &str) -> eyre::Report {
    ConfigError::Invalid(reason.to_owned()).into()
}
