//! The page of a refusal's code, and the paragraph of a check: what an installed binary says where no documentation is.
//!
//! Owns the pages of docs/refusals, which are in the binary, and how they are shown on a terminal. What a check's text is,
//! the catalogue of checks says.

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use leno_config::nearest;
use leno_types::Refusal;
use serde_json::{Value, json};

use crate::{commands::check::Check, view};

/// Longest line, on however wide a terminal.
const WIDEST: usize = 100;

/// A shorter word is no beginning of an id.
const SHORTEST_ID: usize = 4;

/// What there is a page of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Refusal(Refusal),
    Check(Check),
}

impl Topic {
    /// What a word means. What is as long as the beginning of an id, and could be one, is a code only as codes are
    /// written: large.
    pub(super) fn of(word: &str) -> Option<Self> {
        let is_id = word.len() >= SHORTEST_ID && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_code =
            |of: &&Refusal| of.code() == word || (!is_id && of.code().eq_ignore_ascii_case(word));
        let refusal = Refusal::ALL.iter().find(is_code);
        let check = || Check::ALL.iter().find(|check| check.id() == word);
        refusal
            .map(|of| Self::Refusal(*of))
            .or_else(|| check().map(|of| Self::Check(*of)))
    }

    /// The word that is most likely meant.
    pub(super) fn nearest(word: &str) -> Option<String> {
        let words: Vec<&str> = Self::words().collect();
        nearest(word, &words)
    }

    fn words() -> impl Iterator<Item = &'static str> {
        let codes = Refusal::ALL.iter().map(|of| of.code());
        codes.chain(Check::ALL.iter().map(|of| of.id()))
    }

    fn word(self) -> &'static str {
        match self {
            Self::Refusal(refusal) => refusal.code(),
            Self::Check(check) => check.id(),
        }
    }

    /// As it was written.
    fn page(self) -> String {
        match self {
            Self::Refusal(refusal) => refusal_page(refusal).to_owned(),
            Self::Check(check) => format!("# {}\n\n{}\n", check.id(), check.text().trim_start()),
        }
    }

    /// As it is read on a terminal.
    pub(super) fn lines(self) -> Vec<String> {
        let width = view::width().min(WIDEST);
        plain(&self.page(), width)
    }

    pub(super) fn document(self) -> Value {
        let text = plain(&self.page(), usize::MAX).join("\n");
        json!({"code": self.word(), "text": text})
    }
}

/// Takes any word, and lets shells complete those that have a page.
#[derive(Clone)]
pub(super) struct Words;

impl TypedValueParser for Words {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Topic::words().map(PossibleValue::new)))
    }
}

/// No `_` arm: a new reason has a page.
fn refusal_page(refusal: Refusal) -> &'static str {
    macro_rules! page {
        ($code:literal) => {
            include_str!(concat!("../../../../../docs/refusals/", $code, ".md"))
        };
    }
    match refusal {
        Refusal::NoHealthyUpstream => page!("UH"),
        Refusal::UpstreamConnectFailure => page!("UF"),
        Refusal::UpstreamReset => page!("UC"),
        Refusal::Overflow => page!("UO"),
        Refusal::Overload => page!("OM"),
        Refusal::NoRoute => page!("NR"),
        Refusal::NoBackend => page!("NB"),
        Refusal::UpstreamTimeout => page!("UT"),
        Refusal::ClientGone => page!("DC"),
        Refusal::ClientProtocol => page!("DPE"),
        Refusal::UpstreamProtocol => page!("UPE"),
        Refusal::HeadTooLarge => page!("HL"),
        Refusal::Denied => page!("RBAC"),
        Refusal::UnknownDestination => page!("UD"),
        Refusal::DiscoveryTimeout => page!("DT"),
        Refusal::ServiceGone => page!("NC"),
        Refusal::PeerIdentity => page!("PI"),
        Refusal::TlsHandshake => page!("TLS"),
        Refusal::PlaintextRefused => page!("PT"),
        Refusal::ForgedDestination => page!("FD"),
        Refusal::Loop => page!("LOOP"),
        Refusal::NoCertificate => page!("CERT"),
        Refusal::StreamEnded => page!("SE"),
    }
}

/// Markdown as plain lines of at most `width`: paragraphs and points are filled, marks are left out.
fn plain(page: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut block = String::new();
    for line in page.lines().chain([""]) {
        let begins = line.is_empty() || line.starts_with('#') || line.starts_with("- ");
        if begins && !block.is_empty() {
            fill(&block, width, &mut lines);
            block.clear();
        }
        if line.is_empty() {
            if lines.last().is_some_and(|last| !last.is_empty()) {
                lines.push(String::new());
            }
        } else if line.starts_with("# ") || line.starts_with("## ") {
            lines.push(line.trim_start_matches(['#', ' ']).to_owned());
        } else {
            if !block.is_empty() {
                block.push(' ');
            }
            block.push_str(line.trim());
        }
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

/// Adds a paragraph, or a point, whose further lines stand below its first word.
fn fill(block: &str, width: usize, lines: &mut Vec<String>) {
    let indent = if block.starts_with("- ") { "  " } else { "" };
    let text = unmarked(block);
    let mut line = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let needed = line.chars().count() + 1 + word.chars().count();
        if !line.trim().is_empty() && needed > width {
            lines.push(std::mem::replace(&mut line, indent.to_owned()));
        }
        if !line.trim().is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
}

/// Without backquotes; a link is its text, and where it leads.
fn unmarked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, from)) = rest.split_once('[') {
        let link = from
            .split_once("](")
            .and_then(|(text, to)| Some((text, to.split_once(')')?)));
        out.push_str(before);
        match link {
            Some((text, (to, after))) => {
                out.push_str(&leads(text, to));
                rest = after;
            }
            None => {
                out.push('[');
                rest = from;
            }
        }
    }
    out.push_str(rest);
    out.replace('`', "")
}

/// To another page of these, or into the documentation.
fn leads(text: &str, to: &str) -> String {
    let file = to.split('#').next().unwrap_or_default();
    match file.strip_suffix(".md").and_then(Topic::of) {
        Some(topic) => format!("{text} (leno explain {})", topic.word()),
        None => format!("{text} (docs/{})", file.trim_start_matches("../")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn every_page_is_that_of_its_code_and_reads_plainly() {
        for refusal in Refusal::ALL {
            let page = refusal_page(*refusal);
            let title = format!("{}: {}", refusal.code(), refusal.text());
            assert!(page.starts_with(&format!("# {title}\n")), "{page}");
            let lines = plain(page, 80);
            assert_eq!(lines[0], title);
            assert!(lines.iter().any(|line| line == "What to do"), "{lines:?}");
            for line in &lines {
                assert!(!line.contains(['`', '#', '|']), "{line}");
                assert!(!line.contains("](") && line.chars().count() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn a_paragraph_is_filled_and_a_link_says_where_it_leads() {
        let page = "# T\n\none two\nthree `four`\n\n- a point: [NB](NB.md) and\n  [limits](../limits.md#x) [1]\n- other\n";
        assert_eq!(
            plain(page, 30),
            [
                "T",
                "",
                "one two three four",
                "",
                "- a point: NB (leno explain",
                "  NB) and limits",
                "  (docs/limits.md) [1]",
                "- other"
            ]
        );
    }

    #[test]
    fn a_word_is_a_code_a_check_or_an_id() {
        let refusal = |word| match Topic::of(word) {
            Some(Topic::Refusal(refusal)) => Some(refusal.code()),
            _ => None,
        };
        assert_eq!(refusal("RBAC"), Some("RBAC"));
        assert_eq!(refusal("rbac"), Some("RBAC"));
        assert_eq!(refusal("DC"), Some("DC"));
        assert_eq!(refusal("dc"), Some("DC"), "too short for an id");
        assert_eq!(refusal("dcdc"), None);
        for check in Check::ALL {
            assert_eq!(Topic::of(check.id()), Some(Topic::Check(*check)));
            assert!(Topic::Check(*check).lines().len() >= 3, "{check:?}");
        }
        assert_eq!(Topic::nearest("RBAK").as_deref(), Some("RBAC"));
    }
}
