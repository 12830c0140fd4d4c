//! A caller from before: plain HTTP/1.1 to one URL, serving nothing.

use crate::Stop;
use crate::cli::Url;
use crate::http_client::Http1;
use crate::load::{Complaints, repeat};

pub(crate) async fn run(url: Url, rate: f64, stop: &Stop) {
    let complaints = Complaints::new("legacy", url.origin.host.clone());
    let client = Http1::new(url.origin, 1);
    let steady = repeat(rate, &complaints, || async {
        client.get(&url.path).await.map(drop)
    });
    stop.run_until_cancelled(steady).await;
}
