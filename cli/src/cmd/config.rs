//! What a service would run with, before it runs.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand, ValueEnum};
use counterpoint_service::{ConfigError, EXIT_CONFIG, Settings, load_config, settings};
use serde_json::json;

use super::{Output, show};

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
    /// How to show the result: as TOML, unless it is for programs.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    App,
    Composer,
    Conductor,
    Attester,
}

/// Ends with the code that the service would end with.
pub(crate) fn run(command: &ConfigCommand) -> eyre::Result<ExitCode> {
    let (ConfigCommand::Check(args) | ConfigCommand::Print(args)) = command;
    let what = match command {
        ConfigCommand::Check(_) => What::Checked,
        ConfigCommand::Print(_) => What::Loaded,
    };
    let outcome = effective(args.service, args.config.as_deref(), what);
    match (outcome, what, args.output) {
        (Err(wrong), _, output) => {
            if output == Output::Json {
                show(&json!({ "ok": false, "error": wrong.to_string() }), output)?;
            }
            eprintln!("counterpoint: {wrong}");
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
        (Ok(_), What::Checked, Output::Json) => show(&json!({ "ok": true }), Output::Json)?,
        (Ok(_), What::Checked, Output::Text) => show(&json!("ok"), Output::Text)?,
        (Ok(table), What::Loaded, Output::Json) => show(&json!(table), Output::Json)?,
        (Ok(table), What::Loaded, Output::Text) => print!("{}", toml::to_string_pretty(&table)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// How much is wanted of a configuration.
#[derive(Clone, Copy, Debug)]
enum What {
    /// All keys are known and have values of their kind.
    Loaded,
    /// A service would start with it.
    Checked,
}

fn effective(
    service: Service,
    file: Option<&Path>,
    what: What,
) -> Result<toml::Table, ConfigError> {
    match service {
        Service::App => table::<counterpoint_app::Config>("app", file, what),
        Service::Composer => table::<counterpoint_composer::Config>("composer", file, what),
        Service::Conductor => table::<counterpoint_conductor::Config>("conductor", file, what),
        Service::Attester => {
            table::<counterpoint_conductor::attester::Config>("attester", file, what)
        }
    }
}

fn table<C: Settings>(
    service: &str,
    file: Option<&Path>,
    what: What,
) -> Result<toml::Table, ConfigError> {
    let none = toml::Table::new();
    let config: C = match what {
        What::Loaded => load_config(service, file, none)?,
        What::Checked => settings(service, file, none)?,
    };
    toml::Table::try_from(config).map_err(|error| ConfigError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(service: Service, toml: &str, expected: Result<(), &str>) {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("service.toml");
        std::fs::write(&config, toml).unwrap();
        let outcome = effective(service, Some(&config), What::Checked);
        let outcome = outcome.map(drop).map_err(|wrong| wrong.to_string());
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
