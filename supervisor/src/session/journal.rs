//! What agents write, copied to systemd's journal where the operator wants that (`log.sessions`).
//!
//! Each line is an entry of its own, `journalctl -t agentcore-session`, with `AGENTCORE_SESSION_ID`, `AGENTCORE_RUNTIME` and
//! `AGENTCORE_STREAM`. The journal may be slow, and takes no notice of who writes: so one thread writes, a bounded queue leads
//! to it, and a session whose lines find it full lags behind and loses some, which is told in their place. Nothing that
//! serves callers waits for it. Not for the session's own log (`session::log`), which has all of them.

use super::handle::SessionHandle;
use proto::shim::LogStream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;

/// Lines of all sessions that wait for the journal, each of 64 KiB at most.
const QUEUE: usize = 256;

/// See the module.
#[derive(Debug, Clone)]
pub struct SessionJournal(mpsc::Sender<Entry>);

#[derive(Debug)]
struct Entry {
    session: String,
    runtime: String,
    stream: &'static str,
    text: String,
}

impl SessionJournal {
    /// Connects to the journal; the thread ends with the last handle.
    pub fn open() -> std::io::Result<Self> {
        let journal = tracing_journald::layer()?
            .with_field_prefix(Some(crate::daemon_log::PREFIX.to_owned()))
            .with_syslog_identifier("agentcore-session".to_owned())
            .with_priority_mappings(crate::daemon_log::priorities());
        // The level is all that the daemon's own statements are asked for when they are weighed against this.
        let journal = Registry::default().with(LevelFilter::INFO).with(journal);
        let journal = Dispatch::new(journal);
        let (queue, mut waiting) = mpsc::channel::<Entry>(QUEUE);
        let write = move || {
            tracing::dispatcher::with_default(&journal, || {
                while let Some(entry) = waiting.blocking_recv() {
                    tracing::info!(
                        session_id = entry.session,
                        runtime = entry.runtime,
                        stream = entry.stream,
                        "{}",
                        entry.text
                    );
                }
            });
        };
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(write)?;
        Ok(Self(queue))
    }

    /// Copies what a session writes from now on, until it is over.
    pub fn follow(&self, session: &SessionHandle) {
        let queue = self.0.clone();
        let mut lines = session.log.follow();
        let (id, runtime) = (session.id.to_string(), session.version.name.to_string());
        tokio::spawn(async move {
            loop {
                let (stream, text) = match lines.recv().await {
                    Ok(line) => (word(line.stream), line.text),
                    Err(RecvError::Lagged(lost)) => (
                        word(None),
                        format!("{lost} lines came faster than the journal took them"),
                    ),
                    Err(RecvError::Closed) => return,
                };
                let entry = Entry {
                    session: id.clone(),
                    runtime: runtime.clone(),
                    stream,
                    text,
                };
                if queue.send(entry).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Whose line it is; `daemon` are words about the session.
fn word(stream: Option<LogStream>) -> &'static str {
    match stream {
        Some(LogStream::Stdout) => "stdout",
        Some(LogStream::Stderr) => "stderr",
        None => "daemon",
    }
}
