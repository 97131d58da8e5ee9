use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use clap::Args;
use eyre::{WrapErr, bail};

/// CometBFT's record of what its key has signed.
const STATE: &str = "priv_validator_state.json";
/// That nothing was signed yet.
const NOTHING: &[u8] = b"{\n  \"height\": \"0\",\n  \"round\": 0,\n  \"step\": 0\n}";

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  counterpoint signing-state node/data")]
pub(crate) struct SigningStateArgs {
    /// CometBFT's data directory.
    data: PathBuf,
}

/// Lets a validator begin where nothing was ever signed. CometBFT does not start without its record;
/// one that is made anew where an older one was lost lets the key sign a height twice, which takes
/// all its power. So a directory that holds anything else must hold the record too.
pub(crate) fn run(args: &SigningStateArgs) -> eyre::Result<()> {
    let data = &args.data;
    let read = || format!("failed to read {}", data.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(data).wrap_err_with(read)? {
        names.push(entry.wrap_err_with(read)?.file_name());
    }
    if names.iter().any(|name| name == STATE) {
        return Ok(());
    }
    // What file systems put into a new volume is no trace of a node, nor is half of this command.
    let staged = data.join(format!("{STATE}.part"));
    names.retain(|name| name != "lost+found" && Some(name.as_os_str()) != staged.file_name());
    if !names.is_empty() {
        bail!(
            "{} holds a node's data and no {STATE}: what the key has signed is not known. Read \
             \"Never\" in the validator guide before you write one",
            data.display()
        );
    }
    let write = || -> std::io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&staged)?;
        file.write_all(NOTHING)?;
        file.sync_all()?;
        fs::rename(&staged, data.join(STATE))?;
        fs::File::open(data)?.sync_all()
    };
    write().wrap_err_with(|| format!("failed to write {STATE} in {}", data.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().to_owned();
        let args = SigningStateArgs { data: data.clone() };
        fs::create_dir(data.join("lost+found")).unwrap();
        fs::write(data.join("priv_validator_state.json.part"), "{").unwrap();
        run(&args).unwrap();
        let state = data.join(STATE);
        assert_eq!(fs::read(&state).unwrap(), NOTHING);

        // What was signed stays.
        fs::write(&state, "signed").unwrap();
        fs::create_dir(data.join("blockstore.db")).unwrap();
        run(&args).unwrap();
        assert_eq!(fs::read(&state).unwrap(), b"signed");

        // And it is not made up where it was lost.
        fs::remove_file(&state).unwrap();
        let error = run(&args).unwrap_err().to_string();
        assert!(
            error.contains("what the key has signed is not known"),
            "{error}"
        );
        assert!(!state.exists());
    }
}
