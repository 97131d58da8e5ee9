//! A whole network by one chart: its pods run what `genesis testnet` says that hosts run, and open the
//! ports that it names.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde_json::Value;

use crate::{
    config::listening,
    render::{containers, each, list, of_kind, only, text},
};

const HOME: &str = "/var/lib/counterpoint";

/// What the first container of every pod writes, and what it says of it, by parts.
fn network(pods: &[&Value], directory: &Path) -> BTreeMap<String, Value> {
    let first = |pod: &&Value| pod["initContainers"][0]["args"].clone();
    let commands: BTreeSet<String> = pods.iter().map(|pod| first(pod).to_string()).collect();
    assert_eq!(commands.len(), 1, "one network for all");
    let command = first(&pods[0]);
    let args: Vec<&str> = list(&command).iter().filter_map(Value::as_str).collect();
    let (target, args) = args.split_last().unwrap();
    assert_eq!(*target, "/network/network");
    let output = Command::new(env!("CARGO_BIN_EXE_counterpoint-under-test"))
        .args(args)
        .args(["--output", "json"])
        .arg(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let parts = list(&said["parts"]).iter();
    parts
        .map(|part| (part["name"].as_str().unwrap().to_owned(), part.clone()))
        .collect()
}

fn each_network(check: impl Fn(&str, &[Value], &BTreeMap<String, Value>, &Path)) {
    each(&["devnet"], |_, case, objects| {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("network");
        let sets = of_kind(objects, "StatefulSet");
        let pods: Vec<_> = sets
            .iter()
            .map(|set| &set["spec"]["template"]["spec"])
            .collect();
        let parts = network(&pods, &directory);
        check(case, objects, &parts, &directory);
    });
}

fn part(object: &Value) -> &str {
    let labels = &object["metadata"]["labels"];
    labels["app.kubernetes.io/component"].as_str().unwrap()
}

#[test]
fn pods_run_what_hosts_run() {
    each_network(|case, objects, parts, _| {
        let sets = of_kind(objects, "StatefulSet");
        let named: BTreeSet<&str> = sets.iter().map(|set| part(set)).collect();
        assert_eq!(named, parts.keys().map(String::as_str).collect(), "{case}");
        for set in sets {
            let expected = &parts[part(set)];
            let (running, starting) = containers(&set["spec"]["template"]["spec"]);
            let args = |container: &&Value| container["args"].clone();
            // Without the program, which an image has already.
            let commands = |kind: &str| -> Vec<Value> {
                let commands = list(&expected[kind]).iter();
                commands.map(|command| list(command)[1..].into()).collect()
            };
            let unordered = |commands: Vec<Value>| -> Vec<BTreeSet<String>> {
                let words = |command: &Value| list(command).iter().map(Value::to_string).collect();
                commands.iter().map(words).collect()
            };
            let actual = running.iter().map(args).collect();
            assert_eq!(unordered(actual), unordered(commands("run")), "{case}");
            let actual: Vec<_> = starting[1..].iter().map(args).collect();
            assert_eq!(actual, commands("prepare"), "{case}");
        }
    });
}

/// Each part finds its folder, and keeps on its claim whatever it writes.
#[test]
fn pods_find_their_folders_and_keep_their_data() {
    each_network(|case, objects, _, directory| {
        for set in of_kind(objects, "StatefulSet") {
            let pod = &set["spec"]["template"]["spec"];
            let folder = format!("network/{}", part(set));
            let mut kept = BTreeSet::new();
            let (running, starting) = containers(pod);
            for container in running.iter().chain(&starting[1..]) {
                let mounts = list(&container["volumeMounts"]);
                let home = mounts
                    .iter()
                    .find(|mount| mount["name"] == "network")
                    .unwrap();
                assert_eq!(
                    (&home["mountPath"], &home["subPath"]),
                    (&HOME.into(), &folder.clone().into())
                );
                let data = mounts.iter().filter(|mount| mount["name"] == "data");
                kept.extend(data.map(|mount| mount["mountPath"].as_str().unwrap()));
            }
            for file in toml_files(&directory.join(part(set))) {
                let document: toml::Table = file.parse().unwrap();
                for key in ["data_dir", "votes_dir"] {
                    if let Some(path) = document.get(key) {
                        assert!(kept.contains(path.as_str().unwrap()), "{case}: {path}");
                    }
                }
            }
        }
    });
}

/// What listens is what Services offer, and nothing else of a pod is open.
#[test]
fn services_are_about_the_ports_that_are_open() {
    each_network(|case, objects, parts, directory| {
        for service in of_kind(objects, "Service") {
            let ports = list(&service["spec"]["ports"]).iter();
            let offered: BTreeSet<u64> = ports.map(|port| port["port"].as_u64().unwrap()).collect();
            let ports = parts[part(service)]["ports"].as_object().unwrap().values();
            let named: BTreeSet<u64> = ports.filter_map(Value::as_u64).collect();
            assert_eq!(offered, named, "{case}");
            let mut opened: BTreeSet<u64> = toml_files(&directory.join(part(service)))
                .iter()
                .flat_map(|file| listening(file))
                .map(u64::from)
                .collect();
            // geth's, by its flags.
            opened.extend(offered.contains(&8_645).then_some(8_645));
            assert_eq!(opened, offered, "{case}");
        }
    });
}

/// The files of configuration of a part.
fn toml_files(folder: &Path) -> Vec<String> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let files = [
        format!("{name}.toml"),
        format!("{name}-app.toml"),
        format!("{name}-conductor.toml"),
        format!("{name}/cometbft/config/config.toml"),
    ];
    let files = files.iter().map(|file| folder.join(file));
    files
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .collect()
}

#[test]
fn another_network_has_other_claims() {
    each(&["devnet"], |_, case, objects| {
        for set in of_kind(objects, "StatefulSet") {
            let spec = &set["spec"];
            assert_eq!(spec["replicas"], 1, "{case}");
            let policy = &spec["persistentVolumeClaimRetentionPolicy"];
            assert_eq!(policy["whenDeleted"], "Delete", "{case}");
        }
        let maps = only(objects, "ConfigMap");
        assert_eq!(maps["data"]["genesis-time"], "1800000000", "{case}");
    });
}
