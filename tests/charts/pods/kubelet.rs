//! As much of a kubelet as the charts' pods need: containers one after the other, each with the
//! program, arguments, user, read-only root and volumes that its pod describes, and their probes.
//!
//! Not here: seccomp, limits, and a network of its own for each pod. All pods share the node's, where
//! no two of them use the same port, and Services are names for it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::render::{list, of_kind, only, text};

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const PERIOD: Duration = Duration::from_millis(200);
/// What containers find beside their program: the libraries of an image.
const LIBRARIES: [&str; 3] = ["/lib", "/lib64", "/usr/lib"];
const DEVICES: [&str; 3] = ["/dev/null", "/dev/random", "/dev/urandom"];

/// Files by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Where pods run: what they may name, and their disks.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    /// Programs by the repository of their image.
    pub(crate) programs: BTreeMap<&'static str, PathBuf>,
    /// ConfigMaps and Secrets that are there before any chart.
    pub(crate) config_maps: BTreeMap<String, Files>,
    pub(crate) secrets: BTreeMap<String, Files>,
    /// Names of Services.
    pub(crate) hosts: Vec<String>,
}

/// A pod that runs.
pub(crate) struct Pod {
    name: String,
    grace: Duration,
    containers: Vec<Container>,
}

struct Container {
    spec: Value,
    /// What makes its root and becomes its program.
    script: String,
    log: PathBuf,
    /// Ends before those after it start.
    starts_only: bool,
    child: Option<Child>,
    watch: Option<JoinHandle<()>>,
    /// Why a kubelet would have killed it.
    complaints: Arc<Mutex<Vec<String>>>,
}

/// What a probe asks, as the pod describes it.
#[derive(Clone)]
struct Probe {
    path: Option<String>,
    port: u16,
    patience: Duration,
    failures: u64,
}

impl Node {
    /// Starts the pod of a release, and waits until each container has started.
    pub(crate) async fn start(&self, objects: &[Value]) -> Pod {
        let set = only(objects, "StatefulSet");
        let name = format!("{}-0", set["metadata"]["name"].as_str().unwrap());
        let claims = list(&set["spec"]["volumeClaimTemplates"]);
        let mut pod = self.pod(&name, &set["spec"]["template"]["spec"], claims, objects);
        for container in &mut pod.containers {
            container.start().await;
        }
        pod
    }

    /// Runs the pod of `helm test` to its end.
    pub(crate) async fn test(&self, objects: &[Value]) {
        let pod = only(objects, "Pod");
        let name = pod["metadata"]["name"].as_str().unwrap();
        let mut pod = self.pod(name, &pod["spec"], &[], objects);
        for container in &mut pod.containers {
            container.starts_only = true;
            container.start().await;
        }
    }

    fn pod(&self, name: &str, spec: &Value, claims: &[Value], objects: &[Value]) -> Pod {
        let group = id(&spec["securityContext"]["fsGroup"]);
        let mut volumes = BTreeMap::new();
        for volume in list(&spec["volumes"]) {
            let place = volume["name"].as_str().unwrap();
            let dir = self.dir.join("volumes").join(name).join(place);
            self.volume(&dir, volume, group, objects);
            volumes.insert(place.to_owned(), dir);
        }
        for claim in claims {
            let place = claim["metadata"]["name"].as_str().unwrap();
            let dir = self.dir.join("claims").join(name).join(place);
            if !dir.exists() {
                // As a new file system has it.
                directory(&dir.join("lost+found"), 0, 0o700);
                directory(&dir, group, 0o2775);
            }
            volumes.insert(place.to_owned(), dir);
        }
        let container = |container: &Value, starts_only| Container {
            script: self.script(name, container, spec, &volumes),
            log: self.dir.join(format!("{name}-{}.log", label(container))),
            spec: container.clone(),
            starts_only,
            child: None,
            watch: None,
            complaints: Arc::default(),
        };
        let first = list(&spec["initContainers"]).iter();
        let first = first.map(|init| container(init, init["restartPolicy"] != "Always"));
        let then = list(&spec["containers"]).iter();
        let containers = first
            .chain(then.map(|main| container(main, false)))
            .collect();
        let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        Pod {
            name: name.into(),
            grace: Duration::from_secs(grace),
            containers,
        }
    }

    /// Makes a volume that lives as long as its pod.
    fn volume(&self, dir: &Path, volume: &Value, group: u32, objects: &[Value]) {
        directory(dir, group, 0o2777);
        if let Some(name) = volume["configMap"]["name"].as_str() {
            let maps = of_kind(objects, "ConfigMap");
            let rendered = maps.iter().find(|map| map["metadata"]["name"] == name);
            let rendered = rendered.map(|map| {
                let files = map["data"].as_object().unwrap().iter();
                files
                    .map(|(file, text)| (file.clone(), text.as_str().unwrap().into()))
                    .collect()
            });
            let files = rendered.unwrap_or_else(|| self.config_maps[name].clone());
            write(dir, &files, group, 0o644);
        } else if let Some(name) = volume["secret"]["secretName"].as_str() {
            let mode = id(&volume["secret"]["defaultMode"]);
            write(dir, &self.secrets[name], group, mode);
        } else {
            let empty = &volume["emptyDir"];
            assert!(empty.is_object(), "{volume}");
            if empty["medium"] == "Memory" {
                let size = empty["sizeLimit"].as_str().unwrap().trim_end_matches('i');
                let options = format!("size={size},mode=2777,gid={group}");
                let mounted = std::process::Command::new("mount")
                    .args(["-t", "tmpfs", "-o", &options, "memory"])
                    .arg(dir)
                    .status();
                assert!(mounted.unwrap().success());
            }
        }
    }

    /// Commands that make a container's root and become its program, whose arguments are theirs.
    fn script(
        &self,
        pod: &str,
        container: &Value,
        spec: &Value,
        volumes: &BTreeMap<String, PathBuf>,
    ) -> String {
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true);
        let image = container["image"].as_str().unwrap();
        let repository = image.split(['@', ':']).next().unwrap();
        let program = &self.programs[repository];
        let name = repository.rsplit('/').next().unwrap();
        let root = self.dir.join("roots").join(pod).join(label(container));
        fs::create_dir_all(&root).unwrap();
        let root = root.display();
        let mut script = format!(
            "set -e\nmount -t tmpfs -o mode=755 root {root}\n\
             mkdir -p {root}/proc {root}/etc {root}/tmp\nmount -t proc proc {root}/proc\n\
             echo 'hosts: files' >{root}/etc/nsswitch.conf\n\
             echo '127.0.0.1 localhost {}' >{root}/etc/hosts\n",
            self.hosts.join(" ")
        );
        let mut bind = |from: &Path, to: &str, options: &str| {
            let parent = Path::new(to).parent().unwrap().display();
            let from_shown = from.display();
            script += &format!("mkdir -p {root}{parent}\n");
            script += &match from.is_dir() {
                true => format!("mkdir -p {root}{to}\n"),
                false => format!("touch {root}{to}\n"),
            };
            script += &format!("mount --bind -o {options} {from_shown} {root}{to}\n");
        };
        for path in LIBRARIES.iter().filter(|path| Path::new(path).exists()) {
            bind(Path::new(path), path, "ro");
        }
        for device in DEVICES {
            bind(Path::new(device), device, "rw");
        }
        let inside = format!("/usr/bin/{name}");
        bind(program, &inside, "ro");
        for mount in list(&container["volumeMounts"]) {
            let mut from = volumes[mount["name"].as_str().unwrap()].clone();
            if let Some(part) = mount["subPath"].as_str() {
                from.push(part);
                if !from.exists() {
                    let group = id(&spec["securityContext"]["fsGroup"]);
                    directory(&from, group, 0o2775);
                }
            }
            let options = if mount["readOnly"] == true {
                "ro"
            } else {
                "rw"
            };
            bind(&from, mount["mountPath"].as_str().unwrap(), options);
        }
        let (user, group) = (
            id(&spec["securityContext"]["runAsUser"]),
            id(&spec["securityContext"]["runAsGroup"]),
        );
        script
            + &format!(
                "mount -o remount,ro {root}\nexec env -i PATH=/usr/bin:/bin HOME=/ HOSTNAME={pod} \
                 setpriv --no-new-privs unshare --root={root} --wd=/ --setuid={user} \
                 --setgid={group} {inside} \"$@\"\n"
            )
    }
}

impl Pod {
    fn container(&mut self, name: &str) -> &mut Container {
        let named = |container: &&mut Container| label(&container.spec) == name;
        self.containers.iter_mut().find(named).unwrap()
    }

    fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers
            .iter()
            .filter(|container| !container.starts_only)
    }

    /// Whether the pod is in the lists of its Services: every container says that it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        for container in self.running() {
            if !container.probe("readinessProbe").answers().await {
                return false;
            }
        }
        true
    }

    /// Waits until the pod is ready.
    pub(crate) async fn turns_green(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready().await {
            assert!(
                Instant::now() < deadline,
                "{} does not turn green\n{}",
                self.name,
                self.tails()
            );
            sleep(PERIOD).await;
        }
    }

    /// Waits until the pod is not ready.
    pub(crate) async fn turns_red(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_ready().await {
            assert!(Instant::now() < deadline, "{} does not turn red", self.name);
            sleep(PERIOD).await;
        }
    }

    /// Ends a container, as a crash would.
    pub(crate) async fn kill(&mut self, container: &str) {
        let container = self.container(container);
        container.unwatch();
        let mut child = container.child.take().unwrap();
        child.kill().await.unwrap();
    }

    /// Starts it again, as a kubelet does.
    pub(crate) async fn restart(&mut self, container: &str) {
        self.container(container).start().await;
    }

    /// Waits until a container has ended by itself, or would be killed for its probe.
    pub(crate) async fn ends(&mut self, container: &str) -> Option<ExitStatus> {
        let name = self.name.clone();
        let container = self.container(container);
        container.unwatch();
        let (probe, mut failures) = (container.probe("livenessProbe"), 0);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = container.child.as_mut().unwrap().try_wait().unwrap() {
                container.child = None;
                return Some(status);
            }
            failures = if probe.answers().await {
                0
            } else {
                failures + 1
            };
            if failures == probe.failures {
                container.child.take().unwrap().kill().await.unwrap();
                return None;
            }
            assert!(
                Instant::now() < deadline,
                "{name} goes on\n{}",
                container.tail()
            );
            sleep(PERIOD).await;
        }
    }

    /// Ends the pod: its main containers first, then its sidecars, the last one first. Each ends by
    /// itself, in time, and no kubelet would have killed it before.
    pub(crate) async fn stop(&mut self) {
        for container in self.containers.iter_mut().rev() {
            container.unwatch();
            let complaints = container.complaints.lock().unwrap().join("\n");
            assert!(
                complaints.is_empty(),
                "{}: {complaints}\n{}",
                self.name,
                container.tail()
            );
            let Some(mut child) = container.child.take() else {
                continue;
            };
            let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
            kill(pid, Signal::SIGTERM).unwrap();
            let ended = timeout(self.grace, child.wait()).await;
            let what = format!("{} {}", self.name, label(&container.spec));
            let status = ended
                .unwrap_or_else(|_| panic!("{what} does not stop"))
                .unwrap();
            assert!(status.success(), "{what}: {status}\n{}", container.tail());
        }
    }

    /// What `/proc` says of each container that runs.
    pub(crate) fn statuses(&self) -> Vec<String> {
        let status = |container: &Container| {
            let pid = container.child.as_ref().unwrap().id().unwrap();
            fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
        };
        self.running().map(status).collect()
    }

    fn tails(&self) -> String {
        self.containers
            .iter()
            .map(Container::tail)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Container {
    /// Runs it until it has started; or to its end, if others wait for that.
    async fn start(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let args = list(&self.spec["args"])
            .iter()
            .map(|arg| arg.as_str().unwrap());
        let mut child = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                &self.script,
                "sh",
            ])
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let name = label(&self.spec).to_owned();
        if self.starts_only {
            let status = timeout(PATIENCE, child.wait()).await;
            let status = status
                .unwrap_or_else(|_| panic!("{name} does not end"))
                .unwrap();
            assert!(status.success(), "{name}: {status}\n{}", self.tail());
            return;
        }
        let (probe, deadline) = (self.probe("startupProbe"), Instant::now() + PATIENCE);
        while !probe.answers().await {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{name}: {ended:?}\n{}", self.tail());
            assert!(
                Instant::now() < deadline,
                "{name} does not start\n{}",
                self.tail()
            );
            sleep(PERIOD).await;
        }
        self.child = Some(child);
        let (probe, complaints) = (self.probe("livenessProbe"), Arc::clone(&self.complaints));
        self.watch = Some(tokio::spawn(async move {
            let mut failures = 0;
            loop {
                failures = if probe.answers().await {
                    0
                } else {
                    failures + 1
                };
                if failures == probe.failures {
                    complaints
                        .lock()
                        .unwrap()
                        .push(format!("{name} is not alive"));
                }
                sleep(Duration::from_secs(1)).await;
            }
        }));
    }

    fn unwatch(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }

    fn probe(&self, kind: &str) -> Probe {
        let probe = &self.spec[kind];
        let (http, tcp) = (&probe["httpGet"], &probe["tcpSocket"]);
        let port = http["port"].as_str().or(tcp["port"].as_str()).unwrap();
        let mut ports = list(&self.spec["ports"]).iter();
        let port = ports.find(|known| known["name"] == port).unwrap();
        Probe {
            path: http["path"].as_str().map(str::to_owned),
            port: u16::try_from(port["containerPort"].as_u64().unwrap()).unwrap(),
            patience: Duration::from_secs(probe["timeoutSeconds"].as_u64().unwrap_or(1)),
            failures: probe["failureThreshold"].as_u64().unwrap_or(3),
        }
    }

    fn tail(&self) -> String {
        let log = text(&fs::read(&self.log).unwrap_or_default());
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(12)..].join("\n");
        format!("--- {}\n{last}", self.log.display())
    }
}

impl Probe {
    async fn answers(&self) -> bool {
        let Some(path) = &self.path else {
            let asked = timeout(self.patience, TcpStream::connect(("127.0.0.1", self.port)));
            return matches!(asked.await, Ok(Ok(_)));
        };
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let client = reqwest::Client::builder().timeout(self.patience).build();
        let answer = client.unwrap().get(url).send().await;
        answer.is_ok_and(|answer| (200..400).contains(&answer.status().as_u16()))
    }
}

fn label(container: &Value) -> &str {
    container["name"].as_str().unwrap()
}

fn id(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn directory(path: &Path, group: u32, mode: u32) {
    fs::create_dir_all(path).unwrap();
    chown(path, Some(0), Some(group)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn write(dir: &Path, files: &Files, group: u32, mode: u32) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        chown(&path, Some(0), Some(group)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}
