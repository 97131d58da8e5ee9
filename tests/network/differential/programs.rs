//! Random bytecode: each statement leaves the stack as it was, so that most programs come far.

use alloy_eips::{eip2935::HISTORY_STORAGE_ADDRESS, eip4788::BEACON_ROOTS_ADDRESS};
use alloy_primitives::{Address, B256, U256};
use revm::bytecode::opcode as op;

use super::{precompiles, random::Random};

/// Slots that programs use: few, so that they meet.
const SLOTS: u64 = 6;
/// How deep statements and created contracts nest.
const MAX_NESTING: usize = 2;

/// What tells of where it runs.
const ENVIRONMENT: [u8; 20] = [
    op::ADDRESS,
    op::ORIGIN,
    op::CALLER,
    op::CALLVALUE,
    op::CALLDATASIZE,
    op::CODESIZE,
    op::GASPRICE,
    op::RETURNDATASIZE,
    op::COINBASE,
    op::TIMESTAMP,
    op::NUMBER,
    op::DIFFICULTY,
    op::GASLIMIT,
    op::CHAINID,
    op::SELFBALANCE,
    op::BASEFEE,
    op::BLOBBASEFEE,
    op::PC,
    op::MSIZE,
    op::GAS,
];

const ARITHMETIC: [u8; 24] = [
    op::ADD,
    op::MUL,
    op::SUB,
    op::DIV,
    op::SDIV,
    op::MOD,
    op::SMOD,
    op::ADDMOD,
    op::MULMOD,
    op::EXP,
    op::SIGNEXTEND,
    op::LT,
    op::GT,
    op::SLT,
    op::SGT,
    op::EQ,
    op::AND,
    op::OR,
    op::XOR,
    op::BYTE,
    op::SHL,
    op::SHR,
    op::SAR,
    op::ISZERO,
];

/// Code that grows.
#[derive(Debug, Default)]
struct Code(Vec<u8>);

impl Code {
    fn op(&mut self, opcode: u8) -> &mut Self {
        self.0.push(opcode);
        self
    }

    fn ops(&mut self, opcodes: &[u8]) -> &mut Self {
        self.0.extend(opcodes);
        self
    }

    fn push(&mut self, value: u64) -> &mut Self {
        self.push_word(U256::from(value))
    }

    fn push_word(&mut self, value: U256) -> &mut Self {
        let bytes = value.to_be_bytes_trimmed_vec();
        let length = u8::try_from(bytes.len()).unwrap();
        self.op(op::PUSH0 + length).ops(&bytes)
    }

    fn push_address(&mut self, address: Address) -> &mut Self {
        self.op(op::PUSH20).ops(address.as_slice())
    }

    /// Two bytes, whatever the value, so that it can be known before its place is.
    fn push_offset(&mut self, offset: usize) -> &mut Self {
        self.op(op::PUSH2)
            .ops(&u16::try_from(offset).unwrap().to_be_bytes())
    }

    /// Writes to memory from 0 on.
    fn memory(&mut self, bytes: &[u8]) -> &mut Self {
        for (at, chunk) in bytes.chunks(32).enumerate() {
            let mut word = [0; 32];
            word[..chunk.len()].copy_from_slice(chunk);
            self.op(op::PUSH32).ops(&word);
            self.push_offset(at * 32).op(op::MSTORE);
        }
        self
    }

    /// What lies on top of the stack goes into a slot, where the state root shows it.
    fn keep(&mut self, random: &mut Random) -> &mut Self {
        self.push(random.between(0, SLOTS)).op(op::SSTORE)
    }
}

/// Where programs may reach.
#[derive(Debug)]
pub(super) struct World {
    /// Accounts with and without code.
    pub(super) accounts: Vec<Address>,
}

impl World {
    fn target(&self, random: &mut Random) -> Address {
        match random.below(12) {
            0 => Address::from_slice(&random.bytes(20)),
            1 => BEACON_ROOTS_ADDRESS,
            2 => HISTORY_STORAGE_ADDRESS,
            _ => *random.pick(&self.accounts),
        }
    }
}

/// A program.
pub(super) fn program(random: &mut Random, world: &World) -> Vec<u8> {
    let mut code = Code::default();
    for _ in 0..=random.below(8) {
        statement(&mut code, random, world, MAX_NESTING);
    }
    ending(&mut code, random, world);
    code.0
}

/// Code that runs, and then leaves `runtime`.
pub(super) fn initcode(random: &mut Random, world: &World, runtime: &[u8]) -> Vec<u8> {
    let mut code = Code::default();
    for _ in 0..random.below(3) {
        statement(&mut code, random, world, 1);
    }
    if random.one_in(8) {
        ending(&mut code, random, world);
    }
    returning(code, runtime)
}

fn returning(mut code: Code, runtime: &[u8]) -> Vec<u8> {
    // PUSH2 length, PUSH2 offset, PUSH0, CODECOPY, PUSH2 length, PUSH0, RETURN.
    let offset = code.0.len() + 13;
    code.push_offset(runtime.len()).push_offset(offset);
    code.ops(&[op::PUSH0, op::CODECOPY]);
    code.push_offset(runtime.len());
    code.ops(&[op::PUSH0, op::RETURN]).ops(runtime);
    code.0
}

/// Calls itself until its gas is gone, and counts on the way back.
pub(super) fn deep() -> Vec<u8> {
    let mut code = Code::default();
    code.ops(&[op::PUSH0, op::PUSH0, op::PUSH0, op::PUSH0, op::PUSH0]);
    code.ops(&[op::ADDRESS, op::GAS, op::CALL]);
    code.ops(&[op::PUSH0, op::SLOAD, op::ADD, op::PUSH0, op::SSTORE]);
    code.0
}

/// Writes a slot when it is created, and destroys itself when it is called.
fn mortal() -> Vec<u8> {
    let mut code = Code::default();
    code.push(1).push(1).op(op::SSTORE);
    returning(code, &[op::CALLER, op::SELFDESTRUCT])
}

/// Creates a mortal at one of two addresses, calls it, and tries to create it again.
pub(super) fn phoenix(salt: u8) -> Vec<u8> {
    let mut code = Code::default();
    let child = mortal();
    for slot in 0..2_u8 {
        code.memory(&child).push(salt.into());
        code.push(child.len() as u64)
            .push(0)
            .push(1)
            .op(op::CREATE2);
        call_created(&mut code);
        code.push(slot.into()).op(op::SSTORE);
    }
    code.0
}

/// Calls the address on top of the stack and leaves it there.
fn call_created(code: &mut Code) {
    code.ops(&[op::PUSH0, op::PUSH0, op::PUSH0, op::PUSH0, op::PUSH0]);
    code.ops(&[op::DUP6, op::GAS, op::CALL, op::POP]);
}

fn ending(code: &mut Code, random: &mut Random, world: &World) {
    match random.below(8) {
        0 => code.push(32).op(op::PUSH0).op(op::REVERT),
        1 => code.op(op::INVALID),
        2 => code
            .push(random.between(0, 64))
            .op(op::PUSH0)
            .op(op::RETURN),
        3 => {
            let heir = world.target(random);
            code.push_address(heir).op(op::SELFDESTRUCT)
        }
        4 => code.ops(&[op::ADDRESS, op::SELFDESTRUCT]),
        _ => code.op(op::STOP),
    };
}

fn statement(code: &mut Code, random: &mut Random, world: &World, nesting: usize) {
    match random.below(if nesting == 0 { 13 } else { 17 }) {
        0 | 1 => {
            let value = match random.below(3) {
                0 => U256::ZERO,
                1 => U256::from(random.between(1, 300)),
                _ => B256::from_slice(&random.bytes(32)).into(),
            };
            code.push_word(value).keep(random);
        }
        2 => drop(code.op(*random.pick(&ENVIRONMENT)).keep(random)),
        3 => {
            let look = *random.pick(&[op::BALANCE, op::EXTCODESIZE, op::EXTCODEHASH]);
            let target = world.target(random);
            code.push_address(target).op(look).keep(random);
        }
        4 => {
            let back = random.between(0, 258);
            code.push(back).ops(&[op::NUMBER, op::SUB, op::BLOCKHASH]);
            code.keep(random);
        }
        5 | 6 => {
            for _ in 0..3 {
                let length = random.below(33);
                let operand = random.bytes(length);
                code.push_word(U256::from_be_slice(&operand));
            }
            let calculate = *random.pick(&ARITHMETIC);
            code.op(calculate).keep(random);
            // Ternary ones leave nothing, binary ones one operand, unary ones two.
            match calculate {
                op::ADDMOD | op::MULMOD => {}
                op::ISZERO => drop(code.ops(&[op::POP, op::POP])),
                _ => drop(code.op(op::POP)),
            }
        }
        7 => memory(code, random, world),
        8 => {
            let (slot, value) = (random.between(0, 3), random.between(0, 3));
            code.push(value).push(slot).op(op::TSTORE);
            code.push(random.between(0, 3)).op(op::TLOAD).keep(random);
        }
        9 => {
            let topics = u8::try_from(random.below(5)).unwrap();
            for _ in 0..topics {
                code.push(random.between(0, 1_000));
            }
            code.push(random.between(0, 100))
                .push(random.between(0, 50));
            code.op(op::LOG0 + topics);
        }
        10 => {
            let (target, input) = precompiles::call(random);
            code.memory(&input);
            call(code, random, target, input.len());
            code.push(0x2000).op(op::MLOAD).keep(random);
        }
        11 | 12 => {
            let target = world.target(random);
            let length = random.below(70);
            call(code, random, target, length);
        }
        13 | 14 => create(code, random, world, nesting - 1),
        15 => {
            // A branch on a slot that others write.
            code.push(random.between(0, SLOTS)).op(op::SLOAD);
            let skip = code.0.len() + 1;
            code.push_offset(0).op(op::JUMPI);
            statement(code, random, world, nesting - 1);
            let after = u16::try_from(code.0.len()).unwrap();
            code.0[skip..skip + 2].copy_from_slice(&after.to_be_bytes());
            code.op(op::JUMPDEST);
        }
        _ => {
            // A loop.
            code.push(random.between(1, 6));
            let start = code.0.len();
            code.op(op::JUMPDEST);
            statement(code, random, world, 0);
            code.push(1).ops(&[op::SWAP1, op::SUB, op::DUP1]);
            code.push_offset(start).ops(&[op::JUMPI, op::POP]);
        }
    }
    if random.one_in(150) {
        code.op(random.byte());
    }
}

fn memory(code: &mut Code, random: &mut Random, world: &World) {
    let three = |code: &mut Code, random: &mut Random| {
        for _ in 0..3 {
            code.push(random.between(0, 90));
        }
    };
    match random.below(7) {
        0 => {
            let value = random.bytes(32);
            code.memory(&value);
        }
        1 => {
            three(code, random);
            code.op(op::MCOPY);
        }
        2 => {
            let target = world.target(random);
            three(code, random);
            code.push_address(target).op(op::EXTCODECOPY);
        }
        3 => {
            three(code, random);
            code.op(*random.pick(&[op::CALLDATACOPY, op::CODECOPY]));
        }
        4 => {
            // Beyond what was returned this ends the call.
            code.push(random.between(0, 32))
                .push(0)
                .push(random.between(0, 64));
            code.op(op::RETURNDATACOPY);
        }
        5 => {
            code.push(random.between(0, 255))
                .push(random.between(0, 90));
            code.op(op::MSTORE8);
        }
        _ => {
            code.push(random.between(0, 200))
                .push(random.between(0, 90));
            code.op(op::KECCAK256).keep(random);
        }
    }
}

/// Calls with `length` bytes of memory, and keeps whether that worked and how much came back.
fn call(code: &mut Code, random: &mut Random, target: Address, length: usize) {
    let kind = *random.pick(&[
        op::CALL,
        op::CALL,
        op::CALLCODE,
        op::DELEGATECALL,
        op::STATICCALL,
    ]);
    code.push(32).push(0x2000);
    code.push(length as u64).push(0);
    if matches!(kind, op::CALL | op::CALLCODE) {
        code.push(if random.one_in(3) {
            random.between(1, 9)
        } else {
            0
        });
    }
    match random.below(10) {
        0 => code.op(op::ADDRESS),
        _ => code.push_address(target),
    };
    match random.below(5) {
        0 => code.push(random.between(0, 30_000)),
        _ => code.op(op::GAS),
    };
    code.op(kind);
    code.op(op::RETURNDATASIZE).op(op::ADD).keep(random);
}

fn create(code: &mut Code, random: &mut Random, world: &World, nesting: usize) {
    let mut runtime = Code::default();
    match random.below(6) {
        // Code that may not be deployed (EIP-3541), and none.
        0 => drop(runtime.op(0xef)),
        1 => {}
        _ => {
            statement(&mut runtime, random, world, nesting);
            ending(&mut runtime, random, world);
        }
    }
    let child = if random.one_in(4) {
        mortal()
    } else {
        initcode(random, world, &runtime.0)
    };
    code.memory(&child);
    let salted = random.one_in(2);
    if salted {
        code.push(random.between(0, 1));
    }
    code.push(child.len() as u64).push(0);
    code.push(random.between(0, 2));
    code.op(if salted { op::CREATE2 } else { op::CREATE });
    if random.one_in(2) {
        call_created(code);
    }
    code.keep(random);
}
