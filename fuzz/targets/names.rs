//! Names and numbers that arrive as text: whatever is accepted is written back, and accepted again.
#![no_main]

use std::{fmt, str::FromStr};

use leno_ir::{Prefix, ResourceName};
use leno_types::{
    AppProtocol, DnsLabel, HostPort, Identity, Refusal, TrustDomain, WorkloadUid, parse_duration,
    parse_service_host,
};
use libfuzzer_sys::fuzz_target;

fn round<T: FromStr + fmt::Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let written = value.to_string();
        let again = written.parse::<T>().map(|again| again.to_string());
        assert_eq!(again.ok().as_deref(), Some(written.as_str()));
    }
}

fuzz_target!(|text: &str| {
    round::<DnsLabel>(text);
    round::<HostPort>(text);
    round::<Identity>(text);
    round::<Prefix>(text);
    round::<Refusal>(text);
    round::<ResourceName>(text);
    round::<TrustDomain>(text);
    round::<WorkloadUid>(text);
    round::<AppProtocol>(text);
    drop(parse_duration(text));
    if let Ok(namespace) = "default".parse() {
        drop(parse_service_host(text, &namespace));
    }
});
