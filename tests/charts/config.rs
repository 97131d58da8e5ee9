//! The configuration that charts write: our services take it, and it opens the ports that
//! NetworkPolicies are about, no others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::Value;

use crate::render::{
    SERVICES, chart, containers, each, examples, list, of_kind, only, parse, render, repository,
};

/// The file of a ConfigMap.
fn file(objects: &[Value], name: &str) -> String {
    let maps = of_kind(objects, "ConfigMap");
    let mut files = maps.iter().filter_map(|map| map["data"][name].as_str());
    files.next().unwrap().to_owned()
}

/// The keys of a service, as its example has them, tables with their keys.
fn known_keys(example: &str) -> BTreeMap<String, BTreeSet<String>> {
    let example = fs::read_to_string(repository().join(example)).unwrap();
    keys(&example.parse().unwrap())
}

/// `{ "": top-level keys, table: its keys }`; a list of tables counts as one.
fn keys(document: &toml::Table) -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::from([(String::new(), BTreeSet::new())]);
    for (key, value) in document {
        all.get_mut("").unwrap().insert(key.clone());
        let tables: Vec<&toml::Table> = match value {
            toml::Value::Table(table) => vec![table],
            toml::Value::Array(values) => values.iter().filter_map(toml::Value::as_table).collect(),
            _ => continue,
        };
        for table in tables {
            let inner = all.entry(key.clone()).or_default();
            inner.extend(table.keys().cloned());
        }
    }
    all
}

/// The example of each chart's service, and its file.
const FILES: [(&str, &str, &str); 4] = [
    ("sequencer", "app/example.toml", "app.toml"),
    ("composer", "composer/example.toml", "composer.toml"),
    ("conductor", "conductor/example.toml", "conductor.toml"),
    (
        "attester",
        "conductor/attester.example.toml",
        "attester.toml",
    ),
];

#[test]
fn what_is_written_has_known_keys_and_whole_numbers() {
    each(&SERVICES, |name, case, objects| {
        let (_, example, path) = FILES.iter().find(|(chart, ..)| *chart == name).unwrap();
        let known = known_keys(example);
        let written: toml::Table = file(objects, path).parse().unwrap();
        for (table, keys) in keys(&written) {
            let Some(known) = known.get(&table) else {
                continue; // A list of text.
            };
            assert!(keys.is_subset(known), "{case}: {table} {keys:?}");
        }
        for path in [path, "config.toml"] {
            if name == "sequencer" || path != "config.toml" {
                let written: toml::Table = file(objects, path).parse().unwrap();
                no_floats(case, &toml::Value::Table(written));
            }
        }
    });
}

fn no_floats(case: &str, value: &toml::Value) {
    match value {
        toml::Value::Float(number) => panic!("{case}: {number}"),
        toml::Value::Table(table) => table.values().for_each(|value| no_floats(case, value)),
        toml::Value::Array(values) => values.iter().for_each(|value| no_floats(case, value)),
        _ => {}
    }
}

/// Every key of a service is one that an operator can give to the chart, or one that the chart
/// gives itself.
#[test]
fn no_key_of_a_service_is_out_of_reach() {
    for (name, example, path) in FILES {
        let schema = fs::read(chart(name).join("values.schema.json")).unwrap();
        let schema: Value = serde_json::from_slice(&schema).unwrap();
        let config = if name == "sequencer" {
            &schema["properties"]["app"]["properties"]["config"]
        } else {
            &schema["properties"]["config"]
        };
        let mut offered: BTreeSet<String> = BTreeSet::new();
        offered.extend(config["properties"].as_object().unwrap().keys().cloned());
        for values in examples(name) {
            let objects = parse(&render(name, &values, &[]).unwrap());
            let written: toml::Table = file(&objects, path).parse().unwrap();
            offered.extend(written.keys().cloned());
        }
        assert_eq!(offered, known_keys(example)[""], "{name}");
    }
}

/// The port of an address that others can reach; a unix socket has none.
fn open(address: &str) -> Option<u16> {
    if address.starts_with("unix://") {
        return None;
    }
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches("tcp://");
    assert!(["0.0.0.0", "127.0.0.1"].contains(&host), "{address}");
    (host == "0.0.0.0").then(|| port.parse().unwrap())
}

/// Every address that a file of configuration has a service listen at.
pub(crate) fn listening(document: &str) -> BTreeSet<u16> {
    fn find(key: &str, value: &toml::Value, ports: &mut BTreeSet<u16>) {
        match value {
            toml::Value::Table(table) => {
                table
                    .iter()
                    .for_each(|(key, value)| find(key, value, ports));
            }
            toml::Value::String(address) => {
                let listens = ["laddr", "priv_validator_laddr", "prometheus_listen_addr"];
                if key.ends_with("_listen") || listens.contains(&key) {
                    ports.extend(open(address));
                }
            }
            _ => {}
        }
    }
    let mut ports = BTreeSet::new();
    find(
        "",
        &toml::Value::Table(document.parse().unwrap()),
        &mut ports,
    );
    ports
}

/// Every address that flags have a client listen at.
fn flags(args: &[Value]) -> BTreeSet<u16> {
    let flag = |name: &str| {
        let args = args.iter().filter_map(Value::as_str);
        let mut found = args.filter_map(|arg| arg.strip_prefix("--")?.split_once('='));
        found.find_map(|(key, value)| (key == name).then(|| value.to_owned()))
    };
    let servers = ["http", "authrpc"].map(|server| {
        let (host, port) = (
            flag(&format!("{server}.addr"))?,
            flag(&format!("{server}.port"))?,
        );
        open(&format!("{host}:{port}"))
    });
    servers.into_iter().flatten().collect()
}

#[test]
fn policies_are_about_the_ports_that_are_open() {
    // With somebody allowed to reach each of them.
    let everybody = r#"[{"ipBlock":{"cidr":"0.0.0.0/0"}}]"#;
    let allow = |name: &str| {
        let groups: &[&str] = match name {
            "sequencer" => &[
                "networkPolicy.p2p",
                "networkPolicy.grpc",
                "networkPolicy.rpc",
                "networkPolicy.monitoring",
            ],
            "composer" => &["networkPolicy.rpc", "networkPolicy.monitoring"],
            "conductor" => &["networkPolicy.composers", "networkPolicy.monitoring"],
            _ => &["networkPolicy.monitoring"],
        };
        let set = groups.iter().map(|group| format!("{group}={everybody}"));
        set.collect::<Vec<_>>()
    };
    for (name, _, path) in FILES {
        for values in examples(name) {
            let set = allow(name);
            let set: Vec<&str> = set.iter().map(String::as_str).collect();
            let objects = parse(&render(name, &values, &set).unwrap());
            let pod = &only(&objects, "StatefulSet")["spec"]["template"]["spec"];
            let mut opened = listening(&file(&objects, path));
            if name == "sequencer" {
                opened.extend(listening(&file(&objects, "config.toml")));
            }
            let running = containers(pod).0;
            for container in &running {
                opened.extend(flags(list(&container["args"])));
            }
            let port = |port: &Value| u16::try_from(port.as_u64().unwrap()).unwrap();
            let named: BTreeSet<u16> = running
                .iter()
                .flat_map(|container| list(&container["ports"]))
                .map(|named| port(&named["containerPort"]))
                .collect();
            let policy = &only(&objects, "NetworkPolicy")["spec"];
            let allowed: BTreeSet<u16> = list(&policy["ingress"])
                .iter()
                .flat_map(|rule| list(&rule["ports"]))
                .map(|allowed| port(&allowed["port"]))
                .collect();
            assert_eq!(opened, named, "{name} {}", values.display());
            assert_eq!(opened, allowed, "{name} {}", values.display());
        }
    }
}

/// Nobody comes in who was not named, but peers, wallets and the pod of `helm test`.
#[test]
fn policies_deny_what_is_not_named() {
    let open = [
        ("sequencer", Some(26_656)),
        ("composer", Some(8_545)),
        ("conductor", None),
        ("attester", None),
    ];
    for (name, open) in open {
        let values = &examples(name)[0];
        let objects = parse(&render(name, values, &[]).unwrap());
        let policy = &only(&objects, "NetworkPolicy")["spec"];
        for rule in list(&policy["ingress"]) {
            let port = rule["ports"][0]["port"].as_u64();
            if rule["from"].is_null() {
                assert_eq!(port, open, "{name}");
            } else {
                let from = list(&rule["from"]);
                let tester = &from[0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"];
                assert_eq!(
                    (from.len(), tester),
                    (1, &format!("{name}-test").into()),
                    "{name}"
                );
            }
        }
    }
}

/// A pod is replaced when its configuration changes, and only then.
#[test]
fn pods_follow_their_configuration() {
    for (name, key) in [
        ("sequencer", "app.config.snapshots_kept=5"),
        ("composer", "config.retry_secs=5"),
        ("conductor", "config.cache_mb=5"),
        ("attester", "config.cache_mb=5"),
    ] {
        let values = &examples(name)[0];
        let checksum = |set: &[&str]| {
            let objects = parse(&render(name, values, set).unwrap());
            let template = &only(&objects, "StatefulSet")["spec"]["template"];
            template["metadata"]["annotations"]["checksum/config"].clone()
        };
        assert_eq!(checksum(&[]), checksum(&["priorityClassName=\"high\""]));
        assert_ne!(checksum(&[]), checksum(&[key]), "{name}");
    }
}
