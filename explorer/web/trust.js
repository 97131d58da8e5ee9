// What this browser trusts, and verdicts from there. Of the page's server only bytes are wanted.

import { ask } from './api.js';
import { LightClient, Refused, TRUSTING_SECONDS, ability, trustGenesis, trustHeader, validatorsHash, verifyItem, verifyTransaction } from './verify.js';

const KEY = 'counterpoint-root';

function load() {
  try {
    return JSON.parse(localStorage.getItem(KEY));
  } catch {
    return null;
  }
}

function save(root) {
  try {
    if (root === null) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, JSON.stringify(root));
  } catch {
    // It holds until the page is left.
  }
}

/** The same root has the same name. */
async function nameOf(root) {
  if (root.kind === 'header') return `${root.height}:${root.hash}`;
  return `${root.chain_id}:${root.time.seconds}:${await validatorsHash(root.validators)}`;
}

const fetchHeader = (height) => ask(`headers/${height}`);

/** The root, and the light client that has begun at it. */
export class Trust {
  #light = null;

  /** What is trusted: `root`, since when, and whether the reader has named it. */
  async describe() {
    const kept = load();
    if (kept?.by === 'reader') return { ...kept, changed: null };
    const offered = await ask('trust');
    const name = await nameOf(offered);
    if (kept?.by !== 'server') {
      const fresh = { by: 'server', root: offered, name, since: Date.now() };
      save(fresh);
      return { ...fresh, changed: null };
    }
    // The lowest header of a node rises as it prunes: one that was trusted before is as good.
    const isOther = kept.name !== name && (kept.root.kind === 'genesis' || offered.kind === 'genesis');
    return { ...kept, changed: isOther ? offered : null };
  }

  /** Trusts a header that the reader knows from elsewhere, once the server has it. */
  async nameHeader(height, hash) {
    await trustHeader(height, hash, await fetchHeader(height));
    save({ by: 'reader', root: { kind: 'header', height: String(height), hash }, since: Date.now() });
    this.#light = null;
  }

  /** Trusts again what the server says. */
  forget() {
    save(null);
    this.#light = null;
  }

  async #start() {
    const { root, changed } = await this.describe();
    if (changed) throw new Refused('root', 'this server now names another genesis than on your first visit: look at Trust');
    if (root.kind === 'header') return new LightClient(await trustHeader(root.height, root.hash, await fetchHeader(root.height)), fetchHeader);
    const state = trustGenesis(root);
    const age = BigInt(Math.floor(Date.now() / 1_000)) - state.time.seconds;
    if (age > TRUSTING_SECONDS) {
      throw new Refused('root', 'the genesis is more than 30 days old, its validators can no longer be held to account: name a newer header under Trust');
    }
    return new LightClient(state, fetchHeader);
  }

  async #reach(proof) {
    this.#light ??= this.#start();
    let light;
    try {
      light = await this.#light;
    } catch (error) {
      this.#light = null;
      throw error;
    }
    return light.reach(proof);
  }

  /** The verdict on a signed header, which must be that of this height and hash. */
  header(proof, { height, hash }) {
    return this.#judge(async () => {
      if (proof.header?.height !== String(height)) throw new Refused('header', 'a header of another height');
      const reached = await this.#reach(proof);
      if (reached.hash !== hash) throw new Refused('header', 'the header has another hash than the page was told');
      return reached;
    });
  }

  /** The verdict on an item of a rollup's list. */
  item(proof, expected) {
    return this.#judge(async () => {
      const roots = await verifyItem(proof, expected);
      return { ...roots, ...(await this.#reach(proof.signed)) };
    });
  }

  /** The verdict on a transaction of the sequencer. */
  transaction(proof, expected) {
    return this.#judge(async () => {
      const roots = await verifyTransaction(proof, expected);
      return { ...roots, ...(await this.#reach(proof.signed)) };
    });
  }

  /** `verified`, `refused` with a step and a reason, or `unable` with a reason. */
  async #judge(work) {
    const inability = await ability();
    if (inability) return { verdict: 'unable', reason: inability };
    try {
      return { verdict: 'verified', ...(await work()) };
    } catch (error) {
      if (error instanceof Refused) return { verdict: 'refused', step: error.step, reason: error.message };
      return { verdict: 'unable', reason: error.message };
    }
  }
}
