//! The life of a release: installed, upgraded, brought back from an upgrade that is stuck, tested, removed.

use std::path::Path;

use eyre::{ensure, eyre};

use crate::{
    cluster::{Cluster, OPERATOR, STUCK},
    render::{INSTALLED, RELEASE, chart, examples},
    report::Report,
};

/// What Helm waits for.
const WAIT: [&str; 3] = ["--wait", "--timeout", "180s"];

pub(crate) fn check(cluster: &Cluster, report: &mut Report) {
    for name in INSTALLED {
        for values in examples(name) {
            let release = Release::of(cluster, name, &values);
            let row = row(name, &values);
            let here = report.does(&row, "install", || release.install(&[]));
            if here {
                report.does(&row, "upgrade", || release.upgrade());
                report.does(&row, "rollback of a stuck upgrade", || release.get_stuck());
                report.does(&row, "`helm test`", || release.test());
            }
            report.does(&row, "uninstall", || release.uninstall(name == "devnet"));
        }
    }
}

fn row(name: &str, values: &Path) -> String {
    let file = values.file_name().unwrap().to_str().unwrap();
    format!("{name}, {}", file.trim_end_matches("-values.yaml"))
}

/// A chart with a file of values, installed under the one name that this test uses.
pub(crate) struct Release<'a> {
    cluster: &'a Cluster,
    chart: String,
    values: String,
}

impl<'a> Release<'a> {
    pub(crate) fn of(cluster: &'a Cluster, name: &str, values: &Path) -> Self {
        Self {
            cluster,
            chart: chart(name).display().to_string(),
            values: values.display().to_string(),
        }
    }

    /// Installs it as somebody who may change nothing but the namespace, but for what only an administrator
    /// may make: monitoring.
    pub(crate) fn install(&self, set: &[&str]) -> eyre::Result<()> {
        let values = std::fs::read_to_string(&self.values)?;
        let operator: &[&str] = match values.contains("serviceMonitor: true") {
            true => &[],
            false => &["--kube-as-user", OPERATOR],
        };
        let install = ["install", RELEASE, &self.chart, "--values", &self.values];
        self.cluster
            .helm(&[&install[..], &WAIT[..], operator, set].concat())?;
        let pods = self.cluster.objects("pods", RELEASE)?;
        let sets = self.cluster.objects("statefulsets", RELEASE)?;
        ensure!(
            pods.len() == sets.len(),
            "{} pods for {}",
            pods.len(),
            sets.len()
        );
        for claim in self.cluster.objects("persistentvolumeclaims", RELEASE)? {
            ensure!(claim["status"]["phase"] == "Bound", "{claim}");
        }
        Ok(())
    }

    pub(crate) fn upgrade_with(&self, set: &[&str]) -> eyre::Result<()> {
        let upgrade = ["upgrade", RELEASE, &self.chart, "--values", &self.values];
        self.cluster
            .helm(&[&upgrade[..], &WAIT[..], set].concat())
            .map(drop)
    }

    /// Every pod is replaced by one of the new image.
    fn upgrade(&self) -> eyre::Result<()> {
        let before = self.pods()?;
        self.upgrade_with(&["--set", "image.tag=next,image.digest="])?;
        let after = self.pods()?;
        ensure!(
            before.iter().all(|pod| !after.contains(pod)),
            "a pod was kept"
        );
        Ok(())
    }

    /// A release whose pods never become ready is given up, and the one before comes back.
    fn get_stuck(&self) -> eyre::Result<()> {
        let upgrade = ["upgrade", RELEASE, &self.chart, "--values", &self.values];
        let set = format!("image.tag={STUCK},image.digest=");
        let wait = ["--wait", "--timeout", "10s", "--set", &set];
        let stuck = self.cluster.helm(&[&upgrade[..], &wait[..]].concat());
        ensure!(stuck.is_err(), "pods that are not ready were waited for");
        self.cluster
            .helm(&[&["rollback", RELEASE][..], &WAIT[..]].concat())?;
        for pod in self.cluster.objects("pods", RELEASE)? {
            let text = pod["spec"].to_string();
            ensure!(
                !text.contains(&format!(":{STUCK}\"")),
                "a pod is still stuck"
            );
        }
        Ok(())
    }

    fn test(&self) -> eyre::Result<()> {
        let said = self.cluster.helm(&["test", RELEASE, "--timeout", "120s"])?;
        ensure!(said.contains("Succeeded"), "{said}");
        Ok(())
    }

    /// Nothing of it stays but its claims, which hold what nobody could make again; unless they go with it.
    pub(crate) fn uninstall(&self, with_claims: bool) -> eyre::Result<()> {
        self.cluster.helm(&["uninstall", RELEASE, "--wait"])?;
        let kinds = "statefulsets,pods,services,configmaps,serviceaccounts,networkpolicies,\
                     poddisruptionbudgets,ingresses";
        self.cluster.until("everything is gone", |cluster| {
            Ok(cluster.objects(kinds, RELEASE)?.is_empty())
        })?;
        let claims = "persistentvolumeclaims";
        if with_claims {
            return self.cluster.until("its claims are gone", |cluster| {
                Ok(cluster.objects(claims, RELEASE)?.is_empty())
            });
        }
        let kept = self.cluster.objects(claims, RELEASE)?;
        ensure!(!kept.is_empty(), "its claims are gone");
        let selector = format!("app.kubernetes.io/instance={RELEASE}");
        self.cluster.kubectl(&["delete", claims, "-l", &selector])?;
        Ok(())
    }

    /// Which pods there are.
    fn pods(&self) -> eyre::Result<Vec<String>> {
        let pods = self.cluster.objects("pods", RELEASE)?;
        let uid = |pod: &serde_json::Value| pod["metadata"]["uid"].as_str().map(str::to_owned);
        pods.iter()
            .map(|pod| uid(pod).ok_or_else(|| eyre!("{pod}")))
            .collect()
    }
}
