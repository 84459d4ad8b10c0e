//! A task's events to its outcome. A daemon that goes away meanwhile is waited for: the task outlives it, and so does this.

use super::super::Desk;
use super::{path, task};
use crate::daemon::{DaemonError, empty};
use crate::events::Decoder;
use crate::failure::{Exit, Failure};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::header::{ACCEPT, HeaderName, HeaderValue};
use proto::api::{Task, TaskEvent};
use proto::ids::TaskId;
use std::time::Duration;
use tokio::time::Instant;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Between attempts to reach a daemon that is away, at first and at most.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long one may be away.
const AWAY: Duration = Duration::from_secs(600);

/// What is heard of a task.
#[derive(Debug)]
pub(super) enum Heard {
    /// The next event.
    Event(TaskEvent),
    /// The daemon does not answer.
    Away,
}

/// Follows one task.
#[derive(Debug)]
pub(super) struct Follower<'a> {
    desk: &'a Desk,
    id: &'a TaskId,
    last: Option<String>,
    /// Whether the daemon has ever answered. One that never did is not waited for.
    met: bool,
    away_since: Option<Instant>,
    pause: Duration,
}

impl<'a> Follower<'a> {
    pub(super) const fn new(desk: &'a Desk, id: &'a TaskId) -> Self {
        Self {
            desk,
            id,
            last: None,
            met: false,
            away_since: None,
            pause: PAUSE,
        }
    }

    /// Tells of each event once, and gives the task with its outcome.
    pub(super) async fn outcome(mut self, mut heard: impl FnMut(Heard)) -> Result<Task, Failure> {
        loop {
            let over = match self.events(&mut heard).await {
                // A stream ends in order with the outcome, or with a daemon that stops.
                Ok(()) => task(self.desk, self.id).await,
                Err(error) => Err(error),
            };
            match over {
                Ok(task) if task.status.is_final() => return Ok(task),
                Ok(_) => {}
                Err(error) => {
                    self.forgive(error)?;
                    heard(Heard::Away);
                }
            }
            tokio::time::sleep(self.pause).await;
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        }
    }

    async fn events(&mut self, heard: &mut impl FnMut(Heard)) -> Result<(), DaemonError> {
        let daemon = &self.desk.daemon;
        let path = path(self.id, "/events");
        let mut request = daemon.request(Method::GET, &path, empty());
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(last) = self
            .last
            .as_deref()
            .and_then(|last| HeaderValue::from_str(last).ok())
        {
            headers.insert(LAST_EVENT_ID, last);
        }
        let mut body = daemon.call(request).await?.into_body();
        self.met = true;
        self.away_since = None;
        let mut decoder = Decoder::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| DaemonError::Broken {
                method: Method::GET,
                path: path.clone(),
                source: error.into(),
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            for event in decoder.feed(&data) {
                // One that a newer daemon says and this command does not know is not for it.
                if let Ok(event) = serde_json::from_str::<TaskEvent>(&event) {
                    self.last = Some(event.id.to_string());
                    self.pause = PAUSE;
                    heard(Heard::Event(event));
                }
            }
            if let Some(last) = decoder.last_id() {
                self.last = Some(last.to_owned());
            }
        }
        Ok(())
    }

    /// Whether an error is one that passes.
    fn forgive(&mut self, error: DaemonError) -> Result<(), Failure> {
        let passes = match &error {
            DaemonError::Unreachable { .. } | DaemonError::Broken { .. } => self.met,
            DaemonError::Refused(refusal) => self.met && refusal.exit() == Exit::TryLater,
            DaemonError::Unsigned(_) | DaemonError::Foreign { .. } => false,
        };
        let since = *self.away_since.get_or_insert_with(Instant::now);
        if passes && since.elapsed() < AWAY {
            Ok(())
        } else {
            Err(error.into())
        }
    }
}
