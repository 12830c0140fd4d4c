//! Names, numbers and tokens that arrive as text: whatever is accepted is written back, and accepted again.

use std::{fmt, str::FromStr};

use leno_ir::{Prefix, ResourceName};
use leno_types::{
    AppProtocol, DnsLabel, HostPort, Identity, JoinToken, Refusal, TrustDomain, WorkloadUid,
    parse_duration, parse_service_host,
};

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn round<T: FromStr + fmt::Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let written = value.to_string();
        let again = written.parse::<T>().map(|again| again.to_string());
        assert_eq!(again.ok().as_deref(), Some(written.as_str()));
    }
}

/// Every kind of name.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
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
}

/// The check digits are put right first, or nothing behind them would ever be reached.
pub(crate) fn join_token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    check(text);
    let body: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    let signed = format!("leno_jt1_{body}");
    check(&format!("{signed}{}", check_digits(&signed)));
}

fn check(text: &str) {
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.encode(), text.trim());
    }
}

fn check_digits(text: &str) -> String {
    let mut crc = u32::MAX;
    for byte in text.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let mut value = !crc;
    let mut digits = [0_u8; 6];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[value as usize % 62];
        value /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}
