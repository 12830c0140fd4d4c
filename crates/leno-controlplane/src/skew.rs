//! How far apart the versions of a proxy and of this control plane are (CP10).
//!
//! Versions work together with those one minor version before and after; a patch changes nothing between them.

/// How a proxy's version stands to the control plane's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skew {
    /// They work together as one.
    Same,
    /// The proxy is one version behind.
    Older,
    /// The proxy is one version ahead.
    Newer,
    /// They are further apart than is tested.
    Unsupported,
    /// The proxy tells no version that can be read.
    Unknown,
}

impl Skew {
    /// Of a proxy of version `proxy` at a control plane of version `own`.
    pub(crate) fn between(proxy: &str, own: &str) -> Self {
        let (Some((major, minor)), Some((own_major, own_minor))) = (parse(proxy), parse(own))
        else {
            return Self::Unknown;
        };
        if major != own_major {
            return Self::Unsupported;
        }
        match (minor.cmp(&own_minor), minor.abs_diff(own_minor)) {
            (_, 0) => Self::Same,
            (std::cmp::Ordering::Less, 1) => Self::Older,
            (_, 1) => Self::Newer,
            _ => Self::Unsupported,
        }
    }

    /// Its word in documents.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Older => "older",
            Self::Newer => "newer",
            Self::Unsupported => "unsupported",
            Self::Unknown => "unknown",
        }
    }
}

/// The first two numbers of a version.
fn parse(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-', '+']);
    let mut next = || numbers.next()?.parse::<u32>().ok();
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_next_to_each_other_work_together_and_no_others() {
        for (proxy, expected) in [
            ("0.2.0", Skew::Same),
            ("0.2.9-rc.1", Skew::Same),
            ("0.1.7", Skew::Older),
            ("0.3.0", Skew::Newer),
            ("0.0.9", Skew::Unsupported),
            ("0.4.0", Skew::Unsupported),
            ("1.2.0", Skew::Unsupported),
            ("", Skew::Unknown),
            ("dev", Skew::Unknown),
            ("0", Skew::Unknown),
            ("99999999999.1", Skew::Unknown),
        ] {
            assert_eq!(Skew::between(proxy, "0.2.3"), expected, "{proxy}");
        }
    }
}
