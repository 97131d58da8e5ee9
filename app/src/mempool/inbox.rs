//! What peers offered and nobody has looked at yet: bounded, first come, first served.
//!
//! A peer may be a block ahead: it has seen the account or the rollup that a transaction needs. So
//! what is refused for a reason that can pass is looked at again after the next blocks.

use std::collections::VecDeque;

use bytes::Bytes;

/// Most bytes of all offers together.
const MAX_BYTES: usize = 64 << 20;
/// Most bytes of what waits for the next block.
const MAX_LATER_BYTES: usize = 8 << 20;
/// Blocks after which a transaction is looked at for the last time.
const MAX_TRIES: u8 = 5;

/// Transactions that came together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) members: Vec<Bytes>,
    /// The bundle they came in, to be passed on.
    pub(super) bundle: Option<Bytes>,
    tries: u8,
}

/// Offers in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    offers: VecDeque<Offer>,
    bytes: usize,
    later: Vec<Offer>,
    later_bytes: usize,
}

impl Offer {
    /// What a peer sent.
    pub(super) fn new(members: Vec<Bytes>, bundle: Option<Bytes>) -> Self {
        Self {
            members,
            bundle,
            tries: 0,
        }
    }

    fn bytes(&self) -> usize {
        let members: usize = self.members.iter().map(Bytes::len).sum();
        members + self.bundle.as_ref().map_or(0, Bytes::len)
    }
}

impl Inbox {
    /// Takes an offer in, or says that there is no room.
    pub(super) fn push(&mut self, offer: Offer) -> bool {
        let bytes = self.bytes + offer.bytes();
        if bytes > MAX_BYTES {
            return false;
        }
        self.bytes = bytes;
        self.offers.push_back(offer);
        true
    }

    /// The oldest offer.
    pub(super) fn pop(&mut self) -> Option<Offer> {
        let offer = self.offers.pop_front()?;
        self.bytes -= offer.bytes();
        Some(offer)
    }

    /// Keeps a member of `offer`, which was refused for a reason that can pass.
    pub(super) fn postpone(&mut self, offer: &Offer, member: Bytes) {
        let bytes = self.later_bytes + member.len();
        if offer.tries < MAX_TRIES && bytes <= MAX_LATER_BYTES {
            self.later_bytes = bytes;
            self.later.push(Offer {
                members: vec![member],
                bundle: None,
                tries: offer.tries + 1,
            });
        }
    }

    /// A block was committed: what was postponed is looked at again.
    pub(super) fn next_block(&mut self) {
        self.later_bytes = 0;
        for offer in std::mem::take(&mut self.later) {
            self.push(offer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(bytes: usize) -> Offer {
        Offer::new(vec![vec![1; bytes].into()], None)
    }

    #[test]
    fn offers_wait_in_line_and_within_bounds() {
        let mut inbox = Inbox::default();
        assert!(inbox.push(offer(1)) && inbox.push(offer(MAX_BYTES - 1)));
        assert!(!inbox.push(offer(1)));
        assert_eq!(inbox.pop(), Some(offer(1)));
        assert!(inbox.push(offer(1)) && !inbox.push(offer(1)));
        assert_eq!(inbox.pop(), Some(offer(MAX_BYTES - 1)));
        assert_eq!((inbox.pop(), inbox.pop()), (Some(offer(1)), None));
        assert_eq!(inbox.bytes, 0);
    }

    #[test]
    fn what_can_pass_is_tried_for_a_few_blocks() {
        let mut inbox = Inbox::default();
        let mut offer = offer(1);
        for _ in 0..MAX_TRIES {
            inbox.postpone(&offer, offer.members[0].clone());
            assert_eq!(inbox.pop(), None, "not before the next block");
            inbox.next_block();
            offer = inbox.pop().unwrap();
        }
        inbox.postpone(&offer, offer.members[0].clone());
        inbox.next_block();
        assert_eq!(inbox.pop(), None);
        let large = Offer::new(vec![], None);
        for _ in 0..20 {
            inbox.postpone(&large, vec![0; 1 << 20].into());
        }
        assert_eq!(inbox.later.len(), MAX_LATER_BYTES >> 20);
    }
}
