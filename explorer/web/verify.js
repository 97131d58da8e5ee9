// A verifier that trusts nobody but a root: from an item of a rollup's list, or a transaction of the
// sequencer, up to a header that validators signed, and from there back to the root.
//
//   item → list root → leaf → rollups root → item 0 → data hash → header → signatures → root
//
// It is written from docs/spec/blocks.md and verification.md, not translated from the Rust code, and
// tests/vectors.json holds both to the same verdicts. It decodes nothing: it takes each field by its
// name, encodes it as the chain does and hashes that. So what the page shows is what was hashed.
//
// Nothing here touches the page. Hashes and signatures are the browser's own (Web Crypto), except for
// keccak-256, which browsers do not have and by which wallets know a transaction.

/** How long after its time a header may still introduce a later one, in seconds. */
export const TRUSTING_SECONDS = 30n * 24n * 3600n;
/** The greatest voting power of a set, as CometBFT bounds it. */
const MAX_POWER = (1n << 60n) - 1n;
/** The deepest path: leaves are counted in 32 bits. */
const MAX_DEPTH = 32;
/** Most headers that are verified on the way to one. */
const MAX_HOPS = 256;

/** A step of a proof does not hold. */
export class Refused extends Error {
  constructor(step, message) {
    super(message);
    this.name = 'Refused';
    this.step = step;
  }
}

/** A header is too far away to be verified from what is trusted alone. */
class Distant extends Error {}

function demand(holds, step, message) {
  if (!holds) throw new Refused(step, message);
}

// Fields

function object(value, keys, step) {
  demand(value !== null && typeof value === 'object' && !Array.isArray(value), step, 'a part is missing');
  const found = Object.keys(value).sort().join();
  demand(found === [...keys].sort().join(), step, `unexpected fields: ${found}`);
  return value;
}

function list(value, step) {
  demand(Array.isArray(value), step, 'a list is missing');
  return value;
}

function bytes(text, length, step) {
  demand(typeof text === 'string' && /^([0-9a-f]{2})*$/.test(text), step, 'not lower-case hexadecimal');
  demand(length === undefined || text.length === 2 * length, step, `expected ${length} bytes`);
  const result = new Uint8Array(text.length / 2);
  for (let i = 0; i < result.length; i += 1) result[i] = Number.parseInt(text.slice(2 * i, 2 * i + 2), 16);
  return result;
}

function bigint(text, step) {
  demand(typeof text === 'string' && /^(0|[1-9][0-9]{0,19})$/.test(text), step, 'not a number');
  const value = BigInt(text);
  demand(value < 1n << 64n, step, 'a number is too great');
  return value;
}

function number(value, bits, step) {
  demand(Number.isInteger(value) && value >= 0 && value < 2 ** bits, step, 'not a number');
  return value;
}

function flag(value, step) {
  demand(typeof value === 'boolean', step, 'neither true nor false');
  return value;
}

function text(value, step) {
  demand(typeof value === 'string', step, 'not a text');
  return value;
}

export function hex(array) {
  return Array.from(array, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function join(...parts) {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

function little(value, width) {
  let rest = BigInt(value);
  return Uint8Array.from({ length: width }, () => {
    const byte = Number(rest & 0xffn);
    rest >>= 8n;
    return byte;
  });
}

// Hashes

/** Whether this browser can verify at all, and if not, why. */
export async function ability() {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) {
    return 'This page was not loaded over HTTPS or from this computer, and so the browser keeps its cryptography from it.';
  }
  try {
    await subtle.importKey('raw', bytes(BASE_POINT), { name: 'Ed25519' }, false, ['verify']);
    return null;
  } catch {
    return 'This browser has no Ed25519 signatures. Chrome has them since version 137, Firefox since 129, Safari since 17.';
  }
}

const BASE_POINT = `58${'66'.repeat(31)}`;

export async function sha256(...parts) {
  return new Uint8Array(await globalThis.crypto.subtle.digest('SHA-256', join(...parts)));
}

const KECCAK_ROUNDS = (() => {
  // Constants of the rounds, by the shift register of FIPS 202, section 3.2.5.
  const constants = [];
  let register = 1;
  const bit = () => {
    const out = register & 1;
    register = register & 0x80 ? (register << 1) ^ 0x171 : register << 1;
    return BigInt(out);
  };
  for (let round = 0; round < 24; round += 1) {
    let constant = 0n;
    for (let j = 0; j < 7; j += 1) constant |= bit() << ((1n << BigInt(j)) - 1n);
    constants.push(constant);
  }
  return constants;
})();

const WORD = (1n << 64n) - 1n;
const rotate = (word, by) => (by === 0n ? word : ((word << by) | (word >> (64n - by))) & WORD);

function permute(lanes) {
  for (const constant of KECCAK_ROUNDS) {
    const columns = [0, 1, 2, 3, 4].map((x) => lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20]);
    for (let at = 0; at < 25; at += 1) lanes[at] ^= columns[(at + 4) % 5] ^ rotate(columns[(at + 1) % 5], 1n);
    let [x, y, current] = [1, 0, lanes[1]];
    for (let t = 0; t < 24; t += 1) {
      [x, y] = [y, (2 * x + 3 * y) % 5];
      const at = x + 5 * y;
      [current, lanes[at]] = [lanes[at], rotate(current, BigInt(((t + 1) * (t + 2)) / 2) % 64n)];
    }
    for (let row = 0; row < 25; row += 5) {
      const old = lanes.slice(row, row + 5);
      for (let at = 0; at < 5; at += 1) lanes[row + at] = old[at] ^ (~old[(at + 1) % 5] & WORD & old[(at + 2) % 5]);
    }
    lanes[0] ^= constant;
  }
}

/** Keccak-256, as Ethereum uses it. */
export function keccak256(message) {
  const rate = 136;
  const padded = new Uint8Array(Math.ceil((message.length + 1) / rate) * rate);
  padded.set(message);
  padded[message.length] |= 0x01;
  padded[padded.length - 1] |= 0x80;
  const view = new DataView(padded.buffer);
  const lanes = Array(25).fill(0n);
  for (let block = 0; block < padded.length; block += rate) {
    for (let at = 0; at < rate / 8; at += 1) lanes[at] ^= view.getBigUint64(block + 8 * at, true);
    permute(lanes);
  }
  return join(...lanes.slice(0, 4).map((lane) => little(lane, 8)));
}

// Merkle trees (RFC 6962)

const leafHash = (content) => sha256(Uint8Array.of(0), content);
const nodeHash = (left, right) => sha256(Uint8Array.of(1), left, right);

async function merkleRoot(leaves) {
  let level = leaves;
  if (level.length === 0) return sha256();
  while (level.length > 1) {
    const next = [];
    for (let at = 0; at < level.length; at += 2) {
      next.push(at + 1 < level.length ? await nodeHash(level[at], level[at + 1]) : level[at]);
    }
    level = next;
  }
  return level[0];
}

/** The root that a path leads to from a leaf (RFC 9162, 2.1.3.2). */
async function follow(path, leaf, step) {
  object(path, ['index', 'len', 'siblings'], step);
  const [index, len] = [number(path.index, 32, step), number(path.len, 32, step)];
  const siblings = list(path.siblings, step).map((one) => bytes(one, 32, step));
  demand(index < len && siblings.length <= MAX_DEPTH, step, 'a path of this place cannot look like this');
  let [place, last, root] = [index, len - 1, leaf];
  for (const sibling of siblings) {
    demand(last > 0, step, 'the path is too long');
    if (place % 2 === 1 || place === last) {
      root = await nodeHash(sibling, root);
      // A node that was promoted has no sibling on the levels it skips.
      while (place % 2 === 0 && place !== 0) [place, last] = [Math.floor(place / 2), Math.floor(last / 2)];
    } else {
      root = await nodeHash(root, sibling);
    }
    [place, last] = [Math.floor(place / 2), Math.floor(last / 2)];
  }
  demand(last === 0, step, 'the path is too short');
  return hex(root);
}

// Borsh

function itemBytes(item) {
  const step = 'item';
  switch (item?.kind) {
    case 'transaction': {
      object(item, ['kind', 'raw'], step);
      const raw = bytes(item.raw, undefined, step);
      return join(Uint8Array.of(0), little(raw.length, 4), raw);
    }
    case 'deposit':
      object(item, ['kind', 'index', 'address', 'amount_gwei'], step);
      return join(
        Uint8Array.of(1),
        little(bigint(item.index, step), 8),
        bytes(item.address, 20, step),
        little(bigint(item.amount_gwei, step), 8),
      );
    case 'leg': {
      object(item, ['kind', 'bundle_id', 'raw'], step);
      const raw = bytes(item.raw, undefined, step);
      return join(Uint8Array.of(2), bytes(item.bundle_id, 32, step), little(raw.length, 4), raw);
    }
    default:
      throw new Refused(step, 'an item of an unknown kind');
  }
}

const LEAF = ['rollup_id', 'version', 'slot', 'number', 'opens', 'closes', 'beacon_root', 'prev_randao', 'config_hash', 'list_len', 'list_root'];

function leafBytes(leaf) {
  const step = 'leaf';
  object(leaf, LEAF, step);
  return join(
    bytes(leaf.rollup_id, 32, step),
    little(number(leaf.version, 8, step), 1),
    little(bigint(leaf.slot, step), 8),
    little(bigint(leaf.number, step), 8),
    little(flag(leaf.opens, step), 1),
    little(flag(leaf.closes, step), 1),
    bytes(leaf.beacon_root, 32, step),
    bytes(leaf.prev_randao, 32, step),
    bytes(leaf.config_hash, 32, step),
    little(number(leaf.list_len, 32, step), 4),
    bytes(leaf.list_root, 32, step),
  );
}

function preambleBytes(preamble) {
  const step = 'preamble';
  object(preamble, ['version', 'rollups_len', 'rollups_root'], step);
  demand(preamble.version === 1, step, 'a block of an unknown layout');
  return join(
    Uint8Array.of(0),
    little(number(preamble.version, 16, step), 2),
    little(number(preamble.rollups_len, 32, step), 4),
    bytes(preamble.rollups_root, 32, step),
  );
}

// Protobuf, as far as CometBFT hashes and signs it: what is zero or empty is left out.

function varint(value) {
  const out = [];
  let rest = BigInt(value);
  while (rest > 0x7fn) {
    out.push(Number(rest & 0x7fn) | 0x80);
    rest >>= 7n;
  }
  out.push(Number(rest));
  return Uint8Array.from(out);
}

const NOTHING = new Uint8Array();
const tag = (field, wire) => Uint8Array.of(field * 8 + wire);
const uint = (field, value) => (BigInt(value) === 0n ? NOTHING : join(tag(field, 0), varint(value)));
const fixed64 = (field, value) => (BigInt(value) === 0n ? NOTHING : join(tag(field, 1), little(value, 8)));
const message = (field, content) => join(tag(field, 2), varint(content.length), content);
const blob = (field, content) => (content.length === 0 ? NOTHING : message(field, content));

function timeBytes(time, step) {
  const { seconds, nanos } = readTime(time, step);
  return join(uint(1, seconds), uint(2, nanos));
}

function readTime(time, step) {
  object(time, ['seconds', 'nanos'], step);
  const nanos = number(time.nanos, 32, step);
  demand(nanos < 1e9, step, 'not a time');
  return { seconds: bigint(time.seconds, step), nanos };
}

const isLater = (a, b) => a.seconds > b.seconds || (a.seconds === b.seconds && a.nanos > b.nanos);

function blockIdBytes(id, step) {
  object(id, ['hash', 'parts', 'parts_hash'], step);
  const parts = join(uint(1, number(id.parts, 32, step)), blob(2, bytes(id.parts_hash, 32, step)));
  return join(blob(1, bytes(id.hash, 32, step)), message(2, parts));
}

const HEADER = [
  'version_block', 'version_app', 'chain_id', 'height', 'time', 'last_block_id', 'last_commit_hash', 'data_hash', 'validators_hash',
  'next_validators_hash', 'consensus_hash', 'app_hash', 'last_results_hash', 'evidence_hash', 'proposer_address',
];

/** The hash of a header. */
export async function headerHash(header) {
  const step = 'header';
  object(header, HEADER, step);
  const hash = (name) => {
    const value = bytes(header[name], undefined, step);
    demand(value.length === 0 || value.length === 32, step, `${name} is no hash`);
    return blob(1, value);
  };
  const fields = [
    join(uint(1, bigint(header.version_block, step)), uint(2, bigint(header.version_app, step))),
    blob(1, new TextEncoder().encode(text(header.chain_id, step))),
    uint(1, bigint(header.height, step)),
    timeBytes(header.time, step),
    header.last_block_id === null ? message(2, NOTHING) : blockIdBytes(header.last_block_id, step),
    hash('last_commit_hash'),
    hash('data_hash'),
    hash('validators_hash'),
    hash('next_validators_hash'),
    hash('consensus_hash'),
    hash('app_hash'),
    hash('last_results_hash'),
    hash('evidence_hash'),
    blob(1, bytes(header.proposer_address, 20, step)),
  ];
  return hex(await merkleRoot(await Promise.all(fields.map(leafHash))));
}

async function readValidators(validators, step) {
  const seen = new Set();
  let total = 0n;
  const members = [];
  for (const one of list(validators, step)) {
    object(one, ['public_key', 'power'], step);
    const [key, power] = [bytes(one.public_key, 32, step), bigint(one.power, step)];
    demand(power > 0n && !seen.has(one.public_key), step, 'not a set of validators');
    seen.add(one.public_key);
    total += power;
    demand(total <= MAX_POWER, step, 'too much voting power');
    const address = hex((await sha256(key)).slice(0, 20));
    const leaf = await leafHash(join(message(1, blob(1, key)), uint(2, power)));
    members.push({ key, name: one.public_key, power, address, leaf });
  }
  demand(members.length > 0, step, 'no validators');
  return { members, total, hash: hex(await merkleRoot(members.map((one) => one.leaf))) };
}

/** The hash of a set of validators, in the set's own order. */
export async function validatorsHash(validators) {
  return (await readValidators(validators, 'validators')).hash;
}

function voteBytes(chainId, commit, vote, isNil) {
  const step = 'signatures';
  const content = join(
    uint(1, 2), // A precommit.
    fixed64(2, bigint(commit.height, step)),
    fixed64(3, number(commit.round, 31, step)),
    isNil ? NOTHING : message(4, blockIdBytes(commit.block_id, step)),
    message(5, timeBytes(vote.time, step)),
    blob(6, new TextEncoder().encode(chainId)),
  );
  return join(varint(content.length), content);
}

async function isSigned(key, signature, content) {
  const { subtle } = globalThis.crypto;
  try {
    const imported = await subtle.importKey('raw', key, { name: 'Ed25519' }, false, ['verify']);
    return await subtle.verify({ name: 'Ed25519' }, imported, signature, content);
  } catch {
    return false;
  }
}

/** Who of a set voted for the block of a commit; a single wrong signature refuses all of it. */
async function signers(chainId, commit, set) {
  const step = 'signatures';
  const signatures = list(commit.signatures, step);
  demand(signatures.length === set.members.length, step, 'not a place for each validator');
  const votes = signatures.map(async (one, place) => {
    if (one?.flag === 'absent') {
      object(one, ['flag'], step);
      return null;
    }
    object(one, ['flag', 'address', 'time', 'signature'], step);
    demand(one.flag === 'commit' || one.flag === 'nil', step, 'an unknown kind of vote');
    const member = set.members[place];
    demand(hex(bytes(one.address, 20, step)) === member.address, step, 'a vote in another’s place');
    const content = voteBytes(chainId, commit, one, one.flag === 'nil');
    const holds = await isSigned(member.key, bytes(one.signature, 64, step), content);
    demand(holds, step, `the signature of validator ${member.address} is wrong`);
    return one.flag === 'commit' ? member : null;
  });
  return (await Promise.all(votes)).filter((member) => member !== null);
}

const powerOf = (members) => members.reduce((sum, one) => sum + one.power, 0n);

// Trust in headers

/** What the genesis is trusted to be. */
export function trustGenesis(root) {
  const step = 'root';
  object(root, ['kind', 'chain_id', 'height', 'time', 'validators'], step);
  return {
    chainId: text(root.chain_id, step),
    height: bigint(root.height, step),
    time: readTime(root.time, step),
    hash: null,
    validators: root.validators,
    nextHash: null, // The first block is signed by these validators themselves.
  };
}

/** Trusts a header whose hash is known from elsewhere; `proof` is what a server has of it. */
export async function trustHeader(height, hash, proof) {
  const step = 'root';
  object(proof, ['header', 'commit', 'validators'], step);
  demand(bigint(proof.header?.height, step) === BigInt(height), step, 'a header of another height');
  demand((await headerHash(proof.header)) === hash, step, `the server has another header at height ${height}`);
  demand((await validatorsHash(proof.validators)) === proof.header.validators_hash, step, 'other validators than the header names');
  return stateOf(proof, hash);
}

function stateOf({ header, validators }, hash) {
  return {
    chainId: header.chain_id,
    height: bigint(header.height, 'header'),
    time: readTime(header.time, 'header'),
    hash,
    validators,
    nextHash: header.next_validators_hash,
  };
}

/**
 * Verifies a header above a trusted one. Gives what is trusted then, and how much power signed.
 * Throws `Refused`, or `Distant` if a header in between must be verified first.
 */
export async function verifyHeader(trusted, proof) {
  const step = 'header';
  object(proof, ['header', 'commit', 'validators'], step);
  const { header, commit } = proof;
  object(commit, ['height', 'round', 'block_id', 'signatures'], step);
  const hash = await headerHash(header);
  const height = bigint(header.height, step);
  demand(height > trusted.height, step, `header ${height} does not follow trusted header ${trusted.height}`);
  demand(header.chain_id === trusted.chainId, step, `a header of another chain: ${header.chain_id}`);
  demand(isLater(readTime(header.time, step), trusted.time), step, 'its time is not later than that of what is trusted');
  demand(bigint(commit.height, step) === height, step, 'a commit of another height');
  demand(commit.block_id?.hash === hash, step, 'validators signed another header');
  const set = await readValidators(proof.validators, 'validators');
  demand(set.hash === header.validators_hash, 'validators', 'other validators than the header names');
  const base = await readValidators(trusted.validators, 'validators');
  const next = trusted.nextHash ?? base.hash;
  const isAdjacent = height === trusted.height + 1n;
  if (isAdjacent) demand(set.hash === next, 'validators', 'other validators than the header before names');
  else if (next !== base.hash) throw new Distant();
  const voted = await signers(trusted.chainId, commit, set);
  const power = powerOf(voted);
  demand(3n * power > 2n * set.total, 'signatures', `only ${power} of ${set.total} voting power signed`);
  const isRecent = readTime(header.time, step).seconds - trusted.time.seconds < TRUSTING_SECONDS;
  if (!isAdjacent) {
    const names = new Set(voted.map((one) => one.name));
    const known = powerOf(base.members.filter((one) => names.has(one.name)));
    if (!isRecent || 3n * known <= base.total) throw new Distant();
  } else {
    demand(isRecent, step, 'more than 30 days lie between it and the header before');
    demand(
      trusted.hash === null || header.last_block_id?.hash === trusted.hash,
      step,
      'the chain has forked: it does not build on the header before',
    );
  }
  return { state: stateOf(proof, hash), votes: voted.length, of: set.members.length, power, total: set.total };
}

/** Verifies any header at or above a root, by others in between where the validators have changed. */
export class LightClient {
  #states;
  #fetchHeader;

  /** `fetchHeader(height)` gives what a server, which is not trusted, has of a header. */
  constructor(root, fetchHeader) {
    this.#states = [root];
    this.#fetchHeader = fetchHeader;
  }

  /** Gives the hash of the header, who signed it, and how many headers lay on the way. */
  async reach(proof) {
    object(proof, ['header', 'commit', 'validators'], 'header');
    const target = bigint(proof.header?.height, 'header');
    const root = this.#states[0];
    const known = this.#states.findLast((state) => state.height <= target);
    demand(known, 'root', `block ${target} is older than what is trusted, which begins at ${root.height}`);
    if (known.height === target && known.hash !== null) return this.#recognise(known, proof);
    let [trusted, verified] = [known, null];
    const wanted = [proof];
    for (let hops = 0; wanted.length > 0; hops += 1) {
      demand(hops < MAX_HOPS, 'root', 'too many headers lie between this one and what is trusted');
      const next = wanted.at(-1);
      try {
        verified = await verifyHeader(trusted, next);
        trusted = verified.state;
        this.#remember(trusted);
        wanted.pop();
      } catch (error) {
        if (!(error instanceof Distant)) throw error;
        const height = await pivot(trusted, bigint(next.header.height, 'header'));
        const between = await this.#fetchHeader(height);
        demand(between?.header?.height === String(height), 'header', 'a header of another height');
        wanted.push(between);
      }
      verified = verified && { ...verified, hops };
    }
    return { hash: verified.state.hash, ...verified };
  }

  async #recognise(known, proof) {
    const hash = await headerHash(proof.header);
    demand(hash === known.hash, 'header', `another header of height ${known.height} was verified before`);
    const set = await readValidators(proof.validators, 'validators');
    demand(set.hash === proof.header.validators_hash, 'validators', 'other validators than the header names');
    object(proof.commit, ['height', 'round', 'block_id', 'signatures'], 'header');
    demand(bigint(proof.commit.height, 'header') === known.height, 'header', 'a commit of another height');
    demand(proof.commit.block_id?.hash === hash, 'header', 'validators signed another header');
    const voted = await signers(known.chainId, proof.commit, set);
    const power = powerOf(voted);
    demand(3n * power > 2n * set.total, 'signatures', `only ${power} of ${set.total} voting power signed`);
    return { hash, state: known, votes: voted.length, of: set.members.length, power, total: set.total, hops: 0 };
  }

  #remember(state) {
    const at = this.#states.findLastIndex((one) => one.height < state.height);
    this.#states.splice(at + 1, 0, state);
    // The root stays, and what was verified last.
    if (this.#states.length > 512) this.#states.splice(1, 1);
  }
}

/** The height to verify first: halfway, or the next one while it is unknown who signs it. */
async function pivot(trusted, target) {
  const knowsNext = trusted.nextHash === null || trusted.nextHash === (await validatorsHash(trusted.validators));
  const step = knowsNext ? (target - trusted.height) / 2n : 1n;
  return trusted.height + (step > 1n ? step : 1n);
}

// Whole proofs

/** Follows an item to the data hash of its header. `expected` is what was asked for. */
export async function verifyItem(proof, expected) {
  object(proof, ['item', 'item_path', 'leaf', 'leaf_path', 'preamble', 'preamble_path', 'signed'], 'item');
  const { item, leaf, preamble } = proof;
  const encoded = itemBytes(item);
  if (expected.hash !== undefined) {
    const isTransaction = item.kind === 'transaction' || item.kind === 'leg';
    const found = isTransaction && hex(keccak256(bytes(item.raw, undefined, 'item')));
    demand(found === expected.hash, 'item', 'this is another transaction than the one asked for');
  }
  demand(expected.index === undefined || proof.item_path?.index === expected.index, 'item', 'an item of another place');
  demand(leaf?.rollup_id === expected.rollupId, 'leaf', 'a list of another rollup');
  demand(proof.signed?.header?.height === String(expected.height), 'header', 'a header of another height');
  const listRoot = await follow(proof.item_path, await leafHash(encoded), 'list');
  demand(proof.item_path.len === leaf.list_len, 'list', 'the list has another length');
  demand(listRoot === leaf.list_root, 'list', 'the item is not in the list');
  const rollupsRoot = await follow(proof.leaf_path, await leafHash(leafBytes(leaf)), 'leaf');
  const first = await sha256(preambleBytes(preamble));
  demand(proof.leaf_path.len === preamble.rollups_len, 'leaf', 'another number of rollups');
  demand(rollupsRoot === preamble.rollups_root, 'leaf', 'the leaf is not among those of the block');
  const dataHash = await follow(proof.preamble_path, await leafHash(first), 'preamble');
  demand(proof.preamble_path.index === 0, 'preamble', 'not the first item of the block');
  demand(dataHash === proof.signed.header.data_hash, 'preamble', 'the block holds something else');
  return { listRoot, rollupsRoot, dataHash };
}

/** Follows a sequencer transaction to the data hash of its header. */
export async function verifyTransaction(proof, expected) {
  object(proof, ['tx_hash', 'path', 'signed'], 'item');
  demand(proof.tx_hash === expected.hash, 'item', 'this is another transaction than the one asked for');
  demand(proof.signed?.header?.height === String(expected.height), 'header', 'a header of another height');
  const dataHash = await follow(proof.path, await leafHash(bytes(proof.tx_hash, 32, 'item')), 'block');
  demand(dataHash === proof.signed.header.data_hash, 'block', 'the block does not hold the transaction');
  return { dataHash };
}

/** The identifier of the rollup of this name. */
export async function rollupId(name) {
  const encoder = new TextEncoder();
  return hex(await sha256(encoder.encode('counterpoint/rollup/v1'), encoder.encode(name)));
}
