//! A latency histogram from an agent: refused, or read so that it is written back the same.
#![no_main]

use leno_telemetry::LatencyHistogram;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(histogram) = LatencyHistogram::decode(data) {
        let again = LatencyHistogram::decode(&histogram.encode());
        assert_eq!(
            again.map(|again| again.encode()).ok(),
            Some(histogram.encode())
        );
        for q in [0.0, 0.5, 0.99, 1.0] {
            assert_eq!(histogram.quantile(q).is_none(), histogram.is_empty());
        }
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert!(twice.count() >= histogram.count());
    }
});
