//! What a service would run with, before it runs.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand, ValueEnum};
use counterpoint_service::{ConfigError, EXIT_CONFIG, load_config};
use serde::{Serialize, de::DeserializeOwned};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether a service would take its configuration, and whether the files that it names are there.
    #[command(
        after_help = "Example:\n  counterpoint config check conductor --config conductor.toml"
    )]
    Check(ConfigArgs),
    /// Show what a service would run with: file, environment and defaults.
    #[command(after_help = "Example:\n  counterpoint config print app --config app.toml")]
    Print(ConfigArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Which service.
    service: Service,
    /// Its file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Service {
    App,
    Composer,
    Conductor,
    Attester,
}

/// Why a configuration will not do.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot be shown: {0}")]
    Shown(#[from] toml::ser::Error),
    #[error("{key}: {} is not a file", .path.display())]
    NoFile { key: String, path: PathBuf },
}

/// Ends with the code that the service would end with.
pub(crate) fn run(command: &ConfigCommand) -> ExitCode {
    let (ConfigCommand::Check(args) | ConfigCommand::Print(args)) = command;
    let outcome = effective(args).and_then(|table| match command {
        ConfigCommand::Check(_) => {
            check_files("", &table)?;
            Ok("ok\n".to_owned())
        }
        ConfigCommand::Print(_) => Ok(toml::to_string_pretty(&table)?),
    });
    match outcome {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            eprintln!("counterpoint: {wrong}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn effective(args: &ConfigArgs) -> Result<toml::Table, Wrong> {
    let file = args.config.as_deref();
    match args.service {
        Service::App => table::<counterpoint_app::Config>("app", file),
        Service::Composer => table::<counterpoint_composer::Config>("composer", file),
        Service::Conductor => table::<counterpoint_conductor::Config>("conductor", file),
        Service::Attester => table::<counterpoint_conductor::attester::Config>("attester", file),
    }
}

fn table<C: DeserializeOwned + Serialize>(
    service: &str,
    file: Option<&Path>,
) -> Result<toml::Table, Wrong> {
    let config: C = load_config(service, file, toml::Table::new())?;
    Ok(toml::Table::try_from(config)?)
}

/// Names the first key that is about a file to be read, and has none.
fn check_files(at: &str, table: &toml::Table) -> Result<(), Wrong> {
    for (name, value) in table {
        let key = format!("{at}{name}");
        match value {
            toml::Value::Table(table) => check_files(&format!("{key}."), table)?,
            toml::Value::Array(values) => {
                for (place, table) in values.iter().filter_map(toml::Value::as_table).enumerate() {
                    check_files(&format!("{key}[{place}]."), table)?;
                }
            }
            toml::Value::String(path) if is_file(name) && !Path::new(path).is_file() => {
                let path = path.into();
                return Err(Wrong::NoFile { key, path });
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_file(name: &str) -> bool {
    name.ends_with("_file") || name.ends_with("genesis") || name == "api_keys"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(service: Service, toml: &str, expected: Result<(), &str>) {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("service.toml");
        std::fs::write(&config, toml).unwrap();
        let config = Some(config);
        let outcome = effective(&ConfigArgs { service, config });
        let outcome = outcome.and_then(|table| check_files("", &table));
        let outcome = outcome.map_err(|wrong| wrong.to_string());
        assert_eq!(outcome, expected.map_err(str::to_owned));
    }

    #[test]
    fn mistakes_are_found_before_a_start() {
        let app = "abci_listen = \"unix:///run/abci.sock\"\ngrpc_listen = \"127.0.0.1:1\"\n\
            http_listen = \"127.0.0.1:2\"\ncometbft_rpc = \"http://127.0.0.1:3\"\ndata_dir = \"/d\"\n";
        check(Service::App, app, Ok(()));
        let typo = format!("{app}snapshot_intervall = 5\n");
        check(
            Service::App,
            &typo,
            Err(
                "unknown configuration key `snapshot_intervall`; did you mean `snapshot_interval`?",
            ),
        );
        let attester = "sequencers = [\"http://127.0.0.1:1\"]\nsequencer_genesis = \"/nowhere/g.json\"\n\
            key_file = \"/nowhere/key\"\nvotes_dir = \"/v\"\ndata_dir = \"/d\"\n\
            http_listen = \"127.0.0.1:2\"\n[[rollups]]\nname = \"alpha\"\ngenesis = \"/nowhere/a.json\"\n";
        check(
            Service::Attester,
            attester,
            Err("key_file: /nowhere/key is not a file"),
        );
    }
}
