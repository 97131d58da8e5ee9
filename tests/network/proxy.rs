//! A man in the middle of ABCI: relays CometBFT's calls to the app frame by frame, records them in
//! order and may change answers.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::BytesMut;
use counterpoint_abci::{
    frame,
    proto::abci::{Request, Response, request, response},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

use crate::grammar::{Call, Recorded};

/// Sees an answer on its way to CometBFT, with its request, and may change it.
type Tamper = dyn Fn(&request::Value, &mut response::Value) + Send + Sync;

/// Stands between one CometBFT and one app; ends when it is dropped.
pub(crate) struct Proxy {
    recording: Arc<Mutex<Recording>>,
    accepting: JoinHandle<()>,
}

/// The calls of which the grammar speaks, by session: a session ends when all connections have.
#[derive(Default)]
struct Recording {
    sessions: Vec<Vec<Recorded>>,
    connections: usize,
    /// Calls that came over a connection of another kind.
    strays: Vec<&'static str>,
}

/// What is under way on one connection.
#[derive(Default)]
struct Connection {
    kind: Option<&'static str>,
    /// Requests without an answer yet, each with its session and place in the recording.
    pending: VecDeque<(request::Value, Option<(usize, usize)>)>,
}

impl Proxy {
    /// Listens at `path` for CometBFT; the app listens at `app`, now or later.
    pub(crate) fn start(
        path: &Path,
        app: PathBuf,
        tamper: impl Fn(&request::Value, &mut response::Value) + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let recording = Arc::new(Mutex::new(Recording::default()));
        let (shared, tamper): (_, Arc<Tamper>) = (Arc::clone(&recording), Arc::new(tamper));
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.lock().unwrap().open();
                let (app, recording, tamper) =
                    (app.clone(), Arc::clone(&shared), Arc::clone(&tamper));
                tokio::spawn(async move {
                    relay(stream, connect(&app).await, &recording, &*tamper).await;
                    recording.lock().unwrap().connections -= 1;
                });
            }
        });
        Self {
            recording,
            accepting,
        }
    }

    /// The calls so far, by session.
    pub(crate) fn sessions(&self) -> Vec<Vec<Recorded>> {
        self.recording.lock().unwrap().sessions.clone()
    }

    /// Calls that came over a connection of another kind than the calls before them.
    pub(crate) fn strays(&self) -> Vec<&'static str> {
        self.recording.lock().unwrap().strays.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Recording {
    fn open(&mut self) {
        if self.connections == 0 {
            self.sessions.push(Vec::new());
        }
        self.connections += 1;
    }

    /// Notes a call; says where.
    fn call(&mut self, request: &request::Value) -> Option<(usize, usize)> {
        let call = Call::of(request)?;
        let session = self.sessions.len() - 1;
        self.sessions[session].push(Recorded {
            call,
            answered: false,
        });
        Some((session, self.sessions[session].len() - 1))
    }
}

/// The app of a validator that has just started may not listen yet; CometBFT waits meanwhile.
async fn connect(app: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(app).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Relays both ways until either end is gone.
async fn relay(
    cometbft: UnixStream,
    app: UnixStream,
    recording: &Mutex<Recording>,
    tamper: &Tamper,
) {
    let connection = Mutex::new(Connection::default());
    let (from_cometbft, to_cometbft) = cometbft.into_split();
    let (from_app, to_app) = app.into_split();
    let requests = pump(from_cometbft, to_app, |request: &mut Request| {
        let request = request.value.clone().unwrap();
        let mut connection = connection.lock().unwrap();
        let mut recording = recording.lock().unwrap();
        if let Some(kind) = kind(&request)
            && *connection.kind.get_or_insert(kind) != kind
        {
            recording.strays.push(kind);
        }
        let place = recording.call(&request);
        connection.pending.push_back((request, place));
    });
    let responses = pump(from_app, to_cometbft, |response: &mut Response| {
        let answered = connection.lock().unwrap().pending.pop_front();
        let (request, place) = answered.expect("an answer follows its request");
        let response = response.value.as_mut().unwrap();
        if let Some((session, place)) = place {
            recording.lock().unwrap().sessions[session][place].answer(response);
        }
        tamper(&request, response);
    });
    tokio::select! {
        () = requests => {}
        () = responses => {}
    }
}

/// Passes messages on, each after `see` has seen it.
async fn pump<M: prost::Message + Default>(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut see: impl FnMut(&mut M),
) {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    while from.read_buf(&mut input).await.is_ok_and(|read| read > 0) {
        while let Some(mut message) = frame::decode::<M>(&mut input).unwrap() {
            see(&mut message);
            frame::encode(&message, &mut output);
        }
        if to.write_all(&output).await.is_err() {
            return;
        }
        output.clear();
    }
}

/// Which of the four connections a request belongs on.
fn kind(request: &request::Value) -> Option<&'static str> {
    use request::Value;
    match request {
        Value::Echo(_) | Value::Flush(_) => None,
        Value::Info(_) | Value::Query(_) => Some("query"),
        Value::CheckTx(_) | Value::InsertTx(_) | Value::ReapTxs(_) => Some("mempool"),
        Value::ListSnapshots(_)
        | Value::OfferSnapshot(_)
        | Value::LoadSnapshotChunk(_)
        | Value::ApplySnapshotChunk(_) => Some("snapshot"),
        _ => Some("consensus"),
    }
}
