//! A control plane of this test's own, and the programs that talk to it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use counterpoint::devnet::tools::{KUBERNETES, KWOK, KWOKCTL};
use eyre::{WrapErr, bail, ensure};
use serde_json::Value;

use crate::render::{helm, say, text};

/// Where releases are installed: nothing but restricted pods may be there.
pub(crate) const NAMESPACE: &str = "counterpoint";
/// A node; drained in one of the checks.
pub(crate) const NODE: &str = "node-0";
/// Somebody who may change the namespace, and nothing beyond.
pub(crate) const OPERATOR: &str = "operator";
/// A pod with an image of this tag never becomes ready.
pub(crate) const STUCK: &str = "stuck";
/// How long controllers may take for what they do at once on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running control plane; it ends with this value.
pub(crate) struct Cluster {
    home: tempfile::TempDir,
    kwokctl: PathBuf,
    kubectl: PathBuf,
}

impl Cluster {
    /// Starts one with a node, volumes, and a restricted namespace.
    pub(crate) fn start() -> eyre::Result<Self> {
        let api_server = KUBERNETES.install(&say)?;
        let cluster = Self {
            home: tempfile::tempdir()?,
            kwokctl: KWOKCTL.install(&say)?,
            kubectl: api_server.with_file_name("kubectl"),
        };
        let config = cluster.home.path().join("kwok.yaml");
        let kwok = KWOK.install(&say)?;
        fs::write(&config, configuration(&api_server, &kwok)? + &stages()?)?;
        say("starting a control plane");
        cluster.kwokctl(
            &["create", "cluster", "--wait", "180s", "--config"],
            &config,
        )?;
        cluster.apply(include_str!("cluster.yaml"))?;
        let ready = ["wait", "--for=condition=Ready", "--timeout=120s"];
        cluster.kubectl(&[&ready[..], &[&format!("node/{NODE}")]].concat())?;
        Ok(cluster)
    }

    fn kwokctl(&self, args: &[&str], config: &Path) -> eyre::Result<()> {
        let mut command = Command::new(&self.kwokctl);
        command.args(["--name", "counterpoint"]).args(args);
        command
            .arg(config)
            .env("KWOK_WORKDIR", self.home.path().join("kwok"))
            .env("KUBECONFIG", self.kubeconfig());
        done(&run(&mut command)?).map(drop)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.home.path().join("kubeconfig")
    }

    /// What kubectl says, in the namespace; an error is what it says against it.
    pub(crate) fn kubectl(&self, args: &[&str]) -> eyre::Result<String> {
        let mut command = Command::new(&self.kubectl);
        command.args(["--namespace", NAMESPACE]).args(args);
        done(&run(command.env("KUBECONFIG", self.kubeconfig()))?)
    }

    /// The same for Helm.
    pub(crate) fn helm(&self, args: &[&str]) -> eyre::Result<String> {
        let kubeconfig = self.kubeconfig();
        let here = ["--kubeconfig", kubeconfig.to_str().unwrap()];
        let namespace = ["--namespace", NAMESPACE];
        done(&helm(&[args, &here[..], &namespace[..]].concat()))
    }

    /// Applies objects as they are, with no field that the server does not know.
    pub(crate) fn apply(&self, yaml: &str) -> eyre::Result<String> {
        let file = self.home.path().join("apply.yaml");
        fs::write(&file, yaml)?;
        self.kubectl(&["apply", "--validate=strict", "-f", file.to_str().unwrap()])
    }

    /// The objects of a kind in the namespace, of one release.
    pub(crate) fn objects(&self, kind: &str, release: &str) -> eyre::Result<Vec<Value>> {
        let selector = format!("app.kubernetes.io/instance={release}");
        let said = self.kubectl(&["get", kind, "-l", &selector, "-o", "json"])?;
        let mut list: Value = serde_json::from_str(&said)?;
        Ok(serde_json::from_value(list["items"].take())?)
    }

    /// Waits until something holds.
    pub(crate) fn until(
        &self,
        what: &str,
        mut holds: impl FnMut(&Self) -> eyre::Result<bool>,
    ) -> eyre::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self)? {
            if Instant::now() > deadline {
                bail!("not within {PATIENCE:?}: {what}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let nothing = self.home.path().join("kwok.yaml");
        if let Err(error) = self.kwokctl(&["delete", "cluster", "--config"], &nothing) {
            say(&format!("the control plane may still run: {error}"));
        }
    }
}

fn run(command: &mut Command) -> eyre::Result<Output> {
    let output = command.stdin(Stdio::null()).output();
    output.wrap_err_with(|| format!("failed to run {:?}", command.get_program()))
}

fn done(output: &Output) -> eyre::Result<String> {
    let said = text(&output.stdout);
    ensure!(output.status.success(), "{said}{}", text(&output.stderr));
    // Pod Security, and fields that will go, are told as warnings.
    let warned = text(&output.stderr);
    ensure!(!warned.contains("Warning:"), "{warned}");
    Ok(said)
}

/// What kwokctl starts, on loopback.
fn configuration(api_server: &Path, kwok: &Path) -> eyre::Result<String> {
    let beside = |name| api_server.with_file_name(name);
    let config = serde_json::json!({
        "kind": "KwokctlConfiguration",
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "options": {
            "runtime": "binary",
            "bindAddress": "127.0.0.1",
            "kubeAuthorization": true,
            "kubeAdmission": true,
            "etcdBinary": beside("server"),
            "kubeApiserverBinary": api_server,
            "kubeControllerManagerBinary": beside("kube-controller-manager"),
            "kubeSchedulerBinary": beside("kube-scheduler"),
            "kubectlBinary": beside("kubectl"),
            "kwokControllerBinary": kwok,
        },
    });
    Ok(serde_json::to_string(&config)?)
}

/// How nodes, pods and volumes become what they should be: kwok's own ways, but for pods that are
/// stuck, pods of `helm test`, which end, and the names of storage classes.
fn stages() -> eyre::Result<String> {
    let kept = [
        "node/fast/node-initialize",
        "node/heartbeat-with-lease/node-heartbeat-with-lease",
        "pod/fast/pod-delete",
        "volume/fast/pv-bind",
        "volume/fast/pv-delete",
        "volume/fast/pvc-delete",
        "volume/fast/pvc-provision",
    ];
    let sources = KWOK.sources()?.join("kustomize/stage");
    let read = |name: &str| fs::read_to_string(sources.join(format!("{name}.yaml")));
    let mut stages = String::new();
    for name in kept {
        let stage = read(name)?.replace("== 'kwok-volume'", "in ['standard', 'fast']");
        stages += &format!("\n---\n{stage}");
    }
    let stuck = format!(
        "matchExpressions:\n    - cel:\n        expression: >-\n          !(self.spec.containers + \
         (has(self.spec.initContainers) ? self.spec.initContainers : [])).exists(c, \
         c.image.endsWith(':{STUCK}'))"
    );
    let ready = replaced(&read("pod/fast/pod-ready")?, "matchExpressions:", &stuck)?;
    let ended = read("pod/fast/pod-complete")?;
    let owner = ".metadata.ownerReferences.[].kind";
    let ended = replaced(&ended, owner, ".metadata.annotations[\"helm.sh/hook\"]")?;
    let ended = replaced(&ended, "- 'Job'", "- 'test'")?;
    Ok(format!("{stages}\n---\n{ready}\n---\n{ended}"))
}

fn replaced(text: &str, from: &str, to: &str) -> eyre::Result<String> {
    ensure!(text.contains(from), "kwok's stages have changed: no {from}");
    Ok(text.replace(from, to))
}
