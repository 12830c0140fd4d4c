//! The books: counts the stock steadily, and once more for each who asks (HTTP/1.1).

use std::cell::Cell;
use std::rc::Rc;

use http::StatusCode;

use crate::cli::Origin;
use crate::http_server::{Reply, Speaks, refuse, serve, text};
use crate::load::{Complaints, repeat};
use crate::net::Listeners;
use crate::{Stop, stock};

#[derive(Debug)]
struct Ledger {
    stock: Origin,
    complaints: Complaints,
    counted: Cell<u64>,
}

pub(crate) async fn run(listeners: Listeners, stock: Origin, rate: f64, stop: &Stop) {
    let ledger = Rc::new(Ledger {
        stock,
        complaints: Complaints::new("ledger", "stock"),
        counted: Cell::new(0),
    });
    let steady = repeat(rate, &ledger.complaints, || async {
        ledger.count().await.map(drop)
    });
    let serving = Rc::clone(&ledger);
    tokio::select! {
        () = serve(listeners, Speaks::Http1, stop, move |_request| page(Rc::clone(&serving))) => {}
        () = steady => {}
    }
}

impl Ledger {
    async fn count(&self) -> Result<u32, crate::net::CallError> {
        let left = stock::query(&self.stock, "chair").await?;
        self.counted.set(self.counted.get().saturating_add(1));
        Ok(left)
    }
}

async fn page(ledger: Rc<Ledger>) -> Reply {
    match ledger.count().await {
        Ok(left) => text(&format!(
            "counted {} times, chairs left: {left}",
            ledger.counted.get()
        )),
        Err(error) => {
            ledger.complaints.hear(&error);
            refuse(StatusCode::BAD_GATEWAY, "the stock cannot be counted now")
        }
    }
}
