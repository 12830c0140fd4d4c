//! The two values of a WebSocket handshake (RFC 6455 4.2.2) that HTTP/2 leaves out (RFC 8441 5) and HTTP/1 wants.
//!
//! SHA-1 here proves that a server speaks WebSocket and nothing else: it protects nothing.

use std::hash::{BuildHasher, Hasher, RandomState};

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A new key: 16 bytes nobody need keep secret.
pub(crate) fn new_key() -> Vec<u8> {
    let random = || RandomState::new().build_hasher().finish().to_ne_bytes();
    base64(&[random(), random()].concat())
}

/// The answer to a key.
pub(crate) fn accept(key: &[u8]) -> Vec<u8> {
    base64(&sha1(&[key, GUID].concat()))
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place) & 63) as usize;
            let letter = ALPHABET.get(sextet).copied().unwrap_or(b'=');
            out.push(if place <= group.len() { letter } else { b'=' });
        }
    }
    out
}

/// FIPS 180-4 6.1.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state = [
        0x6745_2301_u32,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((message.len() + 9).div_ceil(64) * 64 - 8, 0);
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for block in padded.as_chunks::<64>().0 {
        let mut words: Vec<u32> = block
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u32::from_be_bytes(*word))
            .collect();
        for index in 16..80 {
            let mixed = [3, 8, 14, 16]
                .into_iter()
                .filter_map(|back| words.get(index - back))
                .fold(0, |mixed, word| mixed ^ word);
            words.push(mixed.rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (index, word) in words.iter().enumerate() {
            let (mix, constant) = match index / 20 {
                0 => (b & c | !b & d, 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = [mix, e, constant, *word]
                .into_iter()
                .fold(a.rotate_left(5), u32::wrapping_add);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (own, add) in state.iter_mut().zip([a, b, c, d, e]) {
            *own = own.wrapping_add(add);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_6455_is_answered_as_it_says() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn keys_are_sixteen_bytes_and_differ() {
        let key = new_key();
        assert_eq!(key.len(), 24);
        assert!(key.ends_with(b"=="));
        assert_ne!(key, new_key());
    }

    #[test]
    fn sha1_is_fips_180() {
        let hex = |digest: [u8; 20]| {
            digest
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!(
            hex(sha1(b"abc")),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(
            hex(sha1(&[b'a'; 119])),
            "ee971065aaa017e0632a8ca6c77bb3bf8b1dfc56"
        );
    }
}
