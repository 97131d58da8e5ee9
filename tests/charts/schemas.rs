//! What Helm and Kubernetes themselves say.

use std::{fs, process::Command};

use counterpoint::devnet::tools::KUBERNETES_VALIDATE;

use crate::render::{INSTALLED, chart, examples, helm, render, repository, say, text};

/// The releases of Kubernetes that the charts are for.
const KUBERNETES: [&str; 7] = ["1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35"];
/// What Kubernetes itself does not know, and so has no schema for.
const FOREIGN: [&str; 2] = ["ServiceMonitor", "PrometheusRule"];

#[test]
fn helm_finds_nothing_to_say() {
    for name in INSTALLED {
        for values in examples(name) {
            let chart = chart(name);
            let (chart, values) = (chart.to_str().unwrap(), values.to_str().unwrap());
            let lint = helm(&["lint", "--strict", chart, "--values", values]);
            assert!(lint.status.success(), "{}", text(&lint.stdout));
        }
    }
}

#[test]
fn kubernetes_takes_every_object() {
    let python = KUBERNETES_VALIDATE.install(&say).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for name in INSTALLED {
        for values in examples(name) {
            let rendered = render(name, &values, &[]).unwrap();
            let documents = rendered.split("\n---\n");
            let known = documents.filter(|document| {
                let foreign = |kind| document.contains(&format!("\nkind: {kind}\n"));
                !FOREIGN.iter().any(foreign)
            });
            let file = directory.path().join(format!("{name}-{}", files.len()));
            fs::write(&file, known.collect::<Vec<_>>().join("\n---\n")).unwrap();
            files.push(file);
        }
    }
    for version in KUBERNETES {
        let output = Command::new(&python)
            .args([
                "-m",
                "kubernetes_validate",
                "--strict",
                "--kubernetes-version",
                version,
            ])
            .args(&files)
            .output()
            .unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{version}: {said}");
        assert!(!said.contains("WARN"), "{version}: {said}");
    }
}

/// The list of values in a chart's README is its file of values.
#[test]
fn readmes_show_the_values() {
    for name in INSTALLED {
        let directory = repository().join("charts").join(name);
        let path = directory.join("README.md");
        let readme = fs::read_to_string(&path).unwrap();
        let values = fs::read_to_string(directory.join("values.yaml")).unwrap();
        let (before, rest) = readme.split_once("```yaml values\n").unwrap();
        let (_, after) = rest.split_once("```").unwrap();
        let expected = format!("{before}```yaml values\n{values}```{after}");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(&path, expected).unwrap();
        } else {
            assert!(
                readme == expected,
                "{}: UPDATE_GENERATED=1 rewrites it",
                path.display()
            );
        }
    }
}
