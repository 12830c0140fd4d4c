//! What a request says of its own urgency: `priority: u=5` (RFC 9218).
//!
//! Read leniently, as the RFC asks: what is no urgency is none. Never changes the field, which goes on as it came.

use crate::Fields;

/// The urgency of a message, 0 (first) to 7 (background), where its `priority` field says one (RFC 9218 4.1). The last
/// one counts, as in every dictionary (RFC 9651 3.2).
#[must_use]
pub fn urgency(fields: &Fields) -> Option<u8> {
    let mut known = None;
    for (name, line) in fields.iter() {
        if name.eq_ignore_ascii_case(b"priority") {
            known = of_line(line).or(known);
        }
    }
    known
}

fn of_line(line: &[u8]) -> Option<u8> {
    let members = line.split(|byte| *byte == b',');
    let mut urgencies = members.filter_map(|member| {
        let member = member.trim_ascii();
        let item = member.split(|byte| *byte == b';').next()?;
        match item.strip_prefix(b"u=")?.trim_ascii_end() {
            [digit @ b'0'..=b'7'] => Some(*digit - b'0'),
            _ => None,
        }
    });
    urgencies.next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Option<u8> {
        let mut fields = Fields::new();
        for line in lines {
            assert!(fields.push("Priority", *line));
        }
        urgency(&fields)
    }

    #[test]
    fn an_urgency_is_found_among_what_else_a_dictionary_says() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["u=5"]), Some(5));
        assert_eq!(of(&["i, u=7"]), Some(7));
        assert_eq!(of(&["u=6;x=1 , i"]), Some(6));
        assert_eq!(of(&["u=1,u=5"]), Some(5));
        assert_eq!(of(&["u=5", "u=3"]), Some(3));
    }

    #[test]
    fn what_is_no_urgency_is_none() {
        for bad in [
            "", "u", "u=", "u=8", "u=-1", "u=55", "u=a", "U=5", "xu=5", "u =5", "\"u=5\"", "u=5.0",
        ] {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
    }
}
