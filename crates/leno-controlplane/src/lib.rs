//! Sources, compile, snapshot, distribute; certificate authority, registry, tokens, telemetry.
