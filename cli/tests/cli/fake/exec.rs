//! `agentcore-exec`: framing written anew from the protocol's description, and a few commands.

use super::{Body, Seen, State, bytes, problem};
use bytes::Bytes;
use hyper::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proto::api::ExecRequest;
use serde_json::json;
use std::sync::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;

pub(super) fn answer(state: &Mutex<State>, seen: &Seen, upgrade: OnUpgrade) -> Response<Body> {
    assert_eq!(seen.header("upgrade"), Some("agentcore-exec"));
    assert!(
        seen.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("upgrade"))
    );
    let order: ExecRequest = serde_json::from_slice(&seen.body).expect("an ExecRequest");
    let mut state = state.lock().expect("sound");
    let id = seen.path.split('/').nth(3).expect("an id");
    if !state
        .sessions
        .iter()
        .any(|each| each["id"] == id || each["sessionId"] == id)
    {
        return problem(404, "ResourceNotFoundException", "no such session");
    }
    state.execs.push(order.clone());
    tokio::spawn(async move {
        let link = upgrade.await.expect("upgraded");
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(link));
        run(&order, &mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    });
    let mut response = bytes(101, Bytes::new());
    let headers = response.headers_mut();
    headers.insert("connection", "upgrade".parse().expect("a header"));
    headers.insert("upgrade", "agentcore-exec".parse().expect("a header"));
    response
}

async fn run(
    order: &ExecRequest,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) {
    let words: Vec<&str> = order.argv.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exit", code] => status(to, code.parse().expect("a number"), None).await,
        ["both"] => {
            send(to, STDOUT, b"to out\n").await;
            send(to, STDERR, b"to err\n").await;
            status(to, 0, None).await;
        }
        ["cat"] => {
            loop {
                match receive(from).await {
                    Some((STDIN, bytes)) if bytes.is_empty() => break,
                    Some((STDIN, bytes)) => send(to, STDOUT, &bytes).await,
                    other => panic!("not standard input: {other:?}"),
                }
            }
            status(to, 0, None).await;
        }
        // Reads nothing until its output has been taken.
        ["flood", megabytes] => {
            for _ in 0..megabytes.parse::<usize>().expect("a number") * 16 {
                send(to, STDOUT, &[b'x'; 65_536]).await;
            }
            let mut got = 0;
            while let Some((STDIN, bytes)) = receive(from).await {
                got += bytes.len();
                if bytes.is_empty() {
                    break;
                }
            }
            send(to, STDERR, got.to_string().as_bytes()).await;
            status(to, 0, None).await;
        }
        ["missing"] => status(to, 127, Some("no such program")).await,
        ["die"] => send(to, STDOUT, b"half").await,
        // A terminal: tells its size at every change, ends with a `q`.
        ["shell"] => {
            send(to, STDOUT, format!("{:?}\r\n", order.tty).as_bytes()).await;
            loop {
                match receive(from).await {
                    Some((STDIN, bytes)) if bytes.contains(&b'q') => break,
                    Some((STDIN, bytes)) => {
                        send(to, STDOUT, format!("{bytes:?}\r\n").as_bytes()).await
                    }
                    Some((RESIZE, bytes)) => send(to, STDOUT, &bytes).await,
                    other => panic!("unexpected: {other:?}"),
                }
            }
            status(to, 7, None).await;
        }
        other => panic!("the fake cannot run {other:?}"),
    }
}

async fn status(to: &mut (impl AsyncWrite + Unpin), code: i32, error: Option<&str>) {
    let mut outcome = json!({ "exitCode": code });
    if let Some(error) = error {
        outcome["error"] = json!(error);
    }
    send(to, STATUS, outcome.to_string().as_bytes()).await;
}

async fn send(to: &mut (impl AsyncWrite + Unpin), channel: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("small");
    let mut frame = vec![channel];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    // A client that is gone is seen by the test, not here.
    let _ = to.write_all(&frame).await;
    let _ = to.flush().await;
}

async fn receive(from: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let channel = from.read_u8().await.ok()?;
    let length = from.read_u32().await.ok()?;
    assert!(length <= 65_536, "a frame of {length} bytes");
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload).await.ok()?;
    Some((channel, payload))
}
