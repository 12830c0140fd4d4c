//! What is sold: HTTP/1.1 and JSON, in two versions that can be told apart.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::cli::Version;
use crate::http_server::{Reply, Speaks, refuse, reply, serve};
use crate::net::Listeners;
use crate::{PAYLOAD, Stop};

/// Name, price in cents, colour.
const ITEMS: [(&str, u32, &str); 4] = [
    ("lamp", 4900, "brass"),
    ("chair", 12900, "oak"),
    ("table", 34900, "walnut"),
    ("clock", 7900, "white"),
];

pub(crate) async fn run(listeners: Listeners, version: Version, stop: &Stop) {
    let items = Bytes::from(items(version));
    serve(listeners, Speaks::Http1, stop, move |request| {
        let items = items.clone();
        async move { answer(&request, items) }
    })
    .await;
}

fn answer(request: &Request<Incoming>, items: Bytes) -> Reply {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/" | "/items") => reply("application/json", items),
        (&Method::GET | &Method::HEAD, _) => refuse(StatusCode::NOT_FOUND, "no such page"),
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET"),
    }
}

fn items(version: Version) -> String {
    let items = ITEMS.map(|(name, price, colour)| match version {
        Version::V1 => json!({"name": name, "price": price}),
        Version::V2 => json!({"name": name, "price": price, "colour": colour}),
    });
    let version = match version {
        Version::V1 => "v1",
        Version::V2 => "v2",
    };
    json!({"version": version, "items": items, "note": PAYLOAD}).to_string()
}
