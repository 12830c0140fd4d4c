//! What can be read of a running mesh: pages of its proxies and of its API, metrics, access logs.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use serde_json::Value;

use super::Mesh;
use crate::{Host, Wire};

/// Where an agent shows what it knows.
const ADMIN_PORT: u16 = 15000;

impl Mesh {
    /// An admin page of a host's proxy, as JSON.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn admin(&self, name: &str, path: &str) -> Value {
        let (status, body) = page(&self.host(name), ADMIN_PORT, path).expect("an admin page");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// A document of the mesh's API: `path` begins after the mesh, such as `/leno/v1/status`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn api(&self, path: &str) -> Value {
        let mut stream =
            UnixStream::connect(self.admin_socket()).expect("the control plane's socket");
        let request = format!(
            "GET /meshes/{}{path} HTTP/1.0\r\nhost: localhost\r\n\r\n",
            self.name
        );
        stream.write_all(request.as_bytes()).expect("a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer of HTTP");
        assert!(head.contains(" 200 "), "{path}: {text}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// The lines of a host's access log so far.
    ///
    /// # Panics
    /// When one is no JSON.
    #[must_use]
    pub fn access_log(&self, name: &str) -> Vec<Value> {
        let text =
            fs::read_to_string(self.host(name).disk().join("access.log")).unwrap_or_default();
        let whole = text
            .rfind('\n')
            .map_or("", |end| text.get(..end).unwrap_or_default());
        let line = |line: &str| serde_json::from_str(line).expect("a line of JSON");
        whole.lines().map(line).collect()
    }

    /// The metrics of a host's proxy.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    #[track_caller]
    pub fn metrics(&self, name: &str) -> String {
        let (status, body) =
            page(&self.host(name), ADMIN_PORT, "/stats/prometheus").expect("metrics");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// The sum of all series of a metric whose labels contain each of these texts.
    ///
    /// # Panics
    /// When there are no metrics.
    #[must_use]
    #[track_caller]
    pub fn metric(&self, host: &str, name: &str, labels: &[&str]) -> f64 {
        sum(&self.metrics(host), name, labels)
    }
}

fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let value = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) || !labels.iter().all(|label| rest.contains(label)) {
            return None;
        }
        rest.rsplit(' ').next()?.parse().ok()
    };
    text.lines().filter_map(value).sum()
}

/// A page of an agent: status and content.
pub(super) fn page(host: &Host, port: u16, path: &str) -> io::Result<(u16, String)> {
    let stream = host.connect(([127, 0, 0, 1], port).into())?;
    let mut wire = Wire::new(stream);
    wire.try_send(format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    ))?;
    let answer = wire.try_message()?;
    Ok((
        answer.status(),
        String::from_utf8_lossy(&answer.body).into_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn series_are_added_by_name_and_labels() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\"} 4\nab{x=\"1\"} 9\nb 5\n";
        assert_eq!(sum(text, "a", &["x=\"1\""]), 7.0);
        assert_eq!(sum(text, "a", &["y=\"2\""]), 3.0);
        assert_eq!(sum(text, "b", &[]), 5.0);
        assert_eq!(sum(text, "c", &[]), 0.0);
    }
}
