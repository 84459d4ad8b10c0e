//! `agentcore logs`: what agents wrote, of one session or of all of a runtime.
//!
//! Without `-f`: the records of all sessions, merged by time. With `-f`: as they come, sessions that begin later
//! included. Lines carry their session's id when there is more than one session to tell apart.

use super::Desk;
use crate::args::Logs;
use crate::daemon::empty;
use crate::failure::{Exit, Failure, chain};
use crate::screen::{Screen, Tone};
use crate::target;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderValue};
use proto::api::{LogRecord, Phase, Session};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

mod follow;
pub(super) use follow::session as follow_session;

/// How often `-f` looks for sessions that are new.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Longest record that is read; the daemon's own bound of a line is far below.
const MAX_RECORD: usize = 1 << 20;

/// Shows the logs.
pub(super) async fn run(desk: &Desk, args: &Logs) -> Result<(), Failure> {
    let agent = args.target.agent.as_deref();
    if let Some(id) = &args.session {
        let session = super::session::find(desk, id, agent).await?;
        let label = Label::none();
        return if args.follow {
            follow::one(desk, &session, args.tail, &label).await
        } else {
            let records = records(desk, &session, args.tail).await?;
            records
                .iter()
                .try_for_each(|record| show(&desk.screen, &session, &label, record))
        };
    }
    let runtime = target::runtime(&desk.daemon, agent).await?;
    if args.follow {
        return follow::all(desk, &runtime, args.tail).await;
    }
    let sessions = sessions_of(desk, &runtime).await?;
    if sessions.is_empty() {
        desk.screen
            .note(format!("{runtime} has had no session yet"));
    }
    let mut all = Vec::new();
    for (at, session) in sessions.iter().enumerate() {
        let records = records(desk, session, args.tail).await?;
        all.extend(records.into_iter().map(|record| (at, record)));
    }
    // RFC 3339 in UTC with the same number of digits sorts as text.
    all.sort_by(|(_, a), (_, b)| a.at.cmp(&b.at));
    let several = all.iter().map(|(at, _)| at).collect::<BTreeSet<_>>().len() > 1;
    let label = if several {
        Label::session()
    } else {
        Label::none()
    };
    all.iter()
        .try_for_each(|(at, record)| show(&desk.screen, &sessions[*at], &label, record))
}

/// The runtime's sessions; an unknown runtime is an error, not an empty list.
async fn sessions_of(desk: &Desk, runtime: &str) -> Result<Vec<Session>, Failure> {
    let sessions = target::sessions(&desk.daemon, Some(runtime)).await?;
    if sessions.is_empty() {
        let name = crate::daemon::encode(target::plain_name(runtime));
        let _: proto::api::Runtime = desk.daemon.get(&format!("/v1/runtimes/{name}")).await?;
    }
    Ok(sessions)
}

/// What stands before a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Label {
    session: bool,
}

impl Label {
    pub(super) const fn none() -> Self {
        Self { session: false }
    }

    const fn session() -> Self {
        Self { session: true }
    }
}

pub(super) fn show(
    screen: &Screen,
    session: &Session,
    label: &Label,
    record: &LogRecord,
) -> Result<(), Failure> {
    if screen.json {
        let mut line = json!({ "session": session.id, "sessionId": session.session_id });
        if let (Some(line), Ok(serde_json::Value::Object(record))) =
            (line.as_object_mut(), serde_json::to_value(record))
        {
            line.extend(record);
        }
        return screen.record(&line);
    }
    let prefix = if label.session {
        screen.paint(Tone::Faint, &format!("{} ", session.id))
    } else {
        String::new()
    };
    let text = screen.foreign(&record.text);
    match record.stream {
        Some(_) => screen.line(format!("{prefix}{text}")),
        // The daemon's own note about the session.
        None => screen.line(format!(
            "{prefix}{}",
            screen.paint(Tone::Faint, &format!("-- {text}"))
        )),
    }
}

async fn records(
    desk: &Desk,
    session: &Session,
    tail: Option<u32>,
) -> Result<Vec<LogRecord>, Failure> {
    let mut stream = Records::open(desk, session, tail, false).await?;
    let mut records = Vec::new();
    while let Some(record) = stream.next().await? {
        records.push(record);
    }
    Ok(records)
}

/// Records of one session as the daemon sends them: one line of JSON each.
#[derive(Debug)]
pub(super) struct Records {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Records {
    pub(super) async fn open(
        desk: &Desk,
        session: &Session,
        tail: Option<u32>,
        follow: bool,
    ) -> Result<Self, Failure> {
        let mut query = Vec::new();
        if let Some(tail) = tail {
            query.push(format!("tail={tail}"));
        }
        if follow {
            query.push("follow=true".to_owned());
        }
        let path = format!("/v1/sessions/{}/logs?{}", session.id, query.join("&"));
        let path = path.trim_end_matches('?');
        let mut request = desk.daemon.request(Method::GET, path, empty());
        let kind = HeaderValue::from_static("application/x-ndjson");
        request.headers_mut().insert(ACCEPT, kind);
        let answer = desk.daemon.call(request).await?;
        Ok(Self {
            body: answer.into_body(),
            buffer: Vec::new(),
        })
    }

    /// The next record; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<LogRecord>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return read(&line).map(Some);
            }
            if self.buffer.len() > MAX_RECORD {
                return Err(Failure::new(
                    Exit::Failed,
                    "the daemon sent an endless log record",
                ));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::new(
                        Exit::Failed,
                        format!("the log was cut off: {}", chain(&error)),
                    ));
                }
                None if self.buffer.trim_ascii().is_empty() => return Ok(None),
                None => return read(&std::mem::take(&mut self.buffer)).map(Some),
            }
        }
    }
}

fn read(line: &[u8]) -> Result<LogRecord, Failure> {
    serde_json::from_slice(line).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("the daemon sent a log record that cannot be read: {error}"),
        )
    })
}

fn over(session: &Session) -> bool {
    matches!(session.phase, Phase::Ended | Phase::Failed)
}
