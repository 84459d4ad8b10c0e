//! How an answer looks: bytes as they come, JSON laid out on a terminal, events decoded with `--stream`.

use super::super::Desk;
use crate::events::Decoder;
use crate::failure::{Exit, Failure, chain};
use crate::screen::Screen;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};

/// Largest JSON answer that is laid out for a terminal or wrapped for `--json`; beyond it, bytes pass as they are.
const MAX_HELD: usize = 8 << 20;

/// Prints the answer to its end. One that breaks off is a failure, whatever was printed.
pub(in crate::verb) async fn print(
    desk: &Desk,
    stream: bool,
    runtime: &str,
    session: Option<String>,
    answer: Response<Incoming>,
) -> Result<(), Failure> {
    let kind = answer.headers().get(CONTENT_TYPE);
    let kind = kind
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
        .to_owned();
    let events = kind.starts_with("text/event-stream");
    let status = answer.status().as_u16();
    let mut body = Counted {
        body: answer.into_body(),
        bytes: 0,
    };
    let screen = &desk.screen;
    if events && stream {
        return print_events(screen, &mut body).await;
    }
    if screen.json {
        let held = body.hold(usize::MAX).await?;
        let response = match serde_json::from_slice::<Value>(&held) {
            Ok(value) => value,
            Err(_) => Value::String(String::from_utf8_lossy(&held).into_owned()),
        };
        return screen.document(&json!({
            "runtime": runtime,
            "sessionId": session,
            "status": status,
            "contentType": kind,
            "response": response,
        }));
    }
    if screen.out_terminal && kind.starts_with("application/json") {
        return print_laid_out(screen, &mut body).await;
    }
    let last = print_bytes(screen, &mut body).await;
    // The prompt belongs on a line of its own, also after an answer that broke off.
    if screen.out_terminal && body.bytes > 0 && last.as_ref().ok() != Some(&Some(b'\n')) {
        screen.line("")?;
    }
    last.map(|_| ())
}

/// A body that knows how much of it has come.
#[derive(Debug)]
struct Counted {
    body: Incoming,
    bytes: u64,
}

impl Counted {
    /// The next bytes; `None` at the proper end.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(self.cut_off(&error)),
            };
            if let Ok(data) = frame.into_data() {
                self.bytes += data.len() as u64;
                return Ok(Some(data));
            }
        }
    }

    /// All of it, or as much as comes before `limit` is passed.
    async fn hold(&mut self, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut held = Vec::new();
        while held.len() <= limit
            && let Some(data) = self.next().await?
        {
            held.extend_from_slice(&data);
        }
        Ok(held)
    }

    fn cut_off(&self, error: &hyper::Error) -> Failure {
        Failure::new(
            Exit::Failed,
            format!(
                "the answer was cut off after {} bytes: {}",
                self.bytes,
                chain(error)
            ),
        )
        .advice("what was printed is not complete; `agentcore logs` may tell why the agent stopped")
    }
}

async fn print_bytes(screen: &Screen, body: &mut Counted) -> Result<Option<u8>, Failure> {
    let mut last = None;
    while let Some(data) = body.next().await? {
        screen.bytes(&data)?;
        last = data.last().copied().or(last);
    }
    Ok(last)
}

async fn print_laid_out(screen: &Screen, body: &mut Counted) -> Result<(), Failure> {
    let held = body.hold(MAX_HELD).await?;
    match serde_json::from_slice::<Value>(&held) {
        Ok(value) => screen.document(&value),
        Err(_) => {
            screen.bytes(&held)?;
            print_bytes(screen, body).await?;
            screen.line("")
        }
    }
}

/// Text as text, anything else as one line of JSON; with `--json` every event is a line of JSON.
async fn print_events(screen: &Screen, body: &mut Counted) -> Result<(), Failure> {
    let mut page = Page {
        screen,
        within_line: false,
    };
    let mut decoder = Decoder::default();
    let end = loop {
        match body.next().await {
            Ok(Some(data)) => {
                for event in decoder.feed(&data) {
                    page.event(&event)?;
                }
            }
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        }
    };
    if let Some(event) = decoder.finish() {
        page.event(&event)?;
    }
    page.break_line()?;
    end
}

#[derive(Debug)]
struct Page<'a> {
    screen: &'a Screen,
    within_line: bool,
}

impl Page<'_> {
    fn event(&mut self, data: &str) -> Result<(), Failure> {
        let value =
            serde_json::from_str::<Value>(data).unwrap_or_else(|_| Value::String(data.to_owned()));
        match value {
            value if self.screen.json => self.screen.record(&value),
            // Pieces of one text, as models stream them: no line breaks but their own.
            Value::String(text) => {
                if let Some(last) = text.as_bytes().last() {
                    self.within_line = *last != b'\n';
                }
                self.screen.bytes(text.as_bytes())
            }
            value => {
                self.break_line()?;
                self.screen.record(&value)
            }
        }
    }

    fn break_line(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.within_line) {
            self.screen.line("")?;
        }
        Ok(())
    }
}
