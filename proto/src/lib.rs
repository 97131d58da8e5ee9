//! gRPC services of Counterpoint: generated messages, clients and servers.
