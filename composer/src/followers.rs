//! Who waits for something to become of one of very many things, each woken for its own.

use std::{collections::HashMap, hash::Hash};

use tokio::sync::watch;

/// Entries before those that nobody follows any more are looked for.
const SWEEP_AT: usize = 64;

/// Followers by what they follow. Nobody is waited for.
#[derive(Debug)]
pub(crate) struct Followers<K> {
    followed: HashMap<K, watch::Sender<()>>,
    sweep_at: usize,
}

impl<K> Default for Followers<K> {
    fn default() -> Self {
        Self {
            followed: HashMap::new(),
            sweep_at: SWEEP_AT,
        }
    }
}

impl<K: Eq + Hash> Followers<K> {
    /// Wakes whenever something becomes of `key`.
    pub(crate) fn follow(&mut self, key: K) -> watch::Receiver<()> {
        if self.followed.len() >= self.sweep_at {
            let is_followed = |_: &K, sender: &mut watch::Sender<()>| sender.receiver_count() > 0;
            self.followed.retain(is_followed);
            self.sweep_at = SWEEP_AT.max(2 * self.followed.len());
        }
        self.followed.entry(key).or_default().subscribe()
    }

    /// Wakes who follows `key`.
    pub(crate) fn changed(&self, key: &K) {
        if let Some(sender) = self.followed.get(key) {
            sender.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_woken_for_its_own_and_forgotten_when_it_is_gone() {
        let mut followers = Followers::default();
        let one = followers.follow(1);
        let other = followers.follow(2);
        followers.changed(&1);
        assert!(one.has_changed().unwrap() && !other.has_changed().unwrap());
        for key in 3..10_000 {
            drop(followers.follow(key));
        }
        assert!(followers.followed.len() < 2 * SWEEP_AT);
        followers.changed(&2);
        assert!(other.has_changed().unwrap());
    }
}
