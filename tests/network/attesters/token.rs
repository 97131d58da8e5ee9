//! A token that is burnt on one rollup and minted on another, in one bundle.

use alloy_primitives::{Address, U256};
use alloy_provider::Provider;
use alloy_rpc_types_eth::TransactionRequest;
use alloy_sol_types::{SolCall, SolValue, sol};
use counterpoint_contracts::{DEPLOYER, MAILBOX, SALT, TOKEN_INIT_CODE};
use counterpoint_core::primitive::RollupId;

use super::bundle::{Draft, Sample, Step, Transfers, Who, place, rollups, word};
use crate::support::{Network, receipt, wait_for};

sol! {
    function burn(bytes32 session, bytes32 dst, address to, uint256 amount) external;
    function mint((bytes32, bytes32, uint64, address, address, bytes) message) external;
    function balanceOf(address account) external view returns (uint256 balance);
}

/// What there is of it, all of it on the first rollup at first.
pub(super) const SUPPLY: u64 = 1_000;

/// The same token on two rollups.
pub(super) struct Token {
    who: Who,
    rollups: [RollupId; 2],
    address: Address,
}

impl Token {
    /// Has the deployment proxies create it for an account.
    pub(super) async fn deploy(network: &Network, who: Who) -> Self {
        let rollups = rollups(network, who.rollups);
        let issuer = network.info.rollups[place(network, rollups[0])].evm_chain_id;
        let arguments = (
            MAILBOX,
            "Atomic".to_owned(),
            "ATM".to_owned(),
            rollups.map(|id| word(id.as_bytes())).to_vec(),
            U256::from(issuer),
            network.address(who.account),
            U256::from(SUPPLY),
        );
        let code = [TOKEN_INIT_CODE, &arguments.abi_encode_params()].concat();
        let token = Self {
            who,
            rollups,
            address: DEPLOYER.create2_from_code(SALT, &code),
        };
        for id in rollups {
            let rollup = place(network, id);
            let create = TransactionRequest::default()
                .to(DEPLOYER)
                .input([SALT.as_slice(), &code].concat().into());
            let wallet = network.wallet(rollup, who.account);
            let sent = wallet.send_transaction(create).await.unwrap();
            assert!(
                receipt(&network.geth(rollup), *sent.tx_hash())
                    .await
                    .status()
            );
        }
        token
    }

    /// What an account has on each of the two rollups.
    pub(super) async fn balances(&self, network: &Network, of: Address) -> [u64; 2] {
        let mut balances = [0; 2];
        for (balance, id) in balances.iter_mut().zip(self.rollups) {
            let call = balanceOfCall { account: of }.abi_encode();
            let call = TransactionRequest::default()
                .to(self.address)
                .input(call.into());
            let geth = network.geth(place(network, id));
            let answer = wait_for("a balance", || async { geth.call(call.clone()).await.ok() });
            let answer = balanceOfCall::abi_decode_returns(&answer.await).unwrap();
            *balance = answer.to();
        }
        balances
    }

    /// A bundle that moves some of it to an account on the second rollup.
    pub(super) async fn moves(&self, network: &Network, to: Address, amount: u64) -> Sample {
        let data = (to, U256::from(amount)).abi_encode_params();
        let draft = Draft::new(network, self.who);
        let draft = draft.with_message(network, [self.address; 2], data);
        let burn = burnCall {
            session: draft.session(),
            dst: word(self.rollups[1].as_bytes()),
            to,
            amount: U256::from(amount),
        };
        let mint = mintCall {
            message: {
                let message = draft.message();
                (
                    message.src,
                    message.dst,
                    message.index,
                    message.sender,
                    message.receiver,
                    message.data,
                )
            },
        };
        let [src, dst] = self.rollups;
        let legs = [
            vec![
                draft.open(network, src),
                Step::at(self.address, &burn),
                Step::close(),
            ],
            vec![
                draft.open(network, dst),
                Step::at(self.address, &mint),
                Step::close(),
            ],
        ];
        draft.finish(network, legs, &Transfers::default()).await
    }
}
