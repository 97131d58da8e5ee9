//! The order in which CometBFT may call: the grammar of ABCI 2.0.
//!
//! ```text
//! start ─┬─ Info ─┬─ InitChain ──────────┬─▶ height: ( PrepareProposal | ProcessProposal | ExtendVote
//!        │        └─ (the app has state) ┤           | VerifyVoteExtension )* FinalizeBlock Commit
//!        └─ (OfferSnapshot Chunk*)+ Info ┘           └──────────────── again, one higher ──────────┘
//! ```
//! Rounds have no end mark and the specification derives each of their calls alone, so any mixture
//! of them is some sequence of rounds. Heights, which the grammar leaves out, are checked too: they
//! follow one another without a gap, also over a crash. What may come at any time (Echo, Flush,
//! Query, CheckTx, InsertTx, ReapTxs, ListSnapshots, LoadSnapshotChunk) is not part of it; Info is
//! allowed anywhere, as an RPC call causes one.
//!
//! # Specification
//! CometBFT v0.40.0, `spec/abci/abci++_comet_expected_behavior.md`.

use counterpoint_abci::proto::abci::{request, response};

/// One call of CometBFT and what of its answer the grammar depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The app says which height it has committed.
    Info {
        committed: u64,
    },
    InitChain {
        initial: u64,
    },
    OfferSnapshot {
        height: u64,
    },
    ApplySnapshotChunk,
    PrepareProposal {
        height: u64,
    },
    ProcessProposal {
        height: u64,
    },
    ExtendVote {
        height: u64,
    },
    VerifyVoteExtension {
        height: u64,
    },
    FinalizeBlock {
        height: u64,
    },
    Commit,
}

impl Call {
    /// Reads a request, if the grammar speaks of it. What Info says is known by its answer only.
    pub(crate) fn of(request: &request::Value) -> Option<Self> {
        use request::Value;
        let height = |height: i64| u64::try_from(height).unwrap();
        Some(match request {
            Value::Info(_) => Self::Info { committed: 0 },
            Value::InitChain(request) => Self::InitChain {
                initial: height(request.initial_height),
            },
            Value::OfferSnapshot(request) => Self::OfferSnapshot {
                height: request.snapshot.as_ref().unwrap().height,
            },
            Value::ApplySnapshotChunk(_) => Self::ApplySnapshotChunk,
            Value::PrepareProposal(request) => Self::PrepareProposal {
                height: height(request.height),
            },
            Value::ProcessProposal(request) => Self::ProcessProposal {
                height: height(request.height),
            },
            Value::ExtendVote(request) => Self::ExtendVote {
                height: height(request.height),
            },
            Value::VerifyVoteExtension(request) => Self::VerifyVoteExtension {
                height: height(request.height),
            },
            Value::FinalizeBlock(request) => Self::FinalizeBlock {
                height: height(request.height),
            },
            Value::Commit(_) => Self::Commit,
            _ => return None,
        })
    }
}

/// A call in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) call: Call,
    /// Whether the answer went out before something died.
    pub(crate) answered: bool,
}

impl Recorded {
    pub(crate) fn answer(&mut self, response: &response::Value) {
        self.answered = true;
        if let (Call::Info { committed }, response::Value::Info(info)) = (&mut self.call, response)
        {
            *committed = u64::try_from(info.last_block_height).unwrap();
        }
    }
}

/// Where a recording leaves the grammar.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    session: usize,
    place: usize,
    state: State,
    call: Call,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    /// Info was answered.
    Greeted {
        committed: u64,
    },
    /// A snapshot was offered, and perhaps refused.
    Offered {
        height: u64,
    },
    /// At least one chunk came.
    Applying {
        height: u64,
    },
    /// Rounds of a height.
    Height(u64),
    Finalized(u64),
}

impl State {
    /// The state after a call, or nothing if it may not come here.
    fn next(self, call: Call) -> Option<Self> {
        use Call as C;
        Some(match (self, call) {
            (Self::Start, C::Info { committed }) => Self::Greeted { committed },
            (
                Self::Start | Self::Offered { .. } | Self::Applying { .. },
                C::OfferSnapshot { height },
            ) => Self::Offered { height },
            (Self::Offered { height } | Self::Applying { height }, C::ApplySnapshotChunk) => {
                Self::Applying { height }
            }
            (Self::Applying { height }, C::Info { committed }) if committed == height => {
                Self::Height(height + 1)
            }
            (state, C::Info { .. }) => state,
            (Self::Greeted { committed: 0 }, C::InitChain { initial }) => Self::Height(initial),
            (Self::Greeted { committed: 1.. }, C::InitChain { .. }) => return None,
            (Self::Greeted { committed }, call) if committed > 0 => {
                return Self::Height(committed + 1).next(call);
            }
            (
                Self::Height(now),
                C::PrepareProposal { height }
                | C::ProcessProposal { height }
                | C::ExtendVote { height }
                | C::VerifyVoteExtension { height },
            ) if height == now => self,
            (Self::Height(now), C::FinalizeBlock { height }) if height == now => {
                Self::Finalized(now)
            }
            (Self::Finalized(now), C::Commit) => Self::Height(now + 1),
            _ => return None,
        })
    }
}

/// Checks the calls between starts of CometBFT or the app, each of which may have been cut short.
/// Over a crash, what a Commit answered must still be there, but for the last one's block: it is
/// written after the answer, and CometBFT has it.
pub(crate) fn check(sessions: &[Vec<Recorded>]) -> Result<(), Violation> {
    let (mut durable, mut decided) = (0, 0);
    for (session, calls) in sessions.iter().enumerate() {
        let mut state = State::Start;
        for (place, recorded) in calls.iter().enumerate() {
            let call = recorded.call;
            if let Call::Info { .. } = call
                && !recorded.answered
            {
                continue;
            }
            let violation = Violation {
                session,
                place,
                state,
                call,
            };
            if let (State::Start, Call::Info { committed }) = (state, call)
                && !(durable..=decided).contains(&committed)
            {
                return Err(violation);
            }
            let next = state.next(call).ok_or(violation)?;
            match (state, next) {
                (_, State::Finalized(height)) => decided = height,
                (State::Finalized(height), _) if recorded.answered => durable = height - 1,
                (State::Applying { height }, State::Height(_)) => {
                    (durable, decided) = (height, height);
                }
                _ => {}
            }
            state = next;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(committed: u64) -> Call {
        Call::Info { committed }
    }

    /// A height of one round.
    fn height(height: u64) -> [Call; 3] {
        let finalize = Call::FinalizeBlock { height };
        [Call::ProcessProposal { height }, finalize, Call::Commit]
    }

    const INIT: Call = Call::InitChain { initial: 1 };

    fn answered(calls: &[Call]) -> Vec<Recorded> {
        let answered = true;
        let recorded = |call: &Call| Recorded {
            call: *call,
            answered,
        };
        calls.iter().map(recorded).collect()
    }

    fn clean_start(heights: u64) -> Vec<Call> {
        [info(0), INIT]
            .into_iter()
            .chain((1..=heights).flat_map(height))
            .collect()
    }

    #[track_caller]
    fn check_sessions(sessions: &[&[Call]], expect: Result<(), (usize, usize)>) {
        let sessions: Vec<_> = sessions.iter().map(|calls| answered(calls)).collect();
        let actual = check(&sessions);
        let actual = actual.map_err(|violation| (violation.session, violation.place));
        assert_eq!(actual, expect);
    }

    #[track_caller]
    fn accepts(calls: &[Call]) {
        check_sessions(&[calls], Ok(()));
    }

    #[track_caller]
    fn refuses_last(calls: &[Call]) {
        accepts(&calls[..calls.len() - 1]);
        check_sessions(&[calls], Err((0, calls.len() - 1)));
    }

    #[test]
    fn clean_starts() {
        accepts(&[]);
        accepts(&clean_start(3));
        accepts(&[info(0), info(0), INIT, info(0)]);
        refuses_last(&[INIT]);
        refuses_last(&[info(0), Call::ProcessProposal { height: 1 }]);
        refuses_last(&[info(0), INIT, INIT]);
        refuses_last(&[Call::Commit]);
    }

    #[test]
    fn a_height_has_any_rounds_and_one_end() {
        let (prepare, process) = (
            Call::PrepareProposal { height: 1 },
            Call::ProcessProposal { height: 1 },
        );
        let (extend, verify) = (
            Call::ExtendVote { height: 1 },
            Call::VerifyVoteExtension { height: 1 },
        );
        let finalize = Call::FinalizeBlock { height: 1 };
        let rounds = [
            info(0),
            INIT,
            verify,
            prepare,
            process,
            extend,
            verify,
            process,
            finalize,
        ];
        accepts(&[&rounds[..], &[info(0), Call::Commit]].concat());
        refuses_last(&[&rounds[..], &[finalize]].concat());
        refuses_last(&[&rounds[..], &[process]].concat());
        refuses_last(&[&rounds[..], &[Call::Commit, Call::Commit]].concat());
        refuses_last(&[&rounds[..], &[Call::Commit, process]].concat());
        refuses_last(&[info(0), INIT, Call::FinalizeBlock { height: 2 }]);
    }

    #[test]
    fn recoveries() {
        let replayed = [&[info(2)][..], &height(3), &height(4)].concat();
        check_sessions(&[&clean_start(3)[..7], &[info(1)]], Ok(()));
        check_sessions(&[&clean_start(3)[..7], &[info(0)]], Ok(()));
        check_sessions(&[&clean_start(4), &[info(2)]], Err((1, 0)));
        check_sessions(&[&clean_start(2), &replayed[..1]], Ok(()));
        check_sessions(&[&clean_start(2), &[info(3)]], Err((1, 0)));
        check_sessions(&[&clean_start(2), &replayed, &[info(4)]], Ok(()));
        check_sessions(&[&clean_start(2), &replayed, &[info(2)]], Err((2, 0)));
        check_sessions(&[&clean_start(2), &[info(2), INIT]], Err((1, 1)));
        // The app died before it wrote anything down.
        check_sessions(&[&[info(0), INIT], &clean_start(1)], Ok(()));
        check_sessions(&[&clean_start(2), &[info(2), height(4)[0]]], Err((1, 1)));
    }

    #[test]
    fn a_commit_without_an_answer_may_have_happened() {
        let mut first = answered(&clean_start(2));
        first.last_mut().unwrap().answered = false;
        for (committed, expect) in [(0, true), (1, true), (2, true), (3, false)] {
            let sessions = [first.clone(), answered(&[info(committed)])];
            assert_eq!(check(&sessions).is_ok(), expect, "{committed}");
        }
    }

    #[test]
    fn state_sync() {
        let (offer, chunk) = (Call::OfferSnapshot { height: 7 }, Call::ApplySnapshotChunk);
        let other = Call::OfferSnapshot { height: 5 };
        let synced = [other, other, chunk, offer, chunk, chunk, info(7)];
        accepts(&[&synced[..], &height(8), &height(9)].concat());
        check_sessions(&[&synced, &[info(7)]], Ok(()));
        check_sessions(&[&synced, &[info(6)]], Err((1, 0)));
        refuses_last(&[&synced[..], &[chunk]].concat());
        refuses_last(&[&synced[..], &[INIT]].concat());
        refuses_last(&[chunk]);
        refuses_last(&[offer, Call::ProcessProposal { height: 8 }]);
        refuses_last(&[info(0), INIT, offer]);
        // The app restored something else than it was offered.
        refuses_last(&[offer, chunk, info(6), Call::FinalizeBlock { height: 7 }]);
    }
}
