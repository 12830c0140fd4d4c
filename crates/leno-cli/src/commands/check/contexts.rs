//! The way to the mesh from here: a context, its file, its certificate.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    time::{Duration, SystemTime},
};

use super::{Check, Finding, ill, told, well};
use crate::{
    client::{self, Client},
    context::{self, Context},
    joined::Joined,
    places,
    run::humanize,
};

/// With less left than this a certificate of a person is worth a word.
const SOON: Duration = Duration::from_secs(3_600);

/// What is known of the context called `name`; a client of it, when there is one.
pub(super) fn findings(name: Option<&str>, findings: &mut Vec<Finding>) -> Option<Client> {
    let context = match context::load(name) {
        Ok(context) => context,
        Err(error) => {
            findings.push(match Joined::here() {
                Some(joined) => well(
                    Check::ContextHere,
                    format!("{joined}; there is no context here"),
                ),
                None => ill(
                    Check::ContextHere,
                    "no context is here",
                    error.what,
                    error.hint,
                ),
            });
            return None;
        }
    };
    findings.push(well(
        Check::ContextHere,
        format!("context \"{}\"", context.name),
    ));
    findings.extend(private());
    findings.extend(certificate(&context));
    Some(Client::new(context))
}

fn private() -> Option<Finding> {
    let path = places::config_file();
    let mode = fs::metadata(&path).ok()?.mode();
    Some(judge_mode(mode, &path.display().to_string()))
}

fn judge_mode(mode: u32, place: &str) -> Finding {
    if mode & 0o077 == 0 {
        return well(Check::ContextPrivate, format!("nobody else reads {place}"));
    }
    ill(
        Check::ContextPrivate,
        format!("others may read {place}"),
        format!(
            "its mode is {:o}, and keys are in it: who has them is you",
            mode & 0o777
        ),
        format!("chmod 600 {place}"),
    )
}

/// The socket of this machine needs none.
fn certificate(context: &Context) -> Option<Finding> {
    let credentials = context.credentials.as_ref()?;
    Some(match client::identity(credentials) {
        Ok((_, certificate)) => judge_end(certificate.remaining(SystemTime::now())),
        Err(error) => {
            let what = "the context's certificate cannot be used";
            ill(Check::ContextCertificate, what, error.what, RENEW)
        }
    })
}

const RENEW: &str = "have a new one made on the control plane's machine: leno user create NAME > FILE; then leno context import -f FILE";

fn judge_end(left: Option<Duration>) -> Finding {
    match left {
        None => ill(
            Check::ContextCertificate,
            "the context's certificate has ended",
            "the control plane lets nobody in with it",
            RENEW,
        ),
        Some(left) if left < SOON => told(
            Check::ContextCertificate,
            format!(
                "the context's certificate ends in {}",
                humanize(left.as_secs())
            ),
            RENEW,
        ),
        Some(left) => well(
            Check::ContextCertificate,
            format!("its certificate is good for {}", humanize(left.as_secs())),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_contexts_that_others_read_is_trouble() {
        assert!(judge_mode(0o100_644, "config").is_trouble());
        assert!(!judge_mode(0o100_600, "config").is_trouble());
    }

    #[test]
    fn a_certificate_that_has_ended_is_trouble_and_one_that_soon_will_is_told() {
        assert!(judge_end(None).is_trouble());
        let shown = |seconds| format!("{:?}", judge_end(Some(Duration::from_secs(seconds))).state);
        assert!(shown(600).contains("Told"));
        assert_eq!(shown(40_000), "Well");
    }
}
