//! The last header that was verified, kept over restarts: trust grows too old to verify from after
//! 30 days, and the genesis file does not move.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use counterpoint_core::light::TrustedState;
use counterpoint_service::sequencer::{Client, TrustRoot};
use eyre::WrapErr;

/// Heights after which the file is written again: far fewer than 30 days have.
const SAVE_EVERY: u64 = 1_000;

/// What trust starts from, and where it has come to.
#[derive(Debug)]
pub(crate) struct Trust {
    state: TrustedState,
    saved: u64,
    path: PathBuf,
}

impl Trust {
    /// Goes on from the file in `directory`, or starts from `root` if there is none.
    ///
    /// # Errors
    /// The file cannot be read, is of another chain, or too old.
    pub(crate) async fn open(
        directory: &Path,
        root: &TrustRoot,
        client: &Client,
    ) -> eyre::Result<Self> {
        let path = directory.join("trusted.json");
        let stored: Option<TrustedState> = match fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).wrap_err_with(|| {
                format!(
                    "{} is damaged: remove it to start from genesis",
                    path.display()
                )
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).wrap_err_with(|| path.display().to_string()),
        };
        let state = root.start(stored.as_ref(), client).await?;
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
    use counterpoint_core::primitive::Height;

    use super::*;

    fn at(chain_id: &str, height: u64) -> TrustedState {
        TrustedState::unchecked(chain_id.parse().unwrap(), Height::new(height))
    }

    #[tokio::test]
    async fn trust_goes_on_where_it_was_saved_and_never_on_another_chain() {
        let directory = tempfile::tempdir().unwrap();
        let client = Client::new(&["http://127.0.0.1:1".into()]).unwrap();
        let open = async |chain_id| {
            let root = TrustRoot::unchecked(at(chain_id, 0), None);
            Trust::open(directory.path(), &root, &client).await
        };
        let mut trust = open("one").await.unwrap();
        trust.advance(at("one", SAVE_EVERY - 1)).unwrap();
        assert_eq!(open("one").await.unwrap().state().height().get(), 0);
        trust.advance(at("one", SAVE_EVERY)).unwrap();
        assert_eq!(
            open("one").await.unwrap().state().height().get(),
            SAVE_EVERY
        );
        let error = open("two").await.unwrap_err().to_string();
        assert!(error.starts_with("data_dir is of chain one"), "{error}");
    }
}
