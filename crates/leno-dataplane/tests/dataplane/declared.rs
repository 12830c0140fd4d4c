//! What is declared as HTTP carries HTTP and nothing else.

use std::{cell::RefCell, io, net::IpAddr, rc::Rc};

use leno_types::{AppProtocol, Refusal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    apps::{Message, read_message},
    host::{Host, World, listen},
    run,
};

/// A program that takes any bytes and keeps them.
fn sink(ip: IpAddr) -> (u16, Rc<RefCell<Vec<u8>>>) {
    let listener = TcpListener::from_std(listen(ip)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let got = Rc::new(RefCell::new(Vec::new()));
    let kept = Rc::clone(&got);
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let kept = Rc::clone(&kept);
            tokio::task::spawn_local(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    kept.borrow_mut().extend(&buffer[..count]);
                    drop(stream.write_all(b"taken").await);
                }
            });
        }
    });
    (port, got)
}

/// What is no HTTP, and the status it is answered with.
fn not_http() -> Vec<(Vec<u8>, u16)> {
    vec![
        (vec![0; 300_000], 400),
        (b"\n".repeat(5_000), 400),
        (b"EHLO mail.example\r\n".to_vec(), 400),
        (b"PRI * HTTP/2.0\r\nrubbish: yes\r\n\r\n".to_vec(), 505),
        (
            [b"GET /".to_vec(), b"a".repeat(40_000)].concat(),
            Refusal::HeadTooLarge.status(),
        ),
    ]
}

/// What a caller reads who writes without looking.
async fn answer(stream: TcpStream, bytes: Vec<u8>) -> Option<Message> {
    let (mut read, mut write) = stream.into_split();
    let writing = tokio::task::spawn_local(async move {
        drop(write.write_all(&bytes).await);
        write
    });
    let answer = read_message(&mut read).await;
    drop(writing.await);
    answer
}

/// The begin of a TLS connection, and what is read then.
async fn client_hello(mut stream: TcpStream) -> io::Result<u8> {
    let mut hello = vec![1, 0, 0, 49, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0x13, 1, 1, 0, 0, 0]);
    hello[3] = u8::try_from(hello.len() - 4).unwrap();
    let mut record = vec![0x16, 3, 1, 0, u8::try_from(hello.len()).unwrap()];
    record.extend(hello);
    stream.write_all(&record).await?;
    stream.read_u8().await
}

#[test]
fn a_published_port_declared_http_lets_nothing_else_through() {
    run(async {
        let world = World::new();
        let two = Host::start(&world);
        for protocol in [AppProtocol::Http, AppProtocol::Grpc] {
            let (port, got) = sink(two.ip);
            let mut cart = two.workload("cart", &[(80, port, Some(protocol))]).await;
            let at = two.publish(&mut cart);
            for (bytes, status) in not_http() {
                let stream = TcpStream::connect(at).await.unwrap();
                let refused = answer(stream, bytes).await.expect("an answer");
                assert_eq!(refused.status(), status, "{}", refused.head);
                assert!(refused.field("x-leno-refused").is_none());
            }
            let stream = TcpStream::connect(at).await.unwrap();
            let reset = client_hello(stream).await.unwrap_err();
            assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(got.borrow().len(), 0);
        }
        two.seen
            .until("the refusals", |seen| seen.refusals.borrow().len() == 12)
            .await;
        let refusals = two.seen.refusals.borrow();
        let tls = refusals.last().unwrap();
        assert_eq!(tls.reason, Refusal::ClientProtocol);
        assert!(tls.detail.contains("declared as HTTP"), "{}", tls.detail);
        let log = String::from_utf8_lossy(&two.seen.log.borrow()).into_owned();
        assert!(log.contains("\"DPE\""), "{log}");
    });
}

#[test]
fn a_program_that_calls_a_port_declared_http_speaks_http_or_is_answered_so() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, got) = sink(two.ip);
        let http = Some(AppProtocol::Http);
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, http)]).await;
        let vip = world.service("shop/cart", 80, http, vec![cart.endpoint.clone()]);
        let captured = one.capture(&web);
        for (bytes, status) in not_http() {
            let stream = captured.connect(vip).await;
            let refused = answer(stream, bytes).await.expect("an answer");
            assert_eq!(refused.status(), status, "{}", refused.head);
            let field = refused.field("x-leno-refused").unwrap();
            let reason = if status == 431 { "HL; " } else { "DPE; " };
            assert!(field.starts_with(reason), "{field}");
        }
        let reset = client_hello(captured.connect(vip).await).await;
        assert_eq!(reset.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        one.seen
            .until("the refusals", |seen| seen.refusals.borrow().len() == 6)
            .await;
        assert_eq!(got.borrow().len(), 0);

        // What nobody declared is detected as ever.
        let any = two.workload("any", &[(81, port, None)]).await;
        let vip = world.service("shop/any", 81, None, vec![any.endpoint]);
        let mut stream = captured.connect(vip).await;
        stream.write_all(b"EHLO mail.example\r\n").await.unwrap();
        let mut taken = [0; 5];
        stream.read_exact(&mut taken).await.unwrap();
        assert_eq!(&taken, b"taken");
    });
}
