//! From what a caller sends to what it is answered.

use std::{sync::Arc, time::Duration};

use alloy_primitives::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use metrics::counter;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::{
    Rollup, RpcError,
    limits::{Caller, Gate},
    message::{Batch, Message, Request, failure, refusal, success},
    methods::{argument, check_params},
    pending,
    session::Subscriptions,
    subscribe::{Begun, subscribe_bundle},
    table::{self, Answered, Atomic, Here, Method, Subscribed},
};
use crate::{atomic::Bundles, metric};

/// How long a request is worked on: a little more than the longest wait for a receipt.
const DEADLINE: Duration = Duration::from_secs(65);
/// Calls of a batch that are answered at the same time.
const CONCURRENCY: usize = 16;

/// Who calls, and what for.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) rollup: Arc<Rollup>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) bundles: Option<Arc<Bundles>>,
    pub(crate) caller: Caller,
    /// Where notifications can be sent.
    pub(crate) subscriptions: Option<Arc<Subscriptions>>,
}

/// What is sent back.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    /// Nothing if nobody asked for an answer.
    pub(crate) text: Option<String>,
    /// Subscriptions that begin once the answer is sent, by id.
    pub(crate) begun: Vec<(String, Begun)>,
    /// Whether the caller made too many calls.
    pub(crate) is_limited: bool,
}

/// A message, or what is answered to what is none.
type Read<'a> = Result<Message<'a>, String>;
/// The answer to one message.
type Answer = (Option<String>, Option<(String, Begun)>);

/// The answers of a batch.
#[derive(Debug, Default)]
struct Answers {
    texts: Vec<String>,
    begun: Vec<(String, Begun)>,
    count: usize,
    bytes: usize,
}

impl Answers {
    fn push(&mut self, (text, begun): Answer) {
        self.count += 1;
        self.bytes += text.as_ref().map_or(0, String::len);
        self.texts.extend(text);
        self.begun.extend(begun);
    }
}

impl Context {
    /// Answers a call or a batch of calls.
    pub(crate) async fn answer(&self, body: &[u8]) -> Reply {
        let limits = &self.gate.limits;
        let request = match Request::read(body, limits.max_batch) {
            Ok(request) => request,
            Err(error) => return Reply::of(refusal(&error)),
        };
        if let Err(error) = self.gate.charge(&self.caller, request.count()) {
            let is_limited = true;
            let text = match &request {
                Request::One(message) => failure(id_of(message), &error),
                Request::Many(batch) => refuse_all(batch, &error),
            };
            return Reply {
                is_limited,
                ..Reply::of(text)
            };
        }
        let deadline = Instant::now() + DEADLINE;
        match request {
            Request::One(message) => {
                let (text, begun) = self.answer_one(&Message::read(message), deadline).await;
                Reply {
                    text,
                    begun: begun.into_iter().collect(),
                    is_limited: false,
                }
            }
            Request::Many(batch) if batch.count == 0 => {
                Reply::of(refusal(&RpcError::invalid_request("empty batch")))
            }
            Request::Many(batch) if batch.count > limits.max_batch => {
                let error = RpcError::invalid_request("batch too large");
                Reply::of(refuse_all(&batch, &error))
            }
            Request::Many(batch) => self.answer_all(&batch.messages, deadline).await,
        }
    }

    /// Answers a batch in its order, until its answer is too long: transactions one after the other
    /// are taken in together, other calls are answered at the same time.
    async fn answer_all(&self, messages: &[&RawValue], deadline: Instant) -> Reply {
        let most = self.gate.limits.max_batch_answer_bytes;
        let messages: Vec<_> = messages.iter().map(|raw| Message::read(raw)).collect();
        let mut answers = Answers::default();
        for run in messages.chunk_by(|one, next| is_send(one) == is_send(next)) {
            if run.first().is_some_and(is_send) {
                self.send_all(run, deadline, &mut answers).await;
            } else {
                let calls = run.iter();
                let calls = calls.map(|call| self.answer_one(call, deadline).boxed());
                let calls: Vec<BoxFuture<'_, Answer>> = calls.collect();
                let mut run = stream::iter(calls).buffered(CONCURRENCY);
                while answers.bytes <= most
                    && let Some(answer) = run.next().await
                {
                    answers.push(answer);
                }
            }
            if answers.bytes > most {
                break;
            }
        }
        let rest = messages.iter().skip(answers.count);
        let ids = rest.filter_map(|message| message.as_ref().ok()?.id);
        let too_large = |id: &RawValue| failure(id.get(), &RpcError::answer_too_large());
        answers.texts.extend(ids.map(too_large));
        let texts = answers.texts;
        Reply {
            text: (!texts.is_empty()).then(|| format!("[{}]", texts.join(","))),
            begun: answers.begun,
            is_limited: false,
        }
    }

    /// Answers calls that send transactions.
    async fn send_all(&self, run: &[Read<'_>], deadline: Instant, answers: &mut Answers) {
        let calls: Vec<&Message<'_>> = run.iter().flatten().collect();
        let Some(method) = calls.first().and_then(|call| table::find(&call.method)) else {
            return;
        };
        let raws = calls.iter().map(|call| raw_transaction(method, call));
        let sent = timeout_at(deadline, self.rollup.send_all(raws.collect())).await;
        let sent = sent.unwrap_or_else(|_| vec![Err(RpcError::request_timeout()); calls.len()]);
        let accepted = sent.iter().flatten().count();
        count_calls(method, "ok", accepted);
        count_calls(method, "error", sent.len() - accepted);
        for (call, outcome) in calls.into_iter().zip(sent) {
            let text = call.id.map(|id| match outcome {
                Ok(hash) => success(id.get(), &format!("\"{hash}\"")),
                Err(error) => failure(id.get(), &error),
            });
            answers.push((text, None));
        }
    }

    async fn answer_one(&self, message: &Read<'_>, deadline: Instant) -> Answer {
        let message = match message {
            Ok(message) => message,
            Err(answer) => return (Some(answer.clone()), None),
        };
        let outcome = match table::find(&message.method) {
            // Nobody would be told the id of what is begun.
            Some(method) if message.id.is_none() && method.is_subscribed() => return (None, None),
            None => Err(RpcError::unknown_method(&message.method)),
            Some(method) => {
                let outcome = timeout_at(deadline, self.call(method, message)).await;
                let outcome = outcome.unwrap_or_else(|_| Err(RpcError::request_timeout()));
                count_calls(method, if outcome.is_ok() { "ok" } else { "error" }, 1);
                outcome
            }
        };
        let Some(id) = message.id else {
            return (None, None);
        };
        match outcome {
            Ok((result, begun)) => (Some(success(id.get(), &result)), begun),
            Err(error) => (Some(failure(id.get(), &error)), None),
        }
    }

    /// Answers a call by JSON, and by what begins with the answer.
    async fn call(
        &self,
        method: &'static Method,
        message: &Message<'_>,
    ) -> Result<(String, Option<(String, Begun)>), RpcError> {
        let params = message.params()?;
        match method.answered {
            Answered::ByClient => {
                let params = pending::translate(method.name, params);
                let answer = self.rollup.pass_on(method.name, &params).await?;
                Ok((String::from(Box::<str>::from(answer)), None))
            }
            Answered::Here(here) => {
                check_params(method, &params)?;
                let answer = self.rollup.call(here, params, self.caller.payer()).await?;
                Ok((answer.to_string(), None))
            }
            Answered::Atomic(atomic) => {
                check_params(method, &params)?;
                let (bundles, caller) = (self.bundles()?, self.caller.payer());
                let answer = match atomic {
                    Atomic::Get => bundles.get(&params).await?,
                    Atomic::Reveal => bundles.reveal(&params, caller).await?,
                    Atomic::Send => bundles.send(&params, caller).await?,
                    Atomic::Simulate => bundles.simulate(&params).await?,
                };
                Ok((answer.to_string(), None))
            }
            Answered::Subscribed(subscribed) => {
                let subscriptions = self.subscriptions.as_ref();
                let subscriptions = subscriptions.ok_or_else(RpcError::no_notifications)?;
                let begun = match subscribed {
                    Subscribed::Eth => self.rollup.subscribe(&params).await?,
                    Subscribed::Status => {
                        check_params(method, &params)?;
                        self.rollup.subscribe_status(&params)?
                    }
                    Subscribed::Bundle => {
                        check_params(method, &params)?;
                        subscribe_bundle(self.bundles()?, argument(&params, 0)?)?
                    }
                    Subscribed::End => {
                        check_params(method, &params)?;
                        let id: String = argument(&params, 0)?;
                        subscriptions.end(&id)?;
                        return Ok(("true".into(), None));
                    }
                };
                let id = subscriptions.begin()?;
                Ok((format!("\"{id}\""), Some((id, begun))))
            }
        }
    }
}

impl Context {
    fn bundles(&self) -> Result<&Arc<Bundles>, RpcError> {
        self.bundles.as_ref().ok_or_else(|| {
            RpcError::transaction(
                "this composer takes no atomic bundles: its operator pays for none",
            )
        })
    }
}

impl Reply {
    fn of(text: String) -> Self {
        Self {
            text: Some(text),
            ..Self::default()
        }
    }
}

fn is_send(message: &Read<'_>) -> bool {
    let method = message
        .as_ref()
        .ok()
        .and_then(|call| table::find(&call.method));
    method.is_some_and(|method| method.answered == Answered::Here(Here::Send))
}

/// The parameter of a call that sends a transaction.
pub(super) fn raw_transaction(method: &Method, call: &Message<'_>) -> Result<Bytes, RpcError> {
    if let Some(raw) = call.only() {
        return Ok(raw);
    }
    let params = call.params()?;
    check_params(method, &params)?;
    argument(&params, 0)
}

fn count_calls(method: &Method, outcome: &'static str, count: usize) {
    counter!(metric::CALLS, "method" => method.name, "outcome" => outcome).increment(count as u64);
}

/// An error for a whole batch, as geth tells it: with the id of its first call.
fn refuse_all(batch: &Batch<'_>, error: &RpcError) -> String {
    let mut ids = batch.messages.iter().filter_map(|raw| Message::id_of(raw));
    let id = ids.next().map_or("null", RawValue::get);
    format!("[{}]", failure(id, error))
}

fn id_of(message: &RawValue) -> &str {
    Message::id_of(message).map_or("null", RawValue::get)
}
