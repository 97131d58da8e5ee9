// What every script is told: where the composer and geth are, a key with money, a contract.
import { readFileSync } from "node:fs";

export const network = JSON.parse(readFileSync(process.argv[2], "utf8"));

/** Runs one thing that users do, and names it if it fails. */
export async function step(what, run) {
  try {
    await run();
  } catch (error) {
    console.error(`FAILED ${what}`);
    throw error;
  }
  console.log(`ok ${what}`);
}

/** Tries again what depends on who is faster, a few times. */
export async function attempt(run) {
  for (let left = 20; left > 0; left -= 1) {
    if (await run()) return;
  }
  throw new Error("not once in 20 attempts");
}
