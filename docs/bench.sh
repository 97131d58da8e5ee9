#!/usr/bin/env bash
# The figures of docs/performance.md. Usage: docs/bench.sh [DIRECTORY FOR RESULTS]
# Nothing else should run on the machine; it takes about three quarters of an hour once built.
set -euo pipefail
cd "$(dirname "$0")/.."
results=${1:-.bench}
mkdir -p "$results"
cargo build --release --package counterpoint --bin counterpoint
cargo build --release --package counterpoint-abci --example noop
target=${CARGO_TARGET_DIR:-target}/release

sequencer() { # sequencer NAME FLAG…
  echo "== sequencer $1" >&2
  "$target/counterpoint" bench sequencer --noop "$target/examples/noop" "${@:2}" \
    > "$results/sequencer-$1.json"
}

sequencer 1-validator-1mb --block-bytes 1000000
sequencer 1-validator-4mb --block-bytes 4000000
sequencer 1-validator-110b --block-bytes 4000000 --item-bytes 110
sequencer 4-validators-1mb --validators 4 --block-bytes 1000000
sequencer 4-validators-4mb --validators 4 --block-bytes 4000000
sequencer 4-validators-110b --validators 4 --block-bytes 4000000 --item-bytes 110
sequencer 1-validator-1kib --block-bytes 1000000 --tx-bytes 1024 --item-bytes 110
sequencer 1-validator-1mib --block-bytes 4000000 --tx-bytes 1047552

echo "== blocks" >&2
cargo bench --package counterpoint-app --bench blocks > "$results/blocks.jsonl"

echo "== bundles" >&2
cargo bench --package counterpoint-machine --bench bundles > "$results/bundles.jsonl"

echo "== conductor" >&2
for accounts in 100000 1000000; do
  "$target/counterpoint" bench conductor --accounts "$accounts" > "$results/conductor-$accounts.json"
done
"$target/counterpoint" bench conductor --without-geth --accounts 5000000 --transfers 5000 \
  > "$results/conductor-5000000.json"

echo "== catch-up" >&2
for interval in 200 1000; do
  "$target/counterpoint" bench catch-up --history-secs 180 --block-interval-ms "$interval" \
    > "$results/catch-up-$interval.json"
done

echo "== composer" >&2
"$target/counterpoint" bench composer > "$results/composer.json"

# Starts a devnet in $network, ended with the script or by the next one.
start_devnet() {
  network=$(mktemp -d)
  "$target/counterpoint" devnet --dir "$network" "$@" > "$network.log" 2>&1 &
  devnet=$!
  trap stop_devnet EXIT
  for _ in $(seq 120); do
    grep -q "Stop with" "$network.log" && return
    sleep 1
  done
  cat "$network.log" >&2
  exit 1
}

stop_devnet() {
  kill -INT $devnet 2>/dev/null || true
  wait $devnet || true
  rm -rf "$network" "$network.log"
}

echo "== transfers" >&2
start_devnet
for load in "20 10" "400 100" "800 200" "1600 400"; do
  read -r rate senders <<< "$load"
  "$target/counterpoint" bench transfers --dir "$network" --rate "$rate" --senders "$senders" \
    > "$results/transfers-$rate.json"
done
for tool in viem autocannon web3.py; do
  echo "== $tool" >&2
  tests/load/run "$tool" "$network" > "$results/load-$tool.json"
done
stop_devnet

echo "== wallets: four validators, light load" >&2
start_devnet --validators 4
"$target/counterpoint" bench transfers --dir "$network" --rate 10 --senders 10 --seconds 60 \
  --plot "$results/wallets.svg" > "$results/wallets.json"
stop_devnet

echo "== bundles: four validators, three attesters of each rollup" >&2
start_devnet --validators 4 --attesters 3
"$target/counterpoint" bench bundles --dir "$network" --count 100 \
  --plot "$results/bundles.svg" > "$results/bundles-wallets.json"
stop_devnet

for rollups in 2 8 32; do
  for attesters in 1 3; do
    echo "== $attesters attesters of $rollups rollups" >&2
    "$target/counterpoint" bench attesters --rollups "$rollups" --attesters "$attesters" \
      > "$results/attesters-$rollups-$attesters.json"
  done
done
