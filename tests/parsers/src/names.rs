//! Names, numbers and tokens that arrive as text: whatever is accepted is written back, and accepted again.

use std::{fmt, str::FromStr};

use leno_config::{HostnameTemplate, NamedService};
use leno_ir::{Prefix, ResourceName};
use leno_types::{
    AppProtocol, DnsLabel, HostName, HostPort, Identity, JoinToken, Refusal, TrustDomain,
    WorkloadUid, parse_duration, parse_service_host,
};

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn round<T: FromStr + fmt::Display>(text: &str) -> bool {
    let read = text.parse::<T>();
    if let Ok(value) = &read {
        let written = value.to_string();
        let again = written.parse::<T>().map(|again| again.to_string());
        assert_eq!(again.ok().as_deref(), Some(written.as_str()));
    }
    read.is_ok()
}

/// Every kind of name.
pub(crate) fn names(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let read = [
        round::<DnsLabel>(text),
        round::<HostName>(text),
        round::<HostPort>(text),
        round::<Identity>(text),
        round::<Prefix>(text),
        round::<Refusal>(text),
        round::<ResourceName>(text),
        round::<TrustDomain>(text),
        round::<WorkloadUid>(text),
        round::<AppProtocol>(text),
        parse_duration(text).is_ok(),
    ];
    if let Ok(namespace) = "default".parse() {
        drop(parse_service_host(text, &namespace));
    }
    read.contains(&true)
}

/// What a template gives lies below its domain, and is no name by which the mesh knows a service.
pub(crate) fn hostname_template(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let mut lines = text.lines();
    let Ok(template) = lines.next().unwrap_or_default().parse::<HostnameTemplate>() else {
        return false;
    };
    assert_eq!(
        template.to_string().parse::<HostnameTemplate>().as_ref(),
        Ok(&template)
    );
    let labels = lines.filter_map(|line| line.split_once('='));
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let (Ok(mesh), Ok(namespace), Ok(name)) = ("default".parse(), "shop".parse(), "cart".parse())
    else {
        return false;
    };
    let filled = template.fill(NamedService {
        mesh: &mesh,
        namespace: &namespace,
        name: &name,
        labels: &labels.collect(),
    });
    if let Ok(filled) = &filled {
        assert!(filled.is_within(template.domain().as_str()) && filled != template.domain());
        assert_eq!(parse_service_host(filled.as_str(), &namespace), None);
    }
    filled.is_ok()
}

/// The check digits are put right first, or nothing behind them would ever be reached.
pub(crate) fn join_token(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let as_it_is = check(text);
    let body: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    let signed = format!("leno_jt1_{body}");
    check(&format!("{signed}{}", check_digits(&signed))) || as_it_is
}

fn check(text: &str) -> bool {
    let read = text.parse::<JoinToken>();
    if let Ok(token) = &read {
        assert_eq!(token.encode(), text.trim());
    }
    read.is_ok()
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
