//! Alerts and dashboards: they are about metrics that there are, and every alert has a page.

use std::{collections::BTreeSet, fs, process::Command};

use counterpoint::devnet::tools::{COMETBFT, PROMTOOL};
use counterpoint_service::{Metrics, sequencer, traces};
use serde_json::Value;

use crate::render::{
    CHARTS, chart, examples, list, of_kind, only, parse, render, repository, say, text,
};

/// What each chart's services export beside CometBFT.
fn exported(name: &str) -> Vec<&'static Metrics> {
    let (readers, traces) = (&sequencer::METRICS, &traces::METRICS);
    match name {
        "sequencer" => vec![&counterpoint_app::METRICS],
        "composer" => vec![&counterpoint_composer::METRICS, readers, traces],
        _ => vec![&counterpoint_conductor::METRICS, readers, traces],
    }
}

/// The objects of a chart with everything of monitoring.
fn monitored(name: &str) -> Vec<Value> {
    let on = ["serviceMonitor", "prometheusRule", "dashboard"];
    let on = on.map(|part| format!("monitoring.{part}=true"));
    let on: Vec<&str> = on.iter().map(String::as_str).collect();
    parse(&render(name, &examples(name)[0], &on).unwrap())
}

fn dashboard(objects: &[Value]) -> Value {
    let maps = of_kind(objects, "ConfigMap");
    let labelled = |map: &&&Value| map["metadata"]["labels"]["grafana_dashboard"] == "1";
    let map = maps.iter().find(labelled).unwrap();
    let files = map["data"].as_object().unwrap();
    serde_json::from_str(files.values().next().unwrap().as_str().unwrap()).unwrap()
}

/// The expressions of a chart's alerts, and of its dashboard.
fn expressions(name: &str) -> (Vec<String>, Vec<String>) {
    let objects = monitored(name);
    let groups = list(&only(&objects, "PrometheusRule")["spec"]["groups"]);
    let rules = groups.iter().flat_map(|group| list(&group["rules"]));
    let alerts = rules.map(|rule| rule["expr"].as_str().unwrap().to_owned());
    let dashboard = dashboard(&objects);
    let panels = list(&dashboard["panels"]).iter();
    let targets = panels.flat_map(|panel| list(&panel["targets"]));
    let shown = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    (alerts.collect(), shown.collect())
}

/// The metrics that an expression names: words with one of our prefixes.
fn named(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = [
        "app_",
        "composer_",
        "conductor_",
        "sequencer_",
        "trace_",
        "cometbft_",
    ];
    let metrics = words.filter(|word| ours.iter().any(|prefix| word.starts_with(prefix)));
    metrics
        .map(|word| word.trim_end_matches("_bucket").to_owned())
        .collect()
}

/// What CometBFT exports, from its sources.
fn cometbft() -> BTreeSet<String> {
    let sources = COMETBFT.sources().unwrap();
    let mut names = BTreeSet::new();
    for subsystem in ["consensus", "p2p", "blocksync", "statesync"] {
        let file = sources.join(subsystem).join("metrics.gen.go");
        let text = fs::read_to_string(file).unwrap();
        for line in text.lines().filter(|line| line.trim().starts_with("Name:")) {
            let name = line.split('"').nth(1).unwrap();
            names.insert(format!("cometbft_{subsystem}_{name}"));
        }
    }
    names
}

#[test]
fn alerts_and_dashboards_name_metrics_that_there_are() {
    let cometbft = cometbft();
    for name in CHARTS {
        let names = exported(name).into_iter().flat_map(Metrics::names);
        let ours: BTreeSet<String> = names.map(str::to_owned).collect();
        let (alerts, shown) = expressions(name);
        let mut seen = BTreeSet::new();
        for expression in alerts.iter().chain(&shown) {
            for metric in named(expression) {
                let known = ours.contains(&metric) || cometbft.contains(&metric);
                assert!(known, "{name}: {metric} in {expression}");
                seen.insert(metric);
            }
        }
        // And none of ours is looked at nowhere.
        let unseen: Vec<_> = ours.difference(&seen).collect();
        assert!(unseen.is_empty(), "{name}: on no dashboard: {unseen:?}");
    }
}

/// Words of names that tell of trouble.
const TROUBLE: [&str; 10] = [
    "bad",
    "broken",
    "dissolved",
    "failures",
    "refused",
    "rejected",
    "silences",
    "skipped",
    "slow",
    "violated",
];
/// Whose trouble it is then: not the operator's.
const OTHERS: [(&str, &str); 4] = [
    ("app_slow_readers_total", "a reader's"),
    ("conductor_slow_readers_total", "a reader's"),
    ("composer_skipped_transactions_total", "a sender's"),
    ("conductor_skipped_total", "a sender's"),
];

#[test]
fn what_tells_of_trouble_is_in_an_alert() {
    for name in CHARTS {
        let (alerts, _) = expressions(name);
        let watched: BTreeSet<String> = alerts.iter().flat_map(|alert| named(alert)).collect();
        for metrics in exported(name) {
            let names = metrics.names();
            for alarm in metrics.alarms {
                assert!(names.contains(alarm), "{alarm} is no metric");
                assert!(watched.contains(*alarm), "{name}: {alarm} is in no alert");
            }
            for metric in names {
                let is_trouble = metric.split('_').any(|word| TROUBLE.contains(&word));
                let is_others = OTHERS.iter().any(|(others, _)| *others == metric);
                assert!(
                    metrics.alarms.contains(&metric) || !is_trouble || is_others,
                    "{metric} tells of trouble: an alarm, or whose trouble is it?"
                );
            }
        }
    }
}

#[test]
fn every_alert_has_a_page_and_a_severity() {
    for name in CHARTS {
        let objects = monitored(name);
        for group in list(&only(&objects, "PrometheusRule")["spec"]["groups"]) {
            for rule in list(&group["rules"]) {
                let alert = rule["alert"].as_str().unwrap();
                let severity = rule["labels"]["severity"].as_str();
                assert!(matches!(severity, Some("critical" | "warning")), "{alert}");
                let runbook = rule["annotations"]["runbook"].as_str().unwrap();
                let (page, section) = runbook.split_once('#').unwrap_or((runbook, ""));
                let page = fs::read_to_string(repository().join(page)).unwrap();
                let titles = page.lines().filter_map(|line| line.strip_prefix("## "));
                let mut titles = titles.map(str::to_lowercase);
                assert!(
                    section.is_empty() || titles.any(|title| title == section),
                    "{alert}"
                );
                assert!(
                    section.is_empty() || section == alert.to_lowercase(),
                    "{alert}"
                );
            }
        }
    }
}

/// promtool reads the rules, and its tests of them hold.
#[test]
fn alerts_fire_when_they_should() {
    let promtool = PROMTOOL.install(&say).unwrap();
    for name in CHARTS {
        let directory = tempfile::tempdir().unwrap();
        let rules = fs::read_to_string(chart(name).join("files/alerts.yaml")).unwrap();
        let rules = rules.replace("SELECTOR", "service=\"s\"");
        fs::write(directory.path().join("alerts.yaml"), rules).unwrap();
        let tests = repository()
            .join("tests/charts/alerts")
            .join(format!("{name}.yaml"));
        fs::copy(&tests, directory.path().join("tests.yaml")).unwrap();
        let output = Command::new(&promtool)
            .args(["test", "rules", "tests.yaml"])
            .current_dir(directory.path())
            .output()
            .unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
        // Each of them is tested.
        let tests = fs::read_to_string(tests).unwrap();
        let objects = monitored(name);
        for group in list(&only(&objects, "PrometheusRule")["spec"]["groups"]) {
            for rule in list(&group["rules"]) {
                let alert = rule["alert"].as_str().unwrap();
                assert!(
                    tests.contains(&format!("alertname: {alert}\n")),
                    "{name}: {alert}"
                );
            }
        }
    }
}
