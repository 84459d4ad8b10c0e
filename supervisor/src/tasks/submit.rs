//! From an understood order to a task on disk.

use super::answer::{blocking, sync_directory};
use super::stored::{Charge, OVERHEAD};
use crate::api::intake::{Bounded, Intake};
use crate::api::reply::ApiError;
use crate::api::session_header::fresh_session_id;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::owner::Owner;
use crate::relay::exchange::RequestBody;
use crate::store::{Inline, NewTask, Submitted, TaskKind, TaskRow, Timestamp};
use http_body_util::BodyExt as _;
use proto::code::ErrorCode;
use proto::ids::{ClientSessionId, EndpointName, TaskId};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long the body of a submission, or its next piece, may take to come.
pub const BODY_TIME: Duration = Duration::from_secs(900);

/// A task that somebody wants, checked.
#[derive(Debug)]
pub struct Order {
    /// What it is to its caller.
    pub kind: TaskKind,
    /// Whom it is given to.
    pub version: Arc<RuntimeVersion>,
    /// Through which endpoint.
    pub endpoint: EndpointName,
    /// The caller's session; one is made up if it named none.
    pub client: Option<ClientSessionId>,
    /// Whose it is.
    pub owner: Owner,
    /// The caller's key.
    pub once: Option<String>,
    /// Headers for the agent that are written down.
    pub headers: Vec<(String, String)>,
    /// Retries that it may have.
    pub retries: u32,
    /// Before the first of them.
    pub backoff: Duration,
    /// How long it may take.
    pub deadline: Duration,
    /// Who is told.
    pub callback: Option<String>,
}

/// Reads the rest of the payload and writes the task down. What is answered, and whether it is a new one.
pub async fn submit(
    broker: &Arc<Broker>,
    order: Order,
    intake: Intake,
) -> Result<(TaskRow, bool), ApiError> {
    let most = broker.config().tasks.max_queued;
    let place = broker.tasks.enter(most).ok_or_else(|| too_many(most))?;
    let room = broker.config().tasks.max_stored.0;
    let whose = &order.owner.principal;
    let charge = broker.tasks.stored.charge(whose, OVERHEAD, room);
    let mut charge = charge.ok_or_else(no_room)?;
    let id = new_id();
    let mut hash = order.once.is_some().then(|| hash_of(&order));
    let taken = payload(broker, &id, intake, &mut charge, &mut hash).await?;
    let now = Timestamp::now();
    let new = NewTask {
        kind: order.kind,
        runtime: order.version.name.clone(),
        runtime_id: order.version.runtime.clone(),
        endpoint: order.endpoint,
        own_session: order.client.is_none(),
        client_id: order.client.unwrap_or_else(fresh_session_id),
        owner: order.owner,
        once: order.once,
        digest: hash.map(|hash| hash.finalize().into()).unwrap_or_default(),
        headers: order.headers,
        payload_bytes: taken.bytes,
        payload: taken.payload,
        retries: order.retries,
        backoff: order.backoff,
        created_at: now,
        deadline_at: now.after(order.deadline),
        callback: order.callback,
        id,
    };
    // It is written whether or not its caller is still there: then it must be counted, and begun.
    let broker = Arc::clone(broker);
    let written = tokio::spawn(async move {
        match broker.store.submit_task(new.clone()).await {
            Ok(Submitted::New(seq)) => {
                place.keep();
                charge.keep();
                if let Some(file) = taken.file {
                    file.keep();
                }
                if new.kind == TaskKind::Task {
                    broker.tasks.wake();
                }
                Ok((TaskRow::fresh(seq, &new), true))
            }
            Ok(Submitted::Before(row)) => Ok((*row, false)),
            Err(error) => Err(ApiError::from(error)),
        }
    });
    written
        .await
        .unwrap_or_else(|error| Err(ApiError::internal(&error)))
}

fn too_many(most: u64) -> ApiError {
    ApiError::new(
        ErrorCode::Throttled,
        format!("there are {most} tasks without an outcome, which is as many as may be (tasks.max_queued); try again when some have ended"),
    )
    .retry_after(Duration::from_secs(5))
}

fn no_room() -> ApiError {
    ApiError::new(
        ErrorCode::StorageFull,
        "what is kept of tasks takes as much room as it may, or as you may have of it (tasks.max_stored); try again when old ones are forgotten (tasks.keep)",
    )
}

/// A payload that was taken.
struct Payload {
    payload: Inline,
    bytes: u64,
    file: Option<PayloadFile>,
}

async fn payload(
    broker: &Arc<Broker>,
    id: &TaskId,
    intake: Intake,
    charge: &mut Charge,
    hash: &mut Option<Sha256>,
) -> Result<Payload, ApiError> {
    let room = broker.config().tasks.max_stored.0;
    let mut body = match intake.body {
        RequestBody::Whole(bytes) => {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if !charge.more(length, room) {
                return Err(no_room());
            }
            if let Some(hash) = hash {
                hash.update(&bytes);
            }
            return Ok(Payload {
                payload: Inline::Here(bytes),
                bytes: length,
                file: None,
            });
        }
        RequestBody::Stream(body) => body,
    };
    let file = PayloadFile::create(broker.tasks.payload_path(id)).await;
    let mut file = file.map_err(|error| not_written(&error))?;
    let mut total = 0;
    while let Some(bytes) = next(&mut body, &intake.trouble).await? {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if !charge.more(length, room) {
            return Err(no_room());
        }
        if let Some(hash) = hash {
            hash.update(&bytes);
        }
        total += length;
        file = file
            .with(move |file| file.write_all(&bytes))
            .await
            .map_err(|error| not_written(&error))?;
    }
    let path = file.path.clone();
    file = file
        .with(move |file| {
            file.sync_all()?;
            sync_directory(&path)
        })
        .await
        .map_err(|error| not_written(&error))?;
    Ok(Payload {
        payload: Inline::Filed,
        bytes: total,
        file: Some(file),
    })
}

/// The next bytes of a body.
async fn next(
    body: &mut Bounded,
    trouble: &crate::api::intake::Trouble,
) -> Result<Option<bytes::Bytes>, ApiError> {
    loop {
        let frame = tokio::time::timeout(BODY_TIME, body.frame()).await;
        let frame = frame.map_err(|_late| ApiError::field("body", "did not come in time"))?;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(fault)) => {
                let told = trouble.told();
                return Err(told.unwrap_or_else(|| ApiError::field("body", fault.to_string())));
            }
        }
    }
}

fn not_written(error: &io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ApiError::new(
            ErrorCode::StorageFull,
            "the disk is full; the task was not taken",
        ),
        _ => ApiError::internal(error),
    }
}

/// The file of a payload. Dropping it removes it, unless it is kept.
#[derive(Debug)]
struct PayloadFile {
    path: PathBuf,
    file: Option<File>,
    kept: bool,
}

impl PayloadFile {
    async fn create(path: PathBuf) -> io::Result<Self> {
        let create = path.clone();
        let file = blocking(move || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(create)
        });
        Ok(Self {
            file: Some(file.await?),
            path,
            kept: false,
        })
    }

    /// Does something with the file, off the event loop.
    async fn with(
        mut self,
        work: impl FnOnce(&mut File) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let file = self.file.take();
        let mut file = file.ok_or_else(|| io::Error::other("the file is gone"))?;
        self.file = Some(blocking(move || work(&mut file).map(|()| file)).await?);
        Ok(self)
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for PayloadFile {
    fn drop(&mut self) {
        if !self.kept {
            // Of one that stays the next start finds that it belongs to no task.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Headers that are another attempt's own: a caller that asks again is in another span.
const OF_THE_TRACE: &[&str] = &["traceparent", "tracestate", "baggage", "x-amzn-trace-id"];

/// Everything that its caller says of a task, the payload apart.
fn hash_of(order: &Order) -> Sha256 {
    let headers: Vec<_> = order
        .headers
        .iter()
        .filter(|(name, _)| !OF_THE_TRACE.contains(&name.as_str()))
        .collect();
    let said = serde_json::json!([
        order.endpoint,
        order.client,
        headers,
        order.retries,
        order.backoff.as_millis().to_string(),
        order.deadline.as_millis().to_string(),
        order.callback,
    ]);
    let mut hash = Sha256::new();
    hash.update(said.to_string());
    hash.update([0]);
    hash
}

/// An id that nobody has had: the time, so that later ones sort later, and 75 random bits.
fn new_id() -> TaskId {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let millis = u128::from(Timestamp::now().0.unsigned_abs());
    let random = uuid::Uuid::new_v4().as_u128();
    // A version-4 UUID's fixed bits are among its upper 64 ones; of those the upper 48 are random.
    let random = ((random >> 80) << 64 | random & u128::from(u64::MAX)) & ((1 << 75) - 1);
    let number = (millis & ((1 << 50) - 1)) << 75 | random;
    let mut text = String::with_capacity(26);
    text.push('t');
    for place in (0..25).rev() {
        let digit = usize::try_from(number >> (5 * place) & 31).unwrap_or(0);
        text.push(char::from(DIGITS.get(digit).copied().unwrap_or(b'0')));
    }
    TaskId::parse(text).expect("t and 25 digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_later_ones_sort_later() {
        let mut before = new_id();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(2));
            let after = new_id();
            assert!(after > before, "{before} then {after}");
            before = after;
        }
        let many: std::collections::HashSet<_> = (0..1000).map(|_| new_id()).collect();
        assert_eq!(many.len(), 1000);
    }
}
