//! Capture, identify, authorize, route, balance, forward, record.
