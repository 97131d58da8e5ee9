//! The one command of Counterpoint: network, services, keys, transactions, queries.
