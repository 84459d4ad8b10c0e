//! Ends of a connection, with both sides in hand.

use super::*;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const BOUNDS: Bounds = Bounds {
    max_frame: 1000,
    frames_per_second: 100,
    duration: Duration::from_secs(3600),
};

struct World {
    caller: DuplexStream,
    agent: DuplexStream,
    tell: Option<oneshot::Sender<Close>>,
    tunnel: JoinHandle<()>,
}

/// A duplex stream's half as both kinds.
fn halves(
    stream: DuplexStream,
) -> (
    Caller<ReadHalf<DuplexStream>>,
    Caller<WriteHalf<DuplexStream>>,
) {
    let (read, write) = tokio::io::split(stream);
    (Caller(read), Caller(write))
}

fn world(room: usize) -> World {
    let (caller, callers_end) = duplex(room);
    let (agent, agents_end) = duplex(room);
    let (tell, told) = oneshot::channel();
    let told = async {
        match told.await {
            Ok(close) => close,
            Err(_) => std::future::pending().await,
        }
    };
    let gone = async { Close::new(CloseCode::Error, "gone") };
    let tunnel = tunnel(halves(callers_end), halves(agents_end), BOUNDS, told, gone);
    World {
        caller,
        agent,
        tell: Some(tell),
        tunnel: tokio::spawn(tunnel),
    }
}

fn text(side: Side, text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("short");
    match side {
        Side::Client => [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat(),
        Side::Server => [&[0x81, length], text.as_bytes()].concat(),
    }
}

async fn read(stream: &mut DuplexStream, wanted: &[u8]) {
    let mut found = vec![0; wanted.len()];
    stream.read_exact(&mut found).await.expect("bytes");
    assert_eq!(found, wanted);
}

async fn rest(stream: &mut DuplexStream) -> Vec<u8> {
    let mut found = Vec::new();
    stream.read_to_end(&mut found).await.expect("an end");
    found
}

fn close(side: Side, code: CloseCode, reason: &'static str) -> Vec<u8> {
    Close::new(code, reason).frame(side).to_vec()
}

#[tokio::test]
async fn a_close_is_answered_by_the_other_side() {
    let mut world = world(1000);
    world
        .caller
        .write_all(&text(Side::Client, "hi"))
        .await
        .expect("sent");
    read(&mut world.agent, &text(Side::Client, "hi")).await;
    let bye = close(Side::Client, CloseCode::Normal, "bye");
    world.caller.write_all(&bye).await.expect("sent");
    read(&mut world.agent, &bye).await;
    // It has something to say before.
    let last = [
        text(Side::Server, "last"),
        close(Side::Server, CloseCode::Normal, "bye"),
    ]
    .concat();
    world.agent.write_all(&last).await.expect("sent");
    assert_eq!(rest(&mut world.caller).await, last);
    assert!(rest(&mut world.agent).await.is_empty());
    drop((world.caller, world.agent));
    world.tunnel.await.expect("over");
}

#[tokio::test]
async fn a_caller_that_is_gone_takes_the_agents_connection_along() {
    let mut world = world(1000);
    world
        .caller
        .write_all(&text(Side::Client, "hi")[..5])
        .await
        .expect("sent");
    drop(world.caller);
    world.tunnel.await.expect("over");
    assert!(rest(&mut world.agent).await.is_empty());
}

#[tokio::test]
async fn an_agent_that_is_gone_is_told_with_the_reason() {
    let mut world = world(1000);
    drop(world.agent);
    let told = close(Side::Server, CloseCode::Error, "gone");
    assert_eq!(rest(&mut world.caller).await, told);
    drop(world.caller);
    world.tunnel.await.expect("over");
}

#[tokio::test]
async fn a_bound_is_told_to_both_after_the_frame_that_they_are_getting() {
    let mut world = world(1000);
    // The agent is in the middle of a frame.
    let frame = text(Side::Server, "a frame in two pieces");
    let (begin, end) = frame.split_at(7);
    world.agent.write_all(begin).await.expect("sent");
    read(&mut world.caller, begin).await;
    let big = [0x82, 0xfe, 0x03, 0xe9, 0, 0, 0, 0];
    world.caller.write_all(&big).await.expect("sent");
    let reason = "a frame of 1001 bytes is over the bound of 1000 (limits.websocket_frame)";
    let told = close(Side::Client, CloseCode::TooBig, reason);
    read(&mut world.agent, &told).await;
    world.agent.write_all(end).await.expect("sent");
    read(&mut world.caller, end).await;
    let told = close(Side::Server, CloseCode::TooBig, reason);
    assert_eq!(rest(&mut world.caller).await, told);
    drop((world.caller, world.agent));
    world.tunnel.await.expect("over");
}

#[tokio::test(start_paused = true)]
async fn too_many_frames_of_a_caller_are_refused_and_of_an_agent_slowed() {
    let mut world = world(100_000);
    let before = tokio::time::Instant::now();
    let flood = text(Side::Server, "x").repeat(300);
    world.agent.write_all(&flood).await.expect("sent");
    read(&mut world.caller, &flood).await;
    let took = before.elapsed();
    assert!((2000..2100).contains(&took.as_millis()), "{took:?}");
    let hundred = text(Side::Client, "x").repeat(100);
    world.caller.write_all(&hundred).await.expect("sent");
    world
        .caller
        .write_all(&text(Side::Client, "x"))
        .await
        .expect("sent");
    read(&mut world.agent, &hundred).await;
    let told = rest(&mut world.caller).await;
    assert_eq!(
        told,
        close(
            Side::Server,
            CloseCode::Policy,
            "too many frames in a second (limits.websocket_frame_rate)"
        )
    );
    drop((world.caller, world.agent));
    world.tunnel.await.expect("over");
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_nothing_does_not_keep_the_connection() {
    let mut world = world(100);
    // Neither reads: both directions stand in the middle of a frame.
    let much = [&[0x82, 126, 0x01, 0xf4][..], &[0; 500]].concat();
    let _ = timeout(Duration::from_secs(1), world.agent.write_all(&much)).await;
    let tell = world.tell.take().expect("once");
    let before = tokio::time::Instant::now();
    tell.send(Close::new(CloseCode::GoingAway, ""))
        .expect("listens");
    world.tunnel.await.expect("over");
    assert!(before.elapsed() <= FAREWELL + CLOSE_PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_closed() {
    let mut world = world(1000);
    let before = tokio::time::Instant::now();
    let told = rest(&mut world.caller).await;
    assert_eq!(before.elapsed(), BOUNDS.duration);
    assert_eq!(told[2..4], 1001_u16.to_be_bytes());
    drop((world.caller, world.agent));
    world.tunnel.await.expect("over");
}
