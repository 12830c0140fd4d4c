//! Whether the kernel can still note connections: when its table is full, new ones are dropped without a word to anybody.
//!
//! Captured connections are in it, for they are redirected; so are everybody else's, where a firewall looks at them.

use super::{Check, Finding, told, well};

/// From so many hundredths on, a burst of connections may fill it.
const NEARLY_FULL: u64 = 90;
const WHAT: &str = "the kernel's table of connections has room";

/// What is known of it; `None` where there is no such table.
pub(super) fn finding() -> Option<Finding> {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/{name}"));
        text.ok()?.trim().parse().ok()
    };
    judge(read("nf_conntrack_count")?, read("nf_conntrack_max")?)
}

fn judge(count: u64, max: u64) -> Option<Finding> {
    // 0: as many as memory holds.
    let share = count.saturating_mul(100).checked_div(max)?;
    Some(if share > NEARLY_FULL {
        let why = format!(
            "{count} of {max} are in it ({share} %); what does not fit is dropped. More: sysctl -w net.netfilter.nf_conntrack_max={}",
            max.saturating_mul(2)
        );
        told(Check::Conntrack, WHAT, why)
    } else {
        well(Check::Conntrack, WHAT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_nearly_full_is_told_of() {
        let words = |count, max| judge(count, max).map(|finding| format!("{:?}", finding.state));
        assert_eq!(words(90, 100).as_deref(), Some("Well"));
        let full = words(262_144, 262_144).unwrap_or_default();
        assert!(
            full.contains("100 %") && full.contains("nf_conntrack_max=524288"),
            "{full}"
        );
        assert!(words(91, 100).unwrap_or_default().contains("Told"));
        assert_eq!(words(5, 0), None);
    }
}
