//! One mesh asks for more than there is time for: the others are served all the same. Counted, not timed.

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use leno_tls::{Alpn, control::ControlConnector};
use serde_json::json;
use tokio::{net::TcpStream, task::JoinHandle};

use super::{ControlPlane, DESTINATION, Membership, client, raw, redeem, service, test};

/// Services of the mesh that asks for so much.
const MANY: usize = 512;
/// Lists of them at once: a caller's share of requests.
const LISTS: usize = 128;

/// Asks for so many lists at once, over one connection; how many were answered whole so far.
async fn hammer(
    control: &ControlPlane,
    who: &Membership,
) -> (Rc<Cell<usize>>, Vec<JoinHandle<()>>) {
    let connector =
        ControlConnector::trusted(&who.bundle, Some(&who.certificate), &[Alpn::H2]).unwrap();
    let socket = TcpStream::connect(control.address).await.unwrap();
    let stream = connector.connect(socket).await.unwrap().stream;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(raw::Local, TokioIo::new(stream))
            .await
            .unwrap();
    let answered = Rc::<Cell<usize>>::default();
    let mut running = vec![client::start(async move { drop(connection.await) })];
    for _ in 0..LISTS {
        let (mut sender, answered) = (sender.clone(), Rc::clone(&answered));
        let request = http::Request::get("https://control-plane/meshes/default/api/v1/services")
            .body(Full::new(Bytes::new()))
            .unwrap();
        running.push(client::start(async move {
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
            answered.set(answered.get() + 1);
        }));
    }
    (answered, running)
}

#[test]
fn a_mesh_that_asks_for_all_at_once_holds_up_no_other() {
    test("fair", async |directory| {
        let control = ControlPlane::start_with(directory.path(), |config| {
            config.metrics = Some("127.0.0.1:0".parse().unwrap());
        })
        .await;
        let (code, _) = control
            .admin("POST", "/meshes", Some(json!({"name": "shop"})))
            .await;
        assert_eq!(code, 201);
        let items: Vec<_> = (0..MANY)
            .map(|number| {
                let mut item = service(&format!("s{number}"));
                item["metadata"]["namespace"] = "default".into();
                item
            })
            .collect();
        let batch = json!({"items": items});
        let path = "/meshes/default/leno/v1/apply";
        let (code, answer) = control.admin("POST", path, Some(batch)).await;
        assert_eq!(code, 200, "{answer}");
        let (_, token) = control
            .admin("POST", "/meshes/shop/leno/v1/tokens", Some(json!({})))
            .await;
        let token = token["token"].as_str().unwrap().parse().unwrap();
        let key = leno_tls::PrivateKey::generate();
        let host = redeem(&control, &token, &key, "b").await.unwrap();
        let mut agent = Membership::of(&host, &key).connect(&control).await;
        let cart = "/meshes/shop/api/v1/namespaces/default/services";
        let (code, _) = control.admin("POST", cart, Some(service("cart"))).await;
        assert_eq!(code, 201);
        agent.ask(DESTINATION, &["svc/default/cart"]).await;
        while agent.answer().await.resources.is_empty() {}

        let alice = Membership::person(&control, "alice").await;
        let turns = async || {
            let text = control.scrape().await;
            let line = text
                .lines()
                .find(|line| line.starts_with("leno_api_turns_total "));
            let turns = line.unwrap().rsplit_once(' ').unwrap().1;
            turns.parse::<u64>().unwrap()
        };
        let before = turns().await;
        let (answered, running) = hammer(&control, &alice).await;
        while turns().await < before + 8 {}
        let (code, list) = control.admin("GET", cart, None).await;
        assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));
        let (code, _) = control
            .admin("GET", "/meshes/shop/leno/v1/status", None)
            .await;
        assert_eq!(code, 200);
        let (others, passed) = (answered.get(), turns().await - before);
        assert!(others < LISTS / 2, "{others} lists first, {passed} turns");
        // So is a change of another mesh, down to its proxy. Not counted: it waits for the disk, for which lists do not.
        let mut changed = service("cart");
        changed["spec"]["ports"] = json!([{"name": "http", "port": 81}]);
        let (code, answer) = control
            .admin("PUT", &format!("{cart}/cart"), Some(changed))
            .await;
        assert_eq!(code, 200, "{answer}");
        let pushed = agent.answer().await;
        assert_eq!(pushed.resources.len(), 1, "{pushed:?}");
        // Whoever asked for so much gets it in the end, and what nobody waits for any more is not made.
        while answered.get() == 0 {
            tokio::task::yield_now().await;
        }
        for running in running {
            running.abort();
        }
        control.stop().await;
    });
}
