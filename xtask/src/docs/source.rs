//! Reads constants, fields with their defaults and refusals out of Rust source, as text.

use super::metrics;

/// A value with what its doc comment says.
pub(super) struct Item {
    pub(super) doc: String,
    pub(super) name: String,
    value: String,
}

/// One refusal of the closed set.
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) status: String,
    pub(super) text: String,
}

/// A table of what `names` asks for: `refusals`, `exit-codes`, `ports`, `fields` (a struct's, with their defaults),
/// `metrics`, `events`, `checks`, `set NAME`, or constants by name.
pub(super) fn table(code: &str, names: &[&str]) -> Result<String, String> {
    match names {
        ["refusals"] => Ok(refusal_table(code)),
        ["exit-codes"] => exit_codes(code),
        ["ports"] => Ok(rows(
            "| port | use |\n|--:|---|\n",
            &constants(code),
            |item| format!("| {} | {} |\n", item.value, item.doc),
        )),
        ["fields"] => Ok(named_rows(&fields(code)?)),
        ["metrics"] => metrics::named(code),
        ["events"] => metrics::events(code),
        ["checks"] => Ok(checks(code)),
        ["set", name] => metrics::set(code, name),
        names => {
            let known = constants(code);
            let mut found = Vec::new();
            for name in names {
                let item = known.iter().find(|item| item.name == *name);
                let item = item.ok_or_else(|| format!("there is no constant {name}"))?;
                found.push(Item {
                    doc: item.doc.clone(),
                    name: item.name.clone(),
                    value: item.value.clone(),
                });
            }
            Ok(named_rows(&found))
        }
    }
}

fn named_rows(items: &[Item]) -> String {
    rows(
        "| name | value | what it bounds |\n|---|--:|---|\n",
        items,
        |item| format!("| `{}` | {} | {} |\n", item.name, item.value, item.doc),
    )
}

fn rows(head: &str, items: &[Item], row: impl Fn(&Item) -> String) -> String {
    items
        .iter()
        .map(row)
        .fold(head.to_owned(), |text, row| text + &row)
}

/// `/// doc` lines, then `const NAME: TYPE = VALUE;`.
fn constants(code: &str) -> Vec<Item> {
    documented(code, |line| {
        let visible = ["pub ", "pub(crate) ", "pub(super) "];
        let bare = visible.iter().find_map(|word| line.strip_prefix(word));
        let (name, rest) = bare
            .unwrap_or(line)
            .strip_prefix("const ")?
            .split_once(':')?;
        let (_, value) = rest.split_once("= ")?;
        Some((name.to_owned(), shown(value.strip_suffix(';')?)))
    })
}

/// The fields of the last `pub struct` whose `Default` is written out in the file.
fn fields(code: &str) -> Result<Vec<Item>, String> {
    let (_, after) = code
        .split_once("impl Default for Limits {")
        .ok_or("there is no Default for Limits")?;
    let (defaults, _) = after
        .split_once("\n}\n")
        .ok_or("its Default does not end")?;
    let (_, after) = code
        .split_once("pub struct Limits {")
        .ok_or("there is no struct Limits")?;
    let (body, _) = after.split_once("\n}\n").ok_or("the struct does not end")?;
    let items = documented(body, |line| {
        let (name, _) = line.strip_prefix("pub ")?.split_once(':')?;
        let value = defaults.lines().find_map(|line| {
            let value = line.trim().strip_prefix(name)?.strip_prefix(": ")?;
            value.strip_suffix(',')
        });
        Some((name.to_owned(), shown(value.unwrap_or("?"))))
    });
    match items.iter().find(|item| item.value == "?") {
        Some(item) => Err(format!("the default of {} is not on one line", item.name)),
        // What has a table of its own.
        None => Ok(items
            .into_iter()
            .filter(|item| !item.value.contains("default()"))
            .collect()),
    }
}

/// Every item that `read` takes, with the doc comment above it.
pub(super) fn documented(code: &str, read: impl Fn(&str) -> Option<(String, String)>) -> Vec<Item> {
    let (mut items, mut doc) = (Vec::new(), String::new());
    for line in code.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            if !doc.is_empty() {
                doc.push(' ');
            }
            doc.push_str(text.trim());
            continue;
        }
        if let Some((name, value)) = read(line) {
            items.push(Item {
                doc: plain(&doc),
                name,
                value,
            });
        }
        if !line.starts_with("#[") {
            doc.clear();
        }
    }
    items
}

/// Without links to items, and fit for a table.
fn plain(doc: &str) -> String {
    doc.replace("[`", "`")
        .replace("`]", "`")
        .replace('|', "\\|")
}

/// A value as people write it.
fn shown(value: &str) -> String {
    for (of, unit) in [("from_secs", 1_000), ("from_millis", 1)] {
        let inner = value
            .strip_prefix("Duration::")
            .and_then(|value| value.strip_prefix(of)?.strip_prefix('('))
            .and_then(|value| value.strip_suffix(')'));
        if let Some(number) = inner.and_then(product) {
            return duration(number * unit);
        }
    }
    match product(value) {
        Some(number) if value.contains("1024") || value.contains("<<") => size(number),
        Some(number) => number.to_string(),
        None => value.to_owned(),
    }
}

/// A number, a product of numbers, or a number of binary units (`16 << 20`).
fn product(text: &str) -> Option<u64> {
    if let Some((number, shift)) = text.split_once(" << ") {
        return product(number)?.checked_mul(1_u64.checked_shl(shift.parse().ok()?)?);
    }
    text.split('*').try_fold(1_u64, |product, factor| {
        product.checked_mul(factor.trim().replace('_', "").parse().ok()?)
    })
}

fn duration(milliseconds: u64) -> String {
    let units = [
        // A single day is said as twenty-four hours.
        (172_800_000, 86_400_000, "d"),
        (3_600_000, 3_600_000, "h"),
        (120_000, 60_000, "min"),
        (1_000, 1_000, "s"),
    ];
    let fits = units
        .iter()
        .find(|(least, unit, _)| milliseconds >= *least && milliseconds.is_multiple_of(*unit));
    fits.map_or_else(
        || format!("{milliseconds} ms"),
        |(_, unit, name)| format!("{} {name}", milliseconds / unit),
    )
}

fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

/// `Name = "CODE", STATUS, "TEXT";` lines.
pub(super) fn refusals(code: &str) -> Vec<Refusal> {
    let read = |line: &str| {
        let (name, rest) = line.trim().split_once(" = \"")?;
        let (code, rest) = rest.split_once("\", ")?;
        let (status, rest) = rest.split_once(", \"")?;
        let text = rest.strip_suffix("\";")?;
        let plain = name.chars().all(char::is_alphanumeric) && status.len() == 3;
        plain.then(|| Refusal {
            code: code.into(),
            status: status.into(),
            text: text.into(),
        })
    };
    code.lines().filter_map(read).collect()
}

fn refusal_table(code: &str) -> String {
    let head = "| code | status | what |\n|---|--:|---|\n".to_owned();
    refusals(code).iter().fold(head, |table, refusal| {
        let Refusal { code, status, text } = refusal;
        table + &format!("| [{code}]({code}.md) | {status} | {text} |\n")
    })
}

/// `Name = "id", "category";` lines with their doc comments: a heading for each category, and below it for each check.
fn checks(code: &str) -> String {
    let items = documented(code, |line| {
        let (_, rest) = line.split_once(" = \"")?;
        let (id, rest) = rest.split_once("\", \"")?;
        let category = rest.strip_suffix("\";")?;
        Some((id.to_owned(), category.to_owned()))
    });
    let (mut text, mut category) = (String::new(), "");
    for item in &items {
        if item.value != category {
            category = &item.value;
            text.push_str(&format!("\n## {category}\n"));
        }
        text.push_str(&format!("\n### {}\n\n{}\n", item.name, item.doc));
    }
    text + "\n"
}

/// The table in a module's own documentation.
fn exit_codes(code: &str) -> Result<String, String> {
    let lines = code.lines().filter_map(|line| line.strip_prefix("//! "));
    let table: String = lines
        .filter(|line| line.starts_with('|'))
        .map(|line| format!("{line}\n"))
        .collect();
    if table.is_empty() {
        return Err("there is no table of exit codes".into());
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_people_write_them() {
        for (value, expected) in [
            ("Duration::from_secs(24 * 3600)", "24 h"),
            ("Duration::from_secs(30 * 24 * 3600)", "30 d"),
            ("Duration::from_secs(90)", "90 s"),
            ("Duration::from_millis(250)", "250 ms"),
            ("16 * 1024 * 1024", "16 MiB"),
            ("65_536", "65536"),
            ("64 << 10", "64 KiB"),
            ("u16::MAX", "u16::MAX"),
        ] {
            assert_eq!(shown(value), expected);
        }
    }

    #[test]
    fn a_constant_that_is_not_there_is_an_error() {
        let code = "/// Why.\n/// More.\npub const A: u64 = 2 * 3;\n";
        assert_eq!(
            table(code, &["A"]).as_deref(),
            Ok("| name | value | what it bounds |\n|---|--:|---|\n| `A` | 6 | Why. More. |\n")
        );
        assert!(table(code, &["B"]).is_err());
    }
}
