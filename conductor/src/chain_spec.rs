//! A rollup's genesis file: what geth reads, checked for what derivation relies on.

mod file;

use std::{
    fs::File,
    io::{BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use alloy_consensus::{EMPTY_OMMER_ROOT_HASH, Header, constants::EMPTY_WITHDRAWALS};
use alloy_eips::{
    eip2935::{HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE},
    eip4788::{BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE},
    eip7685::EMPTY_REQUESTS_HASH,
};
use alloy_genesis::{ChainConfig, Genesis, GenesisAccount};
use alloy_primitives::{Address, B256, Bytes, U256, address};
use counterpoint_core::{
    chain_spec::{BlobParams, ChainSpec, Fork},
    primitive::{EvmAddress, Hash},
};
use counterpoint_service::{Bar, Reading};
use revm::primitives::hardfork::SpecId;
use serde_json::json;

use self::file::{Accounts, Digest};
use crate::{
    evm::{Batch, GenesisImport, Store, StoreError, Table, code},
    mode::{is_thin, stage_embedded},
};

/// What the store remembers of the genesis state that it began with: digest of the accounts, root.
pub(crate) const STATE: &[u8] = b"genesis_state";

/// EIP-7002's contract; with real code any user could make a request and halt the rollup.
const WITHDRAWAL_REQUESTS: Address = address!("00000961Ef480Eb55e80D19ad83579A64c007002");
/// EIP-7251's contract.
const CONSOLIDATION_REQUESTS: Address = address!("0000BBdDc7CE488642fb579F8B00f3a590007251");
/// One STOP: takes the system's call, answers with no request.
const STOP: [u8; 1] = [0x00];

/// Why a genesis file cannot carry a rollup.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// The file cannot be read.
    #[error("failed to read rollup genesis {}", path.display())]
    Read {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not a genesis file.
    #[error("rollup genesis is not valid JSON for a genesis file")]
    Parse(#[from] serde_json::Error),
    /// A field breaks a rule.
    #[error("rollup genesis: {field} {rule}")]
    Field {
        /// Which field.
        field: String,
        /// What it must be.
        rule: &'static str,
    },
    /// The store has blocks on top of other accounts.
    #[error(
        "data_dir holds blocks on top of another genesis state: use another data_dir, or the file \
         that it was started with"
    )]
    OtherState,
    /// The file has other accounts than at the first start.
    #[error("rollup genesis gives state root {actual}, at the first start it was {expected}")]
    Changed {
        /// What the store remembers.
        expected: B256,
        /// What the file gives.
        actual: B256,
    },
    /// The state cannot be worked out.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A fork as the EVM needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveFork {
    /// Which fork.
    pub fork: Fork,
    /// What revm calls it.
    pub spec_id: SpecId,
    /// How fast the blob base fee moves.
    pub blob_update_fraction: u64,
}

/// A checked genesis file.
#[derive(Clone, Debug)]
pub struct Specification {
    spec: ChainSpec,
    header: Header,
}

impl Specification {
    /// Reads and checks a genesis file, and brings its state into `store` if it is not there yet.
    ///
    /// The file may be longer than memory: its accounts are read one after the other.
    ///
    /// # Errors
    /// [`GenesisError`] names the field that breaks a rule.
    pub fn load(path: &Path, store: &dyn Store) -> Result<Self, GenesisError> {
        Self::read(open(path)?, store)
    }

    /// Brings the state of a file that was read before back into a store that has given it up.
    ///
    /// # Errors
    /// [`GenesisError`] if it is another one, or cannot be read.
    pub(crate) fn import_again(&self, path: &Path, store: &dyn Store) -> Result<(), GenesisError> {
        let (_, record) = import(&mut open(path)?, store)?;
        let (expected, actual) = (self.header.state_root, root_of(&record));
        match actual == Some(expected) {
            true => Ok(()),
            false => Err(GenesisError::Changed {
                expected,
                actual: actual.unwrap_or_default(),
            }),
        }
    }

    /// Checks a genesis, and brings its state into `store`.
    ///
    /// # Errors
    /// [`GenesisError`] names the field that breaks a rule.
    pub fn new(genesis: &Genesis, store: &dyn Store) -> Result<Self, GenesisError> {
        let file = serde_json::to_vec(genesis)?;
        Self::read(std::io::Cursor::new(file), store)
    }

    fn read(mut file: impl Read + Seek, store: &dyn Store) -> Result<Self, GenesisError> {
        if let Some(record) = store.get(Table::Meta, STATE)? {
            let mut digest = Digest::default();
            let genesis = parse(&mut file, &mut |address, account| {
                digest.add(address, account);
                Ok(())
            })?;
            if let Some(root) = root_of(&record)
                && record.starts_with(digest.finish().as_slice())
            {
                return Self::of(&genesis, root, store);
            }
        }
        // A state that no block was built upon can go, be it another one or half of one.
        if store.get(Table::Blocks, &0_u64.to_be_bytes())?.is_some() {
            return Err(GenesisError::OtherState);
        }
        let mut batch = Batch::from([((Table::Meta, STATE.to_vec()), None)]);
        stage_embedded(&mut batch);
        store.commit(batch)?;
        store.clear(Table::Blocks)?;
        let (genesis, record) = import(&mut file, store)?;
        let root = root_of(&record).unwrap_or_default();
        // From here on the state is whole.
        store.commit(Batch::from([((Table::Meta, STATE.to_vec()), Some(record))]))?;
        Self::of(&genesis, root, store)
    }

    fn of(genesis: &Genesis, state_root: B256, store: &dyn Store) -> Result<Self, GenesisError> {
        check(genesis, store)?;
        let prague = genesis
            .config
            .prague_time
            .is_some_and(|time| time <= genesis.timestamp);
        let header = Header {
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: genesis.coinbase,
            state_root,
            difficulty: genesis.difficulty,
            gas_limit: genesis.gas_limit,
            timestamp: genesis.timestamp,
            extra_data: genesis.extra_data.clone(),
            mix_hash: genesis.mix_hash,
            nonce: genesis.nonce.into(),
            base_fee_per_gas: Some(base_fee(genesis)),
            withdrawals_root: Some(EMPTY_WITHDRAWALS),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            parent_beacon_block_root: Some(B256::ZERO),
            requests_hash: prague.then_some(EMPTY_REQUESTS_HASH),
            ..Header::default()
        };
        let spec = ChainSpec {
            genesis_hash: Hash::new(header.hash_slow().0),
            evm_chain_id: genesis.config.chain_id,
            forks: forks(&genesis.config),
            blobs: blobs(&genesis.config)?,
            deposit_contract: genesis
                .config
                .deposit_contract_address
                .map(|address| EvmAddress::new(address.into_array())),
        };
        Ok(Self { spec, header })
    }

    /// What the registry commits to.
    #[must_use]
    pub fn chain_spec(&self) -> &ChainSpec {
        &self.spec
    }

    /// EIP-155 chain id.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.spec.evm_chain_id
    }

    /// The header of block 0.
    #[must_use]
    pub fn genesis_header(&self) -> &Header {
        &self.header
    }

    /// The forks that blocks are made under, in order: not those that another replaces at genesis.
    pub fn forks(&self) -> impl Iterator<Item = Fork> {
        let starts = self.spec.forks.iter();
        let ends = starts.clone().skip(1).map(|(_, time)| *time);
        let ends = ends.chain([u64::MAX]);
        let lasts = |(fork, from, until): (Fork, u64, u64)| {
            (until > from.max(self.header.timestamp)).then_some(fork)
        };
        starts
            .zip(ends)
            .filter_map(move |((fork, from), until)| lasts((*fork, *from, until)))
    }

    /// The fork that is active at a timestamp.
    #[must_use]
    pub fn fork_at(&self, timestamp: u64) -> ActiveFork {
        let active = self
            .spec
            .forks
            .iter()
            .filter(|(_, time)| *time <= timestamp);
        let fork = active.map(|(fork, _)| *fork).max().unwrap_or(Fork::Cancun);
        let params = self.spec.blobs.iter().filter(|params| params.fork <= fork);
        let blob_update_fraction = params
            .max_by_key(|params| params.fork)
            .map_or(1, |params| params.update_fraction);
        let spec_id = match fork {
            Fork::Cancun => SpecId::CANCUN,
            Fork::Prague => SpecId::PRAGUE,
            Fork::Osaka => SpecId::OSAKA,
        };
        ActiveFork {
            fork,
            spec_id,
            blob_update_fraction,
        }
    }
}

fn open(path: &Path) -> Result<Reading<File>, GenesisError> {
    let read = |source| {
        let path = path.into();
        GenesisError::Read { path, source }
    };
    let file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    match metadata.is_file() {
        true => Ok(Bar::bytes("genesis", metadata.len()).reading(file)),
        false => Err(read(std::io::ErrorKind::IsADirectory.into())),
    }
}

/// Gives the file's accounts away, and the rest of it back.
fn parse(mut file: impl Read + Seek, accounts: &mut Accounts<'_>) -> Result<Genesis, GenesisError> {
    file.rewind().map_err(serde_json::Error::io)?;
    file::read(BufReader::with_capacity(1 << 20, file), accounts)
}

/// Brings the file's accounts into `store`; gives the rest of the file, and what [`STATE`] says.
fn import(file: impl Read + Seek, store: &dyn Store) -> Result<(Genesis, Vec<u8>), GenesisError> {
    let (mut digest, mut import) = (Digest::default(), GenesisImport::begin(store)?);
    let genesis = parse(file, &mut |address, account| {
        digest.add(address, account);
        match import.account(address, account)? {
            true => Ok(()),
            false => Err(GenesisError::Field {
                field: format!("alloc.{address}"),
                rule: "must be there once",
            }),
        }
    })?;
    let root = import.finish()?;
    Ok((genesis, [digest.finish(), root].concat()))
}

/// The state root in a record of [`STATE`].
fn root_of(record: &[u8]) -> Option<B256> {
    let root = record.get(32..)?;
    B256::try_from(root).ok()
}

fn base_fee(genesis: &Genesis) -> u64 {
    let given = genesis
        .base_fee_per_gas
        .and_then(|fee| u64::try_from(fee).ok());
    given.unwrap_or(1_000_000_000)
}

fn forks(config: &ChainConfig) -> Vec<(Fork, u64)> {
    let times = [
        (Fork::Cancun, config.cancun_time),
        (Fork::Prague, config.prague_time),
        (Fork::Osaka, config.osaka_time),
    ];
    times
        .into_iter()
        .filter_map(|(fork, time)| Some((fork, time?)))
        .collect()
}

fn blobs(config: &ChainConfig) -> Result<Vec<BlobParams>, GenesisError> {
    let params = |(fork, _): (Fork, u64)| {
        let name = match fork {
            Fork::Cancun => "cancun",
            Fork::Prague => "prague",
            Fork::Osaka => "osaka",
        };
        let broken = || GenesisError::Field {
            field: format!("config.blobSchedule.{name}"),
            rule: "must be there, with target, max and baseFeeUpdateFraction",
        };
        let params = config.blob_schedule.get(name).ok_or_else(broken)?;
        Ok(BlobParams {
            fork,
            target: u32::try_from(params.target_blob_count).map_err(|_| broken())?,
            max: u32::try_from(params.max_blob_count).map_err(|_| broken())?,
            update_fraction: u64::try_from(params.update_fraction).map_err(|_| broken())?,
        })
    };
    forks(config).into_iter().map(params).collect()
}

fn check(genesis: &Genesis, store: &dyn Store) -> Result<(), GenesisError> {
    let require = |holds: bool, field: &str, rule: &'static str| {
        if holds {
            Ok(())
        } else {
            Err(GenesisError::Field {
                field: field.into(),
                rule,
            })
        }
    };
    let config = &genesis.config;
    let from_genesis = |time: Option<u64>| time.is_some_and(|time| time <= genesis.timestamp);
    require(
        from_genesis(config.shanghai_time),
        "config.shanghaiTime",
        "must be active at genesis",
    )?;
    require(
        from_genesis(config.cancun_time),
        "config.cancunTime",
        "must be active at genesis",
    )?;
    let prague = config.prague_time.unwrap_or(u64::MAX);
    require(
        prague >= config.cancun_time.unwrap_or_default(),
        "config.pragueTime",
        "must not be before cancunTime",
    )?;
    require(
        config.osaka_time.is_none_or(|osaka| osaka >= prague),
        "config.osakaTime",
        "must not be before pragueTime, nor without it",
    )?;
    let later = config.amsterdam_time.is_none() && config.bogota_time.is_none();
    require(
        later,
        "config.amsterdamTime",
        "must be absent: the fork is not supported",
    )?;
    let excess = genesis.excess_blob_gas.unwrap_or_default();
    require(excess == 0, "excessBlobGas", "must be 0")?;
    require(
        genesis.number.unwrap_or_default() == 0,
        "number",
        "must be 0",
    )?;
    let fee = genesis.base_fee_per_gas.unwrap_or_default();
    require(
        u64::try_from(fee).is_ok(),
        "baseFeePerGas",
        "must be below 2^64",
    )?;
    if is_thin(store)? {
        return Ok(()); // The contracts were looked at before the state was given up.
    }
    let code = |address: &Address| code(store, address);
    require(
        code(&BEACON_ROOTS_ADDRESS)? == BEACON_ROOTS_CODE[..],
        &format!("alloc.{BEACON_ROOTS_ADDRESS}"),
        "must have the code of EIP-4788",
    )?;
    require(
        code(&HISTORY_STORAGE_ADDRESS)? == HISTORY_STORAGE_CODE[..],
        &format!("alloc.{HISTORY_STORAGE_ADDRESS}"),
        "must have the code of EIP-2935",
    )?;
    for stub in [WITHDRAWAL_REQUESTS, CONSOLIDATION_REQUESTS] {
        let rule = "must have exactly the code 0x00: real requests would halt the rollup";
        require(code(&stub)? == STOP[..], &format!("alloc.{stub}"), rule)?;
    }
    let deposits = config.deposit_contract_address;
    let deposits_code = deposits.map_or(Ok(Bytes::new()), |contract| code(&contract))?;
    require(
        deposits_code.is_empty(),
        "config.depositContractAddress",
        "must be absent or without code",
    )
}

/// A genesis for development: Prague from the start, the contracts that the rules ask for, and
/// `alloc` on top.
///
/// # Panics
/// Never: the template is valid.
///
/// # Errors
/// [`GenesisError::Parse`] if the template does not fit the library that reads it.
pub fn dev_genesis(
    chain_id: u64,
    gas_limit: u64,
    timestamp: u64,
    alloc: impl IntoIterator<Item = (Address, U256)>,
) -> Result<Genesis, GenesisError> {
    let fork_blobs = json!({ "target": 6, "max": 9, "baseFeeUpdateFraction": 5_007_716 });
    let config = serde_json::from_value(json!({
        "chainId": chain_id,
        "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0, "eip158Block": 0,
        "byzantiumBlock": 0, "constantinopleBlock": 0, "petersburgBlock": 0,
        "istanbulBlock": 0, "muirGlacierBlock": 0, "berlinBlock": 0, "londonBlock": 0,
        "arrowGlacierBlock": 0, "grayGlacierBlock": 0, "mergeNetsplitBlock": 0,
        "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0,
        "terminalTotalDifficulty": 0, "terminalTotalDifficultyPassed": true,
        "blobSchedule": {
            "cancun": { "target": 3, "max": 6, "baseFeeUpdateFraction": 3_338_477 },
            "prague": fork_blobs,
        },
    }))?;
    let contract = |code: &[u8]| {
        let code = Some(Bytes::copy_from_slice(code));
        GenesisAccount {
            nonce: Some(1),
            code,
            ..GenesisAccount::default()
        }
    };
    let contracts = [
        (BEACON_ROOTS_ADDRESS, contract(&BEACON_ROOTS_CODE)),
        (HISTORY_STORAGE_ADDRESS, contract(&HISTORY_STORAGE_CODE)),
        (WITHDRAWAL_REQUESTS, contract(&STOP)),
        (CONSOLIDATION_REQUESTS, contract(&STOP)),
    ];
    let funded = |(address, balance)| {
        (
            address,
            GenesisAccount {
                balance,
                ..GenesisAccount::default()
            },
        )
    };
    Ok(Genesis {
        config,
        timestamp,
        gas_limit,
        base_fee_per_gas: Some(1_000_000_000),
        excess_blob_gas: Some(0),
        blob_gas_used: Some(0),
        alloc: contracts
            .into_iter()
            .chain(alloc.into_iter().map(funded))
            .collect(),
        ..Genesis::default()
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use crate::evm::{MemStore, balance};

    fn specification(genesis: &Genesis) -> Result<Specification, GenesisError> {
        Specification::new(genesis, &MemStore::default())
    }

    fn genesis() -> Genesis {
        let funded = (Address::repeat_byte(1), U256::from(1));
        dev_genesis(7, 30_000_000, 1_000, [funded]).unwrap()
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Genesis), expect: &str) {
        let mut genesis = genesis();
        change(&mut genesis);
        let refused = specification(&genesis).unwrap_err().to_string();
        assert_eq!(refused, format!("rollup genesis: {expect}"));
    }

    #[test]
    fn mistakes_are_named_by_their_field() {
        assert!(specification(&genesis()).is_ok());
        check(
            |g| g.config.cancun_time = None,
            "config.cancunTime must be active at genesis",
        );
        check(
            |g| g.config.shanghai_time = Some(1_001),
            "config.shanghaiTime must be active at genesis",
        );
        check(
            |g| g.config.amsterdam_time = Some(u64::MAX),
            "config.amsterdamTime must be absent: the fork is not supported",
        );
        check(
            |g| g.config.bogota_time = Some(u64::MAX),
            "config.amsterdamTime must be absent: the fork is not supported",
        );
        check(
            |g| (g.config.cancun_time, g.config.prague_time) = (Some(900), Some(899)),
            "config.pragueTime must not be before cancunTime",
        );
        check(
            |g| (g.config.prague_time, g.config.osaka_time) = (None, Some(2_000)),
            "config.osakaTime must not be before pragueTime, nor without it",
        );
        check(
            |g| (g.config.prague_time, g.config.osaka_time) = (Some(2_000), Some(1_999)),
            "config.osakaTime must not be before pragueTime, nor without it",
        );
        check(|g| g.excess_blob_gas = Some(1), "excessBlobGas must be 0");
        check(|g| g.number = Some(1), "number must be 0");
        check(
            |g| g.base_fee_per_gas = Some(1 << 64),
            "baseFeePerGas must be below 2^64",
        );
        check(
            |g| g.config.blob_schedule.retain(|fork, _| fork == "cancun"),
            "config.blobSchedule.prague must be there, with target, max and baseFeeUpdateFraction",
        );
        check(
            |g| drop(g.alloc.remove(&BEACON_ROOTS_ADDRESS)),
            "alloc.0x000F3df6D732807Ef1319fB7B8bB8522d0Beac02 must have the code of EIP-4788",
        );
        check(
            |g| g.config.blob_schedule.clear(),
            "config.blobSchedule.cancun must be there, with target, max and baseFeeUpdateFraction",
        );
        check(
            |g| drop(g.alloc.remove(&HISTORY_STORAGE_ADDRESS)),
            "alloc.0x0000F90827F1C53a10cb7A02335B175320002935 must have the code of EIP-2935",
        );
        let real = |g: &mut Genesis| {
            let stub = g.alloc.get_mut(&WITHDRAWAL_REQUESTS).unwrap();
            stub.code = Some(Bytes::from_static(&[0x60, 0x00]));
        };
        check(
            real,
            "alloc.0x00000961Ef480Eb55e80D19ad83579A64c007002 must have exactly the code 0x00: \
             real requests would halt the rollup",
        );
        check(
            |g| drop(g.alloc.remove(&CONSOLIDATION_REQUESTS)),
            "alloc.0x0000BBdDc7CE488642fb579F8B00f3a590007251 must have exactly the code 0x00: \
             real requests would halt the rollup",
        );
        let deposits = |g: &mut Genesis| {
            g.config.deposit_contract_address = Some(BEACON_ROOTS_ADDRESS);
        };
        check(
            deposits,
            "config.depositContractAddress must be absent or without code",
        );
    }

    #[test]
    fn a_state_is_imported_once_and_never_swapped() {
        let store = MemStore::default();
        let first = Specification::new(&genesis(), &store).unwrap();
        let wallet = Address::repeat_byte(1);
        assert_eq!(balance(&store, wallet), U256::from(1));
        // Nothing is built upon it yet, so another file may replace it.
        let mut other = genesis();
        other.alloc.get_mut(&wallet).unwrap().balance = U256::from(2);
        let second = Specification::new(&other, &store).unwrap();
        assert_eq!(balance(&store, wallet), U256::from(2));
        assert_ne!(first.genesis_header(), second.genesis_header());
        // A block has changed the state since.
        let account = (Table::Accounts, wallet.to_vec());
        let block = (Table::Blocks, 0_u64.to_be_bytes().to_vec());
        let writes = [(account.clone(), None), (block, Some(Vec::new()))];
        store.commit(Batch::from(writes)).unwrap();
        let again = Specification::new(&other, &store).unwrap();
        assert_eq!(again.genesis_header(), second.genesis_header());
        let refused = Specification::new(&genesis(), &store).unwrap_err();
        assert!(matches!(refused, GenesisError::OtherState));
        assert_eq!(store.get(account.0, &account.1).unwrap(), None);
    }

    #[test]
    fn an_account_that_comes_twice_is_refused() {
        let file = serde_json::to_string(&genesis()).unwrap();
        let wallet = r#""0x0101010101010101010101010101010101010101":{"balance":"0x1"},"#;
        let twice = file.replace(r#""alloc":{"#, &format!(r#""alloc":{{{wallet}"#));
        let refused = Specification::read(Cursor::new(twice), &MemStore::default()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "rollup genesis: alloc.0x0101010101010101010101010101010101010101 must be there once"
        );
    }

    #[test]
    fn forks_start_at_their_timestamps() {
        let mut genesis = genesis();
        genesis.config.osaka_time = Some(2_000);
        let prague = genesis.config.blob_schedule["prague"];
        genesis.config.blob_schedule.insert("osaka".into(), prague);
        let specification = specification(&genesis).unwrap();
        assert_eq!(specification.fork_at(1_999).fork, Fork::Prague);
        assert_eq!(specification.fork_at(2_000).fork, Fork::Osaka);
        let forks = [(Fork::Cancun, 0), (Fork::Prague, 0), (Fork::Osaka, 2_000)];
        assert_eq!(specification.chain_spec().forks, forks);
        // No block is ever made under Cancun.
        let used: Vec<Fork> = specification.forks().collect();
        assert_eq!(used, [Fork::Prague, Fork::Osaka]);
        genesis.config.prague_time = Some(1_001);
        let later = Specification::new(&genesis, &MemStore::default()).unwrap();
        assert_eq!(later.forks().count(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damaged_files_never_panic(
            damage in prop::collection::vec((any::<prop::sample::Index>(), "[0-9a-z\"{},]"), 1..3),
        ) {
            let mut file = serde_json::to_string(&genesis()).unwrap().into_bytes();
            for (at, with) in damage {
                let at = at.index(file.len());
                file[at] = with.as_bytes()[0];
            }
            let _ = Specification::read(Cursor::new(file), &MemStore::default());
        }
    }
}
