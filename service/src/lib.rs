//! What the services share: configuration layers, telemetry, probes, shutdown.
