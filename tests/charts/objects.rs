//! What every chart's objects have in common.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::render::{INSTALLED, SERVICES, containers, each, list, of_kind, only};

/// Every pod that objects describe.
fn pods(objects: &[Value]) -> Vec<&Value> {
    let sets = of_kind(objects, "StatefulSet");
    let sets = sets.iter().map(|set| &set["spec"]["template"]["spec"]);
    let pods = of_kind(objects, "Pod");
    sets.chain(pods.into_iter().map(|pod| &pod["spec"]))
        .collect()
}

#[test]
fn pods_are_as_restricted_as_can_be() {
    each(&INSTALLED, |_, case, objects| {
        for pod in pods(objects) {
            let security = &pod["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{case}");
            assert_eq!(
                security["seccompProfile"]["type"], "RuntimeDefault",
                "{case}"
            );
            assert_eq!(pod["automountServiceAccountToken"], false, "{case}");
            // Kubernetes would set variables that our services take for their configuration.
            assert_eq!(pod["enableServiceLinks"], false, "{case}");
            for volume in list(&pod["volumes"]) {
                assert!(volume["hostPath"].is_null(), "{case}");
                let mode = &volume["secret"]["defaultMode"];
                assert!(mode.is_null() || *mode == 0o440, "{case}: {volume}");
            }
            let (running, starting) = containers(pod);
            for container in running.into_iter().chain(starting) {
                let case = format!("{case}: {}", container["name"]);
                let expected = json!({
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                });
                assert_eq!(container["securityContext"], expected, "{case}");
                let resources = &container["resources"];
                for amount in ["cpu", "memory"] {
                    assert!(
                        resources["requests"][amount].is_string(),
                        "{case}: {amount}"
                    );
                }
                assert!(resources["limits"]["memory"].is_string(), "{case}");
                assert!(container["env"].is_null(), "{case}");
            }
        }
    });
}

#[test]
fn every_container_that_runs_has_probes() {
    each(&INSTALLED, |_, case, objects| {
        let sets = of_kind(objects, "StatefulSet");
        let pods = sets.iter().map(|set| &set["spec"]["template"]["spec"]);
        for container in pods.flat_map(|pod| containers(pod).0) {
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                let probe = &container[probe];
                let port = probe["httpGet"]["port"].as_str();
                let port = port.or(probe["tcpSocket"]["port"].as_str()).unwrap();
                let known = list(&container["ports"]);
                assert!(
                    known.iter().any(|known| known["name"] == port),
                    "{case}: {probe}"
                );
            }
        }
    });
}

#[test]
fn one_release_is_one_pod_that_nobody_drains_unasked() {
    each(&SERVICES, |_, case, objects| {
        let set = &only(objects, "StatefulSet")["spec"];
        assert_eq!(set["replicas"], 1, "{case}");
        assert_eq!(set["podManagementPolicy"], "Parallel", "{case}");
        let claims = list(&set["volumeClaimTemplates"]);
        assert!(!claims.is_empty(), "{case}");
        let budget = &only(objects, "PodDisruptionBudget")["spec"];
        assert_eq!(budget["minAvailable"], 1, "{case}");
        assert_eq!(budget["selector"], set["selector"], "{case}");
        let service = set["serviceName"].as_str().unwrap();
        let services = of_kind(objects, "Service");
        assert!(
            services
                .iter()
                .any(|known| known["metadata"]["name"] == service),
            "{case}"
        );
    });
}

/// Secrets come from whoever has them, by name.
#[test]
fn nothing_that_is_rendered_is_secret() {
    each(&INSTALLED, |_, case, objects| {
        assert!(of_kind(objects, "Secret").is_empty(), "{case}");
        let account = only(objects, "ServiceAccount");
        assert_eq!(account["automountServiceAccountToken"], false, "{case}");
        for kind in ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"] {
            assert!(of_kind(objects, kind).is_empty(), "{case}: {kind}");
        }
    });
}

#[test]
fn selectors_choose_the_releases_own_pod_only() {
    each(&SERVICES, |name, case, objects| {
        let expected = json!({
            "app.kubernetes.io/name": name,
            "app.kubernetes.io/instance": "r",
        });
        let set = &only(objects, "StatefulSet")["spec"];
        assert_eq!(set["selector"]["matchLabels"], expected, "{case}");
        for service in of_kind(objects, "Service") {
            assert_eq!(service["spec"]["selector"], expected, "{case}");
        }
        let tester = &only(objects, "Pod")["metadata"];
        assert_eq!(tester["annotations"]["helm.sh/hook"], "test");
        assert_ne!(tester["labels"]["app.kubernetes.io/name"], name, "{case}");
    });
}

/// Each port that a pod's container names is one that a Service of the pod offers, and each that a Service
/// offers is a container's.
#[test]
fn services_offer_what_containers_name() {
    each(&INSTALLED, |_, case, objects| {
        let mut served = 0;
        for set in of_kind(objects, "StatefulSet") {
            let running = containers(&set["spec"]["template"]["spec"]).0;
            let ports = running
                .iter()
                .flat_map(|container| list(&container["ports"]));
            let named: BTreeSet<&str> = ports.map(|port| port["name"].as_str().unwrap()).collect();
            let labels = &set["spec"]["selector"]["matchLabels"];
            let mut services = of_kind(objects, "Service");
            services.retain(|service| service["spec"]["selector"] == *labels);
            served += services.len();
            let ports = services
                .iter()
                .flat_map(|service| list(&service["spec"]["ports"]));
            let offered: BTreeSet<&str> = ports
                .map(|port| port["targetPort"].as_str().unwrap())
                .collect();
            assert_eq!(named, offered, "{case}");
        }
        assert_eq!(served, of_kind(objects, "Service").len(), "{case}");
    });
}
