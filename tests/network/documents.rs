//! What the guides tell people to type, typed: every block of shell that is marked `sh run`, page by page, beside a
//! development network that was started as they say.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use counterpoint::devnet::tools::{COMETBFT, GETH, WALLETS};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::support::{say, wait_for};

const PROGRAM: &str = env!("CARGO_BIN_EXE_counterpoint-under-test");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The longest that a page may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// In the order in which a newcomer reads them.
const PAGES: [&str; 4] = [
    "README.md",
    "docs/your-first-atomic-bundle.md",
    "docs/your-first-rollup.md",
    "docs/your-first-validator.md",
];

/// A process and all that it started, which end with the test.
struct Group(Child);

impl Group {
    fn start(command: &mut Command) -> Self {
        Self(command.process_group(0).spawn().unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// What people read; templates in sources are no pages yet.
fn pages() -> impl Iterator<Item = PathBuf> {
    let mut folders = vec![PathBuf::from(ROOT)];
    let mut pages = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let foreign = ["src", "target", "node_modules"].contains(&name.as_str());
            let hidden = foreign || name.starts_with('.');
            if path.is_dir() && !hidden {
                folders.push(path);
            } else if name.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    pages.into_iter()
}

/// The blocks of a page that are to be run, in order.
fn script(page: &str) -> String {
    let mut script = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "```sh run" {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        for line in lines.by_ref().take_while(|line| line.trim() != "```") {
            script.push_str(line.get(indent..).unwrap_or_default());
            script.push('\n');
        }
    }
    script
}

#[test]
fn every_page_with_blocks_to_run_is_run() {
    let root = fs::canonicalize(ROOT).unwrap();
    let name = |page: &PathBuf| {
        let page = fs::canonicalize(page).unwrap();
        page.strip_prefix(&root).unwrap().display().to_string()
    };
    let marked = pages().filter(|page| !script(&fs::read_to_string(page).unwrap()).is_empty());
    let marked: BTreeSet<String> = marked.map(|page| name(&page)).collect();
    assert_eq!(marked, PAGES.map(str::to_owned).into());
}

#[test]
fn links_lead_somewhere_and_every_page_is_in_the_book() {
    let summary = fs::canonicalize(Path::new(ROOT).join("docs/SUMMARY.md")).unwrap();
    let mut chapters = BTreeSet::from([summary.clone()]);
    for page in pages() {
        let page = fs::canonicalize(page).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#']).next().unwrap();
            if link.is_empty() || link.contains("://") {
                continue;
            }
            let target = fs::canonicalize(page.parent().unwrap().join(link));
            let target = target.unwrap_or_else(|_| panic!("{}: {link}", page.display()));
            if page == summary {
                chapters.insert(target);
            }
        }
    }
    let docs = fs::canonicalize(Path::new(ROOT).join("docs")).unwrap();
    let pages = pages().map(|page| fs::canonicalize(page).unwrap());
    let pages: BTreeSet<_> = pages.filter(|page| page.starts_with(&docs)).collect();
    assert_eq!(chapters, pages);
}

#[test]
fn recipes_that_are_named_exist_once() {
    let text = fs::read_to_string(Path::new(ROOT).join("justfile")).unwrap();
    let mut recipes = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with(|c: char| c.is_ascii_lowercase()) && line.ends_with(':') {
            let name = line.split([' ', ':']).next().unwrap();
            assert!(recipes.insert(name), "two recipes {name}");
        }
    }
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for named in text.split("`just ").skip(1) {
            let name = named.split([' ', '`', '\n']).next().unwrap();
            assert!(recipes.contains(name), "{}: just {name}", page.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guides_work_as_they_are_written() {
    for tool in [COMETBFT, GETH, WALLETS] {
        tool.install(&|step| eprintln!("network: {step}")).unwrap();
    }
    let home = tempfile::tempdir().unwrap();
    let built = home.path().join("target/release");
    fs::create_dir_all(&built).unwrap();
    fs::copy(PROGRAM, built.join("counterpoint")).unwrap();
    let cast = WALLETS.install(&|_| ()).unwrap();
    let path = std::env::join_paths(
        [cast.parent().unwrap().to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    )
    .unwrap();
    let command = |program: &Path| {
        let mut command = Command::new(program);
        command.current_dir(home.path()).env("PATH", &path);
        command.stdin(Stdio::null());
        command
    };

    let mut devnet = command(&built.join("counterpoint"));
    let _devnet = Group::start(devnet.arg("devnet").stdout(Stdio::null()));
    wait_for("the network to run", || async {
        let mut status = command(&built.join("counterpoint"));
        let status = status.args(["devnet", "status"]).output().unwrap();
        status.status.success().then_some(())
    })
    .await;
    for page in PAGES {
        say(&format!("{page} is typed"));
        let text = fs::read_to_string(Path::new(ROOT).join(page)).unwrap();
        let log = home.path().join("log");
        let output = fs::File::create(&log).unwrap();
        let mut shell = command(Path::new("bash"));
        shell.args(["-euxo", "pipefail", "-c", &script(&text)]);
        shell.stdout(output.try_clone().unwrap()).stderr(output);
        let mut shell = Group::start(&mut shell);
        let ended = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(status) = shell.0.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let ended = ended.await;
        assert!(
            matches!(&ended, Ok(status) if status.success()),
            "{page}: {ended:?}\n{}",
            fs::read_to_string(&log).unwrap()
        );
    }
}
