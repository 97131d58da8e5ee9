// @ts-check
// What an atomic bundle is made of: its identifier, and what the sender of each transaction signs
// (docs/spec/atomic.md). Without callers, messages and attesters of one's own.
import { concat, keccak256, numberToHex, sha256, size, stringToHex } from "viem";

/** @typedef {import("viem").Hex} Hex */
/** @typedef {{ hash: Hex, auth?: Hex }} Sealed */
/** @typedef {{ rollup: string, transactions: Sealed[] }} Leg */
/** @typedef {{ chainId: string, sessionSalt: Hex, legs: Leg[], validFrom: number, validUntil: number,
 *    onAbort: "failFast" | "retry", maxAttempts: number, tipPerAttempt: string }} Bundle */

/** A rollup's identifier. @param {string} name */
export const rollupId = (name) => sha256(stringToHex(`counterpoint/rollup/v1${name}`));

/** A little-endian number. @param {number | bigint} value @param {number} bytes @returns {Hex} */
const number = (value, bytes) => {
  const digits = numberToHex(BigInt(value), { size: bytes }).slice(2);
  return `0x${digits.match(/../g)?.reverse().join("")}`;
};
/** @param {Hex[]} items */
const list = (items) => concat([number(items.length, 4), ...items]);
/** @param {string} text */
const string = (text) => concat([number(size(stringToHex(text)), 4), stringToHex(text)]);

/** The raw transactions of each rollup, in the order that the chain asks for.
 * @param {Record<string, Hex[]>} raws */
export const ordered = (raws) =>
  Object.entries(raws).sort(([one], [other]) => (rollupId(one) < rollupId(other) ? -1 : 1));

/** The bundle's identifier. Auths are no part of it. @param {Bundle} bundle @returns {Hex} */
export const bundleId = (bundle) => {
  const empty = `0x${"00".repeat(65)}`;
  const leg = (/** @type {Leg} */ { rollup, transactions }) =>
    concat([rollupId(rollup), list(transactions.map(({ hash }) => concat([hash, /** @type {Hex} */ (empty)])))]);
  return sha256(
    concat([
      stringToHex("counterpoint/bundle/v1"),
      string(bundle.chainId),
      bundle.sessionSalt,
      list([]), // callers
      list(bundle.legs.map(leg)),
      list([]), // messages
      number(bundle.validFrom, 8),
      number(bundle.validUntil, 8),
      number(bundle.onAbort === "retry" ? 1 : 0, 1),
      number(bundle.maxAttempts, 1),
      list([]), // extraAttesters
      number(BigInt(bundle.tipPerAttempt), 16),
    ]),
  );
};

/** A bundle of these raw transactions, signed by `account`, whose all of them are.
 * @param {import("viem").LocalAccount} account @param {string} chainId @param {Record<string, Hex[]>} raws
 * @returns {Promise<{ bundle: Bundle, legs: Hex[][] }>} */
export const build = async (account, chainId, raws) => {
  const now = Math.floor(Date.now() / 1_000);
  const legs = ordered(raws);
  /** @type {Bundle} */
  const bundle = {
    chainId,
    sessionSalt: `0x${Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("hex")}`,
    legs: legs.map(([rollup, raws]) => ({
      rollup,
      transactions: raws.map((raw) => ({ hash: keccak256(raw) })),
    })),
    validFrom: now,
    validUntil: now + 300,
    onAbort: "failFast",
    maxAttempts: 3,
    tipPerAttempt: "0",
  };
  const id = bundleId(bundle);
  for (const transaction of bundle.legs.flatMap(({ transactions }) => transactions)) {
    const raw = concat([stringToHex("counterpoint/leg/v1"), stringToHex(chainId), id, transaction.hash]);
    transaction.auth = await account.signMessage({ message: { raw } });
  }
  return { bundle, legs: legs.map(([, raws]) => raws) };
};
