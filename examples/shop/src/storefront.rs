//! The page (HTTP/1.1), put together from every other program, and a steady load on each of them.
//!
//! A part that cannot be had is missing from the page; the page itself always comes.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::time::sleep;

use crate::cart_client::CartClient;
use crate::cli::{Origin, Peers, Url};
use crate::http_client::{Http1, Http2};
use crate::http_server::{Reply, Speaks, refuse, reply, serve};
use crate::load::{Complaints, repeat};
use crate::net::{CallError, Listeners};
use crate::{PAYLOAD, Stop, prices, stock};

/// Callers of the catalog, one connection each, as a pool under load would have.
const CATALOG_CALLERS: u8 = 3;
/// Connections to the catalog that pages keep.
const PAGE_CONNECTIONS: usize = 2;

/// Calls a second at the usual rate.
const CATALOG: f64 = 40.0;
const REVIEWS: f64 = 10.0;
const CART: f64 = 10.0;
const CART_STREAMS: f64 = 1.0;
const STOCK: f64 = 5.0;
/// How often a feed that ended is opened again, and how long it is held.
const FEEDS: f64 = 5.0;
const FEED_MILLISECONDS: std::ops::Range<u64> = 4_500..5_500;

struct Shop {
    pages: Http1,
    catalog: Origin,
    cart: CartClient,
    reviews: Http2,
    prices: Url,
    stock: Origin,
    /// The last price heard, in cents.
    price: Cell<Option<u64>>,
    failing: Failing,
}

/// What is said of each peer that fails.
struct Failing {
    catalog: Complaints,
    cart: Complaints,
    reviews: Complaints,
    prices: Complaints,
    stock: Complaints,
}

pub(crate) async fn run(listeners: Listeners, peers: Peers, rate: f64, stop: &Stop) {
    let shop = Rc::new(Shop::new(peers));
    let serving = Rc::clone(&shop);
    tokio::select! {
        () = serve(listeners, Speaks::Http1, stop, move |request| answer(request, Rc::clone(&serving))) => {}
        () = load(&shop, rate) => {}
    }
}

impl Shop {
    fn new(peers: Peers) -> Self {
        let Peers {
            catalog,
            cart,
            reviews,
            prices,
            stock,
        } = peers;
        let complaints = |peer| Complaints::new("storefront", peer);
        Self {
            pages: Http1::new(catalog.clone(), PAGE_CONNECTIONS),
            catalog,
            cart: CartClient::new(cart),
            reviews: Http2::new(reviews),
            prices,
            stock,
            price: Cell::new(None),
            failing: Failing {
                catalog: complaints("catalog"),
                cart: complaints("cart"),
                reviews: complaints("reviews"),
                prices: complaints("prices"),
                stock: complaints("stock"),
            },
        }
    }
}

/// Calls every peer steadily, for ever.
async fn load(shop: &Shop, rate: f64) {
    let Failing {
        catalog,
        cart,
        reviews,
        prices,
        stock,
    } = &shop.failing;
    let catalogs = join_all((0..CATALOG_CALLERS).map(|_| async {
        let client = Http1::new(shop.catalog.clone(), 1);
        let each = CATALOG * rate / f64::from(CATALOG_CALLERS);
        repeat(each, catalog, || async { client.get("/").await.map(drop) }).await;
    }));
    let note = || format!("good, {PAYLOAD}");
    let feed = || async {
        let end = sleep(Duration::from_millis(fastrand::u64(FEED_MILLISECONDS)));
        let ended = prices::watch(&shop.prices, end, |price| shop.price.set(Some(price))).await;
        if ended.is_err() {
            shop.price.set(None);
        }
        ended
    };
    tokio::join!(
        catalogs,
        repeat(REVIEWS / 2.0 * rate, reviews, || async {
            shop.reviews.get("/").await.map(drop)
        }),
        repeat(REVIEWS / 2.0 * rate, reviews, || async {
            shop.reviews.put("/lamp", note()).await.map(drop)
        }),
        repeat(CART * rate, cart, || async {
            shop.cart.add("lamp").await.map(drop)
        }),
        repeat(CART_STREAMS * rate, cart, || async {
            shop.cart.add_many(&["chair", "table"]).await.map(drop)
        }),
        repeat(CART_STREAMS * rate, cart, || async {
            shop.cart.list().await.map(drop)
        }),
        repeat(CART_STREAMS * rate, cart, || async {
            shop.cart.chat(&["hello", "good bye"]).await.map(drop)
        }),
        repeat(FEEDS * rate, prices, feed),
        repeat(STOCK * rate, stock, || async {
            stock::query(&shop.stock, "lamp").await.map(drop)
        }),
    );
}

async fn answer(request: Request<Incoming>, shop: Rc<Shop>) -> Reply {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/") => page(&shop).await,
        (&Method::GET | &Method::HEAD, _) => refuse(StatusCode::NOT_FOUND, "no such page"),
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET"),
    }
}

async fn page(shop: &Shop) -> Reply {
    let text = |body: bytes::Bytes| String::from_utf8_lossy(&body).into_owned();
    let (catalog, cart, reviews, stock) = tokio::join!(
        async { shop.pages.get("/items").await.map(text) },
        async {
            shop.cart
                .add("lamp")
                .await
                .map(|total| format!("{} chosen so far", total.quantity))
        },
        async { shop.reviews.get("/").await.map(text) },
        async {
            stock::query(&shop.stock, "lamp")
                .await
                .map(|left| format!("lamps left: {left}"))
        },
    );
    let price = shop
        .price
        .get()
        .map(|cents| format!("a lamp is {}.{:02} now", cents / 100, cents % 100));
    let mut html = format!("<!doctype html><title>Shop</title><h1>Shop</h1><!-- {PAYLOAD} -->\n");
    let Failing {
        catalog: no_catalog,
        cart: no_cart,
        reviews: no_reviews,
        stock: no_stock,
        ..
    } = &shop.failing;
    part(&mut html, "catalog", had(catalog, no_catalog));
    part(&mut html, "cart", had(cart, no_cart));
    part(&mut html, "reviews", had(reviews, no_reviews));
    part(&mut html, "prices", price);
    part(&mut html, "stock", had(stock, no_stock));
    reply("text/html; charset=utf-8", html)
}

fn had(part: Result<String, CallError>, complaints: &Complaints) -> Option<String> {
    part.inspect_err(|error| complaints.hear(error)).ok()
}

fn part(html: &mut String, name: &str, content: Option<String>) {
    let content = content.map(|content| content.replace('&', "&amp;").replace('<', "&lt;"));
    let content = content.as_deref().unwrap_or("not available now");
    html.push_str(&format!(
        "<h2>{name}</h2><pre id=\"{name}\">{content}</pre>\n"
    ));
}
