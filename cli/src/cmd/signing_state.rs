use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Args;
use eyre::{OptionExt, WrapErr, bail};
use serde_json::{Value, json};

/// CometBFT's record of what its key has signed.
const STATE: &str = "priv_validator_state.json";
/// That nothing was signed yet.
const NOTHING: &[u8] = b"{\n  \"height\": \"0\",\n  \"round\": 0,\n  \"step\": 0\n}";

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterpoint signing-state node/data\n  counterpoint signing-state node/data --tmkms /var/lib/tmkms/state.json"
)]
pub(crate) struct SigningStateArgs {
    /// CometBFT's data directory.
    data: PathBuf,
    /// Instead, write what was signed to a new file, for tmkms to go on from. CometBFT must have stopped.
    #[arg(long, value_name = "FILE")]
    tmkms: Option<PathBuf>,
}

/// Carries out the command.
pub(crate) fn run(args: &SigningStateArgs) -> eyre::Result<()> {
    match &args.tmkms {
        Some(file) => hand_over(&args.data.join(STATE), file),
        None => begin(&args.data),
    }
}

/// Tells a signer what was signed before it. tmkms counts a proposal as step 0 and CometBFT as step 1, so
/// with the same numbers the signer takes the last step for done, whatever was signed in it.
fn hand_over(state: &Path, to: &Path) -> eyre::Result<()> {
    let read = || format!("failed to read {}", state.display());
    let signed: Value = serde_json::from_slice(&fs::read(state).wrap_err_with(read)?)
        .wrap_err_with(|| format!("{} is damaged", state.display()))?;
    let numbers = || {
        Some((
            signed["height"].as_str()?,
            signed["round"].as_u64()?,
            signed["step"].as_i64()?,
        ))
    };
    let (height, round, step) =
        numbers().ok_or_eyre(format!("{} is no record of signatures", state.display()))?;
    let state =
        json!({ "height": height, "round": round.to_string(), "step": step, "block_id": null });
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .wrap_err_with(|| format!("failed to create {}", to.display()))?;
    file.write_all(state.to_string().as_bytes())?;
    Ok(file.sync_all()?)
}

/// Lets a validator begin where nothing was ever signed. CometBFT does not start without its record;
/// one that is made anew where an older one was lost lets the key sign a height twice, which takes
/// all its power. So a directory that holds anything else must hold the record too.
fn begin(data: &Path) -> eyre::Result<()> {
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
        fs::create_dir(data.join("lost+found")).unwrap();
        fs::write(data.join("priv_validator_state.json.part"), "{").unwrap();
        begin(&data).unwrap();
        let state = data.join(STATE);
        assert_eq!(fs::read(&state).unwrap(), NOTHING);

        // What was signed stays.
        fs::write(&state, "signed").unwrap();
        fs::create_dir(data.join("blockstore.db")).unwrap();
        begin(&data).unwrap();
        assert_eq!(fs::read(&state).unwrap(), b"signed");

        // And it is not made up where it was lost.
        fs::remove_file(&state).unwrap();
        let error = begin(&data).unwrap_err().to_string();
        assert!(
            error.contains("what the key has signed is not known"),
            "{error}"
        );
        assert!(!state.exists());
    }

    #[test]
    fn a_signer_goes_on_after_what_was_signed() {
        let directory = tempfile::tempdir().unwrap();
        let (state, to) = (directory.path().join(STATE), directory.path().join("to"));
        fs::write(
            &state,
            r#"{"height":"7","round":1,"step":2,"signature":"c2ln"}"#,
        )
        .unwrap();
        hand_over(&state, &to).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(&to).unwrap()).unwrap();
        let expected = json!({ "height": "7", "round": "1", "step": 2, "block_id": null });
        assert_eq!(written, expected);

        // What a signer has is newer.
        let error = format!("{:#}", hand_over(&state, &to).unwrap_err());
        assert!(error.contains("File exists"), "{error}");
        fs::write(&state, "{}").unwrap();
        let error = hand_over(&state, &to).unwrap_err().to_string();
        assert!(error.contains("is no record of signatures"), "{error}");
    }
}
