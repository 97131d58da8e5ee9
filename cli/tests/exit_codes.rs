//! A configuration that will not do ends a service with 78, names the key, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "a broken expectation fails the test")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_counterpoint");
/// Services and their examples.
const SERVICES: [(&str, &str); 4] = [
    ("app", include_str!("../../app/example.toml")),
    ("composer", include_str!("../../composer/example.toml")),
    ("conductor", include_str!("../../conductor/example.toml")),
    (
        "attester",
        include_str!("../../conductor/attester.example.toml"),
    ),
];
/// As CometBFT writes it.
const SEQUENCER_GENESIS: &str = r#"{
    "chain_id": "counterpoint", "genesis_time": "2026-01-01T00:00:00Z",
    "validators": [{ "address": "CB05C9FAC26332F9ABC5F4F50B47E39EDAB18BD5", "power": "10", "name": "val-0",
        "pub_key": { "type": "tendermint/PubKeyEd25519", "value": "WGZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY=" } }]
}"#;
/// How long a service that refuses its configuration may take to say so.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service's example, with everything that it names in a directory.
fn example(text: &str, dir: &Path) -> toml::Table {
    fn settle(table: &mut toml::Table, dir: &Path) {
        for (key, value) in table.iter_mut() {
            match value {
                toml::Value::Table(inner) => settle(inner, dir),
                toml::Value::Array(values) => {
                    let tables = values.iter_mut().filter_map(toml::Value::as_table_mut);
                    tables.for_each(|inner| settle(inner, dir));
                }
                _ if key.ends_with("_dir") => *value = path(dir, key),
                _ if is_file(key) => {
                    let text = match key.as_str() {
                        "sequencer_genesis" => SEQUENCER_GENESIS.to_owned(),
                        "api_keys" => "keys = []".to_owned(),
                        _ => "73".repeat(32),
                    };
                    fs::write(dir.join(key), text).unwrap();
                    *value = path(dir, key);
                }
                _ if key.ends_with("_listen") && key != "abci_listen" => {
                    *value = "127.0.0.1:0".into();
                }
                _ => {}
            }
        }
    }
    let mut table: toml::Table = text.parse().unwrap();
    settle(&mut table, dir);
    table
}

fn path(dir: &Path, key: &str) -> toml::Value {
    dir.join(key).to_str().unwrap().into()
}

fn is_file(key: &str) -> bool {
    key.ends_with("_file") || key.ends_with("genesis") || key == "api_keys"
}

/// Runs a service with its example as `change` leaves it: it ends with 78 and says `expected`. Gives
/// whether there is a data directory then.
#[track_caller]
fn refused(service: &str, change: impl FnOnce(&mut toml::Table, &Path), expected: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let (_, text) = SERVICES.iter().find(|(name, _)| *name == service).unwrap();
    let mut table = example(text, directory.path());
    change(&mut table, directory.path());
    let file = directory.path().join("service.toml");
    fs::write(&file, table.to_string()).unwrap();
    let mut child = Command::new(PROGRAM)
        .args([service, "--config"])
        .arg(&file)
        .stderr(Stdio::from(
            fs::File::create(directory.path().join("log")).unwrap(),
        ))
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let said = fs::read_to_string(directory.path().join("log")).unwrap();
    assert_eq!(status.code(), Some(78), "{service}: {expected}: {said}");
    assert!(said.contains(expected), "{service}: {expected}: {said}");
    directory.path().join("data_dir").exists()
}

fn set(key: &'static str, value: impl Into<toml::Value>) -> impl FnOnce(&mut toml::Table, &Path) {
    let value = value.into();
    move |table, _| {
        table.insert(key.to_owned(), value);
    }
}

#[test]
fn keys_and_values_are_refused_before_anything_is_done() {
    for (service, _) in SERVICES {
        let wrong = [
            refused(
                service,
                set("data_dri", "x"),
                "unknown configuration key `data_dri`; did you mean `data_dir`?",
            ),
            refused(
                service,
                |table, _| drop(table.remove("data_dir")),
                "configuration key `data_dir` is missing",
            ),
            refused(service, set("http_listen", 5), "http_listen"),
            refused(service, set("log_format", "xml"), "xml"),
        ];
        assert!(!wrong.contains(&true), "{service} wrote something");
    }
    let missing = Command::new(PROGRAM)
        .args(["app", "--config", "/no/such.toml"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(78));
}

#[test]
fn files_and_urls_are_refused_by_their_keys() {
    let cases = [
        ("app", vec!["cometbft_rpc"], vec![]),
        ("composer", vec![], vec!["sequencer_genesis", "key_file"]),
        (
            "conductor",
            vec!["engine_url"],
            vec![
                "sequencer_genesis",
                "rollup_genesis",
                "jwt_file",
                "attester_key_file",
            ],
        ),
        ("attester", vec![], vec!["sequencer_genesis", "key_file"]),
    ];
    for (service, urls, files) in cases {
        for key in urls {
            let expected = format!("{key}: nowhere is not a URL");
            assert!(!refused(service, set(key, "nowhere"), &expected));
        }
        for key in files {
            let expected = format!("{key}: /no/such/file is not a file");
            assert!(!refused(service, set(key, "/no/such/file"), &expected));
        }
        if service != "app" {
            let nowhere = vec![toml::Value::from("nowhere")];
            assert!(!refused(
                service,
                set("sequencers", nowhere),
                "sequencers[0]: nowhere is not a URL"
            ));
            assert!(!refused(
                service,
                set("sequencers", toml::Value::Array(Vec::new())),
                "sequencers is empty"
            ));
        }
    }
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let wrong = [
        refused(
            "app",
            set("abci_listen", "tcp://0.0.0.0:1"),
            "whoever reaches it rules the node",
        ),
        refused(
            "app",
            set("attestation_grace_ms", 201),
            "attestation_grace_ms 201 is more than 200",
        ),
        refused(
            "composer",
            set("default_rollup", "omega"),
            "default_rollup omega is not among the rollups",
        ),
        refused(
            "composer",
            |table, _| {
                let rollups = table["rollups"].as_array_mut().unwrap();
                rollups.push(rollups[0].clone());
            },
            "a name is listed twice",
        ),
        refused(
            "composer",
            |table, _| {
                let limits = table["limits"].as_table_mut().unwrap();
                limits.remove("api_keys");
                limits.insert("api_keys_required".to_owned(), true.into());
            },
            "api_keys_required needs api_keys",
        ),
        refused(
            "conductor",
            |table, _| drop(table.remove("votes_dir")),
            "votes_dir: must be set beside",
        ),
        refused("conductor", set("mode", "thin"), "an attester needs mode"),
    ];
    assert!(!wrong.contains(&true), "something was written");
}

#[test]
fn files_that_hold_something_else_are_refused() {
    let spoil = |key: &'static str| {
        move |_: &mut toml::Table, dir: &Path| fs::write(dir.join(key), "junk").unwrap()
    };
    refused(
        "composer",
        spoil("key_file"),
        "must hold 64 hexadecimal digits",
    );
    refused(
        "attester",
        spoil("key_file"),
        "must hold 64 hexadecimal digits",
    );
    refused(
        "conductor",
        spoil("jwt_file"),
        "must hold 32 bytes as 64 hexadecimal digits",
    );
    for service in ["composer", "conductor", "attester"] {
        refused(service, spoil("sequencer_genesis"), "sequencer_genesis");
        refused(
            service,
            set("trust_hash", "5f"),
            "trust_hash must be 64 hexadecimal digits",
        );
        refused(
            service,
            |table, _| drop(table.remove("trust_hash")),
            "set both or none",
        );
    }
    refused(
        "conductor",
        spoil("rollup_genesis"),
        "rollup genesis is not valid JSON",
    );
}

/// What can be asked without a network answers programs, too.
#[test]
fn commands_that_read_files_answer_in_json() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let run = |args: &[&str]| -> (Option<i32>, Value) {
        let output = Command::new(PROGRAM)
            .args(args)
            .args(["--output", "json"])
            .current_dir(dir)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = serde_json::from_str(&text);
        (
            output.status.code(),
            told.unwrap_or_else(|error| panic!("{args:?}: {error}: {text}")),
        )
    };
    let (code, made) = run(&["key", "new", "me.key"]);
    assert_eq!(
        (code, run(&["key", "show", "me.key"])),
        (Some(0), (Some(0), made.clone()))
    );
    assert!(
        made["address"].as_str().unwrap().starts_with("cpt1"),
        "{made}"
    );
    let (_, text) = SERVICES[0];
    fs::write(dir.join("app.toml"), example(text, dir).to_string()).unwrap();
    let (code, told) = run(&["config", "check", "app", "--config", "app.toml"]);
    assert_eq!((code, &told["ok"]), (Some(0), &true.into()));
    let (code, told) = run(&["config", "print", "app", "--config", "app.toml"]);
    assert_eq!((code, &told["snapshots_kept"]), (Some(0), &16.into()));
    fs::write(dir.join("app.toml"), "nonsense = 1").unwrap();
    let (code, told) = run(&["config", "check", "app", "--config", "app.toml"]);
    assert_eq!((code, &told["ok"]), (Some(78), &false.into()));
    let (code, told) = run(&["doctor", "app", "--config", "app.toml"]);
    assert_eq!((code, &told[1]["verdict"]), (Some(1), &"wrong".into()));
}
