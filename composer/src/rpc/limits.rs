//! What one caller may take: connections, calls per second, bytes. All of it is bounded, and so is
//! what is remembered about callers.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::HeaderMap;
use eyre::{WrapErr, ensure};
use ipnet::IpNet;
use metrics::{counter, gauge};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{
    RpcError,
    keys::{Key, Keys},
};
use crate::metric;

/// Most callers whose calls are counted one by one; those beyond share one count.
const MAX_CALLERS: usize = 65_536;
/// Pause between two looks for callers that need not be remembered.
const SWEEP: Duration = Duration::from_secs(1);
/// Most bytes of requests that are read and not yet answered, in all.
const MAX_BODIES_BYTES: usize = 256 << 20;

/// What callers may take.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most connections.
    pub max_connections: usize,
    /// Most connections from one address that is no trusted proxy.
    pub max_connections_per_address: usize,
    /// Most subscriptions of a connection.
    pub max_subscriptions: usize,
    /// Longest request, in bytes.
    pub max_body_bytes: usize,
    /// Most calls of a batch.
    pub max_batch: usize,
    /// Length of a batch's answer, in bytes, beyond which no more of its calls are answered.
    pub max_batch_answer_bytes: usize,
    /// Calls per second of one address; 0 for no limit.
    pub calls_per_second: u32,
    /// Calls of one address at once.
    pub calls_burst: u32,
    /// Origins of web pages that may call; `*` for all.
    pub cors_origins: Vec<String>,
    /// Addresses or networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// File of API keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<PathBuf>,
    /// Whether nobody is served without a key.
    pub api_keys_required: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1_024,
            max_connections_per_address: 128,
            max_subscriptions: 128,
            max_body_bytes: 5 << 20,
            max_batch: 1_000,
            max_batch_answer_bytes: 25_000_000,
            calls_per_second: 200,
            calls_burst: 2_000,
            cors_origins: vec!["*".into()],
            trusted_proxies: Vec::new(),
            api_keys: None,
            api_keys_required: false,
        }
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Its address, or its network where one owner has many.
    pub(crate) address: IpAddr,
    key: Option<Arc<Key>>,
}

/// Whose calls are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Payer {
    Address(IpAddr),
    Key(String),
    /// All others, while too many call at once.
    Rest,
}

impl Caller {
    /// Whose calls these are.
    #[must_use]
    pub(crate) fn payer(&self) -> Payer {
        match &self.key {
            Some(key) => Payer::Key(key.name.clone()),
            None => Payer::Address(self.address),
        }
    }
}

/// Lets callers in, or not.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) limits: Limits,
    proxies: Vec<IpNet>,
    keys: Keys,
    calls: Mutex<Calls>,
    pub(crate) connections: Arc<Seats>,
    pub(crate) websockets: Arc<Seats>,
    pub(crate) bodies: Arc<Semaphore>,
}

impl Gate {
    /// A gate with these limits.
    ///
    /// # Errors
    /// They contradict each other, or name what cannot be read.
    pub(crate) fn new(limits: Limits) -> eyre::Result<Self> {
        let burst = usize::try_from(limits.calls_burst)?;
        ensure!(
            limits.calls_per_second == 0 || burst >= limits.max_batch,
            "limits: calls_burst {burst} is less than max_batch {}: no such batch would be let in",
            limits.max_batch
        );
        ensure!(
            !limits.api_keys_required || limits.api_keys.is_some(),
            "limits: api_keys_required needs api_keys"
        );
        let proxies = limits.trusted_proxies.iter().map(|proxy| network(proxy));
        let keys = limits.api_keys.as_deref().map(Keys::read).transpose()?;
        let seats = |metric| {
            let (total, each) = (limits.max_connections, limits.max_connections_per_address);
            Arc::new(Seats::new(total, each, metric))
        };
        Ok(Self {
            proxies: proxies.collect::<eyre::Result<_>>()?,
            keys: keys.unwrap_or_default(),
            calls: Mutex::default(),
            connections: seats(metric::CONNECTIONS),
            websockets: seats(metric::WEBSOCKETS),
            bodies: Arc::new(Semaphore::new(MAX_BODIES_BYTES)),
            limits,
        })
    }

    /// Whose connections from `peer` are counted together; nobody's if it is a trusted proxy.
    #[must_use]
    pub(crate) fn holder(&self, peer: IpAddr) -> Option<IpAddr> {
        (!self.is_proxy(peer)).then(|| owner(peer))
    }

    /// Who calls from `peer`, with a key or without.
    ///
    /// # Errors
    /// The key is none, or is missing.
    pub(crate) fn caller(
        &self,
        peer: IpAddr,
        headers: &HeaderMap,
        key: Option<&str>,
    ) -> Result<Caller, RpcError> {
        let key = match key {
            Some(key) => {
                let known = self.keys.find(key);
                Some(known.ok_or_else(|| RpcError::new(-32_000, "invalid API key"))?)
            }
            None if self.limits.api_keys_required => {
                return Err(RpcError::new(-32_000, "an API key is required"));
            }
            None => None,
        };
        let address = owner(self.client(peer, headers));
        Ok(Caller { address, key })
    }

    /// Counts calls, if they are not too many.
    ///
    /// # Errors
    /// They are; then none of them is counted.
    pub(crate) fn charge(&self, caller: &Caller, calls: usize) -> Result<(), RpcError> {
        let key = caller.key.as_deref();
        let rate = key.and_then(|key| key.calls_per_second);
        let burst = key.and_then(|key| key.calls_burst);
        let rate = Rate {
            per_second: rate.unwrap_or(self.limits.calls_per_second),
            burst: burst.unwrap_or(self.limits.calls_burst),
        };
        let mut counted = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = counted.take(caller.payer(), calls, rate, Instant::now());
        taken.map_err(|wait| {
            counter!(metric::REFUSED, "reason" => "rate").increment(1);
            let wait = wait.as_secs() + 1;
            RpcError::overloaded(format!("too many calls, try again in {wait} s"))
        })
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxies.iter().any(|proxy| proxy.contains(&address))
    }

    /// Who is behind a proxy that is believed: the last address in its list that is no such proxy.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        let lists = headers.get_all("x-forwarded-for").iter().rev();
        let hops = lists.flat_map(|list| list.to_str().unwrap_or_default().rsplit(','));
        for hop in hops {
            if !self.is_proxy(client) {
                break;
            }
            let Some(before) = address(hop) else {
                break;
            };
            client = before;
        }
        client
    }
}

/// An address, alone or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || Some(text.parse::<std::net::SocketAddr>().ok()?.ip());
    text.parse().ok().or_else(with_port)
}

fn network(text: &str) -> eyre::Result<IpNet> {
    let alone = text.parse::<IpAddr>().map(IpNet::from);
    alone
        .or_else(|_| text.parse())
        .wrap_err_with(|| format!("limits: trusted proxy {text} is no address and no network"))
}

/// Whoever has an address of version 6 has the 2⁶⁴ beside it too.
fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(network.into())
        }
        version_four @ IpAddr::V4(_) => version_four,
    }
}

/// How many calls one may make.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: u32,
    burst: u32,
}

/// What callers have used up and is given back as time passes. Of each it is kept when it will be as if
/// it had never used anything, which it is forgotten at.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    settled: HashMap<Payer, Instant>,
    sweep_at: Option<Instant>,
}

impl Meter {
    /// Counts what takes `time` to be given back, unless it is then more than `most`; or says how long to
    /// wait before.
    pub(crate) fn take(
        &mut self,
        payer: Payer,
        time: Duration,
        most: Duration,
        now: Instant,
    ) -> Result<(), Duration> {
        if self.sweep_at.is_none_or(|at| at <= now) {
            self.settled.retain(|_, settled| *settled > now);
            self.sweep_at = Some(now + SWEEP);
        }
        let is_new = !self.settled.contains_key(&payer);
        let payer = if is_new && self.settled.len() >= MAX_CALLERS {
            Payer::Rest
        } else {
            payer
        };
        let before = self.settled.get(&payer).copied().unwrap_or(now).max(now);
        let debt = (before - now).saturating_add(time);
        if debt > most {
            return Err(debt - most);
        }
        self.settled.insert(payer, now + debt);
        Ok(())
    }
}

/// Calls of all callers.
#[derive(Debug, Default)]
struct Calls(Meter);

impl Calls {
    /// Counts calls, or says how long to wait before.
    fn take(
        &mut self,
        payer: Payer,
        calls: usize,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Duration> {
        if rate.per_second == 0 {
            return Ok(());
        }
        let each = Duration::from_secs(1) / rate.per_second;
        let calls = u32::try_from(calls).unwrap_or(u32::MAX);
        let most = each.saturating_mul(rate.burst);
        self.0.take(payer, each.saturating_mul(calls), most, now)
    }
}

/// A bounded number of places, of which one address gets only so many.
#[derive(Debug)]
pub(crate) struct Seats {
    total: usize,
    each: usize,
    metric: &'static str,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    by_holder: HashMap<IpAddr, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    holder: Option<IpAddr>,
}

impl Seats {
    fn new(total: usize, each: usize, metric: &'static str) -> Self {
        Self {
            total,
            each,
            metric,
            taken: Mutex::default(),
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for `holder`, or for somebody whose places are not counted, if there is one.
    pub(crate) fn take(self: &Arc<Self>, holder: Option<IpAddr>) -> Option<Seat> {
        let mut taken = self.taken();
        let held = holder.and_then(|holder| taken.by_holder.get(&holder));
        if taken.count >= self.total || held.is_some_and(|held| *held >= self.each) {
            counter!(metric::REFUSED, "reason" => "connections").increment(1);
            return None;
        }
        taken.count += 1;
        if let Some(holder) = holder {
            *taken.by_holder.entry(holder).or_default() += 1;
        }
        gauge!(self.metric).increment(1.0);
        let seats = Arc::clone(self);
        Some(Seat { seats, holder })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.count -= 1;
        if let Some(holder) = self.holder
            && let Some(held) = taken.by_holder.get_mut(&holder)
        {
            *held -= 1;
            if *held == 0 {
                taken.by_holder.remove(&holder);
            }
        }
        gauge!(self.seats.metric).decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(limits: Limits) -> Gate {
        Gate::new(limits).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn calls_come_back_with_time_and_a_refusal_costs_nothing() {
        let rate = Rate {
            per_second: 10,
            burst: 20,
        };
        let (mut calls, start) = (Calls::default(), Instant::now());
        let mut take = |payer: &str, count, millis| {
            let now = start + Duration::from_millis(millis);
            calls.take(Payer::Address(ip(payer)), count, rate, now)
        };
        assert_eq!(take("1.1.1.1", 20, 0), Ok(()));
        assert_eq!(take("1.1.1.1", 1, 0), Err(Duration::from_millis(100)));
        assert_eq!(take("2.2.2.2", 20, 0), Ok(()), "others have their own");
        assert_eq!(take("1.1.1.1", 1, 100), Ok(()));
        assert_eq!(take("1.1.1.1", 5, 500), Err(Duration::from_millis(100)));
        assert_eq!(take("1.1.1.1", 4, 500), Ok(()));
        assert_eq!(take("1.1.1.1", 21, 60_000), Err(Duration::from_millis(100)));
        assert_eq!(take("1.1.1.1", 20, 60_000), Ok(()));
        assert_eq!(calls.0.settled.len(), 1, "who has paid is forgotten");
    }

    #[test]
    fn callers_beyond_count_share_what_is_left() {
        let rate = Rate {
            per_second: 1,
            burst: 1,
        };
        let (mut calls, now) = (Calls::default(), Instant::now());
        let mut take = |caller: usize| {
            let payer = Payer::Key(caller.to_string());
            calls.take(payer, 1, rate, now).is_ok()
        };
        assert!(
            (0..=MAX_CALLERS).all(&mut take),
            "one more than are counted"
        );
        assert!(!take(MAX_CALLERS + 1) && !take(0));
        assert_eq!(calls.0.settled.len(), MAX_CALLERS + 1);
    }

    #[test]
    fn a_proxy_is_believed_if_it_is_trusted_and_nobody_else() {
        let gate = gate(Limits {
            trusted_proxies: vec!["127.0.0.1".into(), "10.0.0.0/8".into()],
            ..Limits::default()
        });
        let check = |peer: &str, lists: &[&str], expect: &str| {
            let mut headers = HeaderMap::new();
            for list in lists {
                headers.append("x-forwarded-for", list.parse().unwrap());
            }
            let caller = gate.caller(ip(peer), &headers, None).unwrap();
            assert_eq!(caller.address, ip(expect), "{peer} {lists:?}");
        };
        check("9.9.9.9", &["1.1.1.1"], "9.9.9.9");
        check("127.0.0.1", &["6.6.6.6, 1.1.1.1"], "1.1.1.1");
        check(
            "::ffff:127.0.0.1",
            &["6.6.6.6", "1.1.1.1, 10.2.3.4"],
            "1.1.1.1",
        );
        check("127.0.0.1", &["1.1.1.1:80"], "1.1.1.1");
        check("127.0.0.1", &["[2001:db8:0:1::5]:80"], "2001:db8:0:1::");
        check("127.0.0.1", &["1.1.1.1, unknown"], "127.0.0.1");
        check("127.0.0.1", &[], "127.0.0.1");
        assert_eq!(gate.holder(ip("10.1.1.1")), None);
        assert_eq!(gate.holder(ip("9.9.9.9")), Some(ip("9.9.9.9")));
    }

    #[test]
    fn one_address_leaves_places_for_others() {
        let seats = Arc::new(Seats::new(3, 2, "test"));
        let one = || seats.take(Some(ip("1.1.1.1")));
        let (first, second) = (one(), one());
        assert!(first.is_some() && second.is_some() && one().is_none());
        let other = seats.take(None);
        assert!(other.is_some() && seats.take(None).is_none());
        drop((first, second));
        assert!(one().is_some());
        drop(other);
        let taken = seats.taken();
        assert_eq!((taken.count, taken.by_holder.len()), (0, 0));
    }

    #[test]
    fn limits_that_contradict_each_other_are_named() {
        let refused = |limits: Limits| Gate::new(limits).unwrap_err().to_string();
        let limits = Limits {
            calls_burst: 10,
            ..Limits::default()
        };
        assert!(refused(limits).contains("calls_burst 10 is less than max_batch 1000"));
        let limits = Limits {
            api_keys_required: true,
            ..Limits::default()
        };
        assert_eq!(refused(limits), "limits: api_keys_required needs api_keys");
        let limits = Limits {
            trusted_proxies: vec!["proxy".into()],
            ..Limits::default()
        };
        assert!(refused(limits).contains("trusted proxy proxy is no address"));
    }
}
