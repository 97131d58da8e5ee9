//! What is done to mailbox and token, block by block, and what must become of each call: one list for
//! every machine that executes it. The blocks are those of [`HERE`], one after another on one state.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolError, SolValue};

use self::{
    bindings::AtomicToken::{
        InsufficientAllowance, InsufficientBalance, InvalidReceiver, UnknownRollup, UnknownSender,
        approveCall, balanceOfCall, burnCall, mintCall, totalSupplyCall, transferCall,
        transferFromCall,
    },
    people::{ALICE, BOB},
};
use crate::{
    Caller, DEPLOYER,
    IAtomicMailbox::{
        InboxEmpty, NoTicket, NotCaller, NotNext, NotOpen, NotReceiver, OwnRollup, SessionUsed,
        Unread, closeCall, openCall, receiveMessageCall, sendCall, sessionIdCall,
    },
    MAILBOX, MAILBOX_INIT_CODE, Message, SALT, TOKEN_INIT_CODE,
};

mod bindings {
    alloy_sol_types::sol! {
        interface AtomicToken {
            error InsufficientAllowance(address spender, uint256 allowance);
            error InsufficientBalance(address account, uint256 balance);
            error InvalidReceiver();
            error UnknownRollup(bytes32 rollupId);
            error UnknownSender(address sender);

            function burn(bytes32 session, bytes32 dst, address to, uint256 amount) external;
            function mint((bytes32, bytes32, uint64, address, address, bytes) message) external;
            function transfer(address to, uint256 amount) external returns (bool moved);
            function approve(address spender, uint256 amount) external returns (bool approved);
            function transferFrom(address from, address to, uint256 amount)
                external
                returns (bool moved);
            function balanceOf(address account) external view returns (uint256 balance);
            function totalSupply() external view returns (uint256 supply);
        }
    }
}

/// Who sends transactions, by place among the addresses that the list is made for.
mod people {
    pub(super) const ALICE: usize = 0;
    pub(super) const BOB: usize = 1;
}

/// How many accounts send transactions.
pub const PEOPLE: usize = 2;
/// The rollup whose blocks these are.
pub const HERE: B256 = B256::repeat_byte(0x11);
/// Its EVM chain id.
pub const CHAIN_ID: u64 = 413_000;
/// Another one of every session.
pub const THERE: B256 = B256::repeat_byte(0x22);
/// One that no token lives on.
const ELSEWHERE: B256 = B256::repeat_byte(0x33);
/// The sequencer's chain id.
const SEQUENCER: &str = "counterpoint-1";
/// What the token begins with, all of it Alice's.
const SUPPLY: u64 = 1_000;

/// A transaction, and what must become of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// The sender's place.
    pub from: usize,
    /// The contract that it calls.
    pub to: Address,
    /// Its input.
    pub input: Bytes,
    /// What the call returns, or what it reverts with.
    pub outcome: Result<Bytes, Bytes>,
}

/// The transactions of a block.
#[derive(Clone, Debug)]
pub struct Block {
    /// What the block carries as its parent beacon block root.
    pub beacon_root: B256,
    /// One after another.
    pub calls: Vec<Call>,
}

/// Some blocks that belong together.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it shows.
    pub name: &'static str,
    /// One after another.
    pub blocks: Vec<Block>,
}

/// A bundle's session, as its block on [`HERE`] sees it.
#[derive(Clone, Debug)]
pub struct Session {
    /// The sequencer's chain id.
    pub sequencer: &'static str,
    /// The rollup that it is opened on.
    pub rollup: B256,
    /// Its salt.
    pub salt: B256,
    /// Who opens it where.
    pub callers: Vec<Caller>,
    /// The hashes of the messages to the rollup.
    pub inbox: Vec<B256>,
}

impl Session {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> B256 {
        keccak256((self.salt, self.callers.clone()).abi_encode_params())
    }

    /// The beacon root of a block that it is released in.
    #[must_use]
    pub fn ticket(&self) -> B256 {
        let parts = (
            "COUNTERPOINT_TICKET_V1".to_owned(),
            keccak256(self.sequencer),
            self.rollup,
            self.id(),
            keccak256(self.inbox.concat()),
        );
        keccak256(parts.abi_encode_params())
    }

    /// The call that opens it.
    #[must_use]
    pub fn open(&self) -> openCall {
        openCall {
            chainIdHash: keccak256(self.sequencer),
            rollupId: self.rollup,
            salt: self.salt,
            callers: self.callers.clone(),
            inbox: self.inbox.clone(),
        }
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }

    fn block(&self, calls: impl Into<Vec<Call>>) -> Block {
        Block {
            beacon_root: self.ticket(),
            calls: calls.into(),
        }
    }

    fn receipts(&self, from: usize, messages: &[Message]) -> Vec<Call> {
        let receive = |message: &Message| returns(from, MAILBOX, &receive(message), &().into());
        messages.iter().map(receive).collect()
    }

    fn sends(&self, from: usize, receiver: Address, data: &[u8], index: u64) -> Call {
        returns(from, MAILBOX, &self.send(THERE, receiver, data), &index)
    }

    fn send(&self, dst: B256, receiver: Address, data: &[u8]) -> sendCall {
        sendCall {
            session: self.id(),
            dst,
            receiver,
            data: Bytes::copy_from_slice(data),
        }
    }

    fn opens(&self, from: usize) -> Call {
        returns(from, MAILBOX, &self.open(), &self.id())
    }

    fn burn(&self, dst: B256, to: Address, amount: u64) -> burnCall {
        burnCall {
            session: self.id(),
            dst,
            to,
            amount: U256::from(amount),
        }
    }
}

/// The hash of a message.
#[must_use]
pub fn message_hash(message: &Message) -> B256 {
    let parts = (
        message.src,
        message.dst,
        U256::from(message.index),
        message.sender,
        message.receiver,
        keccak256(&message.data),
    );
    keccak256(parts.abi_encode_params())
}

/// The list.
#[must_use]
pub fn all(people: [Address; PEOPLE]) -> Vec<Scenario> {
    let world = World {
        people,
        token: token(people),
    };
    world.scenarios()
}

/// Where the token is: what it starts with is part of what creates it.
#[must_use]
pub fn token(people: [Address; PEOPLE]) -> Address {
    DEPLOYER.create2_from_code(SALT, token_code(people))
}

fn token_code(people: [Address; PEOPLE]) -> Vec<u8> {
    let arguments = (
        MAILBOX,
        "Atomic".to_owned(),
        "ATM".to_owned(),
        vec![HERE, THERE],
        U256::from(CHAIN_ID),
        people[ALICE],
        U256::from(SUPPLY),
    );
    [TOKEN_INIT_CODE, &arguments.abi_encode_params()].concat()
}

struct World {
    people: [Address; PEOPLE],
    token: Address,
}

impl World {
    fn scenarios(&self) -> Vec<Scenario> {
        let scenario = |(name, blocks)| Scenario { name, blocks };
        let all = [
            ("deployment", self.deployment()),
            ("a whole session", self.whole()),
            ("a ticket of something else", self.other_tickets()),
            ("no ticket at all", self.no_ticket()),
            ("somebody else opens", self.other_callers()),
            ("a session is opened once", self.opened_once()),
            ("a session ends with its block", self.next_block()),
            ("a session is left open", self.left_open()),
            ("messages are left unread", self.unread()),
            ("messages are received in order, once", self.received_once()),
            ("a message is for its receiver", self.other_receiver()),
            ("a transaction is taken out of its bundle", self.extracted()),
            ("a message stays on its rollup", self.own_rollup()),
            ("only who opened it closes it", self.other_closes()),
            ("tokens are burnt and minted", self.token_moves()),
            ("tokens are burnt in vain", self.token_refuses_to_burn()),
            (
                "tokens are minted by strangers",
                self.token_refuses_to_mint(),
            ),
            ("tokens are handed on", self.token_spent()),
        ];
        all.map(scenario).into()
    }

    fn session(&self, name: &str, inbox: &[Message]) -> Session {
        let callers = [(HERE, self.people[ALICE]), (THERE, self.people[BOB])];
        Session {
            sequencer: SEQUENCER,
            rollup: HERE,
            salt: keccak256(name),
            callers: callers
                .map(|(rollup, caller)| Caller {
                    rollupId: rollup,
                    caller,
                })
                .into(),
            inbox: inbox.iter().map(message_hash).collect(),
        }
    }

    /// So many messages from there to Alice.
    fn letters(&self, count: u64) -> Vec<Message> {
        let letter = |index| Message {
            src: THERE,
            dst: HERE,
            index,
            sender: self.people[BOB],
            receiver: self.people[ALICE],
            data: index.to_be_bytes().repeat(5).into(),
        };
        (0..count).map(letter).collect()
    }

    /// Tokens that were burnt there.
    fn minted(&self, to: Address, amount: u64) -> Message {
        Message {
            src: THERE,
            dst: HERE,
            index: 0,
            sender: self.token,
            receiver: self.token,
            data: (to, U256::from(amount)).abi_encode_params().into(),
        }
    }

    fn balance(&self, who: usize, expected: u64) -> Call {
        let account = self.people[who];
        let call = balanceOfCall { account };
        returns(BOB, self.token, &call, &U256::from(expected))
    }

    fn supply(&self, expected: u64) -> Call {
        returns(BOB, self.token, &totalSupplyCall {}, &U256::from(expected))
    }

    /// The proxy creates both where they are expected.
    fn deployment(&self) -> Vec<Block> {
        let token_code = token_code(self.people);
        let created = [(MAILBOX_INIT_CODE, MAILBOX), (&token_code, self.token)];
        let create = |(code, address): (&[u8], Address)| Call {
            from: BOB,
            to: DEPLOYER,
            input: [SALT.as_slice(), code].concat().into(),
            outcome: Ok(address.to_vec().into()),
        };
        let mut calls: Vec<Call> = created.map(create).into();
        calls.push(self.balance(ALICE, SUPPLY));
        vec![ordinary(calls)]
    }

    fn whole(&self) -> Vec<Block> {
        let letters = self.letters(2);
        let session = self.session("whole", &letters);
        let mut calls = vec![
            session.opens(ALICE),
            returns(BOB, MAILBOX, &sessionIdCall {}, &session.id()),
            session.sends(ALICE, self.people[BOB], b"first", 0),
        ];
        calls.extend(session.receipts(ALICE, &letters));
        calls.extend([
            session.sends(BOB, self.token, b"", 1),
            closes(),
            reverts(BOB, MAILBOX, &sessionIdCall {}, &NotOpen {}),
            reverts(
                BOB,
                MAILBOX,
                &session.send(THERE, MAILBOX, b"late"),
                &NotOpen {},
            ),
            reverts(ALICE, MAILBOX, &closeCall {}, &NotOpen {}),
        ]);
        // Nothing to receive, nothing to send.
        let silent = self.session("silent", &[]);
        vec![
            session.block(calls),
            silent.block([silent.opens(ALICE), closes()]),
        ]
    }

    fn other_tickets(&self) -> Vec<Block> {
        let letters = self.letters(2);
        let session = self.session("other tickets", &letters);
        let others = [
            session.with(|other| other.salt = keccak256("another session")),
            session.with(|other| other.callers[1].caller = self.people[ALICE]),
            session.with(|other| other.callers.truncate(1)),
            session.with(|other| other.callers.reverse()),
            session.with(|other| other.sequencer = "counterpoint-2"),
            session.with(|other| other.inbox.clear()),
            session.with(|other| other.inbox.truncate(1)),
            session.with(|other| other.inbox.push(B256::ZERO)),
            session.with(|other| other.inbox.reverse()),
            session.with(|other| other.inbox[1] = keccak256("forged")),
        ];
        let mut calls: Vec<Call> = others.iter().map(no_ticket).collect();
        // Bob's turn is there, and this is not it.
        let there = session.with(|there| there.rollup = THERE);
        let expected = there.ticket();
        calls.push(reverts(BOB, MAILBOX, &there.open(), &NoTicket { expected }));
        calls.extend([session.opens(ALICE)]);
        calls.extend(session.receipts(ALICE, &letters));
        calls.push(closes());
        vec![session.block(calls), there.block([no_ticket(&session)])]
    }

    fn no_ticket(&self) -> Vec<Block> {
        let session = self.session("no ticket", &[]);
        let zero = Block {
            beacon_root: B256::ZERO,
            calls: vec![no_ticket(&session)],
        };
        vec![zero, ordinary([no_ticket(&session)])]
    }

    fn other_callers(&self) -> Vec<Block> {
        let session = self.session("other callers", &[]);
        let expected = self.people[ALICE];
        let calls = [
            reverts(BOB, MAILBOX, &session.open(), &NotCaller { expected }),
            session.opens(ALICE),
        ];
        // A session whose bundle does not touch this rollup, though a ticket says so.
        let nobody = self.session("nobody here", &[]);
        let nobody = nobody.with(|session| session.callers = session.callers.split_off(1));
        let expected = Address::ZERO;
        let nobody_opens = reverts(ALICE, MAILBOX, &nobody.open(), &NotCaller { expected });
        vec![session.block(calls), nobody.block([nobody_opens])]
    }

    fn opened_once(&self) -> Vec<Block> {
        let session = self.session("opened once", &[]);
        let used = SessionUsed {
            session: session.id(),
        };
        let again = reverts(ALICE, MAILBOX, &session.open(), &used);
        let first = [session.opens(ALICE), again.clone(), closes(), again.clone()];
        // No block has a ticket again; should one, it opens nothing.
        vec![session.block(first), session.block([again])]
    }

    fn next_block(&self) -> Vec<Block> {
        let letters = self.letters(1);
        let session = self.session("next block", &letters);
        let late = [
            reverts(BOB, MAILBOX, &sessionIdCall {}, &NotOpen {}),
            reverts(
                ALICE,
                MAILBOX,
                &session.send(THERE, MAILBOX, b""),
                &NotOpen {},
            ),
            reverts(ALICE, MAILBOX, &receive(&letters[0]), &NotOpen {}),
            reverts(ALICE, MAILBOX, &closeCall {}, &NotOpen {}),
            no_ticket(&session),
        ];
        vec![
            session.block([session.opens(ALICE)]),
            ordinary(late.clone()),
            // Even with the same ticket.
            session.block(late.into_iter().take(4).collect::<Vec<_>>()),
        ]
    }

    fn left_open(&self) -> Vec<Block> {
        let letters = self.letters(3);
        let abandoned = self.session("abandoned", &letters);
        let shorter = self.session("shorter", &letters[..1]);
        let mut left = vec![abandoned.opens(ALICE)];
        left.push(abandoned.sends(ALICE, MAILBOX, b"", 0));
        left.extend(abandoned.receipts(ALICE, &letters[..1]));
        let mut next = vec![shorter.opens(ALICE), shorter.sends(ALICE, MAILBOX, b"", 0)];
        next.extend(shorter.receipts(ALICE, &letters[..1]));
        next.extend([
            reverts(ALICE, MAILBOX, &receive(&letters[1]), &InboxEmpty {}),
            closes(),
        ]);
        vec![abandoned.block(left), shorter.block(next)]
    }

    fn unread(&self) -> Vec<Block> {
        let letters = self.letters(2);
        let session = self.session("unread", &letters);
        let unread = |count| reverts(ALICE, MAILBOX, &closeCall {}, &Unread { count });
        let mut calls = vec![session.opens(ALICE), unread(2)];
        calls.extend(session.receipts(ALICE, &letters[..1]));
        calls.push(unread(1));
        calls.extend(session.receipts(ALICE, &letters[1..]));
        calls.push(closes());
        vec![session.block(calls)]
    }

    fn received_once(&self) -> Vec<Block> {
        let letters = self.letters(2);
        let session = self.session("received once", &letters);
        let refused = |message: &Message, next: usize| {
            let expected = session.inbox[next];
            reverts(ALICE, MAILBOX, &receive(message), &NotNext { expected })
        };
        let forged = |change: fn(&mut Message)| {
            let mut message = letters[0].clone();
            change(&mut message);
            refused(&message, 0)
        };
        let mut calls = vec![
            session.opens(ALICE),
            refused(&letters[1], 0),
            forged(|message| message.src = HERE),
            forged(|message| message.dst = THERE),
            forged(|message| message.index = 1),
            forged(|message| message.sender = MAILBOX),
            forged(|message| message.receiver = MAILBOX),
            forged(|message| message.data = Bytes::new()),
        ];
        calls.extend(session.receipts(ALICE, &letters[..1]));
        calls.push(refused(&letters[0], 1));
        calls.extend(session.receipts(ALICE, &letters[1..]));
        calls.extend([
            reverts(ALICE, MAILBOX, &receive(&letters[1]), &InboxEmpty {}),
            closes(),
        ]);
        vec![session.block(calls)]
    }

    fn other_receiver(&self) -> Vec<Block> {
        let letters = self.letters(1);
        let session = self.session("other receiver", &letters);
        let expected = self.people[ALICE];
        let not_for_bob = NotReceiver { expected };
        let mut calls = vec![
            session.opens(ALICE),
            reverts(BOB, MAILBOX, &receive(&letters[0]), &not_for_bob),
        ];
        calls.extend(session.receipts(ALICE, &letters));
        calls.push(closes());
        vec![session.block(calls)]
    }

    /// Before its bundle, after it, and in the session of somebody who left his open for it.
    fn extracted(&self) -> Vec<Block> {
        let letters = self.letters(1);
        let session = self.session("extracted", &letters);
        let burn = session.burn(THERE, self.people[BOB], 1);
        let alone = [
            reverts(
                ALICE,
                MAILBOX,
                &session.send(THERE, MAILBOX, b""),
                &NotOpen {},
            ),
            reverts(ALICE, self.token, &burn, &NotOpen {}),
        ];
        let trap = self.session("trap", &[]);
        let mut trapped = vec![trap.opens(ALICE)];
        trapped.extend(alone.clone());
        trapped.push(reverts(
            ALICE,
            MAILBOX,
            &receive(&letters[0]),
            &InboxEmpty {},
        ));
        let mut whole = vec![session.opens(ALICE)];
        whole.extend(session.receipts(ALICE, &letters));
        whole.push(closes());
        whole.extend(alone.clone());
        vec![
            ordinary(alone.clone()),
            trap.block(trapped),
            session.block(whole),
            ordinary(alone),
        ]
    }

    fn own_rollup(&self) -> Vec<Block> {
        let session = self.session("own rollup", &[]);
        let own = session.send(HERE, self.people[ALICE], b"");
        let calls = [
            session.opens(ALICE),
            reverts(ALICE, MAILBOX, &own, &OwnRollup {}),
            session.sends(ALICE, self.people[ALICE], b"", 0),
            closes(),
        ];
        vec![session.block(calls)]
    }

    fn other_closes(&self) -> Vec<Block> {
        let session = self.session("other closes", &[]);
        let expected = self.people[ALICE];
        let calls = [
            session.opens(ALICE),
            reverts(BOB, MAILBOX, &closeCall {}, &NotCaller { expected }),
            closes(),
        ];
        vec![session.block(calls)]
    }

    fn token_moves(&self) -> Vec<Block> {
        let bob = self.people[BOB];
        let away = self.session("burn", &[]);
        let burnt = [
            away.opens(ALICE),
            returns(ALICE, self.token, &away.burn(THERE, bob, 300), &().into()),
            closes(),
            self.balance(ALICE, SUPPLY - 300),
            self.supply(SUPPLY - 300),
        ];
        let message = self.minted(bob, 200);
        let back = self.session("mint", std::slice::from_ref(&message));
        let empty = reverts(ALICE, self.token, &mint(&message), &InboxEmpty {});
        let minted = [
            back.opens(ALICE),
            returns(BOB, self.token, &mint(&message), &().into()),
            empty,
            closes(),
            self.balance(BOB, 200),
            self.supply(SUPPLY - 100),
        ];
        let late = reverts(BOB, self.token, &mint(&message), &NotOpen {});
        vec![away.block(burnt), back.block(minted), ordinary([late])]
    }

    fn token_refuses_to_burn(&self) -> Vec<Block> {
        let bob = self.people[BOB];
        let session = self.session("burn in vain", &[]);
        let poor = InsufficientBalance {
            account: bob,
            balance: U256::from(200),
        };
        let stranger = UnknownRollup {
            rollupId: ELSEWHERE,
        };
        let refused = [
            reverts(BOB, self.token, &session.burn(THERE, bob, 201), &poor),
            reverts(BOB, self.token, &session.burn(ELSEWHERE, bob, 1), &stranger),
            reverts(BOB, self.token, &session.burn(HERE, bob, 1), &OwnRollup {}),
            reverts(
                BOB,
                self.token,
                &session.burn(THERE, Address::ZERO, 1),
                &InvalidReceiver {},
            ),
        ];
        let mut calls = vec![session.opens(ALICE)];
        calls.extend(refused);
        calls.extend([closes(), self.balance(BOB, 200), self.supply(SUPPLY - 100)]);
        vec![session.block(calls)]
    }

    fn token_refuses_to_mint(&self) -> Vec<Block> {
        let bob = self.people[BOB];
        let mut from_bob = self.minted(bob, 1);
        from_bob.sender = bob;
        let mut from_elsewhere = self.minted(bob, 1);
        from_elsewhere.src = ELSEWHERE;
        let mut for_bob = self.minted(bob, 1);
        for_bob.receiver = bob;
        let inbox = [from_bob.clone(), from_elsewhere.clone(), for_bob.clone()];
        let stranger = UnknownRollup {
            rollupId: ELSEWHERE,
        };
        let sessions = ["from Bob", "from elsewhere", "for Bob"].map(str::to_owned);
        let refusals = [
            UnknownSender { sender: bob }.abi_encode(),
            stranger.abi_encode(),
            NotReceiver { expected: bob }.abi_encode(),
        ];
        let block = |((name, message), refusal): ((String, Message), Vec<u8>)| {
            let session = self.session(&name, std::slice::from_ref(&message));
            let refused = Call {
                outcome: Err(refusal.into()),
                ..returns(BOB, self.token, &mint(&message), &().into())
            };
            let unread = reverts(ALICE, MAILBOX, &closeCall {}, &Unread { count: 1 });
            session.block([
                session.opens(ALICE),
                refused,
                unread,
                self.balance(BOB, 200),
            ])
        };
        sessions
            .into_iter()
            .zip(inbox)
            .zip(refusals)
            .map(block)
            .collect()
    }

    fn token_spent(&self) -> Vec<Block> {
        let [alice, bob] = self.people;
        let transfer = |to, amount| transferCall {
            to,
            amount: U256::from(amount),
        };
        let approve = |amount| approveCall {
            spender: bob,
            amount,
        };
        let take = |amount| transferFromCall {
            from: alice,
            to: bob,
            amount: U256::from(amount),
        };
        let poor = InsufficientBalance {
            account: alice,
            balance: U256::from(650),
        };
        let allowed = |allowance| InsufficientAllowance {
            spender: bob,
            allowance: U256::from(allowance),
        };
        let token = self.token;
        vec![ordinary([
            returns(ALICE, token, &transfer(bob, 50), &true),
            reverts(ALICE, token, &transfer(bob, 651), &poor),
            reverts(
                ALICE,
                token,
                &transfer(Address::ZERO, 1),
                &InvalidReceiver {},
            ),
            reverts(BOB, token, &take(1), &allowed(0)),
            returns(ALICE, token, &approve(U256::from(30)), &true),
            returns(BOB, token, &take(20), &true),
            reverts(BOB, token, &take(11), &allowed(10)),
            returns(ALICE, token, &approve(U256::MAX), &true),
            returns(BOB, token, &take(10), &true),
            returns(BOB, token, &take(10), &true),
            self.balance(ALICE, 610),
            self.balance(BOB, 290),
            self.supply(SUPPLY - 100),
        ])]
    }
}

/// A block in which no bundle is released: its root is a header's hash.
fn ordinary(calls: impl Into<Vec<Call>>) -> Block {
    Block {
        beacon_root: keccak256("a header of the sequencer"),
        calls: calls.into(),
    }
}

fn returns<C: SolCall>(from: usize, to: Address, call: &C, value: &C::Return) -> Call {
    Call {
        from,
        to,
        input: call.abi_encode().into(),
        outcome: Ok(C::abi_encode_returns(value).into()),
    }
}

fn reverts(from: usize, to: Address, call: &impl SolCall, error: &impl SolError) -> Call {
    Call {
        from,
        to,
        input: call.abi_encode().into(),
        outcome: Err(error.abi_encode().into()),
    }
}

fn no_ticket(session: &Session) -> Call {
    let expected = session.ticket();
    reverts(ALICE, MAILBOX, &session.open(), &NoTicket { expected })
}

fn closes() -> Call {
    returns(ALICE, MAILBOX, &closeCall {}, &().into())
}

fn receive(message: &Message) -> receiveMessageCall {
    receiveMessageCall {
        message: message.clone(),
    }
}

fn mint(message: &Message) -> mintCall {
    let Message {
        src,
        dst,
        index,
        sender,
        receiver,
        data,
    } = message.clone();
    mintCall {
        message: (src, dst, index, sender, receiver, data),
    }
}
