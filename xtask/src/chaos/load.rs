//! Callers: each draws what to do next and checks what comes back.

use super::books::{Acknowledged, Books};
use super::scene::{Runtime, Scene, locked};
use anyhow::ensure;
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::Request;
use e2e::{Client, wait};
use fastrand::Rng;
use proto::api::{Page, Session};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Sessions that callers come back to.
const KEPT: usize = 14;

/// Statuses with which a call may be refused or fail while things break: conflict, rate, agent or session broken, draining
/// or starting, time over, no room. A 500 is a defect.
const EXCUSED: [u16; 7] = [402, 409, 424, 429, 503, 504, 507];

/// How long a submission that nobody answered is made again: as long as the daemon may be away, and some.
const INSISTENCE: u64 = 90;

/// A session as callers know it.
#[derive(Clone)]
pub(super) struct Called {
    runtime: &'static str,
    id: String,
}

/// What all callers share.
pub(super) struct Load<'a> {
    pub(super) scene: &'a Scene,
    pub(super) books: &'a Books,
    pub(super) over: &'a AtomicBool,
    pub(super) sessions: &'a Mutex<VecDeque<Called>>,
    pub(super) seed: u64,
}

impl Load<'_> {
    /// One caller, until the run is over.
    pub(super) fn call(&self, caller: u64) {
        let mut rng = Rng::with_seed(self.seed ^ caller.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        while !self.over.load(Ordering::Relaxed) {
            match rng.u32(..100) {
                0..42 => self.echo(&self.some_session(&mut rng), &mut rng),
                42..50 => self.echo(&self.new_session(&mut rng), &mut rng),
                50..65 => self.stream(&mut rng),
                65..92 => self.task(&mut rng),
                92..96 => self.stop(&mut rng),
                _ => self.look(&mut rng),
            }
        }
    }

    fn some_session(&self, rng: &mut Rng) -> Called {
        let known = {
            let sessions = locked(self.sessions);
            let at = rng.usize(..sessions.len().max(1));
            sessions.get(at).cloned()
        };
        known.unwrap_or_else(|| self.new_session(rng))
    }

    /// A new id; for each there is an older one that nobody needs any more.
    fn new_session(&self, rng: &mut Rng) -> Called {
        let session = Called {
            runtime: Runtime::draw(rng).name,
            id: session_name("chaos"),
        };
        let oldest = {
            let mut sessions = locked(self.sessions);
            sessions.push_back(session.clone());
            (sessions.len() > KEPT).then(|| sessions.pop_front())
        };
        if let Some(oldest) = oldest.flatten() {
            self.stop_one(&oldest);
        }
        session
    }

    fn echo(&self, session: &Called, rng: &mut Rng) {
        let value = rng.u64(..);
        let payload = json!({"do": "echo", "value": value.to_string()});
        self.ask(
            "call",
            Client::invocation(session.runtime, &session.id, &payload),
            |text| {
                let got: Value = serde_json::from_str(text)?;
                ensure!(
                    got == json!({"echo": value.to_string()}),
                    "not its answer: {got}"
                );
                Ok(())
            },
        );
    }

    fn stream(&self, rng: &mut Rng) {
        let count = rng.u64(1..40);
        let payload = json!({"do": "stream", "events": count, "ms": rng.u32(..30)});
        let session = self.some_session(rng);
        let request = Client::invocation(session.runtime, &session.id, &payload);
        self.ask("stream", request, |text| {
            let events: Vec<_> = text
                .lines()
                .filter_map(|l| l.strip_prefix("data: "))
                .collect();
            let whole = events.len() as u64 == count
                && (0..).zip(&events).all(|(n, event): (u64, _)| {
                    serde_json::from_str::<Value>(event).is_ok_and(|event| event == json!({"n": n}))
                });
            ensure!(whole, "not the stream of {count}: {events:?}");
            Ok(())
        });
    }

    fn stop(&self, rng: &mut Rng) {
        let chosen = {
            let mut sessions = locked(self.sessions);
            let at = rng.usize(..sessions.len().max(1));
            sessions.remove(at)
        };
        if let Some(session) = chosen {
            self.stop_one(&session);
        }
    }

    fn stop_one(&self, session: &Called) {
        let Called { runtime, id } = session;
        let request = Request::new("DELETE", format!("/v1/sessions/{id}?runtime={runtime}"));
        let began = Instant::now();
        match answered(self.scene.client(), request) {
            // It may never have come to be, or have ended by itself.
            Ok((200 | 202 | 204 | 404, _)) => self.books.note("stop", "answered"),
            Ok((status, text)) => self.refused("stop", status, &text),
            Err(error) => self.broken("stop", began, &error),
        }
    }

    fn look(&self, rng: &mut Rng) {
        let path = match rng.u32(..4) {
            0 => return self.census(),
            1 => "/v1/tasks?maxResults=20",
            2 => "/v1/info",
            _ => "/v1/runtimes",
        };
        self.ask("look", Request::get(path), |text| {
            let _: Value = serde_json::from_str(text)?;
            Ok(())
        });
    }

    /// Looks at all sessions that live, of which one page has room.
    fn census(&self) {
        let request = Request::get("/v1/sessions?live=true&maxResults=1000");
        self.ask("look", request, |text| {
            let page: Page<Session> = serde_json::from_str(text)?;
            self.books.saw(page.items);
            Ok(())
        });
    }

    fn task(&self, rng: &mut Rng) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let may_be_repeated = rng.u32(..4) == 0;
        let steps = rng.u32(1..6);
        let payload = json!({"do": "task", "name": name, "steps": steps, "ms": rng.u32(..200)});
        let query = if may_be_repeated {
            "?retries=3&deadline=300"
        } else {
            "?deadline=300"
        };
        let (runtime, session) = if rng.u32(..8) == 0 {
            (Runtime::draw(rng).name, None)
        } else {
            let session = self.some_session(rng);
            (session.runtime, Some(session.id))
        };
        let submission = || {
            let path = format!("/v1/runtimes/{runtime}/tasks{query}");
            let request = Request::post(path, payload.to_string())
                .header("content-type", "application/json")
                .header("idempotency-key", name.clone());
            match &session {
                Some(session) => request.header(SESSION_HEADER, session.clone()),
                None => request,
            }
        };
        // Whoever hears nothing asks again with the same key, until it is answered.
        let first = Instant::now();
        loop {
            let began = Instant::now();
            match answered(self.scene.client(), submission()) {
                Ok((200 | 202, text)) => {
                    match serde_json::from_str::<Value>(&text) {
                        Ok(answer) if answer["taskId"].is_string() => {
                            let id = answer["taskId"].as_str().unwrap_or_default().to_owned();
                            self.books.acknowledged(Acknowledged {
                                id,
                                name,
                                may_be_repeated,
                            });
                            self.books.note("task", "acknowledged");
                        }
                        _ => self
                            .books
                            .wrong(format!("a submission was answered with {text}")),
                    }
                    return;
                }
                Ok((status, text)) => return self.refused("task", status, &text),
                Err(error) => self.broken("task", began, &error),
            }
            if first.elapsed() > wait::seconds(INSISTENCE) {
                return self.books.wrong(format!("nobody takes task {name}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn ask(
        &self,
        operation: &'static str,
        request: Request,
        check: impl FnOnce(&str) -> anyhow::Result<()>,
    ) {
        let began = Instant::now();
        match answered(self.scene.client(), request) {
            Ok((200, text)) => match check(&text) {
                Ok(()) => self.books.note(operation, "answered"),
                Err(error) => self.books.wrong(format!("{operation}: {error:#}")),
            },
            Ok((status, text)) => self.refused(operation, status, &text),
            Err(broken) => self.broken(operation, began, &broken),
        }
    }

    fn refused(&self, operation: &'static str, status: u16, text: &str) {
        let body: Value = serde_json::from_str(text).unwrap_or_default();
        let told = ["message", "detail"]
            .iter()
            .any(|field| body[*field].is_string());
        if EXCUSED.contains(&status) && told {
            self.books.note(operation, format!("refused {status}"));
        } else {
            self.books
                .wrong(format!("{operation}: {status} {text:.300}"));
        }
    }

    fn broken(&self, operation: &'static str, began: Instant, broken: &Broken) {
        match broken {
            _ if self.scene.was_away(began, Instant::now()) => {
                self.books.note(operation, "broken with its daemon");
            }
            // Its session was ended, by a fault or by another caller; that it was not whole was plain to see.
            Broken::Cut => self.books.note(operation, "cut short"),
            Broken::Unanswered(error) => self
                .books
                .wrong(format!("{operation}: no answer: {error:#}")),
        }
    }
}

/// How a call fails that has no answer.
enum Broken {
    /// Not even a head.
    Unanswered(anyhow::Error),
    /// A head, and not all of the body.
    Cut,
}

/// An answer, whole.
fn answered(client: &Client, request: Request) -> Result<(u16, String), Broken> {
    let answer = client.send(request).map_err(Broken::Unanswered)?;
    let status = answer.status;
    let text = answer.text().map_err(|_| Broken::Cut)?;
    Ok((status, text))
}
