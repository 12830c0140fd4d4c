//! Trace context: what of a trace is carried on.
//!
//! Reads W3C `traceparent` (Trace Context, level 1) and B3, single and multiple headers; writes `traceparent` and B3.
//! Strict: what is malformed is no context, and a new trace begins. Randomness is the caller's.
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

/// What B3 headers say: a context, or only whether to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct B3 {
    /// The context, when ids came. Without a decision it is not sampled.
    pub context: Option<Context>,
    /// The decision, when one came; debug means yes.
    pub sampled: Option<bool>,
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

    /// The context of a call made from within this one.
    #[must_use]
    pub fn child(&self, random: [u8; 8]) -> Self {
        Self {
            span: SpanId(random).or_one(),
            ..*self
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

    /// The value of a `traceparent` header.
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!(
            "00-{}-{}-0{}",
            self.trace,
            self.span,
            u8::from(self.sampled)
        )
    }

    /// The value of a single `b3` header.
    #[must_use]
    pub fn b3(&self) -> String {
        format!("{}-{}-{}", self.trace, self.span, u8::from(self.sampled))
    }

    fn checked(trace: TraceId, span: SpanId, sampled: bool) -> Option<Self> {
        (trace.0 != [0; 16] && span.0 != [0; 8]).then_some(Self {
            trace,
            span,
            sampled,
        })
    }
}

impl B3 {
    /// Reads a single `b3` header: `TRACE-SPAN[-SAMPLED[-PARENT]]`, or `SAMPLED` alone.
    #[must_use]
    pub fn parse_single(value: &[u8]) -> Option<Self> {
        if let Some(sampled) = decision(value) {
            return Some(Self {
                context: None,
                sampled: Some(sampled),
            });
        }
        let mut fields = value.split(|byte| *byte == b'-');
        let (trace, span) = (fields.next()?, fields.next()?);
        let sampled = fields
            .next()
            .map(|field| decision(field).ok_or(()))
            .transpose()
            .ok()?;
        let parent = fields
            .next()
            .map(|field| hex::<8>(field).ok_or(()))
            .transpose();
        if parent.is_err() || fields.next().is_some() {
            return None;
        }
        Self::of(trace, span, sampled)
    }

    /// Reads `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled` and `x-b3-flags`.
    #[must_use]
    pub fn parse_multi(
        trace: Option<&[u8]>,
        span: Option<&[u8]>,
        sampled: Option<&[u8]>,
        flags: Option<&[u8]>,
    ) -> Option<Self> {
        let sampled = match (flags, sampled) {
            (Some(b"1"), _) => Some(true),
            (_, Some(b"1" | b"true")) => Some(true),
            (_, Some(b"0" | b"false")) => Some(false),
            (_, Some(_)) => return None,
            (_, None) => None,
        };
        match (trace, span) {
            (Some(trace), Some(span)) => Self::of(trace, span, sampled),
            (None, None) if sampled.is_some() => Some(Self {
                context: None,
                sampled,
            }),
            _ => None,
        }
    }

    /// A trace id of 64 bits is one of 128 with zeros before it.
    fn of(trace: &[u8], span: &[u8], sampled: Option<bool>) -> Option<Self> {
        let trace = hex::<16>(trace).or_else(|| {
            let short = u64::from_be_bytes(hex(trace)?);
            Some(u128::from(short).to_be_bytes())
        })?;
        let context =
            Context::checked(TraceId(trace), SpanId(hex(span)?), sampled.unwrap_or(false))?;
        Some(Self {
            context: Some(context),
            sampled,
        })
    }
}

impl TraceId {
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

fn decision(field: &[u8]) -> Option<bool> {
    match field {
        b"1" | b"d" => Some(true),
        b"0" => Some(false),
        _ => None,
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

/// One write for all digits: this runs for each request that comes without a trace.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    const fn digit(nibble: u8) -> u8 {
        nibble + if nibble < 10 { b'0' } else { b'a' - 10 }
    }
    let mut digits = [0; 32];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    let written = digits.get(..bytes.len() * 2).unwrap_or_default();
    f.write_str(std::str::from_utf8(written).map_err(|_| fmt::Error)?)
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

#[cfg(test)]
mod tests;
