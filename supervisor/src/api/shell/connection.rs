//! One connection of a shell: a WebSocket on one side, channels to the shell's task on the other.
//!
//! It holds its client to the bounds: messages of a frame's size, their rate, [`MOST_TEXTS`] texts, silence, age. Whatever
//! ends it, it says a close with a code, and what its shell gave it before that goes first.

use super::Bounds;
use super::channel::Said;
use crate::api::listener::Place;
use crate::websocket::close::{Close, CloseCode};
use crate::websocket::pace::Pace;
use crate::websocket::tunnel;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::task::TaskTracker;

/// Text messages before the connection is closed: a shell speaks binary (contract §2.7).
const MOST_TEXTS: u32 = 5;

/// How long what is left, and the close, may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long the client may take for its own close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Messages on their way, each way; more waits in the terminal, or with the client.
const QUEUE: usize = 8;

/// The shell's end of a connection. Dropping it closes the connection as one that this end leaves.
#[derive(Debug)]
pub(super) struct Connection {
    /// To the client.
    pub(super) frames: mpsc::Sender<Bytes>,
    close: oneshot::Sender<Close>,
}

/// A client that has switched, and the connection's place.
#[derive(Debug)]
pub(in crate::api) struct Client {
    /// The connection after the 101.
    pub(in crate::api) upgraded: Upgraded,
    /// It is counted as one as long as it lasts.
    pub(in crate::api) place: Option<Place>,
}

/// What a connection is held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) shell: Bounds,
    pub(super) websocket: tunnel::Bounds,
}

impl Connection {
    /// Takes a client on; `open` keeps the task that serves it. What the client says ends with the connection.
    pub(super) fn open(
        client: Client,
        held: Held,
        open: &TaskTracker,
    ) -> (Self, mpsc::Receiver<Said>) {
        let Client { upgraded, place } = client;
        let (connection, said, far) = Self::ends();
        open.spawn(async move {
            serve(TokioIo::new(upgraded), held, far).await;
            drop(place);
        });
        (connection, said)
    }

    fn ends() -> (Self, mpsc::Receiver<Said>, Far) {
        let (frames, to_client) = mpsc::channel(QUEUE);
        let (from_client, said) = mpsc::channel(QUEUE);
        let (close, told) = oneshot::channel();
        let connection = Self { frames, close };
        let far = Far {
            to_client,
            from_client,
            told,
        };
        (connection, said, far)
    }

    /// Closes it, after what was given to it.
    pub(super) fn close(self, close: Close) {
        // One that is over needs no close.
        let _ = self.close.send(close);
    }
}

/// The other ends of a [`Connection`]'s channels.
struct Far {
    to_client: mpsc::Receiver<Bytes>,
    from_client: mpsc::Sender<Said>,
    told: oneshot::Receiver<Close>,
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, held: Held, mut far: Far) {
    let most = usize::try_from(held.websocket.max_frame).unwrap_or(usize::MAX);
    let config = WebSocketConfig::default()
        .max_message_size(Some(most))
        .max_frame_size(Some(most))
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let Some(close) = talk(&mut socket, held, &mut far).await else {
        return;
    };
    // Nothing more from here, so the shell may have another connection.
    drop(far.from_client);
    let farewell = async {
        while let Ok(frame) = far.to_client.try_recv() {
            socket.send(Message::Binary(frame)).await?;
        }
        let frame = CloseFrame {
            code: (close.code as u16).into(),
            reason: close.fitting().into(),
        };
        socket.close(Some(frame)).await
    };
    if let Ok(Ok(())) = timeout(FAREWELL, farewell).await {
        let answer = async { while let Some(Ok(_)) = socket.next().await {} };
        let _ = timeout(CLOSE_PATIENCE, answer).await;
    }
}

/// Until this end has to close the connection; `None` if the client has.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    held: Held,
    far: &mut Far,
) -> Option<Close> {
    let old = Instant::now() + held.shell.duration;
    let mut silent = Instant::now() + held.shell.idle;
    let mut pace = Pace::new(held.websocket.frames_per_second);
    let mut texts = 0;
    loop {
        let message = tokio::select! {
            close = &mut far.told => {
                return Some(close.unwrap_or(Close::new(CloseCode::GoingAway, "")));
            }
            Some(frame) = far.to_client.recv() => {
                silent = Instant::now() + held.shell.idle;
                let sent = tokio::select! {
                    // Begun before the close is looked for: a frame that was given before it goes before it.
                    biased;
                    sent = timeout_at(silent.min(old), socket.send(Message::Binary(frame))) => sent,
                    close = &mut far.told => {
                        return Some(close.unwrap_or(Close::new(CloseCode::GoingAway, "")));
                    }
                };
                match sent {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) | Err(_) => return None,
                }
            }
            message = socket.next() => message,
            () = tokio::time::sleep_until(old) => {
                let text = format!("open for {} s (limits.shell_duration); connect again", held.shell.duration.as_secs());
                return Some(Close::new(CloseCode::GoingAway, text));
            }
            () = tokio::time::sleep_until(silent) => {
                let text = format!("silent for {} s (limits.shell_idle); connect again", held.shell.idle.as_secs());
                return Some(Close::new(CloseCode::GoingAway, text));
            }
        };
        silent = Instant::now() + held.shell.idle;
        if pace.left() == 0 {
            let text = "too many frames in a second (limits.websocket_frame_rate)";
            return Some(Close::new(CloseCode::Policy, text));
        }
        pace.take(1);
        let said = match message {
            Some(Ok(Message::Binary(bytes))) => Said::read(bytes),
            Some(Ok(Message::Text(_))) => {
                texts += 1;
                if texts == MOST_TEXTS {
                    let text = "a shell takes binary messages, not text";
                    return Some(Close::new(CloseCode::Unsupported, text));
                }
                continue;
            }
            // The library answers pings, and a close when it is read on.
            Some(Ok(_)) => continue,
            Some(Err(Error::Capacity(fault))) => {
                let text = format!("{fault} (limits.websocket_frame)");
                return Some(Close::new(CloseCode::TooBig, text));
            }
            Some(Err(Error::Protocol(fault))) => {
                return Some(Close::new(CloseCode::Protocol, fault.to_string()));
            }
            Some(Err(_)) | None => return None,
        };
        // Waits while the terminal takes nothing. The shell that is gone has said why, by `told`.
        let taken = tokio::select! {
            taken = far.from_client.send(said) => taken,
            close = &mut far.told => {
                return Some(close.unwrap_or(Close::new(CloseCode::GoingAway, "")));
            }
        };
        if taken.is_err() {
            return (&mut far.told).await.ok();
        }
    }
}
