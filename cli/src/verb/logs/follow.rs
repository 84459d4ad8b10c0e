//! `agentcore logs -f`: one stream per session, joined into one output.

use super::super::Desk;
use super::{LOOK_EVERY, Label, Records, over, sessions_of, show};
use crate::failure::Failure;
use futures_util::stream::{FuturesUnordered, StreamExt};
use proto::api::Session;
use std::collections::BTreeSet;

/// Follows one session to its end.
pub(super) async fn one(
    desk: &Desk,
    session: &Session,
    tail: Option<u32>,
    label: &Label,
) -> Result<(), Failure> {
    let mut stream = Records::open(desk, session, tail, true).await?;
    while let Some(record) = stream.next().await? {
        show(&desk.screen, session, label, &record)?;
    }
    Ok(())
}

/// Follows every session of `runtime` that lives now or begins later. Ends with an interrupt, or when the daemon does.
pub(super) async fn all(desk: &Desk, runtime: &str, tail: Option<u32>) -> Result<(), Failure> {
    let label = Label::session();
    let mut seen = BTreeSet::new();
    let mut streams = FuturesUnordered::new();
    let mut first = true;
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = look.tick() => {
                for session in sessions_of(desk, runtime).await? {
                    let new = seen.insert(session.id.clone());
                    // What ended before we came is what plain `logs` shows.
                    if new && !(first && over(&session)) {
                        // `tail` is about the past: a session that began after us has none.
                        let tail = if first { tail } else { None };
                        streams.push(follow_one(desk, session, tail, label));
                    }
                }
                first = false;
            }
            Some(ended) = streams.next() => ended?,
        }
    }
}

async fn follow_one(
    desk: &Desk,
    session: Session,
    tail: Option<u32>,
    label: Label,
) -> Result<(), Failure> {
    one(desk, &session, tail, &label).await
}

/// Follows `session` on standard error, for `dev`; a broken stream ends it quietly, since the session ends with it.
pub(in super::super) async fn session(desk: &Desk, session: &Session) {
    let Ok(mut stream) = Records::open(desk, session, None, true).await else {
        return;
    };
    while let Ok(Some(record)) = stream.next().await {
        let mark = if record.stream.is_some() { "|" } else { "--" };
        desk.screen.quote(mark, &record.text);
    }
}
