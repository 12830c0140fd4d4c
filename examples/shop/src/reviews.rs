//! What people say: HTTP/2 without TLS, and HTTP/1.1 for who asks by hand.
//!
//! Keeps the last few reviews of each known item, of bounded length.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use crate::http_server::{Reply, Speaks, refuse, reply, serve};
use crate::net::Listeners;
use crate::{PAYLOAD, Stop};

const MAX_REVIEW: usize = 4096;
const KEPT_EACH: usize = 4;
const ITEMS: [&str; 4] = ["lamp", "chair", "table", "clock"];

type Reviews = Rc<RefCell<BTreeMap<&'static str, VecDeque<String>>>>;

pub(crate) async fn run(listeners: Listeners, stop: &Stop) {
    let reviews = Reviews::default();
    serve(listeners, Speaks::Http2, stop, move |request| {
        answer(request, Rc::clone(&reviews))
    })
    .await;
}

async fn answer(request: Request<Incoming>, reviews: Reviews) -> Reply {
    let path = request.uri().path();
    let item = ITEMS
        .into_iter()
        .find(|item| path.strip_prefix('/') == Some(item));
    match (request.method(), item) {
        (&Method::GET, None) if path == "/" => list(&reviews, &ITEMS),
        (&Method::GET, Some(item)) => list(&reviews, &[item]),
        (&Method::PUT, Some(item)) => match Limited::new(request.into_body(), MAX_REVIEW)
            .collect()
            .await
        {
            Ok(body) => {
                let mut reviews = reviews.borrow_mut();
                let kept = reviews.entry(item).or_default();
                kept.truncate(KEPT_EACH - 1);
                kept.push_front(String::from_utf8_lossy(&body.to_bytes()).into_owned());
                reply(
                    "text/plain; charset=utf-8",
                    format!("thank you {PAYLOAD}\n"),
                )
            }
            Err(_too_long_or_cut) => {
                refuse(StatusCode::PAYLOAD_TOO_LARGE, "too long, or cut short")
            }
        },
        (&Method::GET | &Method::PUT, _) => refuse(StatusCode::NOT_FOUND, "no such item"),
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and PUT"),
    }
}

fn list(reviews: &Reviews, items: &[&str]) -> Reply {
    let reviews = reviews.borrow();
    let mut page = format!("reviews {PAYLOAD}\n");
    for item in items {
        for review in reviews.get(item).into_iter().flatten() {
            page.push_str(&format!("{item}: {}\n", review.trim_end()));
        }
    }
    reply("text/plain; charset=utf-8", page)
}
