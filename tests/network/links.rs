//! The links between validators, each through a relay that can hold, cut or slow it.
//!
//! Why not network namespaces or toxiproxy: `docs/adr/0003-disturbed-links.md`.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use counterpoint::devnet::plan::{Plan, address};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Most bytes that a relay holds of one direction.
const CHUNK_BYTES: usize = 8_192;

/// How a link behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Open,
    /// Bytes wait and nothing is lost, as while a network retransmits.
    Held,
    /// Connections break and new ones are refused.
    Cut,
    Slow {
        bytes_per_second: u32,
    },
}

/// A link for each pair of validators.
pub(crate) struct Links {
    links: BTreeMap<(usize, usize), watch::Sender<Link>>,
    addresses: BTreeMap<(usize, usize), SocketAddr>,
}

impl Links {
    /// Starts relays for a network that will be in `dir`.
    pub(crate) async fn start(validators: usize, dir: &Path) -> Self {
        let (mut links, mut addresses) = (BTreeMap::new(), BTreeMap::new());
        for to in 0..validators {
            for from in 0..to {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                addresses.insert((from, to), listener.local_addr().unwrap());
                let (sender, link) = watch::channel(Link::Open);
                links.insert((from, to), sender);
                tokio::spawn(accept(listener, dir.to_owned(), to, link));
            }
        }
        Self { links, addresses }
    }

    /// Where the lower validator of each pair finds the other.
    pub(crate) fn addresses(&self) -> BTreeMap<(usize, usize), SocketAddr> {
        self.addresses.clone()
    }

    /// Changes every link.
    pub(crate) fn set_all(&self, link: Link) {
        for sender in self.links.values() {
            sender.send_replace(link);
        }
    }

    /// Changes the links between the validators of `group` and all others.
    pub(crate) fn part(&self, group: &[usize], link: Link) {
        for ((from, to), sender) in &self.links {
            if group.contains(from) != group.contains(to) {
                sender.send_replace(link);
            }
        }
    }
}

async fn accept(listener: TcpListener, dir: PathBuf, to: usize, link: watch::Receiver<Link>) {
    while link.has_changed().is_ok() {
        let (near, _) = listener.accept().await.unwrap();
        let (dir, mut link) = (dir.clone(), link.clone());
        tokio::spawn(async move {
            // A connection that is made while the link is held waits, too.
            if passage(&mut link).await == Some(Link::Cut) {
                return;
            }
            let port = Plan::read(&dir).unwrap().unwrap().validators[to].p2p;
            let Ok(far) = TcpStream::connect(address(port)).await else {
                return;
            };
            let _ = near.set_nodelay(true);
            let _ = far.set_nodelay(true);
            let ((near_read, near_write), (far_read, far_write)) =
                (near.into_split(), far.into_split());
            tokio::select! {
                () = pump(near_read, far_write, link.clone()) => {}
                () = pump(far_read, near_write, link) => {}
            }
        });
    }
}

/// Waits while a link is held; then says how it is, or nothing if the test is over.
async fn passage(link: &mut watch::Receiver<Link>) -> Option<Link> {
    let now = link.wait_for(|link| *link != Link::Held).await.ok()?;
    Some(*now)
}

/// Passes bytes on until the link is cut or an end is gone.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut link: watch::Receiver<Link>,
) {
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        let read = tokio::select! {
            read = from.read(&mut chunk) => read,
            cut = link.wait_for(|link| *link == Link::Cut) => return drop(cut),
        };
        let Ok(length @ 1..) = read else { return };
        match passage(&mut link).await {
            None | Some(Link::Cut) => return,
            Some(Link::Slow { bytes_per_second }) => {
                let length = u32::try_from(length).unwrap();
                let seconds = f64::from(length) / f64::from(bytes_per_second);
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            }
            Some(Link::Open | Link::Held) => {}
        }
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}
