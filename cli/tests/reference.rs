//! The references of commands, configuration and metrics say what the software does. Rewritten by
//! `UPDATE_GENERATED=1`.
#![expect(clippy::unwrap_used, reason = "a broken expectation fails the test")]

use std::{fmt::Write, fs, path::Path};

use clap::Command;
use counterpoint_service::{Metrics, sequencer, traces};

fn check(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let actual = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        actual == expected,
        "docs/{name} is not what is generated: UPDATE_GENERATED=1 rewrites it"
    );
}

fn commands(command: &mut Command, path: &str, text: &mut String) {
    let mut names = Vec::new();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        names.push(sub.get_name().to_owned());
    }
    names.retain(|name| name != "help");
    let help = command
        .clone()
        .bin_name(path)
        .term_width(100)
        .render_long_help();
    write!(
        text,
        "\n## {path}\n```text\n{}\n```\n",
        help.to_string().trim()
    )
    .unwrap();
    for name in names {
        let sub = command.find_subcommand_mut(&name).unwrap();
        commands(sub, &format!("{path} {name}"), text);
    }
}

#[test]
fn commands_are_what_they_say() {
    let mut command = counterpoint::command();
    command.build();
    let mut text = "# Commands\n\nWhat `--help` says, generated.\n".to_owned();
    commands(&mut command, "counterpoint", &mut text);
    check("cli.md", &text);
}

/// Whoever is stuck finds something to paste.
#[test]
fn every_command_has_an_example() {
    fn look(command: &Command, path: &str, missing: &mut Vec<String>) {
        let subs: Vec<_> = command
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set())
            .collect();
        let example = command.get_after_help().or(command.get_after_long_help());
        if !example.is_some_and(|text| text.to_string().contains("counterpoint")) {
            missing.push(path.to_owned());
        }
        for sub in subs {
            look(sub, &format!("{path} {}", sub.get_name()), missing);
        }
    }
    let mut missing = Vec::new();
    look(&counterpoint::command(), "counterpoint", &mut missing);
    assert!(missing.is_empty(), "no example: {missing:#?}");
}

/// Those that have nothing to show: they run, write or send. What `devnet env` shows is in devnet.json.
const SHOW_NOTHING: [&str; 19] = [
    "app",
    "attester",
    "bench",
    "completions",
    "composer",
    "conductor",
    "conductor rebuild",
    "conductor snapshot export",
    "conductor snapshot import",
    "conductor verify",
    "devnet env",
    "devnet kill",
    "devnet logs",
    "devnet reset",
    "devnet start",
    "genesis rollup",
    "genesis sequencer",
    "man",
    "signing-state",
];

/// Whatever reads tells programs too.
#[test]
fn every_command_that_shows_something_shows_json() {
    fn look(command: &Command, path: &str, silent: &mut Vec<String>) {
        let shows = |arg: &clap::Arg| {
            let json = arg
                .get_possible_values()
                .iter()
                .any(|value| value.get_name() == "json");
            arg.get_id() == "output" && json || arg.get_id() == "json"
        };
        let subs: Vec<_> = command
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set())
            .collect();
        let runs = subs.is_empty() || !command.is_subcommand_required_set();
        if runs && !command.get_arguments().any(shows) {
            silent.push(path.to_owned());
        }
        for sub in subs.into_iter().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            look(sub, path.trim(), silent);
        }
    }
    let mut command = counterpoint::command();
    command.build();
    let mut silent = Vec::new();
    look(&command, "", &mut silent);
    // Every measurement is JSON anyway.
    silent.retain(|path| !path.starts_with("bench "));
    silent.push("bench".to_owned());
    silent.sort();
    assert_eq!(silent, SHOW_NOTHING);
}

#[test]
fn metrics_are_listed() {
    let services: [(&str, &[&Metrics]); 3] = [
        ("App", &[&counterpoint_app::METRICS]),
        (
            "Composer",
            &[
                &counterpoint_composer::METRICS,
                &sequencer::METRICS,
                &traces::METRICS,
            ],
        ),
        (
            "Conductor",
            &[
                &counterpoint_conductor::METRICS,
                &sequencer::METRICS,
                &traces::METRICS,
            ],
        ),
    ];
    let mut text = "# Metrics\n\nAt `/metrics` of each service, generated. Which of them to watch: the validator's and the operator's\nguide, and the alerts of the charts.\n".to_owned();
    for (service, metrics) in services {
        write!(
            text,
            "\n## {service}\n| metric | kind | what |\n|---|---|---|\n"
        )
        .unwrap();
        for metrics in metrics {
            for (kind, list) in [
                ("gauge", metrics.gauges),
                ("counter", metrics.counters),
                ("histogram, seconds", metrics.histograms),
            ] {
                for (name, help) in list {
                    writeln!(text, "| `{name}` | {kind} | {help} |").unwrap();
                }
            }
        }
    }
    check("metrics.md", &text);
}

#[test]
fn configuration_is_listed() {
    let mut text = "# Configuration\n\nEach service's keys with an example of a value, generated from its `example.toml`. A key is set in the file, by an\nenvironment variable (`COUNTERPOINT_CONDUCTOR_ENGINE_URL`) or by a flag (`--engine-url`), the last one winning.\n".to_owned();
    for (service, example) in [
        ("app", "app/example.toml"),
        ("composer", "composer/example.toml"),
        ("conductor", "conductor/example.toml"),
        ("attester", "conductor/attester.example.toml"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let example = fs::read_to_string(path.join(example)).unwrap();
        write!(text, "\n## {service}.toml\n```toml\n{example}```\n").unwrap();
    }
    check("configuration.md", &text);
}
