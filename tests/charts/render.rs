//! Helm.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::LazyLock,
};

use counterpoint::devnet::tools::HELM;
use serde_json::Value;

/// The charts that bring dashboards and alerts.
pub(crate) const CHARTS: [&str; 3] = ["sequencer", "composer", "conductor"];
/// The charts of one service each.
pub(crate) const SERVICES: [&str; 4] = ["sequencer", "composer", "conductor", "attester"];
/// The charts that are installed: those, and that of whole networks.
pub(crate) const INSTALLED: [&str; 5] =
    ["sequencer", "composer", "conductor", "attester", "devnet"];
/// A release's name.
pub(crate) const RELEASE: &str = "r";

static HELM_PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| HELM.install(&say).unwrap());

/// A copy of the charts with what they depend on, as `helm dependency build` leaves it.
static COPY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let copy = tempfile::tempdir().unwrap();
    let from = repository().join("charts/.");
    let status = Command::new("cp")
        .arg("-R")
        .args([&*from, copy.path()])
        .status();
    assert!(status.unwrap().success());
    for chart in INSTALLED {
        let chart = copy.path().join(chart);
        let built = helm(&["dependency", "build", chart.to_str().unwrap()]);
        assert!(built.status.success(), "{}", text(&built.stderr));
    }
    copy
});

pub(crate) fn say(step: &str) {
    eprintln!("charts: {step}");
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where a chart is, with what it depends on.
pub(crate) fn chart(name: &str) -> PathBuf {
    COPY.path().join(name)
}

pub(crate) fn helm(args: &[&str]) -> Output {
    // No configuration or cache of whoever runs the test.
    let home = tempfile::tempdir().unwrap();
    let helm = Command::new(&*HELM_PROGRAM)
        .args(args)
        .env("HELM_CACHE_HOME", home.path())
        .env("HELM_CONFIG_HOME", home.path())
        .env("HELM_DATA_HOME", home.path())
        .stdin(Stdio::null())
        .output();
    helm.unwrap()
}

/// The files of values that a chart is tried with.
pub(crate) fn examples(name: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(chart(name).join("ci")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// All objects that a chart gives with these values, as text; or what Helm says against them.
pub(crate) fn render(name: &str, values: &Path, set: &[&str]) -> Result<String, String> {
    let chart = chart(name);
    let mut args = vec!["template", RELEASE, chart.to_str().unwrap()];
    args.extend(["--values", values.to_str().unwrap()]);
    for value in set {
        args.extend(["--set-json", value]);
    }
    let output = helm(&args);
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

pub(crate) fn parse(yaml: &str) -> Vec<Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    objects
        .into_iter()
        .filter(|object| !object.is_null())
        .collect()
}

/// Calls `check` with each of the charts, each of its files of values, and what they give.
pub(crate) fn each(charts: &[&str], check: impl Fn(&str, &str, &[Value])) {
    for name in charts {
        for values in examples(name) {
            let case = format!("{name}/ci/{}", values.file_name().unwrap().display());
            let rendered = render(name, &values, &[]).unwrap();
            check(name, &case, &parse(&rendered));
        }
    }
}

/// The objects of a kind.
pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let of_kind = |object: &&Value| object["kind"] == kind;
    objects.iter().filter(of_kind).collect()
}

/// The only object of a kind.
pub(crate) fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found = of_kind(objects, kind);
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

/// The elements of a list, none if it is left out.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The containers of a pod that run as long as it does, and those that must end first.
pub(crate) fn containers(pod: &Value) -> (Vec<&Value>, Vec<&Value>) {
    let sidecar = |container: &&Value| container["restartPolicy"] == "Always";
    let (mut running, starting): (Vec<_>, Vec<_>) =
        list(&pod["initContainers"]).iter().partition(sidecar);
    running.extend(list(&pod["containers"]));
    (running, starting)
}
