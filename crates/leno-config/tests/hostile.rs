//! Whatever a file holds: an answer, within bounds, and never a panic.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeMap, fs, path::Path};

use leno_config::{
    AccessAction, Kind, SplitBackend, access_policy, admit, httproute_split, parse_documents,
    service_template,
};
use leno_types::ServiceName;
use proptest::prelude::*;
use serde_json::{Value, json};

fn first_reason(text: &str) -> String {
    let findings = parse_documents("f.yaml", text).unwrap_err();
    findings.first().unwrap().to_string()
}

#[test]
fn what_is_too_deep_too_long_or_too_much_is_refused_with_its_place() {
    let open = format!("a: {}{}\n", "[".repeat(50_000), "]".repeat(50_000));
    assert_eq!(
        first_reason(&open),
        "f.yaml:1:68: the document has more than 64 levels"
    );
    let json = "{\"a\":".repeat(100_000);
    assert!(
        first_reason(&json).contains("more than 64 levels"),
        "{}",
        first_reason(&json)
    );
    let block: String = (0..200)
        .map(|level| format!("{}- \n", " ".repeat(level)))
        .collect();
    assert!(
        first_reason(&block).contains("more than 64 levels"),
        "{}",
        first_reason(&block)
    );
    let large = format!(
        "a: 1\n---\nb: |\n{}---\nc: 1\n",
        "  yyyyyyyyyyyyyyyyyyy\n".repeat(60_000)
    );
    let findings = parse_documents("f.yaml", &large).unwrap_err();
    let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(
        texts
            .iter()
            .any(|text| text.contains("larger than 1048576 bytes")),
        "{texts:?}"
    );
    assert!(
        texts.iter().any(|text| text.starts_with("f.yaml:60005:1 ")),
        "{texts:?}"
    );
    let many = "a: [0,0,0,0,0,0,0,0,0,0]\n"
        .replace("a:", "- ")
        .repeat(20_000);
    assert!(
        first_reason(&many).contains("100000 values"),
        "{}",
        first_reason(&many)
    );
    let huge = "#".repeat(17 << 20);
    assert!(first_reason(&huge).contains("at most 16777216 are read"));
}

#[test]
fn aliases_cannot_multiply() {
    // Each level is small, all of them together are not.
    let mut text = "a0: &a0 [x, x]\n".to_owned();
    for level in 1..64 {
        let below = level - 1;
        text.push_str(&format!("a{level}: &a{level} [*a{below}, *a{below}]\n"));
    }
    assert!(
        first_reason(&text).contains("the document has more than"),
        "{}",
        first_reason(&text)
    );
    let mut long = format!("a0: &a0 {}\n", "x".repeat(100_000));
    for level in 1..64 {
        long.push_str(&format!("a{level}: *a0\n"));
    }
    assert!(
        first_reason(&long).contains("larger than"),
        "{}",
        first_reason(&long)
    );
    let mut deep = "a0: &a0 [[[[[[[[[[x]]]]]]]]]]\n".to_owned();
    for level in 1..20 {
        deep.push_str(&format!(
            "a{level}: &a{level} [[[[[[[[[[*a{}]]]]]]]]]]\n",
            level - 1
        ));
    }
    assert!(
        first_reason(&deep).contains("more than 64 levels"),
        "{}",
        first_reason(&deep)
    );
}

#[test]
fn what_is_wrong_is_told_a_bounded_number_of_times() {
    let many: String = (0..5_000).map(|n| format!("f{n}: 1\n")).collect();
    let document =
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{}}\n{many}");
    let findings = parse_documents("f.yaml", &document).unwrap_err();
    assert_eq!(findings.len(), 101);
    let files = format!("{document}---\n").repeat(5);
    let findings = parse_documents("f.yaml", &files).unwrap_err();
    assert_eq!(findings.len(), 201);
    assert_eq!(
        findings.last().unwrap().to_string(),
        "f.yaml: 305 more findings are not shown"
    );
}

#[test]
fn a_server_reads_values_no_file_could_hold() {
    for kind in Kind::ALL.iter().copied() {
        for value in [
            Value::Null,
            json!(5),
            json!([]),
            json!({"metadata": {"name": "\u{0}"}}),
        ] {
            assert!(!admit(kind, value).unwrap_err().is_empty());
        }
    }
    let key = "\u{202e}".repeat(10_000);
    let findings = admit(Kind::Service, json!({ key: 1 })).unwrap_err();
    assert!(
        findings
            .iter()
            .all(|finding| finding.to_string().len() < 512)
    );
}

#[test]
fn documents_that_commands_write_are_right() {
    let cart: ServiceName = "shop/cart".parse().unwrap();
    let selector = BTreeMap::from([("app".to_owned(), "cart".to_owned())]);
    let http = Some("http".parse().unwrap());
    let service = service_template(&cart, &selector, &[(80, 8080, http), (5432, 5432, None)]);
    admit(Kind::Service, service).unwrap();
    let backend = |name: &str, weight| SplitBackend {
        service: name.parse().unwrap(),
        port: 80,
        weight,
    };
    let split = httproute_split(
        &cart,
        Some(80),
        &[backend("cart-v1", 95), backend("cart-v2", 5)],
    );
    admit(Kind::HttpRoute, split).unwrap();
    let caller = ("web".parse().unwrap(), "storefront".parse().unwrap());
    let name = "cart-allow".parse().unwrap();
    for (action, callers) in [
        (AccessAction::Allow, vec![]),
        (AccessAction::Deny, vec![]),
        (AccessAction::Allow, vec![caller.clone()]),
        (AccessAction::Deny, vec![caller]),
    ] {
        admit(
            Kind::AccessPolicy,
            access_policy(&name, &cart, action, &callers),
        )
        .unwrap();
    }
}

fn corpus() -> Vec<String> {
    let mut texts = Vec::new();
    for folder in ["documents", "errors"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("testdata")
            .join(folder);
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending != "golden") {
                texts.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    texts.sort();
    assert!(texts.len() > 30);
    texts
}

/// Cuts, repeats and swaps pieces of right and wrong documents.
fn mutate(texts: &[String], edits: &[(usize, usize, usize, u8)]) -> String {
    let Some(first) = edits.first() else {
        return String::new();
    };
    let mut chars: Vec<char> = texts[first.0 % texts.len()].chars().collect();
    const SPICE: &[char] = &[
        '{', '}', '[', ']', ':', '-', '&', '*', '!', '|', '>', '\'', '"', '%', '#', '\n', '\t',
        ' ', '?', '\u{0}', '\u{85}', '\u{feff}', 'é',
    ];
    for (seed, from, length, how) in edits {
        let from = from % (chars.len() + 1);
        let to = (from + length % 40).min(chars.len());
        let piece: Vec<char> = match how % 4 {
            0 => Vec::new(),
            1 => vec![SPICE[seed % SPICE.len()]],
            2 => chars[from..to].repeat(3),
            _ => texts[seed % texts.len()]
                .chars()
                .skip(from % 200)
                .take(length % 60)
                .collect(),
        };
        chars.splice(from..to, piece);
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn no_text_makes_it_panic(edits in prop::collection::vec(any::<(usize, usize, usize, u8)>(), 1..12)) {
        thread_local!(static CORPUS: Vec<String> = corpus());
        let text = CORPUS.with(|texts| mutate(texts, &edits));
        match parse_documents("f.yaml", &text) {
            // What a file holds, the server takes, and takes again as it gave it back.
            Ok(documents) => for document in documents {
                let admitted = admit(document.kind, document.with_source()).unwrap();
                prop_assert_eq!(admit(document.kind, admitted.value.clone()).unwrap(), admitted);
            },
            Err(findings) => {
                prop_assert!(!findings.is_empty());
                prop_assert!(findings.len() <= 201);
                prop_assert!(findings.iter().all(|finding| !finding.reason.is_empty()));
            }
        }
    }

    #[test]
    fn no_noise_makes_it_panic(text in "\\PC{0,200}") {
        drop(parse_documents("f.yaml", &text));
    }
}
