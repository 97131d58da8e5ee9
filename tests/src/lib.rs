//! End-to-end and fault tests of Counterpoint with real CometBFT and real geth.
