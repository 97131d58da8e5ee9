// Compiles Counter.sol beside it; prints its ABI and bytecode as JSON.
import { readFileSync } from "node:fs";
import solc from "solc";

const source = readFileSync(new URL("Counter.sol", import.meta.url), "utf8");
const input = {
  language: "Solidity",
  sources: { "Counter.sol": { content: source } },
  settings: {
    evmVersion: "cancun",
    optimizer: { enabled: true },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
if (output.errors) throw new Error(output.errors.map((error) => error.formattedMessage).join("\n"));
const { abi, evm } = output.contracts["Counter.sol"].Counter;
console.log(JSON.stringify({ abi, bytecode: `0x${evm.bytecode.object}` }));
