//! Attempts at receivers of the test's own, on loopback. What may not be called is shown to get no connection.

use super::*;
use crate::callback::signature::Secrets;
use proto::ids::RuntimeId;
use ring::hmac;
use std::collections::HashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const LONG: Duration = Duration::from_secs(20);

/// A receiver that says `answer` to each request, and keeps nothing open longer than it is listened to.
struct Receiver {
    port: u16,
    heard: tokio::sync::mpsc::Receiver<Vec<u8>>,
    _serving: AbortOnDropHandle<()>,
}

impl Receiver {
    async fn new(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        // More requests than any test here makes.
        let (hear, heard) = tokio::sync::mpsc::channel(16);
        let answer = answer.into();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = whole_request(&mut stream).await;
                let _ = hear.send(request).await;
                let _ = stream.write_all(&answer).await;
                // Until its caller has enough.
                let _ = stream.read(&mut [0; 1]).await;
            }
        });
        Self {
            port,
            heard,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    fn url(&self, path: &str) -> CallbackUrl {
        CallbackUrl::parse(&format!("http://127.0.0.1:{}{path}", self.port)).expect("a URL")
    }
}

/// Head and body; what there is of them when the caller hangs up.
async fn whole_request(stream: &mut TcpStream) -> Vec<u8> {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split_once("content-length: ").expect("a length").1;
            let length: usize = length
                .lines()
                .next()
                .and_then(|line| line.parse().ok())
                .expect("a number");
            if body.len() >= length {
                return request;
            }
        }
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return request,
            Ok(read) => request.extend_from_slice(&piece[..read]),
        }
    }
}

fn secret() -> Secret {
    let ground = tempfile::tempdir().expect("directory");
    let secrets = Secrets::open(&ground.path().join("callback.key")).expect("made");
    secrets.of(&RuntimeId::parse("a-0123456789").expect("an id"))
}

async fn tell(url: &CallbackUrl, policy: &CallbackPolicy, timeout: Duration) -> Result<(), Failed> {
    let secret = secret();
    let message = Message {
        id: "t0000000000000000000000001",
        body: Bytes::from_static(b"{\"status\":\"SUCCEEDED\"}"),
        secret: &secret,
    };
    Post::default().tell(url, &message, policy, timeout).await
}

#[tokio::test]
async fn a_receiver_can_verify_what_it_is_told() {
    let mut receiver = Receiver::new("HTTP/1.1 204 No Content\r\n\r\n").await;
    let url = receiver.url("/hooks?of=me");
    let secret = secret();
    let body = Bytes::from_static(b"{\"a\":\"\xc3\xa9\"}");
    let message = Message {
        id: "t0000000000000000000000001",
        body: body.clone(),
        secret: &secret,
    };
    let told = Post::default()
        .tell(&url, &message, &CallbackPolicy::All, LONG)
        .await;
    assert_eq!(told, Ok(()));
    let request = receiver.heard.recv().await.expect("heard");
    let text = String::from_utf8(request).expect("text");
    let (head, heard) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("POST /hooks?of=me HTTP/1.1\r\n"), "{head}");
    assert_eq!(heard.as_bytes(), body);
    let headers: HashMap<String, &str> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    assert_eq!(headers["host"], format!("127.0.0.1:{}", receiver.port));
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["webhook-id"], message.id);
    // As a receiver does it, from what it was given alone.
    let shown = secret.shown();
    let encoded = shown.strip_prefix("whsec_").expect("a prefix");
    let key = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key.expect("base64"));
    let signed = format!(
        "{}.{}.{heard}",
        headers["webhook-id"], headers["webhook-timestamp"]
    );
    let signature = headers["webhook-signature"]
        .strip_prefix("v1,")
        .expect("a version");
    let signature = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, signature);
    hmac::verify(&key, signed.as_bytes(), &signature.expect("base64")).expect("its signature");
    let age = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a time")
        .as_secs()
        .abs_diff(headers["webhook-timestamp"].parse().expect("a number"));
    assert!(age < 60, "{age}");
}

#[tokio::test]
async fn what_a_receiver_says_is_judged_by_its_status_alone() {
    for (status, expected) in [
        (200, Ok(())),
        (299, Ok(())),
        (410, Err(Failed::Gone)),
        (404, Err(Failed::Status(404))),
        (503, Err(Failed::Status(503))),
    ] {
        // A body without end costs nothing: nobody reads it.
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 1000000000\r\n\r\nx");
        let receiver = Receiver::new(answer).await;
        let told = tell(&receiver.url("/"), &CallbackPolicy::All, LONG).await;
        assert_eq!(told, expected);
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let mut elsewhere = Receiver::new("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let answer = format!(
        "HTTP/1.1 307 X\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
        elsewhere.url("/")
    );
    let receiver = Receiver::new(answer).await;
    let told = tell(&receiver.url("/"), &CallbackPolicy::All, LONG).await;
    assert_eq!(told, Err(Failed::Redirect(307)));
    assert!(elsewhere.heard.try_recv().is_err());
}

#[tokio::test]
async fn a_silent_or_endless_receiver_costs_its_time_and_no_more() {
    let silent = Receiver::new("").await;
    let short = Duration::from_millis(200);
    let told = tell(&silent.url("/"), &CallbackPolicy::All, short).await;
    assert_eq!(told, Err(Failed::Late(short)));
    let endless = [
        b"HTTP/1.1 200 OK\r\n".to_vec(),
        b"x: y\r\n".repeat(MAX_HEAD),
    ]
    .concat();
    let endless = Receiver::new(endless).await;
    let told = tell(&endless.url("/"), &CallbackPolicy::All, LONG).await;
    assert!(matches!(told, Err(Failed::Unreachable(_))), "{told:?}");
}

#[tokio::test]
async fn what_may_not_be_called_gets_no_connection() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("bound");
    listener.set_nonblocking(true).expect("set");
    let port = listener.local_addr().expect("bound").port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let url = CallbackUrl::parse(&format!("https://{host}:{port}/")).expect("a URL");
        let told = tell(&url, &CallbackPolicy::default(), LONG).await;
        assert!(matches!(told, Err(Failed::Refused(_))), "{host}: {told:?}");
    }
    let none = listener.accept().expect_err("nobody called").kind();
    assert_eq!(none, std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_receiver_without_a_certificate_that_holds_is_not_told() {
    let mut receiver = Receiver::new("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let url = CallbackUrl::parse(&format!("https://localhost:{}/", receiver.port)).expect("a URL");
    // It speaks no TLS and waits for a request that does not come.
    let told = tell(&url, &CallbackPolicy::All, Duration::from_secs(2)).await;
    assert!(told.is_err(), "{told:?}");
    let heard = receiver.heard.try_recv().unwrap_or_default();
    assert!(!String::from_utf8_lossy(&heard).contains("SUCCEEDED"));
}
