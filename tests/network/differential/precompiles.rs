//! Inputs for the contracts that every client brings along.

use alloy_primitives::{Address, hex};
use counterpoint_core::chain_spec::Fork;

use super::random::Random;

/// The generator of BLS12-381's G1, as EIP-2537 encodes it.
const BLS_G1: &str = "0000000000000000000000000000000017f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb0000000000000000000000000000000008b3f481e3aaa0f1a09e30ed741d8ae4fcf5e095d5d00af600db18cb2c04b3edd03cc744a2888ae40caa232946c5e7e1";
/// The generator of its G2.
const BLS_G2: &str = "00000000000000000000000000000000024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb80000000000000000000000000000000013e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e000000000000000000000000000000000ce5d527727d6e118cc9cdc6da2e351aadfd9baa8cbdd3a76d429a695160d12c923ac9cc3baca289e193548608b82801000000000000000000000000000000000606c4a02ea734cc32acd2b02bc28b99cb3e287e85a763af267492ab572e99ab3f370d275cec1da1aaa9075ff05f79be";
/// The generator of alt_bn128's G1, its negative, and the generator of G2.
const BN_G1: &str = "00000000000000000000000000000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000000000002";
const BN_G1_NEGATIVE: &str = "000000000000000000000000000000000000000000000000000000000000000130644e72e131a029b85045b68181585d97816a916871ca8d3c208c16d87cfd45";
const BN_G2: &str = "198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c21800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa";
/// A signature over secp256k1.
const ECRECOVER: &str = "456e9aea5e197a1f1af7a3e85a3212fa4049a3ba34c2289b4c860fc0b0c64ef3000000000000000000000000000000000000000000000000000000000000001c9242685bf161793cc25603c231bc2f568eb630ea16aa137d2664ac80388256084f8ae3bd7535248d0bd448298cc2e2071e56992d0774dc340c368ae950852ada";
/// One over secp256r1 (EIP-7951).
const P256: &str = "4cee90eb86eaa050036147a12d49004b6b9c72bd725d39d4785011fe190f0b4da73bd4903f0ce3b639bbbf6e8e80d16931ff4bcf5993d58468e8fb19086e8cac36dbcd03009df8c59286b162af3bd7fcc0450c9aa81be5d10d312af6c66b1d604aebd3099c618202fcfe16ae7770b0c49ab5eadf74b754204a3bb6060e44eff37618b065f9832de4ca6ca971a7a1adc826d0f7c00181a5fb2ddf79ae00b4e10e";
/// The commitment to the polynomial 0, and its versioned hash (EIP-4844).
const KZG_ZERO: &str = "c00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";
const KZG_ZERO_HASH: &str = "010657f37554c781402a22917dee2f75def7ab966d7b770905398eba3c444014";

pub(super) const P256_VERIFY: u16 = 0x100;

fn address(number: u16) -> Address {
    Address::left_padding_from(&number.to_be_bytes())
}

/// All of a fork.
pub(super) fn of(fork: Fork) -> Vec<u16> {
    match fork {
        Fork::Cancun => (1..=0x0a).collect(),
        Fork::Prague => (1..=0x11).collect(),
        Fork::Osaka => (1..=0x11).chain([P256_VERIFY]).collect(),
    }
}

/// Any of them, one that its fork may not have yet included, with an input that it accepts, one
/// that is nearly right, or noise.
pub(super) fn call(random: &mut Random) -> (Address, Vec<u8>) {
    let number = *random.pick(&of(Fork::Osaka));
    let mut input = accepted(number, random);
    match random.below(4) {
        0 if !input.is_empty() => {
            let at = random.below(input.len());
            input[at] ^= 1 << random.below(8);
        }
        1 => {
            let length = random.below(input.len() + 40);
            input.resize(length, 0);
        }
        _ => {}
    }
    (address(number), input)
}

/// An input that the contract does not fail on.
pub(super) fn accepted(number: u16, random: &mut Random) -> Vec<u8> {
    let join = |parts: &[&str]| hex::decode(parts.concat()).unwrap();
    let mut with_scalar = |point: &str| [join(&[point]), random.bytes(32)].concat();
    match number {
        0x01 => join(&[ECRECOVER]),
        0x05 => exponentiation(random),
        0x06 => join(&[BN_G1, BN_G1]),
        0x07 => with_scalar(BN_G1),
        0x08 => join(&[BN_G1, BN_G2, BN_G1_NEGATIVE, BN_G2]),
        0x09 => {
            let rounds = u32::try_from(random.below(2_000)).unwrap();
            let last = u8::from(random.one_in(2));
            [&rounds.to_be_bytes()[..], &random.bytes(208), &[last]].concat()
        }
        0x0a => {
            let at = [vec![0], random.bytes(31)].concat();
            let zero = join(&[KZG_ZERO]);
            [join(&[KZG_ZERO_HASH]), at, vec![0; 32], zero.clone(), zero].concat()
        }
        0x0b => join(&[BLS_G1, BLS_G1]),
        0x0c => with_scalar(BLS_G1),
        0x0d => join(&[BLS_G2, BLS_G2]),
        0x0e => with_scalar(BLS_G2),
        0x0f => join(&[BLS_G1, BLS_G2]),
        0x10 => field_element(random),
        0x11 => [field_element(random), field_element(random)].concat(),
        P256_VERIFY => join(&[P256]),
        _ => {
            let length = random.below(300);
            random.bytes(length)
        }
    }
}

/// Below BLS12-381's modulus, which starts with 0x1a.
fn field_element(random: &mut Random) -> Vec<u8> {
    let mut element = [vec![0; 16], random.bytes(48)].concat();
    element[16] &= 0x0f;
    element
}

/// Base, exponent and modulus of any length.
fn exponentiation(random: &mut Random) -> Vec<u8> {
    let lengths: Vec<usize> = (0..3).map(|_| random.below(70)).collect();
    let mut input = Vec::new();
    for length in &lengths {
        input.extend([0; 31]);
        input.push(u8::try_from(*length).unwrap());
    }
    input.extend(random.bytes(lengths.iter().sum()));
    input
}

/// At the longest modulus that Osaka takes (EIP-7823), and one byte beyond.
pub(super) fn long_exponentiation(modulus: u16) -> Vec<u8> {
    let word = |length: u16| [&[0; 30][..], &length.to_be_bytes()].concat();
    let body = vec![0xa5; usize::from(modulus) + 2];
    [word(1), word(1), word(modulus), body].concat()
}

pub(super) fn contract(number: u16) -> Address {
    address(number)
}
