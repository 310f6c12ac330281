//! The router on a real socket, and its end.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use vman_api::serve;
use vman_core::operation::Effect;

use crate::harness::{Api, TOKEN};

/// Far longer than anything here takes, far shorter than a test may hang.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_server_answers_until_it_is_told_to_stop_and_then_ends() {
    let api = Api::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { stopped.await.unwrap_or_default() };
    let server = tokio::spawn(serve(listener, api.router.clone(), shutdown));

    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    stop.send(()).unwrap();
    tokio::time::timeout(LONG, server).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(address).await.ok().is_none(), "nobody listens any more");
}

#[tokio::test]
async fn a_client_that_sends_too_much_before_it_listens_still_gets_its_answer() {
    let api = Api::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, api.router.clone(), std::future::pending()));

    let size = 10 << 20;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /vms HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; size]).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    server.abort();
}

#[tokio::test]
async fn a_request_that_waits_for_long_does_not_hold_up_the_end() {
    let api = Api::new();
    let vm = api.new_vm().await;
    api.host.hold(Effect::Launch);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { stopped.await.unwrap_or_default() };
    let server = tokio::spawn(serve(listener, api.router.clone(), shutdown));

    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /vms/{vm}/actions/start HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Prefer: wait=60\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    api.host.reached(Effect::Launch, 1).await;
    stop.send(()).unwrap();
    tokio::time::timeout(LONG, server).await.unwrap().unwrap().unwrap();
}
