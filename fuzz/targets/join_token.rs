//! A join token: what is accepted is written back the same. The check digits are put right first, or nothing behind
//! them would ever be reached.
#![no_main]

use leno_types::JoinToken;
use libfuzzer_sys::fuzz_target;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

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

fn check(text: &str) {
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.encode(), text.trim());
    }
}

fuzz_target!(|text: &str| {
    check(text);
    let body: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    let signed = format!("leno_jt1_{body}");
    check(&format!("{signed}{}", check_digits(&signed)));
});
