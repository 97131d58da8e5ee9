# Every command that people and CI use; bare `just` lists them.
default:
    @just --list

# Start a whole network on this machine.
devnet *args:
    cargo run --release -- devnet {{args}}

# Formatting and lints.
check:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# All tests, with real CometBFT and real geth.
test:
    cargo test --workspace --locked

# What CI runs.
ci:
    .ci/run

# Rewrite generated code from the .proto files.
generate:
    UPDATE_GENERATED=1 cargo test -p counterpoint-proto -p counterpoint-abci --test codegen

# Rewrite the references of commands, configuration and metrics.
reference:
    UPDATE_GENERATED=1 cargo test --workspace --test reference

# Rewrite the contracts' byte code from their sources, with the pinned compiler.
contracts:
    UPDATE_GENERATED=1 cargo test --workspace --test network solidity

# Accept changed golden vectors; a changed consensus vector is a protocol change.
vectors:
    INSTA_UPDATE=always cargo test -p counterpoint-core -p counterpoint-machine -p counterpoint-conductor

# A long simulation of nodes in one process: about a hundred thousand blocks.
simulate:
    COUNTERPOINT_SIMULATION_SEEDS=1000 COUNTERPOINT_SIMULATION_BLOCKS=100 \
        cargo test --release --package counterpoint-app --lib simulation

# Random bundles in one process, with liars, silence, omission, rounds, restarts, nonce races: none runs in part.
simulate-bundles count="100000":
    COUNTERPOINT_BUNDLES={{count}} cargo test --release --package counterpoint-machine \
        --test machine bundles_run_whole_or_never -- --nocapture

# Every fuzz target for so many seconds each; what they find is kept beside the build.
fuzz seconds="60":
    fuzz/run {{seconds}}

# A longer storm of faults on a network of four validators; a seed repeats its choices.
storm steps="50" seed=`date +%s`:
    COUNTERPOINT_STORM_STEPS={{steps}} COUNTERPOINT_STORM_SEED={{seed}} \
        cargo test --workspace --test network partitions -- --nocapture

# Minutes of load while processes die and links break, then an audit; the report is in .soak, a seed repeats it.
soak minutes="15" seed=`date +%s` rate="20":
    COUNTERPOINT_SOAK_SECONDS=$(({{minutes}} * 60)) COUNTERPOINT_SOAK_SEED={{seed}} \
        COUNTERPOINT_SOAK_RATE={{rate}} COUNTERPOINT_SOAK_DIRECTORY={{justfile_directory()}}/.soak \
        cargo test --workspace --test network soak -- --nocapture

# Random blocks against real geth; a seed repeats its choices.
differential transactions="10000" seed=`date +%s`:
    COUNTERPOINT_DIFFERENTIAL_TRANSACTIONS={{transactions}} COUNTERPOINT_DIFFERENTIAL_SEED={{seed}} \
        cargo test --workspace --test network differential::geth_agrees -- --nocapture

# kill -9 of conductor and client at every step, and wiped and damaged stores, again and again.
crashes rounds="10":
    for round in $(seq {{rounds}}); do \
        cargo test --workspace --test network crashes && \
        cargo test --workspace --lib evm::store || exit 1; \
    done

# kill -9 of a composer under load, at every step of a write to its queue and at random; a seed repeats it.
composer-kills kills="100" seed=`date +%s`:
    COUNTERPOINT_KILLS={{kills}} COUNTERPOINT_KILLS_SEED={{seed}} \
        cargo test --workspace --test network composer_kills -- --nocapture

# Bundles on real clients, some bound to fail, while all kinds of processes are killed; a seed repeats it.
bundles count="1000" seed=`date +%s`:
    COUNTERPOINT_BUNDLES={{count}} COUNTERPOINT_BUNDLES_SEED={{seed}} \
        cargo test --workspace --test network attesters::storm -- --nocapture

# Load by a tool not written here (viem, autocannon, wrk or web3.py) on a running devnet.
load tool network=".devnet":
    tests/load/run {{tool}} {{network}}

# The composer's memory, minute by minute, under a load that lasts; it should stay flat.
soak-composer minutes="60":
    cargo run --release -- bench composer --soak-minutes {{minutes}}

# The figures of docs/performance.md.
bench:
    docs/bench.sh

# The explorer's page in a browser, every view in all four ways; its pictures are kept.
explorer pictures="target/explorer":
    COUNTERPOINT_PICTURES="$(realpath -m {{pictures}})" cargo test --workspace --test network explorer -- --nocapture

# The charts' tests, with Helm; UPDATE_GENERATED=1 rewrites the values in their READMEs.
charts:
    cargo test --workspace --test charts

# The charts on a real Kubernetes API server, built on first use; UPDATE_GENERATED=1 rewrites docs/kubernetes.md.
k8s:
    cargo test --workspace --test k8s -- --ignored --nocapture

# The charts' pods as processes: users, read-only roots, volumes, probes; as root, as namespaces take.
pods:
    cargo test --workspace --test charts pods -- --ignored --nocapture

# Images of the program and of CometBFT, by docker or podman.
images builder="docker" tag="0.1.0":
    {{builder}} build --target counterpoint --tag counterpoint:{{tag}} .
    {{builder}} build --target cometbft --tag cometbft:v0.40.0 .

# The pages of docs/ as a book, in target/book; needs `cargo install mdbook`.
book:
    mdbook build

# A release in a new folder: built twice and compared, with its bill of materials, licences and checksums.
release folder:
    .ci/release {{folder}}

# Licences, advisories and sources of dependencies; needs `cargo install cargo-deny`.
deny:
    cargo deny check
