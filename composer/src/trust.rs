//! The last header that was verified, kept over restarts: trust grows too old to verify from after
//! 30 days, and the genesis file does not move.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use counterpoint_core::{
    light::TrustedState,
    primitive::{Height, RollupId},
    registry::RollupConfig,
};
use counterpoint_service::sequencer::{Client, FollowError, Follower};
use eyre::WrapErr;

/// Heights after which the file is written again: far fewer than 30 days have.
const SAVE_EVERY: u64 = 1_000;

/// Verifies a rollup's block at `tip`, or the first above what is `trusted`; gives the configuration
/// that it proves, and what is trusted with it.
///
/// # Errors
/// The chain has forked.
pub(crate) async fn verify_block(
    client: &Client,
    rollup: RollupId,
    trusted: &TrustedState,
    tip: u64,
) -> Result<(RollupConfig, TrustedState), FollowError> {
    let height = tip.max(trusted.height().get().saturating_add(1));
    let (client, trusted) = (client.clone(), trusted.clone());
    let mut follower = Follower::new(client, rollup, trusted, Height::new(height));
    let config = follower.next().await?.config;
    Ok((config, follower.trusted().clone()))
}

/// What trust starts from, and where it has come to.
#[derive(Debug)]
pub(crate) struct Trust {
    state: TrustedState,
    saved: u64,
    path: PathBuf,
}

impl Trust {
    /// Goes on from the file in `directory`, or starts from `genesis` if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is of another chain.
    pub(crate) fn open(directory: &Path, genesis: TrustedState) -> eyre::Result<Self> {
        let path = directory.join("trusted.json");
        let state: TrustedState = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).wrap_err_with(|| {
                format!(
                    "{} is damaged: remove it to start from genesis",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => genesis.clone(),
            Err(error) => return Err(error).wrap_err_with(|| path.display().to_string()),
        };
        eyre::ensure!(
            state.chain_id() == genesis.chain_id(),
            "data_dir is of chain {}, sequencer_genesis of {}: use another data_dir",
            state.chain_id(),
            genesis.chain_id()
        );
        let saved = state.height().get();
        Ok(Self { state, saved, path })
    }

    /// What is trusted now.
    #[must_use]
    pub(crate) fn state(&self) -> &TrustedState {
        &self.state
    }

    /// Trusts `state`, which was verified, from now on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn advance(&mut self, state: TrustedState) -> eyre::Result<()> {
        self.state = state;
        let height = self.state.height().get();
        if height >= self.saved.saturating_add(SAVE_EVERY) {
            let fresh = self.path.with_extension("new");
            let mut file = fs::File::create(&fresh)?;
            file.write_all(&serde_json::to_vec(&self.state)?)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)?;
            self.saved = height;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(chain_id: &str, height: u64) -> TrustedState {
        TrustedState::unchecked(chain_id.parse().unwrap(), Height::new(height))
    }

    #[test]
    fn trust_goes_on_where_it_was_saved_and_never_on_another_chain() {
        let directory = tempfile::tempdir().unwrap();
        let open = |chain_id| Trust::open(directory.path(), at(chain_id, 0));
        let mut trust = open("one").unwrap();
        trust.advance(at("one", SAVE_EVERY - 1)).unwrap();
        assert_eq!(open("one").unwrap().state().height().get(), 0);
        trust.advance(at("one", SAVE_EVERY)).unwrap();
        assert_eq!(open("one").unwrap().state().height().get(), SAVE_EVERY);
        let error = open("two").unwrap_err().to_string();
        assert!(error.starts_with("data_dir is of chain one"), "{error}");
    }
}
