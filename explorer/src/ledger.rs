//! The newest blocks, in brief: read while somebody looks, told to all who do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use counterpoint_core::{block::RollupLeaf, light::decode_signed_header, primitive::Height};
use counterpoint_proto::sequencer::GetBlockResponse;
use counterpoint_service::sequencer::Client;
use futures::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::{Mutex as AsyncMutex, broadcast, watch};

use crate::{
    answer::Trouble,
    proof::{HeaderProof, LeafView, TimeView, hex},
};

/// Blocks that are remembered.
const KEPT: usize = 256;
/// How far below the tip reading begins after a time in which nobody looked.
const BEGIN: u64 = 64;
/// Pause between two looks at the tip.
const PERIOD: Duration = Duration::from_millis(250);
/// Pause after nobody answered.
const RETRY: Duration = Duration::from_secs(1);
/// How long what is known of the tip is new enough for whoever asks once.
pub(crate) const FRESH: Duration = Duration::from_millis(500);
/// Blocks that wait for one listener: whoever is further behind has to come again.
const BUFFER: usize = 64;
/// Blocks that are read at a time.
const TOGETHER: usize = 4;

/// A block, as lists show it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Brief {
    pub(crate) height: u64,
    pub(crate) hash: String,
    pub(crate) time: TimeView,
    pub(crate) proposer: String,
    /// Items beside the preamble.
    pub(crate) items: u32,
    /// Rollups that have a leaf.
    pub(crate) rollups: u32,
    /// The longest lists.
    pub(crate) lists: Vec<LeafView>,
    /// Validators that signed it, and how many there are.
    pub(crate) signed: usize,
    pub(crate) validators: usize,
    /// Addresses of those that did not, as the commit of this block has it.
    #[serde(skip)]
    pub(crate) missing: Vec<String>,
}

/// What a block is, complete.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    pub(crate) brief: Brief,
    pub(crate) item_hashes: Vec<String>,
    pub(crate) proof: HeaderProof,
}

/// The newest blocks.
#[derive(Debug)]
pub(crate) struct Ledger {
    client: Client,
    kept: Mutex<BTreeMap<u64, Arc<Brief>>>,
    /// Held by who reads: blocks are told in order.
    reading: AsyncMutex<Option<Instant>>,
    news: broadcast::Sender<Arc<Brief>>,
    /// Whether the nodes answer.
    trouble: watch::Sender<Option<String>>,
    /// How many listen.
    listeners: watch::Sender<usize>,
}

/// One who listens, as long as it is kept.
#[derive(Debug)]
pub(crate) struct Listening(watch::Sender<usize>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Ledger {
    #[must_use]
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            kept: Mutex::default(),
            reading: AsyncMutex::default(),
            news: broadcast::Sender::new(BUFFER),
            trouble: watch::Sender::new(None),
            listeners: watch::Sender::new(0),
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Brief>>> {
        // What is behind this lock is whole at every moment.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads new blocks while anybody listens.
    pub(crate) async fn run(&self) {
        let mut listeners = self.listeners.subscribe();
        loop {
            if listeners.wait_for(|count| *count > 0).await.is_err() {
                return;
            }
            let pause = match self.refresh(Duration::ZERO).await {
                Ok(()) => PERIOD,
                Err(_) => RETRY,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Listens to new blocks; those above `after` that are remembered come first.
    pub(crate) fn listen(
        &self,
        after: Option<u64>,
    ) -> (Listening, Vec<Arc<Brief>>, broadcast::Receiver<Arc<Brief>>) {
        self.listeners.send_modify(|count| *count += 1);
        let listening = Listening(self.listeners.clone());
        let kept = self.kept();
        // Subscribed while nothing can be added: nothing is missed, nothing comes twice.
        let news = self.news.subscribe();
        let from = after.map_or(u64::MAX, |after| after.saturating_add(1));
        let missed = kept.range(from..).map(|(_, brief)| Arc::clone(brief));
        (listening, missed.collect(), news)
    }

    /// What is wrong with the nodes, as it changes.
    pub(crate) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    /// Reads what is new, unless that was done not long ago.
    ///
    /// # Errors
    /// [`Trouble`] if no node answers.
    pub(crate) async fn refresh(&self, fresh: Duration) -> Result<(), Trouble> {
        let mut read = self.reading.lock().await;
        if read.is_some_and(|at| at.elapsed() < fresh) {
            return Ok(());
        }
        let done = self.read_on().await;
        let said = done.as_ref().err().map(ToString::to_string);
        self.trouble.send_if_modified(|known| {
            let changed = *known != said;
            *known = said;
            changed
        });
        *read = Some(Instant::now());
        done
    }

    async fn read_on(&self) -> Result<(), Trouble> {
        let tip = self.client.info().await?.height;
        let known = self.kept().keys().next_back().copied();
        let begin = tip.saturating_sub(BEGIN);
        let first = known.map_or(begin, |known| known.max(begin)) + 1;
        let mut blocks = stream::iter(first..=tip)
            .map(|height| self.block(height))
            .buffered(TOGETHER);
        while let Some(block) = blocks.next().await {
            match block {
                Ok(whole) => self.tell(whole.brief),
                // Its header is not there yet, or it was pruned.
                Err(Trouble::Unknown(_)) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(())
    }

    fn tell(&self, brief: Brief) {
        let brief = Arc::new(brief);
        let mut kept = self.kept();
        // In order: what comes late is read when it is asked for.
        if kept
            .keys()
            .next_back()
            .is_some_and(|last| *last >= brief.height)
        {
            return;
        }
        kept.insert(brief.height, Arc::clone(&brief));
        while kept.len() > KEPT {
            kept.pop_first();
        }
        let _nobody = self.news.send(brief);
    }

    /// The newest blocks below a height, or at all, the highest first.
    ///
    /// # Errors
    /// [`Trouble`] if no node answers.
    pub(crate) async fn newest(
        &self,
        before: Option<u64>,
        count: usize,
    ) -> Result<Vec<Arc<Brief>>, Trouble> {
        self.refresh(FRESH).await?;
        let tip = self.kept().keys().next_back().copied().unwrap_or_default();
        let before = before.unwrap_or(u64::MAX).min(tip.saturating_add(1));
        let heights = (1..before).rev().take(count);
        let mut blocks = stream::iter(heights)
            .map(|height| self.brief(height))
            .buffered(TOGETHER);
        let mut found = Vec::new();
        while let Some(block) = blocks.next().await {
            match block {
                Ok(brief) => found.push(brief),
                // Below the lowest that the node has.
                Err(Trouble::Unknown(_)) => break,
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(found)
    }

    /// The last blocks that are remembered, the highest first.
    #[must_use]
    pub(crate) fn recent(&self) -> Vec<Arc<Brief>> {
        self.kept().values().rev().map(Arc::clone).collect()
    }

    /// A block in brief.
    ///
    /// # Errors
    /// [`Trouble`] if no node has it.
    pub(crate) async fn brief(&self, height: u64) -> Result<Arc<Brief>, Trouble> {
        let known = self.kept().get(&height).cloned();
        match known {
            Some(brief) => Ok(brief),
            None => Ok(Arc::new(self.block(height).await?.brief)),
        }
    }

    /// A block, complete.
    ///
    /// # Errors
    /// [`Trouble`] if no node has it.
    pub(crate) async fn block(&self, height: u64) -> Result<Whole, Trouble> {
        let answer = self.client.block(Height::new(height)).await?;
        Whole::read(&answer)
    }
}

impl Whole {
    fn read(answer: &GetBlockResponse) -> Result<Self, Trouble> {
        let malformed = |_| Trouble::Malformed("header");
        let signed = decode_signed_header(&answer.signed_header).map_err(malformed)?;
        let proof = HeaderProof::decode(&answer.signed_header, &answer.validators);
        let proof = proof.map_err(malformed)?;
        let lists = answer.borsh_leaves.iter().map(|leaf| {
            let leaf = borsh::from_slice::<RollupLeaf>(leaf);
            leaf.map(|leaf| LeafView::new(&leaf))
                .map_err(|_| Trouble::Malformed("leaf"))
        });
        let signatures = &proof.commit.signatures;
        let missing = proof.validators.iter().zip(signatures);
        let missing = missing.filter(|(_, signature)| !signature.is_for_block());
        let brief = Brief {
            height: signed.header.height.value(),
            hash: hex(signed.header.hash()),
            time: TimeView::new(signed.header.time),
            proposer: hex(signed.header.proposer_address),
            items: answer.items,
            rollups: answer.rollups,
            lists: lists.collect::<Result<_, _>>()?,
            signed: signatures.iter().filter(|one| one.is_for_block()).count(),
            validators: proof.validators.len(),
            missing: missing.map(|(one, _)| one.public_key.clone()).collect(),
        };
        Ok(Self {
            brief,
            item_hashes: answer.item_hashes.iter().map(hex).collect(),
            proof,
        })
    }
}
