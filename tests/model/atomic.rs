//! Scheduling and release of atomic bundles (`docs/spec/atomic.md`), for a few bundles, rollups and
//! slots: can one leg ever run without the others?
//!
//! The chain itself is taken for granted: a block is decided once, and validators apply the rules.
//! Everything else may go wrong. Proposers omit what they could release, users call bundles off, attesters
//! crash between writing and signing or refuse by their own policy, liars sign anything, keys that were retired are
//! sold, and anybody orders a leg alone as soon as its bytes are known. Whether a leg would succeed
//! changes from slot to slot. Each rule can be taken away, and then the model shows what for it is
//! there.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Checker, HasDiscoveries, Model, Property};

/// The rules that keep bundles whole.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// A release goes by votes on the state that its own slot starts from (R1, R2).
    pin: bool,
    /// Only the attesters of the current epoch count (R2).
    epoch: bool,
    /// The user's own attester must agree (R3).
    extra: bool,
    /// A release stands at the opening of its slot, where the legs run first (R1).
    at_opening: bool,
    /// A slot of a rollup holds one bundle.
    exclusive: bool,
    /// Leg bytes are handed out only after the seal is ordered.
    seal_before_reveal: bool,
    /// What is sealed runs nowhere but in its release, also after the bundle has ended.
    sealed_for_ever: bool,
    /// An attester writes down what it will sign, and reads it again after a crash.
    write_before_sign: bool,
}

impl Rules {
    const ALL: Self = Self {
        pin: true,
        epoch: true,
        extra: true,
        at_opening: true,
        exclusive: true,
        seal_before_reveal: true,
        sealed_for_ever: true,
        write_before_sign: true,
    };
}

/// One instance of the protocol.
#[derive(Clone, Debug)]
struct Protocol {
    rules: Rules,
    /// The rollups that each bundle touches.
    bundles: Vec<Vec<u8>>,
    /// Slots that are opened.
    slots: u8,
    /// Honest attesters of each rollup.
    honest: u8,
    /// Attesters of each rollup that sign anything.
    liars: u8,
    /// Votes that decide for a rollup.
    threshold: u8,
    /// Whether each bundle names an honest attester of its own.
    extra: bool,
    /// Whether the attesters change once, and the retired keys are sold.
    rotation: bool,
}

/// A rollup's leg of a bundle.
type Leg = (u8, u8);

/// What an honest attester knows of one leg and pin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Record {
    written: Option<bool>,
    signed_commit: bool,
    signed_abort: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    #[default]
    Hidden,
    Waiting,
    Released,
    Aborted,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Bundle {
    stage: Stage,
    sealed: bool,
    revealed: bool,
    /// Where its legs have run: rollup, slot, and whether with success.
    ran: BTreeSet<(u8, u8, bool)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    slot: u8,
    rotated: bool,
    bundles: Vec<Bundle>,
    /// Bundles that may be released at the next opening.
    scheduled: BTreeSet<u8>,
    /// Legs that succeed on the state that the next opening starts from.
    succeeding: BTreeSet<Leg>,
    /// By slot, leg and attester; the user's own is the last attester.
    records: BTreeMap<(u8, Leg, u8), Record>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Seal(u8),
    Reveal(u8),
    /// Somebody orders a leg by itself.
    OrderAlone(Leg),
    Write(Leg, u8, bool),
    Sign(Leg, u8),
    /// An attester forgets all that is not on disk.
    Crash(Leg, u8),
    /// An opening: what the proposer releases, what it proves aborted, and what succeeds after it.
    Open {
        release: BTreeSet<u8>,
        abort: BTreeSet<u8>,
        succeeding: BTreeSet<Leg>,
    },
    /// A release at a height that opens nothing.
    ReleaseLate(u8),
    /// A bundle ends that no slot is taken up by: it is called off, or its time is over.
    End(u8),
    Rotate,
}

impl Protocol {
    fn new(rules: Rules) -> Self {
        Self {
            rules,
            bundles: vec![vec![0, 1]],
            slots: 3,
            honest: 1,
            liars: 1,
            threshold: 2,
            extra: false,
            rotation: false,
        }
    }

    fn ids(&self) -> impl Iterator<Item = u8> + use<> {
        0..u8::try_from(self.bundles.len()).unwrap()
    }

    fn touched(&self, bundle: u8) -> &[u8] {
        &self.bundles[usize::from(bundle)]
    }

    fn legs(&self, bundle: u8) -> impl Iterator<Item = Leg> + '_ {
        let leg = move |rollup: &u8| (bundle, *rollup);
        self.touched(bundle).iter().map(leg)
    }

    /// The honest attesters of a leg.
    fn attesters(&self) -> std::ops::Range<u8> {
        0..self.honest + u8::from(self.extra)
    }

    /// The attesters of a rollup, without the user's own.
    fn set(&self) -> std::ops::Range<u8> {
        0..self.honest
    }

    /// What may be released at the next opening, oldest first.
    fn schedule(&self, bundles: &[Bundle]) -> BTreeSet<u8> {
        let (mut scheduled, mut busy) = (BTreeSet::new(), BTreeSet::<u8>::new());
        for id in self.ids() {
            let bundle = &bundles[usize::from(id)];
            let ready = bundle.stage == Stage::Waiting && bundle.revealed;
            let free = self.touched(id).iter().all(|rollup| !busy.contains(rollup));
            if ready && (free || !self.rules.exclusive) {
                scheduled.insert(id);
                busy.extend(self.touched(id));
            }
        }
        scheduled
    }

    /// Whether votes exist that release a bundle at the next opening. Liars vote for everything.
    fn may_release(&self, state: &State, id: u8) -> bool {
        let has = |leg: Leg, attester: u8| {
            let pins = if self.rules.pin { state.slot } else { 0 }..=state.slot;
            let signed = |slot| state.records.get(&(slot, leg, attester));
            pins.filter_map(signed).any(|record| record.signed_commit)
        };
        let retired = if state.rotated && !self.rules.epoch {
            self.honest
        } else {
            0
        };
        self.legs(id).all(|leg| {
            let honest = self.set().filter(|attester| has(leg, *attester)).count();
            let votes = u8::try_from(honest).unwrap() + self.liars + retired;
            let extra = !(self.extra && self.rules.extra) || has(leg, self.honest);
            votes >= self.threshold && extra
        })
    }

    /// Whether votes exist that end a bundle: a quorum of one rollup.
    fn may_abort(&self, state: &State, id: u8) -> bool {
        self.legs(id).any(|leg| {
            let signed = |attester| state.records.get(&(state.slot, leg, attester));
            let aborts = self.set().filter_map(signed);
            let honest = aborts.filter(|record| record.signed_abort).count();
            u8::try_from(honest).unwrap() + self.liars >= self.threshold
        })
    }

    fn subsets<T: Copy + Ord>(all: impl IntoIterator<Item = T>) -> Vec<BTreeSet<T>> {
        all.into_iter()
            .fold(vec![BTreeSet::new()], |mut subsets, one| {
                let with = |subset: &BTreeSet<T>| subset.iter().copied().chain([one]).collect();
                subsets.extend(subsets.iter().map(with).collect::<Vec<_>>());
                subsets
            })
    }

    fn openings(&self, state: &State, actions: &mut Vec<Action>) {
        let scheduled = || state.scheduled.iter().copied();
        let releases = Self::subsets(scheduled().filter(|id| self.may_release(state, *id)));
        let aborts = Self::subsets(scheduled().filter(|id| self.may_abort(state, *id)));
        let last = state.slot + 1 == self.slots;
        let worlds = if last {
            vec![BTreeSet::new()]
        } else {
            Self::subsets(self.ids().flat_map(|id| self.legs(id)))
        };
        for release in &releases {
            for abort in aborts.iter().filter(|abort| abort.is_disjoint(release)) {
                for succeeding in &worlds {
                    actions.push(Action::Open {
                        release: release.clone(),
                        abort: abort.clone(),
                        succeeding: succeeding.clone(),
                    });
                }
            }
        }
    }

    /// Runs all legs of a bundle. One bundle's legs change the state that another's were tried on, so
    /// the second on a rollup fails; so does one that does not run first.
    fn run(&self, state: &mut State, id: u8, first: bool) {
        let taken = |rollup: u8| {
            let ran = state.bundles.iter().flat_map(|bundle| &bundle.ran);
            ran.into_iter()
                .any(|(at, slot, _)| (*at, *slot) == (rollup, state.slot))
        };
        let ran: Vec<_> = self
            .legs(id)
            .map(|leg| {
                let alone = first && !taken(leg.1);
                (leg.1, state.slot, alone && state.succeeding.contains(&leg))
            })
            .collect();
        let bundle = &mut state.bundles[usize::from(id)];
        bundle.ran.extend(ran);
        bundle.stage = Stage::Released;
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let worlds = Self::subsets(self.ids().flat_map(|id| self.legs(id)));
        let state = |succeeding| State {
            slot: 0,
            rotated: false,
            bundles: vec![Bundle::default(); self.bundles.len()],
            scheduled: BTreeSet::new(),
            succeeding,
            records: BTreeMap::new(),
        };
        worlds.into_iter().map(state).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.slot == self.slots {
            return;
        }
        for id in self.ids() {
            let bundle = &state.bundles[usize::from(id)];
            if !bundle.sealed {
                actions.push(Action::Seal(id));
            }
            if !bundle.revealed && (bundle.sealed || !self.rules.seal_before_reveal) {
                actions.push(Action::Reveal(id));
            }
            if bundle.stage == Stage::Waiting && !state.scheduled.contains(&id) {
                actions.push(Action::End(id));
            }
            let ended = matches!(bundle.stage, Stage::Aborted);
            let is_free = !bundle.sealed || (ended && !self.rules.sealed_for_ever);
            if bundle.revealed && is_free {
                actions.extend(self.legs(id).map(Action::OrderAlone));
            }
            let late = state.scheduled.contains(&id) && self.may_release(state, id);
            if late && !self.rules.at_opening {
                actions.push(Action::ReleaseLate(id));
            }
        }
        for leg in state.scheduled.iter().flat_map(|id| self.legs(*id)) {
            for attester in self.attesters() {
                let record = state.records.get(&(state.slot, leg, attester)).copied();
                match record.unwrap_or_default() {
                    Record { written: None, .. } => {
                        actions.push(Action::Write(leg, attester, false));
                        if state.succeeding.contains(&leg) {
                            actions.push(Action::Write(leg, attester, true));
                        }
                    }
                    _ => {
                        actions.push(Action::Sign(leg, attester));
                        actions.push(Action::Crash(leg, attester));
                    }
                }
            }
        }
        if self.rotation && !state.rotated {
            actions.push(Action::Rotate);
        }
        self.openings(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Seal(id) => {
                let bundle = &mut state.bundles[usize::from(id)];
                (bundle.sealed, bundle.stage) = (true, Stage::Waiting);
            }
            Action::Reveal(id) => state.bundles[usize::from(id)].revealed = true,
            Action::OrderAlone((id, rollup)) => {
                let ran = (rollup, state.slot, true);
                state.bundles[usize::from(id)].ran.insert(ran);
            }
            Action::Write(leg, attester, commit) => {
                let record = state
                    .records
                    .entry((state.slot, leg, attester))
                    .or_default();
                record.written = Some(commit);
            }
            Action::Sign(leg, attester) => {
                let record = state.records.get_mut(&(state.slot, leg, attester))?;
                match record.written? {
                    true => record.signed_commit = true,
                    false => record.signed_abort = true,
                }
            }
            Action::Crash(leg, attester) => {
                let record = state.records.get_mut(&(state.slot, leg, attester))?;
                record.written = record.written.filter(|_| self.rules.write_before_sign);
            }
            Action::ReleaseLate(id) => {
                self.run(&mut state, id, false);
                state.scheduled.remove(&id);
            }
            Action::End(id) => state.bundles[usize::from(id)].stage = Stage::Aborted,
            Action::Rotate => state.rotated = true,
            Action::Open {
                release,
                abort,
                succeeding,
            } => {
                for id in release {
                    self.run(&mut state, id, true);
                }
                for id in abort {
                    state.bundles[usize::from(id)].stage = Stage::Aborted;
                }
                state.slot += 1;
                state.succeeding = succeeding;
                // What was not signed in time never is: its pin is gone.
                state.records.retain(|_, record| {
                    record.written = None;
                    *record != Record::default()
                });
                state.scheduled = self.schedule(&state.bundles);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(WHOLE, |model: &Self, state: &State| {
                model.ids().all(|id| model.is_whole(state, id))
            }),
            Property::always(ONE_WORD, |_, state: &State| {
                let twice = |record: &Record| record.signed_commit && record.signed_abort;
                !state.records.values().any(twice)
            }),
            Property::sometimes("a bundle is released", |_, state: &State| {
                let released = |bundle: &Bundle| bundle.stage == Stage::Released;
                state.bundles.iter().any(released)
            }),
            Property::sometimes("a bundle is aborted", |_, state: &State| {
                let aborted = |bundle: &Bundle| bundle.stage == Stage::Aborted;
                state.bundles.iter().any(aborted)
            }),
        ]
    }
}

const WHOLE: &str = "all legs run with success in one slot, or none runs";
const ONE_WORD: &str = "an honest attester never signs two outcomes for one pin";

impl Protocol {
    fn is_whole(&self, state: &State, id: u8) -> bool {
        let ran = &state.bundles[usize::from(id)].ran;
        let Some((_, slot, _)) = ran.first() else {
            return true;
        };
        let all = self.touched(id).iter().map(|rollup| (*rollup, *slot, true));
        *ran == all.collect()
    }
}

/// Visits every state; nothing may be broken, and both ends are reached.
fn holds(protocol: Protocol) {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

/// Without a rule, some way breaks what it is for.
#[track_caller]
fn breaks(protocol: Protocol, property: &'static str) {
    let checker = protocol.checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    assert!(checker.discovery(property).is_some(), "nothing breaks");
}

#[test]
fn one_bundle_is_whole_whatever_goes_wrong() {
    holds(Protocol {
        slots: 4,
        rotation: true,
        ..Protocol::new(Rules::ALL)
    });
}

#[test]
fn a_quorum_of_two_honest_attesters_changes_nothing() {
    holds(Protocol {
        honest: 2,
        ..Protocol::new(Rules::ALL)
    });
}

#[test]
fn a_bundle_of_three_rollups_is_whole() {
    holds(Protocol {
        bundles: vec![vec![0, 1, 2]],
        slots: 3,
        ..Protocol::new(Rules::ALL)
    });
}

#[test]
fn two_liars_of_five_decide_nothing() {
    holds(Protocol {
        honest: 3,
        liars: 2,
        threshold: 3,
        slots: 2,
        ..Protocol::new(Rules::ALL)
    });
}

#[test]
fn bundles_that_share_a_rollup_are_whole() {
    holds(Protocol {
        bundles: vec![vec![0, 1], vec![1, 2]],
        ..Protocol::new(Rules::ALL)
    });
}

#[test]
fn an_attester_of_ones_own_outweighs_every_liar() {
    let lost = Protocol {
        liars: 2,
        ..Protocol::new(Rules::ALL)
    };
    breaks(lost.clone(), WHOLE);
    holds(Protocol {
        extra: true,
        ..lost.clone()
    });
    let rules = Rules {
        extra: false,
        ..Rules::ALL
    };
    breaks(
        Protocol {
            extra: true,
            rules,
            ..lost
        },
        WHOLE,
    );
}

#[test]
fn no_rule_can_be_spared() {
    let without = |change: fn(&mut Rules)| {
        let mut rules = Rules::ALL;
        change(&mut rules);
        Protocol {
            rotation: true,
            ..Protocol::new(rules)
        }
    };
    breaks(without(|rules| rules.pin = false), WHOLE);
    breaks(without(|rules| rules.epoch = false), WHOLE);
    breaks(without(|rules| rules.at_opening = false), WHOLE);
    breaks(without(|rules| rules.seal_before_reveal = false), WHOLE);
    breaks(without(|rules| rules.sealed_for_ever = false), WHOLE);
    breaks(without(|rules| rules.write_before_sign = false), ONE_WORD);
    let shared = Protocol {
        bundles: vec![vec![0, 1], vec![1, 2]],
        slots: 2,
        rotation: false,
        ..without(|rules| rules.exclusive = false)
    };
    breaks(shared, WHOLE);
}
