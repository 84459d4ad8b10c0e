//! What the ledger has records of: parts of sessions, and invocations.

use crate::owner::Owner;
use crate::session::handle::SessionKey;
use crate::store::Timestamp;
use proto::api::EndReason;
use proto::ids::{ClientSessionId, EndpointName, RuntimeId, RuntimeName, SessionId, VersionNumber};
use session_core::meter::{Meter, Saved, Totals};
use session_core::moment::Moment;
use std::time::Duration;

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// Whom usage is counted for: one session, whatever becomes of its runtime and of its own row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Our name.
    pub session: SessionId,
    /// The caller's.
    pub client: ClientSessionId,
    /// Its runtime's name.
    pub runtime: RuntimeName,
    /// Its runtime's id.
    pub runtime_id: RuntimeId,
    /// The version that it runs.
    pub version: VersionNumber,
    /// The endpoint that it was asked for at.
    pub endpoint: EndpointName,
    /// Whose it is.
    pub owner: Owner,
    /// When it was asked for.
    pub created_at: Timestamp,
}

impl Subject {
    /// Of a session by its key.
    #[must_use]
    pub fn new(
        session: SessionId,
        key: &SessionKey,
        (runtime, version): (RuntimeName, VersionNumber),
        created_at: Timestamp,
    ) -> Self {
        Self {
            session,
            client: key.client.clone(),
            runtime,
            runtime_id: key.runtime.clone(),
            version,
            endpoint: key.endpoint.clone(),
            owner: key.owner.clone(),
            created_at,
        }
    }

    /// Of the time in which a session waits in its pool, until somebody claims it. The ledger knows a session by one name and one
    /// owner, so this has a name of its own, and the session's is its caller's.
    #[must_use]
    pub fn waiting(self) -> Self {
        let own = self.session.as_str();
        // The first letter only: two names of ours differ in the others.
        let name = format!("w{}", own.strip_prefix('s').unwrap_or(own));
        Self {
            // As long, of the same characters.
            session: SessionId::parse(name).unwrap_or(self.session),
            ..self
        }
    }
}

/// A part of a session's life, of at most a day (UTC): what was used in it.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionPart {
    /// Whose.
    pub subject: Subject,
    /// When it ended.
    pub at: Timestamp,
    /// Why the session ended; absent if it lives on.
    pub reason: Option<EndReason>,
    /// What was used.
    pub used: Totals,
}

impl SessionPart {
    /// Whether a session ended with it, for the sums. What waited in a pool was none.
    #[must_use]
    pub fn ends_a_session(&self) -> bool {
        self.reason.is_some() && !self.subject.owner.is_nobody()
    }
}

/// An invocation that ended, or several of one session that came too fast to be told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// In which session.
    pub subject: Subject,
    /// When it ended.
    pub at: Timestamp,
    /// The task that it ran for.
    pub task: Option<String>,
    /// How many; all else is their sum.
    pub count: u64,
    /// From its begin to the end of its answer, ms.
    pub wall_ms: u64,
    /// Bytes of its request.
    pub bytes_in: u64,
    /// Bytes of its answer.
    pub bytes_out: u64,
    /// Its share of the session's CPU time, µs.
    pub cpu_us: u64,
}

/// A session's meter, for the daemon after this one.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedMeter {
    /// Whose.
    pub subject: Subject,
    /// This boot of the host.
    pub boot_id: String,
    /// When, on the clock of that boot, ms.
    pub boot_ms: u64,
    /// When, for people and for what is over since.
    pub saved_at: Timestamp,
    /// The meter.
    pub meter: Saved,
    /// What the meter does not know: invocations, bytes, egress.
    pub counted: Totals,
    /// What is in records already.
    pub recorded: Totals,
    /// It counts no more, and what is in no record yet is its last part.
    pub closed: bool,
}

impl SavedMeter {
    /// The last part of one that is closed: of a session that waited in a pool, and was claimed.
    #[must_use]
    pub fn last_part(&self) -> SessionPart {
        let meter = Meter::resume(self.meter, Moment(0), Duration::ZERO, false);
        SessionPart {
            subject: self.subject.clone(),
            at: self.saved_at,
            reason: Some(EndReason::Stopped),
            used: meter.totals().plus(&self.counted).since(&self.recorded),
        }
    }
}

/// The day of a moment, counted from 1970-01-01.
#[must_use]
pub fn day(at: Timestamp) -> i64 {
    at.0.div_euclid(DAY_MS)
}
