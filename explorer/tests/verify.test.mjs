// The page's verifier against the vectors that core writes: what is true holds, and nothing else does,
// whatever single byte of it is changed.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { LightClient, Refused, ability, keccak256, hex, rollupId, trustGenesis, trustHeader, verifyHeader, verifyItem, verifyTransaction } from '../web/verify.js';

const vectors = JSON.parse(readFileSync(new URL('vectors.json', import.meta.url)));
const LAST = vectors.headers.length;
const header = (height) => vectors.headers[Number(height) - 1];
const copy = (value) => structuredClone(value);

/** A client that trusts the genesis, and counts the headers that it asks for. */
function client(fetched = []) {
  return new LightClient(trustGenesis(copy(vectors.root)), async (height) => {
    fetched.push(Number(height));
    return copy(header(height));
  });
}

async function before(height) {
  let state = trustGenesis(vectors.root);
  for (let at = 1; at < height; at += 1) ({ state } = await verifyHeader(state, header(at)));
  return state;
}

const trusted = await before(LAST);
const asked = (index) => ({ rollupId: vectors.rollup_id, height: LAST, index, ...(vectors.items[index].hash && { hash: vectors.items[index].hash }) });

/** The verdict on a proof of an item, from the header before its own. */
async function holds(proof, expected) {
  await verifyItem(proof, expected);
  await verifyHeader(trusted, proof.signed);
}

async function refuses(work, what) {
  await assert.rejects(work, (error) => error instanceof Refused || assert.fail(`${what}: ${error.stack}`), what);
}

test('this Node.js can verify', async () => assert.equal(await ability(), null));

test('keccak-256 is that of Ethereum', () => {
  assert.equal(hex(keccak256(new Uint8Array())), 'c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470');
  const length = new TextEncoder().encode('a'.repeat(135));
  assert.equal(hex(keccak256(length)).length, 64);
});

test('the name of a rollup gives its identifier', async () => assert.equal(await rollupId(vectors.rollup), vectors.rollup_id));

test('every item is proven, whatever its kind', async () => {
  for (const [index, { proof }] of vectors.items.entries()) await holds(proof, asked(index));
});

test('a sequencer transaction is proven', async () => {
  const proof = vectors.transaction;
  const expected = { hash: proof.tx_hash, height: LAST };
  await verifyTransaction(proof, expected);
  const other = '00'.repeat(32);
  await refuses(verifyTransaction(proof, { ...expected, hash: other }), 'another one');
  await refuses(verifyTransaction({ ...proof, tx_hash: other }, { ...expected, hash: other }), 'not in the block');
  await refuses(verifyTransaction(proof, { ...expected, height: LAST - 1 }), 'another height');
});

test('a proof of something else than what was asked for is refused', async () => {
  const { proof } = vectors.items[2];
  const other = '00'.repeat(32);
  for (const wrong of [{ hash: other }, { index: 3 }, { rollupId: other }, { height: LAST - 1 }]) {
    await refuses(verifyItem(proof, { ...asked(2), ...wrong }), JSON.stringify(wrong));
  }
});

test('what core refuses is refused', async () => {
  assert.ok(vectors.forged.length > 20);
  for (const [name, pointer, value] of vectors.forged) {
    const proof = copy(vectors.items[2].proof);
    const keys = pointer.split('/').slice(1);
    const last = keys.pop();
    keys.reduce((part, key) => part[key], proof)[last] = value;
    await refuses(holds(proof, asked(2)), name);
  }
});

test('a transaction that looks like a preamble proves nothing', async () => {
  await refuses(holds(copy(vectors.forged_item), { rollupId: vectors.rollup_id, height: LAST }), 'not the first item');
});

test('headers that are signed and wrong are refused', async () => {
  for (const [name, height, proof] of vectors.forged_headers) {
    const state = await before(height + 1);
    await refuses(verifyHeader(state, proof), name);
  }
});

/** Every value in a proof, with how to change it. */
function* leaves(value, path = []) {
  if (value !== null && typeof value === 'object') {
    for (const key of Object.keys(value)) yield* leaves(value[key], [...path, key]);
  } else yield path;
}

/** All small changes of a value: each byte of a text, each neighbour of a number. */
function changes(value) {
  if (typeof value === 'boolean') return [!value];
  if (typeof value === 'number') return [value + 1, value - 1, -value - 1, `${value}`];
  if (value === null) return ['00', {}];
  const step = /^[0-9a-f]+$/.test(value) && value.length % 2 === 0 && value.length >= 40 ? 2 : 1;
  const changed = [`${value}0`, value.slice(1), value.toUpperCase() === value ? `0x${value}` : value.toUpperCase()];
  for (let at = 0; at < value.length; at += step) {
    changed.push(value.slice(0, at) + (value[at] === '1' ? '2' : '1') + value.slice(at + 1));
  }
  return changed.filter((one) => one !== value);
}

// No header commits to the number of a block's items: only where the path begins is proven.
const FREE = new Set(['preamble_path/len']);

test('no single byte of a proof can be changed', async () => {
  const { proof } = vectors.items[2];
  let count = 0;
  for (const path of leaves(proof)) {
    const keys = path.slice(0, -1);
    const last = path.at(-1);
    const old = path.reduce((part, key) => part[key], proof);
    for (const value of changes(old)) {
      const forged = copy(proof);
      keys.reduce((part, key) => part[key], forged)[last] = value;
      if (FREE.has(path.join('/'))) continue;
      count += 1;
      await refuses(holds(forged, asked(2)), `${path.join('/')} = ${JSON.stringify(value)}`);
    }
    const without = copy(proof);
    const parent = keys.reduce((part, key) => part[key], without);
    if (!Array.isArray(parent)) {
      delete parent[last];
      await refuses(holds(without, asked(2)), `no ${path.join('/')}`);
    }
  }
  assert.ok(count > 1_400, `${count} changes`);
});

test('validators that change are followed, by as few headers as it takes', async () => {
  const fetched = [];
  const light = client(fetched);
  const reached = await light.reach(header(LAST));
  assert.equal(reached.hash, header(LAST).commit.block_id.hash);
  assert.equal(reached.votes, 3);
  assert.ok(fetched.length > 0 && fetched.length < LAST - 1, `${fetched}`);
  // What was verified once is not asked for again.
  const once = fetched.length;
  await light.reach(header(LAST));
  await light.reach(header(LAST - 1));
  assert.equal(fetched.length, once);
  await light.reach(header(3));
});

test('a header that was verified once is no other one later', async () => {
  const light = client();
  await light.reach(header(LAST));
  const other = copy(header(LAST));
  other.header.app_hash = '00'.repeat(32);
  await refuses(light.reach(other), 'another header');
});

test('a server that gives wrong headers in between proves nothing', async () => {
  const wrong = [
    () => header(LAST),
    () => header(1),
    () => null,
    (height) => ({ ...copy(header(height)), validators: vectors.root.validators }),
  ];
  for (const lie of wrong) {
    const light = new LightClient(trustGenesis(vectors.root), async (height) => lie(height));
    await refuses(light.reach(header(LAST)), String(lie));
  }
});

test('too few signatures prove nothing, from anywhere', async () => {
  for (const height of [3, LAST]) {
    const proof = copy(header(height));
    proof.commit.signatures[0] = { flag: 'absent' };
    await refuses(client().reach(proof), `header ${height}`);
  }
});

test('other validators than the trusted ones prove nothing', async () => {
  const light = new LightClient(trustGenesis({ ...vectors.root, validators: header(LAST).validators }), async (height) => header(height));
  await refuses(light.reach(header(1)), 'signed by others');
});

test('a header of another chain, height or time proves nothing', async () => {
  await refuses(client().reach(header(0 + 1) && { ...header(1), header: { ...header(1).header, chain_id: 'x' } }), 'chain');
  const light = new LightClient({ ...trustGenesis(vectors.root), height: 5n }, async (height) => header(height));
  await refuses(light.reach(header(4)), 'below the root');
});

test('trust can start from a header that somebody names', async () => {
  const { height, hash } = vectors.header_root;
  const root = await trustHeader(height, hash, header(height));
  const light = new LightClient(root, async (at) => header(at));
  await light.reach(header(LAST));
  await light.reach(header(height));
  await refuses(light.reach(header(height - 1)), 'older');
  await refuses(trustHeader(height, '00'.repeat(32), header(height)), 'another hash');
  await refuses(trustHeader(height, hash, { ...header(height), validators: header(1).validators }), 'other validators');
});
