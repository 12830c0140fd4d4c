//! What can be said on the command line, parsed into types that cannot be wrong.

use std::net::Ipv6Addr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use http::Uri;
use http::uri::Authority;

/// The demo's programs: a small shop, each part an ordinary program.
#[derive(Debug, Parser)]
#[command(name = "shop", disable_version_flag = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) program: Program,
}

#[derive(Debug, Subcommand)]
#[command(disable_version_flag = true)]
pub(crate) enum Program {
    /// Serves the page and calls every other program steadily (HTTP/1.1)
    Storefront(Box<Storefront>),
    /// Lists what is sold (HTTP/1.1, JSON)
    Catalog(Catalog),
    /// Keeps what was chosen (gRPC: unary and all kinds of streaming)
    Cart(Serve),
    /// Keeps what people say (HTTP/2 without TLS, and HTTP/1.1)
    Reviews(Serve),
    /// Tells prices as they change (WebSocket on /feed)
    Prices(Serve),
    /// Knows how many are left (plain TCP; the server speaks first)
    Stock(Stock),
    /// Counts the stock steadily and shows its books (HTTP/1.1)
    Ledger(Ledger),
    /// Calls one URL steadily and serves nothing (HTTP/1.1)
    Legacy(Legacy),
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The port to listen on, on every address; 0 for any that is free
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Storefront {
    #[command(flatten)]
    serve: Serve,
    #[command(flatten)]
    pub(crate) peers: Peers,
    /// How many times the usual load to make; 0 for none
    #[arg(long, default_value = "1", value_parser = rate)]
    pub(crate) rate: f64,
}

/// Where the storefront finds the others.
#[derive(Clone, Debug, Args)]
pub(crate) struct Peers {
    #[arg(long, value_name = "URL", default_value = "http://catalog/", value_parser = http_origin)]
    pub(crate) catalog: Origin,
    #[arg(long, value_name = "URL", default_value = "http://cart/", value_parser = http_origin)]
    pub(crate) cart: Origin,
    #[arg(long, value_name = "URL", default_value = "http://reviews/", value_parser = http_origin)]
    pub(crate) reviews: Origin,
    #[arg(long, value_name = "URL", default_value = "ws://prices/feed", value_parser = ws_url)]
    pub(crate) prices: Url,
    #[arg(long, value_name = "HOST:PORT", default_value = "stock:3306", value_parser = host_port)]
    pub(crate) stock: Origin,
}

#[derive(Debug, Args)]
pub(crate) struct Catalog {
    #[command(flatten)]
    serve: Serve,
    /// Which catalog this is
    #[arg(long, value_enum, default_value = "v1")]
    pub(crate) version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// Names and prices
    V1,
    /// And the colour of each
    V2,
}

#[derive(Debug, Args)]
pub(crate) struct Stock {
    /// The port to listen on, on every address; 0 for any that is free
    #[arg(long, default_value_t = 3306)]
    port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Ledger {
    #[command(flatten)]
    serve: Serve,
    #[arg(long, value_name = "HOST:PORT", default_value = "stock:3306", value_parser = host_port)]
    pub(crate) stock: Origin,
    /// How often a second to ask the stock; 0 for only when asked
    #[arg(long, default_value = "1", value_parser = rate)]
    pub(crate) rate: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Legacy {
    /// What to call
    #[arg(long, value_parser = http_url)]
    pub(crate) url: Url,
    /// How often a second
    #[arg(long, default_value = "2", value_parser = rate)]
    pub(crate) rate: f64,
}

impl Program {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Storefront(_) => "storefront",
            Self::Catalog(_) => "catalog",
            Self::Cart(_) => "cart",
            Self::Reviews(_) => "reviews",
            Self::Prices(_) => "prices",
            Self::Stock(_) => "stock",
            Self::Ledger(_) => "ledger",
            Self::Legacy(_) => "legacy",
        }
    }

    /// Where it listens, if it does.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Storefront(options) => Some(options.serve.port),
            Self::Catalog(options) => Some(options.serve.port),
            Self::Cart(options) | Self::Reviews(options) | Self::Prices(options) => {
                Some(options.port)
            }
            Self::Stock(options) => Some(options.port),
            Self::Ledger(options) => Some(options.serve.port),
            Self::Legacy(_) => None,
        }
    }
}

/// One end to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// A name or an address, an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// As it was written, for the `Host` header.
    pub(crate) authority: Authority,
}

/// One end, and what to ask for there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    pub(crate) path: String,
}

fn http_url(text: &str) -> Result<Url, String> {
    url(text, "http")
}

fn ws_url(text: &str) -> Result<Url, String> {
    url(text, "ws")
}

fn http_origin(text: &str) -> Result<Origin, String> {
    let url = http_url(text)?;
    if url.path == "/" {
        Ok(url.origin)
    } else {
        Err("the path is not yours to choose: http://HOST[:PORT]/".into())
    }
}

fn host_port(text: &str) -> Result<Origin, String> {
    let authority: Authority = text
        .parse()
        .map_err(|_not_one| "expected HOST:PORT".to_owned())?;
    let port = authority
        .port_u16()
        .ok_or("the port is missing: HOST:PORT")?;
    origin(authority, port)
}

fn url(text: &str, scheme: &str) -> Result<Url, String> {
    let form = || format!("expected {scheme}://HOST[:PORT]/..");
    let uri: Uri = text.parse().map_err(|_not_one| form())?;
    if uri.scheme_str() != Some(scheme) {
        return Err(form());
    }
    let authority = uri.authority().cloned().ok_or_else(form)?;
    let port = authority.port_u16().unwrap_or(80);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(Url {
        origin: origin(authority, port)?,
        path: path.to_owned(),
    })
}

fn origin(authority: Authority, port: u16) -> Result<Origin, String> {
    if authority.as_str().contains('@') {
        return Err("a user name has no place here".into());
    }
    let host = authority.host();
    let host = match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        None => host,
        Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
        Some(_) => return Err("what is between [ and ] is no IPv6 address".into()),
    };
    if host.is_empty() || port == 0 {
        return Err("host or port is missing".into());
    }
    Ok(Origin {
        host: host.to_owned(),
        port,
        authority,
    })
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=1000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number from 0 to 1000".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use clap::Parser;

    use super::{Cli, Program, host_port, http_origin, http_url, ws_url};

    #[test]
    fn plain_names_addresses_and_ports_are_understood() {
        let plain = http_origin("http://catalog/").unwrap();
        assert_eq!(
            (plain.host.as_str(), plain.port, plain.authority.as_str()),
            ("catalog", 80, "catalog")
        );
        let six = http_url("http://[::1]:81/a?b").unwrap();
        assert_eq!(
            (six.origin.host.as_str(), six.origin.port, six.path.as_str()),
            ("::1", 81, "/a?b")
        );
        assert_eq!(ws_url("ws://prices/feed").unwrap().path, "/feed");
        assert_eq!(host_port("stock:3306").unwrap().port, 3306);
    }

    #[test]
    fn what_cannot_be_called_is_refused() {
        for bad in [
            "",
            "catalog",
            "https://catalog/",
            "http:///",
            "http://u@catalog/",
            "http://[x]/",
            "http://c:0/",
        ] {
            assert!(http_url(bad).is_err(), "{bad}");
        }
        assert!(http_origin("http://catalog/items").is_err());
        assert!(host_port("stock").is_err());
        for bad in [
            &["shop"][..],
            &["shop", "legacy"],
            &["shop", "bakery"],
            &["shop", "catalog", "--version", "v3"],
        ] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
        for bad in ["-1", "NaN", "inf", "1001", "x"] {
            let rate = format!("--rate={bad}");
            assert!(
                Cli::try_parse_from(["shop", "storefront", &rate]).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn each_program_has_its_usual_port() {
        for (program, port) in [
            ("storefront", 8080),
            ("catalog", 8080),
            ("stock", 3306),
            ("ledger", 8080),
        ] {
            let cli = Cli::try_parse_from(["shop", program]).unwrap();
            assert_eq!(
                (cli.program.name(), cli.program.port()),
                (program, Some(port))
            );
        }
        let legacy =
            Cli::try_parse_from(["shop", "legacy", "--url", "http://storefront:8080/"]).unwrap();
        assert!(matches!(legacy.program, Program::Legacy(_)) && legacy.program.port().is_none());
    }
}
