//! Random items for a block, three quarters of them valid, and what must become of each.

use std::collections::BTreeMap;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEip7702, TxEnvelope, TxLegacy};
use alloy_eips::{
    eip2718::Encodable2718,
    eip2930::{AccessList, AccessListItem},
    eip7702::{Authorization, SignedAuthorization},
};
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use bytes::Bytes as Item;
use counterpoint_conductor::derive::{Rules, SkipReason};
use counterpoint_core::{action::SubmitData, chain_spec::Fork};

use super::{precompiles, programs, programs::World, random::Random};

/// Wallets with money and no code, whose nonces nobody else moves.
pub(super) const SENDERS: u8 = 8;
/// Wallets that delegate to code (EIP-7702), which may move their nonces.
pub(super) const AUTHORITIES: std::ops::Range<u8> = 20..24;
/// A wallet whose account has code, which no delegation put there (EIP-3607).
pub(super) const CONTRACT_WALLET: u8 = 30;
/// A wallet without money.
const POOR: u8 = 31;

/// Longest init code (EIP-3860).
const MAX_INITCODE_BYTES: usize = 49_152;

/// Most accounts that programs and transactions know.
const MAX_ACCOUNTS: usize = 80;

pub(super) fn wallet(seed: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[seed; 32]).unwrap()
}

/// What must become of an item, if there is room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Included,
    /// Included, and it succeeds.
    Success,
    Skipped(SkipReason),
    /// Its sender's nonce depends on code that ran before.
    Either,
}

/// An item for a block.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) raw: Item,
    pub(super) expect: Expect,
}

/// The block that candidates are for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) fork: Fork,
    pub(super) rules: Rules,
    pub(super) base_fee: u64,
}

/// What a transaction of any type has.
#[derive(Clone, Debug)]
struct Draft {
    kind: Kind,
    sender: u8,
    chain_id: u64,
    nonce: u64,
    gas_limit: u64,
    fee_cap: u128,
    tip: u128,
    to: TxKind,
    value: U256,
    input: Bytes,
    access_list: AccessList,
    authorizations: Vec<SignedAuthorization>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unprotected,
    Legacy,
    AccessList,
    DynamicFee,
    SetCode,
}

/// Makes candidates; it knows the nonces of its wallets.
#[derive(Debug)]
pub(super) struct Candidates {
    pub(super) random: Random,
    pub(super) world: World,
    nonces: BTreeMap<u8, u64>,
}

impl Candidates {
    pub(super) fn new(random: Random, world: World) -> Self {
        let nonces = BTreeMap::new();
        Self {
            random,
            world,
            nonces,
        }
    }

    /// Wallets that send.
    pub(super) fn senders() -> impl Iterator<Item = u8> {
        (1..=SENDERS).chain(AUTHORITIES)
    }

    /// A wallet's nonce, as the client has it.
    pub(super) fn set_nonce(&mut self, wallet: u8, nonce: u64) {
        self.nonces.insert(wallet, nonce);
    }

    /// A contract that may be there now.
    pub(super) fn created(&mut self, contract: Address) {
        self.world.accounts.push(contract);
        // Those of the genesis stay.
        if self.world.accounts.len() > MAX_ACCOUNTS {
            self.world.accounts.remove(MAX_ACCOUNTS / 2);
        }
    }

    /// Signs what will be included, so that its sender's next nonce is another.
    fn send(&mut self, draft: Draft, expect: Expect) -> Candidate {
        *self.nonces.entry(draft.sender).or_default() += 1;
        draft.sign(expect)
    }

    /// A call of a contract that clients bring along, with what it accepts.
    pub(super) fn precompile(&mut self, number: u16, terms: &Terms) -> Candidate {
        let input = precompiles::accepted(number, &mut self.random);
        let draft = Draft {
            kind: Kind::DynamicFee,
            sender: 1,
            nonce: self.nonces.get(&1).copied().unwrap_or_default(),
            gas_limit: terms.rules.max_tx_gas,
            to: TxKind::Call(precompiles::contract(number)),
            value: U256::ZERO,
            input: input.into(),
            authorizations: Vec::new(),
            ..self.draft(terms)
        };
        self.send(draft, Expect::Success)
    }

    /// The next item.
    pub(super) fn next(&mut self, terms: &Terms) -> Candidate {
        if self.random.one_in(4) {
            return self.invalid(terms);
        }
        let mut draft = self.draft(terms);
        if self.random.one_in(12) {
            draft.gas_limit = draft.intrinsic_gas(terms.fork);
        }
        let expect = if AUTHORITIES.contains(&draft.sender) {
            Expect::Either
        } else {
            Expect::Included
        };
        self.send(draft, expect)
    }

    /// A transfer, with an access list or without.
    pub(super) fn transfer(&mut self, terms: &Terms) -> Candidate {
        let mut draft = self.draft(terms);
        draft.sender = 1 + draft.sender % SENDERS;
        draft.nonce = self.nonces.get(&draft.sender).copied().unwrap_or_default();
        draft.to = TxKind::Call(Address::from_slice(&self.random.bytes(20)));
        draft.input = Bytes::new();
        draft.authorizations.clear();
        if draft.kind == Kind::SetCode {
            draft.kind = Kind::DynamicFee;
        }
        draft.gas_limit = draft.intrinsic_gas(terms.fork);
        self.send(draft, Expect::Success)
    }

    fn draft(&mut self, terms: &Terms) -> Draft {
        let random = &mut self.random;
        let sender = match random.below(10) {
            0 if terms.fork >= Fork::Prague => {
                AUTHORITIES.start + u8::try_from(random.below(AUTHORITIES.len())).unwrap()
            }
            _ => 1 + u8::try_from(random.below(SENDERS.into())).unwrap(),
        };
        let kind = match random.below(8) {
            0 if terms.rules.allow_unprotected => Kind::Unprotected,
            0 | 1 => Kind::Legacy,
            2 | 3 => Kind::AccessList,
            4 | 5 if terms.fork >= Fork::Prague => Kind::SetCode,
            _ => Kind::DynamicFee,
        };
        let (to, input) = self.destination();
        let to = match (kind, to) {
            (Kind::SetCode, TxKind::Create) => TxKind::Call(self.account()),
            (_, to) => to,
        };
        let random = &mut self.random;
        let tip = random.between(terms.rules.min_tip_wei, 2_000_000_000);
        let spare = random.between(0, 1_000_000_000);
        let mut draft = Draft {
            kind,
            sender,
            chain_id: terms.rules.chain_id,
            nonce: self.nonces.get(&sender).copied().unwrap_or_default(),
            gas_limit: 0,
            fee_cap: u128::from(terms.base_fee) + u128::from(tip) + u128::from(spare),
            tip: tip.into(),
            to,
            value: U256::from(if random.one_in(2) {
                0
            } else {
                random.between(1, 1_000_000)
            }),
            input,
            access_list: AccessList::default(),
            authorizations: Vec::new(),
        };
        if !matches!(kind, Kind::Unprotected | Kind::Legacy) {
            draft.access_list = self.access_list();
        }
        if kind == Kind::SetCode {
            let sender_next = draft.nonce + 1;
            draft.authorizations = (0..=self.random.below(3))
                .map(|_| self.authorization(terms.rules.chain_id, sender, sender_next))
                .collect();
        }
        let needed = draft.intrinsic_gas(terms.fork);
        let spare = match self.random.below(4) {
            0 => self.random.between(0, 60_000),
            1 => terms.rules.max_tx_gas,
            _ => self.random.between(50_000, 1_000_000),
        };
        draft.gas_limit = (needed + spare).min(terms.rules.max_tx_gas);
        draft
    }

    fn account(&mut self) -> Address {
        *self.random.pick(&self.world.accounts)
    }

    /// Whom to call with what, or what to create.
    fn destination(&mut self) -> (TxKind, Bytes) {
        let random = &mut self.random;
        match random.below(12) {
            0..=3 => {
                let runtime = programs::program(random, &self.world);
                let code = programs::initcode(random, &self.world, &runtime);
                (TxKind::Create, code.into())
            }
            4 => {
                let length = random.below(200);
                (TxKind::Create, random.bytes(length).into())
            }
            5 => {
                let (to, input) = precompiles::call(random);
                (TxKind::Call(to), input.into())
            }
            6 => {
                let modulus = 1_024 + u16::from(random.one_in(2));
                let input = precompiles::long_exponentiation(modulus);
                (TxKind::Call(precompiles::contract(5)), input.into())
            }
            7 => (
                TxKind::Call(Address::from_slice(&random.bytes(20))),
                Bytes::new(),
            ),
            _ => {
                let length = random.below(100);
                let input = random.bytes(length).into();
                (TxKind::Call(self.account()), input)
            }
        }
    }

    fn access_list(&mut self) -> AccessList {
        let item = |random: &mut Random, world: &World| AccessListItem {
            address: *random.pick(&world.accounts),
            storage_keys: (0..random.below(4))
                .map(|_| B256::with_last_byte(random.byte() % 8))
                .collect(),
        };
        let items = self.random.below(4);
        let items = (0..items).map(|_| item(&mut self.random, &self.world));
        AccessList(items.collect())
    }

    /// One that holds, or one with a wrong chain, nonce or signature, which is passed over.
    fn authorization(
        &mut self,
        chain_id: u64,
        sender: u8,
        sender_next: u64,
    ) -> SignedAuthorization {
        let random = &mut self.random;
        let authority = match random.below(8) {
            0 if AUTHORITIES.contains(&sender) => sender,
            1 => CONTRACT_WALLET,
            _ => AUTHORITIES.start + u8::try_from(random.below(AUTHORITIES.len())).unwrap(),
        };
        let next = match authority == sender {
            true => sender_next,
            false => self.nonces.get(&authority).copied().unwrap_or_default(),
        };
        let address = match random.below(6) {
            0 => Address::ZERO,
            1 => precompiles::call(random).0,
            _ => *random.pick(&self.world.accounts),
        };
        let authorization = Authorization {
            chain_id: U256::from(match random.below(6) {
                0 => chain_id + 1,
                1 | 2 => 0,
                _ => chain_id,
            }),
            address,
            nonce: match random.below(8) {
                0 => next + 1,
                1 => u64::MAX,
                _ => next,
            },
        };
        let hash = authorization.signature_hash();
        let signature = wallet(authority).sign_hash_sync(&hash).unwrap();
        let signature = match random.below(8) {
            0 => high(signature),
            1 => Signature::new(signature.r(), U256::ZERO, false),
            _ => signature,
        };
        // Within a block later authorisations of the same authority are mostly late, by chance not.
        if random.one_in(2) {
            *self.nonces.entry(authority).or_default() += u64::from(authority != sender);
        }
        authorization.into_signed(signature)
    }

    /// An item that breaks one rule.
    fn invalid(&mut self, terms: &Terms) -> Candidate {
        let mut draft = self.draft(terms);
        draft.sender = 1 + draft.sender % SENDERS;
        draft.nonce = self.nonces.get(&draft.sender).copied().unwrap_or_default();
        let base_fee = u128::from(terms.base_fee);
        let dynamic = |draft: &mut Draft| draft.kind = Kind::DynamicFee;
        let skipped = |raw: Vec<u8>, reason| Candidate {
            raw: raw.into(),
            expect: Expect::Skipped(reason),
        };
        let reason = match self.random.below(22) {
            0 => return skipped(Vec::new(), SkipReason::Size),
            1 => return skipped(vec![2; SubmitData::MAX_ITEM_BYTES + 1], SkipReason::Size),
            2 => {
                let raw = draft.sign(Expect::Included).raw;
                return skipped(raw[..raw.len() - 1].to_vec(), SkipReason::Decode);
            }
            3 => {
                let raw = draft.sign(Expect::Included).raw;
                return skipped([&raw[..], &[0]].concat(), SkipReason::Decode);
            }
            4 => return skipped(vec![0x03, 0xc0], SkipReason::Type),
            5 => return skipped(vec![0x7f], SkipReason::Type),
            6 => return skipped(draft.high_s(), SkipReason::Signature),
            7 => {
                dynamic(&mut draft);
                draft.chain_id += 1;
                SkipReason::ChainId
            }
            8 if !terms.rules.allow_unprotected => {
                draft.kind = Kind::Unprotected;
                SkipReason::Unprotected
            }
            8 | 9 => {
                draft.gas_limit = terms.rules.max_tx_gas + 1;
                SkipReason::GasLimit
            }
            10 => {
                draft.nonce += self.random.between(1, 3);
                SkipReason::Nonce
            }
            11 => {
                draft.nonce = match draft.nonce {
                    0 => u64::MAX,
                    nonce => nonce - 1,
                };
                SkipReason::Nonce
            }
            12 => {
                (draft.sender, draft.nonce) = (POOR, 0);
                SkipReason::Balance
            }
            13 => {
                draft.value = U256::MAX;
                SkipReason::Balance
            }
            14 => {
                dynamic(&mut draft);
                (draft.fee_cap, draft.tip) = (base_fee - 1, 0);
                SkipReason::FeeTooLow
            }
            15 => {
                dynamic(&mut draft);
                draft.tip = draft.fee_cap + 1;
                SkipReason::FeeTooLow
            }
            16 => {
                dynamic(&mut draft);
                draft.tip = u128::from(terms.rules.min_tip_wei) - 1;
                SkipReason::TipTooLow
            }
            17 => {
                draft.fee_cap = base_fee + u128::from(terms.rules.min_tip_wei) - 1;
                draft.tip = draft.fee_cap;
                SkipReason::TipTooLow
            }
            18 => {
                draft.gas_limit = draft.intrinsic_gas(terms.fork) - 1;
                SkipReason::IntrinsicGas
            }
            19 => {
                dynamic(&mut draft);
                draft.to = TxKind::Create;
                draft.input = vec![0; MAX_INITCODE_BYTES + 1].into();
                draft.gas_limit = terms.rules.max_tx_gas;
                SkipReason::InitcodeSize
            }
            20 => {
                (draft.sender, draft.nonce) = (CONTRACT_WALLET, 1);
                SkipReason::SenderHasCode
            }
            // Without authorisations, or before Prague, there is no such transaction.
            _ => {
                draft.kind = Kind::SetCode;
                draft.to = TxKind::Call(Address::repeat_byte(0x77));
                draft.authorizations.clear();
                draft.gas_limit = terms.rules.max_tx_gas;
                SkipReason::Invalid
            }
        };
        // Only one rule is to be broken.
        if draft.kind != Kind::SetCode {
            draft.authorizations.clear();
        }
        draft.sign(Expect::Skipped(reason))
    }
}

impl Draft {
    /// What it costs before it runs (EIP-2028, 2930, 3860, 7623, 7702).
    fn intrinsic_gas(&self, fork: Fork) -> u64 {
        let zeros = self.input.iter().filter(|byte| **byte == 0).count() as u64;
        let tokens = zeros + 4 * (self.input.len() as u64 - zeros);
        let create = match self.to {
            TxKind::Create => 32_000 + 2 * self.input.len().div_ceil(32) as u64,
            TxKind::Call(_) => 0,
        };
        let keys = self.access_list.storage_keys_count() as u64;
        let addresses = self.access_list.len() as u64;
        let list = 2_400 * addresses + 1_900 * keys;
        let authorizations = 25_000 * self.authorizations.len() as u64;
        let gas = 21_000 + 4 * tokens + create + list + authorizations;
        if fork >= Fork::Prague {
            gas.max(21_000 + 10 * tokens)
        } else {
            gas
        }
    }

    fn legacy(&self, chain_id: Option<u64>) -> TxLegacy {
        TxLegacy {
            chain_id,
            nonce: self.nonce,
            gas_price: self.fee_cap,
            gas_limit: self.gas_limit,
            to: self.to,
            value: self.value,
            input: self.input.clone(),
        }
    }

    fn dynamic(&self) -> TxEip1559 {
        TxEip1559 {
            chain_id: self.chain_id,
            nonce: self.nonce,
            gas_limit: self.gas_limit,
            max_fee_per_gas: self.fee_cap,
            max_priority_fee_per_gas: self.tip,
            to: self.to,
            value: self.value,
            access_list: self.access_list.clone(),
            input: self.input.clone(),
        }
    }

    fn sign(self, expect: Expect) -> Candidate {
        let sender = self.sender;
        let raw = match self.kind {
            Kind::Unprotected => sign(sender, self.legacy(None)),
            Kind::Legacy => sign(sender, self.legacy(Some(self.chain_id))),
            Kind::DynamicFee => sign(sender, self.dynamic()),
            Kind::AccessList => sign(
                sender,
                TxEip2930 {
                    chain_id: self.chain_id,
                    nonce: self.nonce,
                    gas_price: self.fee_cap,
                    gas_limit: self.gas_limit,
                    to: self.to,
                    value: self.value,
                    access_list: self.access_list,
                    input: self.input,
                },
            ),
            Kind::SetCode => sign(
                sender,
                TxEip7702 {
                    chain_id: self.chain_id,
                    nonce: self.nonce,
                    gas_limit: self.gas_limit,
                    max_fee_per_gas: self.fee_cap,
                    max_priority_fee_per_gas: self.tip,
                    to: self.to.to().copied().unwrap_or_default(),
                    value: self.value,
                    access_list: self.access_list,
                    authorization_list: self.authorizations,
                    input: self.input,
                },
            ),
        };
        Candidate { raw, expect }
    }

    /// With the other `s` of its signature.
    fn high_s(&self) -> Vec<u8> {
        let mut tx = self.dynamic();
        let signature = wallet(self.sender).sign_transaction_sync(&mut tx).unwrap();
        TxEnvelope::from(tx.into_signed(high(signature))).encoded_2718()
    }
}

fn high(signature: Signature) -> Signature {
    let order = "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    let order: U256 = order.parse().unwrap();
    Signature::new(signature.r(), order - signature.s(), !signature.v())
}

pub(super) fn sign<T>(seed: u8, mut tx: T) -> Item
where
    T: SignableTransaction<Signature>,
    TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    let signature = wallet(seed).sign_transaction_sync(&mut tx).unwrap();
    TxEnvelope::from(tx.into_signed(signature))
        .encoded_2718()
        .into()
}
