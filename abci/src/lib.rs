//! ABCI 2.0 of CometBFT v0.40.0: types, codec, server.
