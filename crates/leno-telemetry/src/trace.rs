//! Trace context: which trace a request belongs to, and a new one where it belongs to none.
//!
//! Reads W3C `traceparent` (Trace Context, level 1) and the trace id of B3, in one header or several; writes
//! `traceparent`. Strict: what is malformed is no context, and a new trace begins. Randomness is the caller's.
//! Invariant: ids are never all zero.

use std::fmt;

/// The id of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// Where in which trace we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span that calls: the parent of the next.
    pub span: SpanId,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl Context {
    /// A new trace; `random` makes its ids.
    #[must_use]
    pub fn new(random: [u8; 24], sampled: bool) -> Self {
        let (trace, span) = random.split_at(16);
        Self {
            trace: TraceId(trace.try_into().unwrap_or_default()).or_one(),
            span: SpanId(span.try_into().unwrap_or_default()).or_one(),
            sampled,
        }
    }

    /// Reads a `traceparent` header. Of a version later than ours the part that ours has is read (W3C 4.3).
    #[must_use]
    pub fn parse_traceparent(value: &[u8]) -> Option<Self> {
        let mut fields = value.splitn(5, |byte| *byte == b'-');
        let version: [u8; 1] = hex(fields.next()?)?;
        let trace = TraceId(hex(fields.next()?)?);
        let span = SpanId(hex(fields.next()?)?);
        let [flags] = hex::<1>(fields.next()?)?;
        let further = fields.next().is_some();
        if version == [0xff] || (version == [0] && further) {
            return None;
        }
        Self::checked(trace, span, flags & 1 == 1)
    }

    /// The value of a `traceparent` header. Without the machinery of formatting: one is made for nearly every request.
    #[must_use]
    pub fn traceparent(&self) -> [u8; 55] {
        let mut text = *b"00-................................-................-00";
        let [trace, span] = [3..35, 36..52];
        text[trace].copy_from_slice(digits(self.trace.0).as_flattened());
        text[span].copy_from_slice(digits(self.span.0).as_flattened());
        text[54] += u8::from(self.sampled);
        text
    }

    fn checked(trace: TraceId, span: SpanId, sampled: bool) -> Option<Self> {
        (trace.0 != [0; 16] && span.0 != [0; 8]).then_some(Self {
            trace,
            span,
            sampled,
        })
    }
}

impl TraceId {
    /// The trace of the request with these header fields: `traceparent`, or else B3's.
    pub fn of_request<'a>(field: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Self> {
        let context = field("traceparent").and_then(Context::parse_traceparent);
        context
            .map(|context| context.trace)
            .or_else(|| Self::of_b3(field("b3")?.split(|byte| *byte == b'-').next()?))
            .or_else(|| Self::of_b3(field("x-b3-traceid")?))
    }

    /// A trace id of 64 bits is one of 128 with zeros before it. The decision whether to record (`b3: 0`) is no id.
    fn of_b3(digits: &[u8]) -> Option<Self> {
        let bytes = hex::<16>(digits).or_else(|| {
            let short = u64::from_be_bytes(hex(digits)?);
            Some(u128::from(short).to_be_bytes())
        })?;
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    fn or_one(self) -> Self {
        if self.0 == [0; 16] {
            Self(1_u128.to_be_bytes())
        } else {
            self
        }
    }
}

impl SpanId {
    fn or_one(self) -> Self {
        if self.0 == [0; 8] {
            Self(1_u64.to_be_bytes())
        } else {
            self
        }
    }
}

/// Exactly `N` bytes of lower-case hex.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(bytes)
}

/// Two digits of lower-case hex for each byte.
fn digits<const N: usize>(bytes: [u8; N]) -> [[u8; 2]; N] {
    const fn digit(nibble: u8) -> u8 {
        nibble + if nibble < 10 { b'0' } else { b'a' - 10 }
    }
    bytes.map(|byte| [digit(byte >> 4), digit(byte & 15)])
}

fn write_hex<const N: usize>(f: &mut fmt::Formatter<'_>, bytes: [u8; N]) -> fmt::Result {
    let digits = digits(bytes);
    // One write for all of them.
    f.write_str(std::str::from_utf8(digits.as_flattened()).unwrap_or_default())
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.0)
    }
}

#[cfg(test)]
mod tests;
