//! What Kubernetes refuses: to a pod that is not as ours are, to an operator who mistakes, to everybody without
//! rights.

use eyre::{ensure, eyre};

use crate::{
    cluster::{Cluster, NAMESPACE, NODE, OPERATOR},
    life::Release,
    render::{RELEASE, SERVICES, examples, render},
    report::Report,
};

pub(crate) fn check(cluster: &Cluster, report: &mut Report) {
    objects(cluster, report);
    for name in SERVICES {
        service(cluster, report, name);
    }
    network(cluster, report);
    strangers(cluster, report);
}

/// Objects that are not as the charts make them.
fn objects(cluster: &Cluster, report: &mut Report) {
    let violates = "violates PodSecurity \"restricted";
    report.refuses("a pod without a seccomp profile", violates, || {
        let profile = "seccompProfile:\n      type: RuntimeDefault";
        cluster.apply(&changed("Pod", profile, "")?)
    });
    let unknown = "unknown field \"spec.podManagmentPolicy\"";
    report.refuses("a field that Kubernetes does not know", unknown, || {
        let (right, wrong) = ("podManagementPolicy:", "podManagmentPolicy:");
        cluster.apply(&changed("StatefulSet", right, wrong)?)
    });
}

/// An object of the composer's chart with something else in place of a text.
fn changed(kind: &str, from: &str, to: &str) -> eyre::Result<String> {
    let objects = render("composer", &examples("composer")[0], &[]).map_err(eyre::Error::msg)?;
    let mut found = objects.split("\n---\n");
    let found = found.find(|object| object.contains(&format!("\nkind: {kind}\n")));
    let object = found.ok_or_else(|| eyre!("no {kind} is rendered"))?;
    ensure!(object.contains(from), "{object}");
    let object = object.replace("namespace: default", &format!("namespace: {NAMESPACE}"));
    Ok(object.replace(from, to))
}

fn service(cluster: &Cluster, report: &mut Report, name: &str) {
    let release = Release::of(cluster, name, &examples(name)[0]);
    let row = format!("{name}, again");
    if report.does(&row, "install", || release.install(&[])) {
        mistakes(cluster, report, name, &release);
    }
    // Whatever came of it: the next release has the same name.
    report.does(&row, "uninstall", || release.uninstall(false));
}

/// Mistakes with a service that runs.
fn mistakes(cluster: &Cluster, report: &mut Report, name: &str, release: &Release<'_>) {
    let size = match name {
        "sequencer" => "persistence.app.size=1Ti",
        _ => "persistence.size=1Ti",
    };
    let forbidden = "updates to statefulset spec";
    report.refuses(
        &format!("{name}: a volume of another size"),
        forbidden,
        || release.upgrade_with(&["--set", size]),
    );
    report.refuses(&format!("{name}: a second pod"), "value must be 1", || {
        release.upgrade_with(&["--set", "replicas=2"])
    });
    let budget = "violate the pod's disruption budget";
    report.refuses(&format!("{name}: a drain of its node"), budget, || {
        drain(cluster)
    });
    report.refuses(
        &format!("{name}: its account reads Secrets"),
        "forbidden",
        || {
            let account = format!("system:serviceaccount:{NAMESPACE}:{RELEASE}-{name}");
            cluster.kubectl(&["get", "secrets", "--as", &account])
        },
    );
}

/// Whoever drains the node waits for the operator.
fn drain(cluster: &Cluster) -> eyre::Result<String> {
    cluster.until("its budget is known", |cluster| {
        let budgets = cluster.objects("poddisruptionbudgets", RELEASE)?;
        Ok(budgets
            .iter()
            .all(|budget| budget["status"]["currentHealthy"] == 1))
    })?;
    let drained = cluster.kubectl(&["drain", NODE, "--delete-emptydir-data", "--timeout", "5s"]);
    cluster.kubectl(&["uncordon", NODE])?;
    drained
}

/// An upgrade that leaves the network as it is keeps the time of its beginning; another one is none.
fn network(cluster: &Cluster, report: &mut Report) {
    let release = Release::of(cluster, "devnet", &examples("devnet")[0]);
    let installed = report.does("devnet, begun when installed", "install", || {
        release.install(&["--set", "genesisTime=0"])
    });
    if !installed {
        return;
    }
    report.does("devnet, begun when installed", "upgrade", || {
        release.upgrade_with(&["--set", "genesisTime=0"])
    });
    report.refuses("devnet: another network", "a network cannot change", || {
        release.upgrade_with(&["--set", "genesisTime=0,validators=2"])
    });
    report.does("devnet, begun when installed", "uninstall", || {
        release.uninstall(true)
    });
}

/// Those without rights.
fn strangers(cluster: &Cluster, report: &mut Report) {
    let create = ["create", "configmap", "theirs"];
    report.refuses("the operator in another namespace", "forbidden", || {
        let elsewhere = ["--namespace", "default", "--as", OPERATOR];
        cluster.kubectl(&[&create[..], &elsewhere[..]].concat())
    });
    report.refuses("a stranger in the namespace", "forbidden", || {
        cluster.kubectl(&[&create[..], &["--as", "stranger"]].concat())
    });
}
