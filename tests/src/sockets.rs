//! Many WebSockets to an agent that says every frame back: fifty frames a second each, and every echo is checked by its number
//! and its bytes.

use crate::client::{Client, SESSION_HEADER, session_name};
use crate::http::Stream;
use anyhow::{Context as _, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

/// Between two frames of a socket.
const PERIOD: Duration = Duration::from_millis(20);

/// How long the last echoes may take.
const SILENCE: u16 = 10_000;

/// Payload of a frame: its number in text, and padding.
const PAYLOAD: usize = 100;

/// A frame of the server's is two bytes longer than that.
const ECHO: usize = PAYLOAD + 2;

struct Socket {
    stream: Stream,
    /// What is not a whole frame yet.
    rest: Vec<u8>,
    /// When the frames went that have not come back.
    under_way: VecDeque<Instant>,
    sent: u64,
    back: u64,
}

fn payload(number: u64) -> String {
    format!("{number:0PAYLOAD$}")
}

impl Socket {
    fn open(client: &Client, runtime: &str, session: &str) -> anyhow::Result<Self> {
        let mut stream = client.target.connect()?;
        stream.write_all(
            format!(
                "GET /runtimes/{runtime}/ws HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{SESSION_HEADER}: {session}\r\n\r\n"
            )
            .as_bytes(),
        )?;
        let mut head = Vec::new();
        let mut byte = [0];
        // Nothing comes after the head before something is sent.
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            rest: Vec::new(),
            under_way: VecDeque::new(),
            sent: 0,
            back: 0,
        })
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let text = payload(self.sent);
        let length = u8::try_from(text.len())?;
        let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat();
        self.stream.write_all(&frame).context("a socket is full")?;
        self.under_way.push_back(Instant::now());
        self.sent += 1;
        Ok(())
    }

    /// Takes the echoes that are there; the time of each goes to `trip`.
    fn take(&mut self, trip: &mut impl FnMut(Duration)) -> anyhow::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("a socket broke off before frame {}", self.back),
                Ok(count) => self.rest.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        while let Some(echo) = self.rest.get(..ECHO) {
            let wanted = payload(self.back);
            ensure!(
                echo[0] == 0x81 && &echo[2..] == wanted.as_bytes(),
                "frame {} came back as {}",
                self.back,
                echo.escape_ascii()
            );
            let sent = self.under_way.pop_front().context("an echo of nothing")?;
            trip(sent.elapsed());
            self.rest.drain(..ECHO);
            self.back += 1;
        }
        Ok(())
    }
}

/// Opens `per_session` sockets in each of `sessions` new sessions of `runtime`, and has each say `count` frames. `trip` is
/// told how long each was on its way there and back, `second` is called once a second.
pub fn echo(
    client: &Client,
    runtime: &str,
    (sessions, per_session): (usize, usize),
    count: u64,
    mut trip: impl FnMut(Duration),
    mut second: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let mut sockets = Vec::with_capacity(sessions * per_session);
    for _ in 0..sessions {
        let session = session_name("sockets");
        for _ in 0..per_session {
            let socket = Socket::open(client, runtime, &session)?;
            let key = u64::try_from(sockets.len())?;
            epoll.add(&socket.stream, EpollEvent::new(EpollFlags::EPOLLIN, key))?;
            sockets.push(socket);
        }
    }
    let mut events = [EpollEvent::empty(); 256];
    let began = Instant::now();
    let mut tick = 0_u32;
    while sockets.iter().any(|socket| socket.back < count) {
        let due = began + PERIOD * tick;
        let now = Instant::now();
        let more = u64::from(tick) < count;
        let patience = if more && now >= due {
            for socket in &mut sockets {
                socket.send()?;
            }
            tick += 1;
            if tick.is_multiple_of(50) {
                second()?;
            }
            0
        } else if more {
            u16::try_from((due - now).as_millis())?
        } else {
            SILENCE
        };
        let ready = epoll.wait(&mut events, EpollTimeout::from(patience))?;
        ensure!(more || ready > 0, "echoes are missing");
        for event in &events[..ready] {
            let key = usize::try_from(event.data())?;
            let socket = sockets.get_mut(key).context("a socket")?;
            socket.take(&mut trip)?;
        }
    }
    Ok(())
}
