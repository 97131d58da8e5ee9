use std::collections::BTreeMap;

use counterpoint_core::primitive::{Height, RollupId};
use serde_json::Value;

use super::*;
use crate::{
    early::testing::Client,
    queue::{
        Execution, Place, Stage,
        testing::{checked, raw},
    },
};

/// An intake with an execution client that counts what it is asked.
struct Fixture {
    intake: Arc<Intake>,
    client: Client,
    _directory: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = RollupConfig {
            evm_chain_id: 1,
            min_tip_wei: 1,
            ..RollupConfig::example("alpha")
        };
        let queue = Arc::new(Queue::open(directory.path()).unwrap());
        let client = Client::start(5).await;
        let upstream = Upstream::new(&client.url).unwrap();
        Self {
            intake: {
                let admission = Admission::open(&config, Arc::clone(&queue));
                Arc::new(Intake::new(config.rollup_id, admission, queue, upstream))
            },
            client,
            _directory: directory,
        }
    }

    /// What becomes of transfers of these signers and nonces, sent together.
    async fn send(&self, transfers: &[(u8, u64)]) -> Vec<String> {
        let raws = transfers.iter().map(|one| transfer(*one)).collect();
        verdicts(self.intake.send_all(raws).await)
    }

    fn place(&self) -> (RollupId, Arc<Queue>) {
        (self.intake.rollup, Arc::clone(&self.intake.queue))
    }

    /// A block of the client holds the first transaction of a signer, and the tracker has seen it.
    async fn execute_first(&self, signer: u8) {
        let (rollup, queue) = self.place();
        self.client.advance(address(signer), 1, u64::MAX);
        self.intake.upstream.head().await.unwrap();
        let hash = keccak256(transfer((signer, 0)));
        let seq = queue.get(rollup, hash).unwrap().seq;
        let place = Place {
            height: Height::new(1),
            index: 0,
        };
        let execution = Execution {
            block_number: 6,
            success: true,
        };
        let executed = Stage::Executed(place, execution);
        queue.finish(seq, executed);
    }
}

fn transfer((signer, nonce): (u8, u64)) -> Bytes {
    Bytes::from(raw(signer, nonce, 100))
}

fn address(signer: u8) -> Address {
    checked(RollupId::from_name("alpha"), raw(signer, 0, 100)).sender
}

/// "ok", or the error's text.
fn verdicts(answers: Vec<Result<B256, RpcError>>) -> Vec<String> {
    let text = |error: RpcError| {
        let message = error.into_value()["message"].take();
        message.as_str().unwrap().to_owned()
    };
    let verdict = |answer: Result<B256, RpcError>| answer.map_or_else(text, |_| "ok".into());
    answers.into_iter().map(verdict).collect()
}

#[tokio::test]
async fn an_account_is_read_once_for_each_head() {
    let fixture = Fixture::new().await;
    let transfers: Vec<(u8, u64)> = (0..10)
        .flat_map(|nonce| [1, 2, 3].map(|of| (of, nonce)))
        .collect();
    for group in transfers.chunks(7) {
        let sent = fixture.send(group).await;
        assert!(sent.iter().all(|verdict| verdict == "ok"), "{sent:?}");
    }
    let (requests, mut accounts) = fixture.client.asked();
    assert_eq!(requests, 1, "the senders of a group are one question");
    accounts.sort_unstable();
    accounts.dedup();
    assert_eq!(accounts.len(), 3);
    assert_eq!(fixture.client.asked().1.len(), 3);
    assert_eq!(fixture.send(&[(1, 11), (2, 10)]).await, ["ok", "ok"]);
    fixture.client.advance(address(2), 1, 0);
    fixture.intake.upstream.head().await.unwrap();
    let asked = fixture.client.asked();
    assert_eq!(
        (asked.0, asked.1.len()),
        (2, 6),
        "at a new head all are read anew, by one question"
    );
    let sent = fixture.send(&[(1, 10), (2, 11)]).await;
    assert_eq!(sent[0], "ok");
    assert!(sent[1].starts_with("insufficient funds"), "{sent:?}");
    assert_eq!(fixture.client.asked(), asked, "and by nobody who sends");
}

#[tokio::test]
async fn a_head_is_known_when_the_accounts_after_it_are() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.send(&[(1, 0)]).await, ["ok"]);
    fixture.client.advance(address(1), 1, u64::MAX);
    fixture.client.set_silent(true);
    let upstream = fixture.intake.upstream.clone();
    let head = tokio::spawn(async move { upstream.head().await.unwrap().number });
    fixture.client.until_asked(2).await;
    assert!(!head.is_finished());
    assert_eq!(
        fixture.send(&[(1, 1)]).await,
        ["ok"],
        "who sends does not wait for a client that is slow"
    );
    fixture.client.set_silent(false);
    assert_eq!(head.await.unwrap(), 6);
    let again = vec![Bytes::from(raw(1, 0, 200))];
    let verdict = verdicts(fixture.intake.send_all(again).await);
    assert_eq!(verdict, ["nonce too low: next nonce 1, tx nonce 0"]);
    assert_eq!(fixture.client.asked().0, 2);
}

#[tokio::test]
async fn accounts_that_are_not_read_anew_in_time_are_asked_for_again() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.send(&[(1, 0)]).await, ["ok"]);
    fixture.client.advance(address(1), 1, u64::MAX);
    fixture.client.set_silent(true);
    assert_eq!(fixture.intake.upstream.head().await.unwrap().number, 6);
    fixture.client.set_silent(false);
    let again = vec![Bytes::from(raw(1, 0, 200))];
    let verdict = verdicts(fixture.intake.send_all(again).await);
    assert_eq!(verdict, ["nonce too low: next nonce 1, tx nonce 0"]);
}

#[tokio::test]
async fn groups_at_the_same_time_share_their_questions() {
    let fixture = Fixture::new().await;
    fixture.intake.upstream.head().await.unwrap();
    let groups = (1..=60).map(|signer| {
        let raws = vec![transfer((signer, 0)), transfer((signer, 1))];
        let intake = Arc::clone(&fixture.intake);
        async move { intake.send_all(raws).await }
    });
    let answers = futures::future::join_all(groups).await;
    assert!(answers.iter().flatten().all(Result::is_ok));
    let (requests, accounts) = fixture.client.asked();
    assert_eq!(accounts.len(), 60);
    assert!(requests <= 60, "{requests} requests");
}

#[tokio::test]
async fn a_flood_without_funds_asks_once_for_each_sender() {
    let fixture = Fixture::new().await;
    for signer in 1..=4 {
        fixture.client.advance(address(signer), 0, 0);
    }
    for round in 0..20 {
        let flood: Vec<(u8, u64)> = (1..=4).map(|signer| (signer, round % 2)).collect();
        for verdict in fixture.send(&flood).await {
            assert!(verdict.starts_with("insufficient funds"), "{verdict}");
        }
    }
    assert_eq!(fixture.client.asked().1.len(), 4);
    assert_eq!(fixture.intake.queue.live(), 0);
}

#[tokio::test]
async fn garbage_and_replays_ask_nothing() {
    let fixture = Fixture::new().await;
    fixture.send(&[(1, 0)]).await;
    let asked = fixture.client.asked();
    let mut unsigned = transfer((2, 0)).to_vec();
    let last = unsigned.len() - 1;
    unsigned[last - 40..].fill(0xff);
    let garbage = vec![
        Bytes::from(vec![0x02; 200_000]),
        Bytes::from_static(&[0x7f, 1, 2]),
        Bytes::from(unsigned),
        Bytes::new(),
    ];
    for verdict in verdicts(fixture.intake.send_all(garbage).await) {
        assert_ne!(verdict, "ok");
    }
    for _ in 0..10 {
        assert_eq!(fixture.send(&[(1, 0)]).await, ["ok"]);
    }
    assert_eq!(fixture.client.asked(), asked);
    assert_eq!(fixture.intake.queue.live(), 1);
}

#[tokio::test]
async fn what_is_executed_meanwhile_never_takes_the_nonce_back() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.send(&[(1, 0)]).await, ["ok"]);
    fixture.execute_first(1).await;
    let sender = address(1);
    assert_eq!(fixture.intake.pending_nonce(sender).await, Ok(1));
    assert_eq!(fixture.send(&[(1, 1), (1, 2)]).await, ["ok", "ok"]);
    let again = Bytes::from(raw(1, 0, 200));
    let verdict = verdicts(fixture.intake.send_all(vec![again]).await);
    assert_eq!(verdict, ["nonce too low: next nonce 1, tx nonce 0"]);
}

#[tokio::test]
async fn a_client_that_lost_blocks_does_not_take_an_account_back() {
    let fixture = Fixture::new().await;
    fixture.client.advance(address(1), 7, u64::MAX);
    assert_eq!(fixture.send(&[(1, 7)]).await, ["ok"]);
    fixture.client.advance(address(1), 4, 0);
    fixture.intake.upstream.head().await.unwrap();
    assert_eq!(fixture.send(&[(1, 8)]).await, ["ok"]);
}

#[tokio::test]
async fn one_nonce_is_taken_once_whoever_comes_at_the_same_time() {
    let fixture = Fixture::new().await;
    let groups = (0..20).map(|at: u128| {
        let raws = vec![Bytes::from(raw(1, 0, 100 + at % 4)), transfer((1, 1))];
        let intake = Arc::clone(&fixture.intake);
        async move { intake.send_all(raws).await }
    });
    let answers = futures::future::join_all(groups).await;
    let mut counts = BTreeMap::<String, usize>::new();
    for verdict in verdicts(answers.into_iter().flatten().collect()) {
        *counts.entry(verdict).or_default() += 1;
    }
    let underpriced = counts.remove("replacement transaction underpriced");
    assert_eq!(underpriced, Some(15), "{counts:?}");
    assert_eq!(counts.remove("ok"), Some(25), "{counts:?}");
    assert_eq!(fixture.intake.queue.live(), 2);
}

#[tokio::test]
async fn the_same_nonce_twice_in_a_group_and_more_than_a_senders_share() {
    let fixture = Fixture::new().await;
    let raws = vec![
        transfer((1, 0)),
        transfer((1, 1)),
        Bytes::from(raw(1, 0, 200)),
        transfer((1, 0)),
    ];
    let sent = verdicts(fixture.intake.send_all(raws).await);
    let underpriced = "replacement transaction underpriced";
    assert_eq!(sent, ["ok", "ok", underpriced, "ok"]);
    assert_eq!(fixture.intake.queue.live(), 2);
    let many: Vec<(u8, u64)> = (0..300).map(|nonce| (2, nonce)).collect();
    let sent = fixture.send(&many).await;
    let accepted = sent.iter().filter(|verdict| *verdict == "ok").count();
    assert_eq!(accepted, crate::queue::MAX_PER_SENDER);
}

#[tokio::test]
async fn a_client_that_is_away_is_named_at_once_and_forgotten_when_it_is_back() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.send(&[(1, 0)]).await, ["ok"]);
    fixture.client.set_away(true);
    let refused = fixture.send(&[(2, 0), (1, 0)]).await;
    assert!(refused[0].contains("execution client"), "{refused:?}");
    assert_eq!(
        refused[1], "ok",
        "what is known is acknowledged all the same"
    );
    fixture.client.set_away(false);
    while fixture.send(&[(2, 0)]).await != ["ok"] {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn without_a_seat_nothing_is_begun() {
    let fixture = Fixture::new().await;
    let seats = Arc::clone(&fixture.intake.seats);
    let all_but_one = u32::try_from(SEATS - 1).unwrap();
    let taken = seats.try_acquire_many(all_but_one).unwrap();
    let answers = fixture
        .intake
        .send_all(vec![transfer((1, 0)), transfer((1, 1))])
        .await;
    assert!(answers[0].is_ok());
    let error = answers[1].clone().unwrap_err().into_value();
    assert_eq!(error["code"], Value::from(-32_005));
    drop(taken);
    assert_eq!(fixture.send(&[(1, 1)]).await, ["ok"]);
}
