//! Prices as they change: a WebSocket feed (RFC 6455) on `/feed`, and its client.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, ClientRequestBuilder};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::cli::Url;
use crate::http_server::{Reply, Speaks, refuse, serve};
use crate::net::{CALL_TIMEOUT, CallError, Listeners, dial, finish, within};
use crate::{PAYLOAD, Stop};

const MAX_FEEDS: usize = 256;
const EVERY: Duration = Duration::from_millis(250);
/// How long a feed may stay silent before its client gives up.
const SILENCE: Duration = Duration::from_secs(3);
/// How long both sides wait for the other's farewell.
const FAREWELL: Duration = Duration::from_secs(1);
const ITEM: &str = "lamp";

/// What the program holds: one price, in cents, that all feeds tell, and the open feeds.
#[derive(Debug)]
struct Market {
    price: Cell<u32>,
    feeds: RefCell<JoinSet<()>>,
}

/// Small messages need no large buffers.
fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * 1024)
        .max_message_size(Some(16 * 1024))
        .max_frame_size(Some(16 * 1024))
}

pub(crate) async fn run(listeners: Listeners, stop: &Stop) {
    let market = Rc::new(Market {
        price: Cell::new(4900),
        feeds: RefCell::default(),
    });
    let (opened, ending) = (Rc::clone(&market), stop.clone());
    serve(listeners, Speaks::Http1, stop, move |request| {
        let reply = open(request, &opened, &ending);
        async move { reply }
    })
    .await;
    let open = market.feeds.take();
    finish(open).await;
}

/// Answers the request for a feed, and starts it.
fn open(mut request: Request<Incoming>, market: &Rc<Market>, stop: &Stop) -> Reply {
    if request.uri().path() != "/feed" {
        return refuse(StatusCode::NOT_FOUND, "the feed is at /feed");
    }
    let reply = match create_response_with_body(&request, Full::<Bytes>::default) {
        Ok(reply) => reply,
        Err(error) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                &format!("no WebSocket handshake: {error}"),
            );
        }
    };
    let mut feeds = market.feeds.borrow_mut();
    while feeds.try_join_next().is_some() {}
    if feeds.len() >= MAX_FEEDS {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many feeds are open");
    }
    let (upgrade, market, stop) = (
        hyper::upgrade::on(&mut request),
        Rc::clone(market),
        stop.clone(),
    );
    feeds.spawn_local(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let feed =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config()))
                .await;
        // A client that goes away ends its own feed only.
        drop(tell(feed, &market.price, &stop).await);
    });
    reply
}

/// Tells the price until the client or the program ends. Pings are answered by the library.
async fn tell<S>(
    mut feed: WebSocketStream<S>,
    price: &Cell<u32>,
    stop: &Stop,
) -> Result<(), tungstenite::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut pace = interval(EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = pace.tick() => {
                let step = price.get().saturating_add(fastrand::u32(0..=20)).saturating_sub(10);
                price.set(step.clamp(1000, 9900));
                let news = json!({"item": ITEM, "price": price.get(), "note": PAYLOAD}).to_string();
                let sent = timeout(CALL_TIMEOUT, feed.send(Message::text(news))).await;
                sent.map_err(|_stalled| tungstenite::Error::ConnectionClosed)??;
            }
            heard = feed.next() => match heard {
                Some(message) => drop(message?),
                None => return Ok(()),
            },
            () = stop.cancelled() => return farewell(feed).await,
        }
    }
}

/// Opens the feed at `url`, gives each price to `heard` until `end`, and closes it in order.
pub(crate) async fn watch(
    url: &Url,
    end: impl Future<Output = ()>,
    mut heard: impl FnMut(u64),
) -> Result<(), CallError> {
    let mut feed = within(connect(url)).await?;
    let mut end = pin!(end);
    loop {
        let message = tokio::select! {
            message = timeout(SILENCE, feed.next()) => message.map_err(|_silent| CallError::Timeout)?,
            () = &mut end => return farewell(feed).await.map_err(CallError::broken),
        };
        let message = message.ok_or_else(|| CallError::Strange("the feed ended".to_owned()))?;
        let message = message.map_err(CallError::broken)?;
        match message {
            Message::Text(news) => {
                heard(price(&news).ok_or_else(|| CallError::Strange(news.to_string()))?)
            }
            Message::Close(_) => return Err(CallError::Strange("the feed was closed".to_owned())),
            _ => {}
        }
    }
}

fn price(news: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(news)
        .ok()?
        .get("price")?
        .as_u64()
}

async fn connect(url: &Url) -> Result<WebSocketStream<TcpStream>, CallError> {
    let socket = dial(&url.origin).await?;
    let uri = format!("ws://{}{}", url.origin.authority, url.path)
        .parse::<http::Uri>()
        .map_err(CallError::broken)?;
    let request =
        ClientRequestBuilder::new(uri).with_header("User-Agent", crate::http_client::agent());
    let request = request.into_client_request().map_err(CallError::broken)?;
    let (mut feed, _reply) = match client_async_with_config(request, socket, Some(config())).await {
        Ok(opened) => opened,
        Err(tungstenite::Error::Http(refusal)) => return Err(CallError::Status(refusal.status())),
        Err(error) => return Err(CallError::broken(error)),
    };
    feed.send(Message::text(format!("watch {ITEM} {PAYLOAD}")))
        .await
        .map_err(CallError::broken)?;
    Ok(feed)
}

/// Closes in order: says so, and waits a little for the other side to say the same.
async fn farewell<S>(mut feed: WebSocketStream<S>) -> Result<(), tungstenite::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let closing = async {
        feed.close(None).await?;
        while let Some(message) = feed.next().await {
            message?;
        }
        Ok(())
    };
    timeout(FAREWELL, closing).await.unwrap_or(Ok(()))
}
