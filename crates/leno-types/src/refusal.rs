//! Why the mesh refused something: one closed set, the same in log, metric and header; docs/refusals has a page of each.
//!
//! The codes are Envoy's response flags where one fits, so that existing dashboards and eyes recognise them.

use std::{fmt, str::FromStr};

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:literal, $text:literal;)*) => {
        /// Why a proxy answered in place of the destination, or closed a connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Refusal { $($(#[$doc])* $variant,)* }

        impl Refusal {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The short code: a label value, a log field, the value of `x-leno-refused`.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Self::$variant => $code,)* } }

            /// The HTTP status a client gets.
            #[must_use]
            pub const fn status(self) -> u16 { match self { $(Self::$variant => $status,)* } }

            /// One sentence for people.
            #[must_use]
            pub const fn text(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
        }
    };
}

refusals! {
    /// No healthy endpoint (Envoy UH).
    NoHealthyUpstream = "UH", 503, "no healthy endpoint";
    /// The endpoint could not be reached (Envoy UF).
    UpstreamConnectFailure = "UF", 503, "the endpoint could not be reached";
    /// The endpoint closed the connection before it answered (Envoy UC).
    UpstreamReset = "UC", 503, "the endpoint closed the connection before it answered";
    /// A limit on connections, streams or queued requests (Envoy UO).
    Overflow = "UO", 503, "a limit on connections or queued requests was reached";
    /// Less important than what else there is to do, of which there is too much (Envoy OM).
    Overload = "OM", 503, "too much is asked, and this goes first";
    /// No route matches the request (Envoy NR).
    NoRoute = "NR", 404, "no route matches";
    /// A route matches, and leads to no backend that can be used (Envoy NC; 500 as the Gateway API demands).
    NoBackend = "NB", 500, "the route leads to no backend that can be used";
    /// The request took longer than its route allows (Envoy UT).
    UpstreamTimeout = "UT", 504, "the request took longer than its route allows";
    /// The client went away before the answer (Envoy DC).
    ClientGone = "DC", 499, "the client went away before the answer";
    /// The client's message breaks its protocol (Envoy DPE).
    ClientProtocol = "DPE", 400, "the client's message breaks its protocol";
    /// The endpoint's message breaks its protocol (Envoy UPE).
    UpstreamProtocol = "UPE", 502, "the endpoint's message breaks its protocol";
    /// A message head above its limit.
    HeadTooLarge = "HL", 431, "the head of the message is larger than its limit";
    /// An access policy denied it (Envoy UAEX, RBAC).
    Denied = "RBAC", 403, "an access policy denies it";
    /// The destination lies in the mesh's ranges and nothing is known of it (CP7).
    UnknownDestination = "UD", 503, "nothing in the mesh has this address";
    /// The control plane was asked about a destination and did not answer in time (CP7).
    DiscoveryTimeout = "DT", 503, "the control plane did not say in time what this address is";
    /// A destination known not to exist any more.
    ServiceGone = "NC", 503, "the service does not exist";
    /// The peer's certificate is not the one expected (Envoy UF with a TLS detail).
    PeerIdentity = "PI", 503, "the peer's certificate is not the one expected";
    /// The peer did not complete TLS.
    TlsHandshake = "TLS", 503, "the TLS handshake failed";
    /// Plaintext where mutual TLS is due.
    PlaintextRefused = "PT", 403, "plaintext is refused here";
    /// Destination metadata that does not belong to the connection it came on.
    ForgedDestination = "FD", 403, "the destination asked for is not a workload of this host";
    /// The request came back to the proxy that sent it.
    Loop = "LOOP", 508, "the request came back to the proxy that sent it";
    /// The workload's certificate is missing or past its end; nothing leaves without one.
    NoCertificate = "CERT", 503, "the workload has no valid certificate";
    /// A stream that a newer policy denies, or that outlived its certificate's grace.
    StreamEnded = "SE", 503, "a newer policy or certificate ended the stream";
}

impl FromStr for Refusal {
    type Err = ();

    fn from_str(code: &str) -> Result<Self, ()> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.code() == code)
            .ok_or(())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        for (index, reason) in Refusal::ALL.iter().enumerate() {
            assert_eq!(reason.code().parse(), Ok(*reason));
            assert!(
                !Refusal::ALL[..index]
                    .iter()
                    .any(|other| other.code() == reason.code()),
                "{reason}"
            );
        }
    }
}
