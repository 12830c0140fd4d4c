//! Latencies in few bytes: log-linear buckets, 16 to each power of two, from 1 µs to 1000 s.
//!
//! Only buckets that hold something take memory. Invariant: a quantile is within 3.2 % of a value that was recorded
//! (values outside the range count as its ends), and never more than [`BUCKETS`] buckets exist.

use std::time::Duration;

/// How many buckets there can be.
const BUCKETS: usize = 31 * SUB_BUCKETS as usize;

const SUB_BUCKETS: u64 = 16;
/// The power of two below 1,000 ns.
const FIRST_POWER: u32 = 9;
const SHORTEST: u64 = 1_000;
/// 1000 s, which is below 2^40 ns.
const LONGEST: u64 = 1_000_000_000_000;

/// The first byte of the encoding.
const FORMAT: u8 = 1;

/// A mergeable histogram of latencies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// Ascending by bucket; no count is 0.
    buckets: Vec<(u16, u64)>,
    count: u64,
}

/// The bytes are no histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistogramError {
    /// Written by a newer version.
    #[error("the histogram has format {0}, known is {FORMAT}")]
    Format(u8),
    /// Cut short, out of order, out of range or too long.
    #[error("the histogram is malformed")]
    Malformed,
}

impl LatencyHistogram {
    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        self.add(bucket(latency), 1);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.buckets {
            self.add(*bucket, *count);
        }
    }

    /// How many latencies were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The latency below which the part `q` (0 to 1) of all lies; `None` when there are none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        if self.is_empty() || q.is_nan() {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a rank among a count: a lost bit moves it by less than the buckets' width"
        )]
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = 0_u64;
        let found = self.buckets.iter().find(|(_, count)| {
            seen = seen.saturating_add(*count);
            seen >= rank
        });
        found.map(|(bucket, _)| middle(*bucket))
    }

    /// Each bucket's middle and its count, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets
            .iter()
            .map(|(bucket, count)| (middle(*bucket), *count))
    }

    /// For the wire: the format, then for each bucket its distance from the one before and its count, as varints.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.buckets.len() * 3);
        bytes.push(FORMAT);
        let mut next = 0;
        for (bucket, count) in &self.buckets {
            put(&mut bytes, u64::from(bucket - next));
            put(&mut bytes, *count);
            next = bucket + 1;
        }
        bytes
    }

    /// Reads what [`Self::encode`] wrote; no bytes at all are an empty histogram.
    ///
    /// # Errors
    /// When the bytes are no histogram.
    pub fn decode(bytes: &[u8]) -> Result<Self, HistogramError> {
        let Some((format, mut rest)) = bytes.split_first() else {
            return Ok(Self::default());
        };
        if *format != FORMAT {
            return Err(HistogramError::Format(*format));
        }
        let mut histogram = Self::default();
        let mut next = 0_u64;
        while !rest.is_empty() {
            let bucket = take(&mut rest)?
                .checked_add(next)
                .filter(|bucket| *bucket < BUCKETS as u64);
            let bucket = bucket.ok_or(HistogramError::Malformed)?;
            let count = take(&mut rest)?;
            let index = u16::try_from(bucket).map_err(|_| HistogramError::Malformed)?;
            let total = histogram.count.checked_add(count).filter(|_| count > 0);
            histogram.count = total.ok_or(HistogramError::Malformed)?;
            histogram.buckets.push((index, count));
            next = bucket + 1;
        }
        Ok(histogram)
    }

    fn add(&mut self, bucket: u16, count: u64) {
        self.count = self.count.saturating_add(count);
        match self.buckets.binary_search_by_key(&bucket, |held| held.0) {
            Ok(at) => {
                if let Some(held) = self.buckets.get_mut(at) {
                    held.1 = held.1.saturating_add(count);
                }
            }
            Err(at) => self.buckets.insert(at, (bucket, count)),
        }
    }
}

fn bucket(latency: Duration) -> u16 {
    let nanos = u64::try_from(latency.as_nanos())
        .unwrap_or(LONGEST)
        .clamp(SHORTEST, LONGEST);
    let power = nanos.ilog2();
    let sub = (nanos >> (power - 4)) & (SUB_BUCKETS - 1);
    let index = u64::from(power - FIRST_POWER) * SUB_BUCKETS + sub;
    u16::try_from(index).unwrap_or(u16::MAX)
}

fn middle(bucket: u16) -> Duration {
    let bucket = u64::from(bucket);
    let power = u32::try_from(bucket / SUB_BUCKETS).unwrap_or(0) + FIRST_POWER;
    let width = 1_u64 << (power - 4);
    let start = (1_u64 << power) + (bucket % SUB_BUCKETS) * width;
    Duration::from_nanos(start + width / 2)
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

fn take(bytes: &mut &[u8]) -> Result<u64, HistogramError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(HistogramError::Malformed)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(HistogramError::Malformed);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(HistogramError::Malformed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quantile_is_within_five_percent(nanos in prop::collection::vec(1_000_u64..=LONGEST, 1..200), q in 0.0..=1.0_f64) {
            let mut histogram = LatencyHistogram::default();
            let mut sorted = nanos;
            sorted.iter().for_each(|nanos| histogram.record(Duration::from_nanos(*nanos)));
            sorted.sort_unstable();
            let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
            let truth = sorted[rank - 1] as f64;
            let found = histogram.quantile(q).unwrap().as_nanos() as f64;
            prop_assert!((found - truth).abs() / truth <= 0.05, "{found} for {truth}");
        }

        #[test]
        fn merging_is_recording_in_one_and_survives_the_wire(a in prop::collection::vec(any::<u64>(), 0..50), b in prop::collection::vec(any::<u64>(), 0..50)) {
            let fill = |nanos: &[u64]| {
                let mut histogram = LatencyHistogram::default();
                nanos.iter().for_each(|nanos| histogram.record(Duration::from_nanos(*nanos)));
                histogram
            };
            let mut merged = fill(&a);
            merged.merge(&fill(&b));
            let whole = fill(&[a, b].concat());
            prop_assert_eq!(&merged, &whole);
            prop_assert_eq!(LatencyHistogram::decode(&whole.encode()), Ok(whole));
        }

        #[test]
        fn bytes_of_a_stranger_are_refused_or_a_valid_histogram(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for bytes in [bytes.clone(), [vec![FORMAT], bytes].concat()] {
                if let Ok(histogram) = LatencyHistogram::decode(&bytes) {
                    prop_assert!(histogram.buckets.len() <= BUCKETS);
                    prop_assert!(histogram.buckets.is_sorted_by(|a, b| a.0 < b.0));
                    let sum = histogram.buckets.iter().map(|(_, count)| *count).sum::<u64>();
                    prop_assert_eq!(sum, histogram.count());
                }
            }
        }
    }

    #[test]
    fn what_is_out_of_range_counts_as_the_range_s_end() {
        let mut histogram = LatencyHistogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        histogram.record(Duration::ZERO);
        histogram.record(Duration::MAX);
        let near = |q, nanos: f64| {
            let found = histogram.quantile(q).unwrap().as_nanos() as f64;
            assert!((found - nanos).abs() / nanos < 0.05, "{found}");
        };
        near(0.0, 1e3);
        near(1.0, 1e12);
        assert_eq!(histogram.quantile(f64::NAN), None);
        assert!(usize::from(bucket(Duration::MAX)) < BUCKETS);
    }

    #[test]
    fn counts_that_overflow_are_refused_or_saturate() {
        let mut full = LatencyHistogram::default();
        full.add(3, u64::MAX);
        let mut other = full.clone();
        other.merge(&full);
        assert_eq!(other.count(), u64::MAX);
        let encoded = [full.encode(), vec![0, 1]].concat();
        assert_eq!(
            LatencyHistogram::decode(&encoded),
            Err(HistogramError::Malformed)
        );
    }
}
