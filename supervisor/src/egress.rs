//! The session's way out: an HTTP proxy whose connections the shim accepts and the broker serves.
//!
//! The agent connects to a port of its own loopback (`HTTP_PROXY`, `HTTPS_PROXY`); the shim passes the accepted connection
//! here. The broker reads one request head, asks the policy, resolves, judges the addresses, dials one that was judged
//! (so a name that changes its mind cannot slip through) and carries bytes. Refusals are counted and noted in the
//! session's log. Which addresses are whose is `session_core::egress`.

pub mod agent_stream;
mod budget;
mod head;
pub(crate) mod own_addresses;
mod pace;
pub(crate) mod policy;

use crate::broker::Broker;
use crate::session::handle::SessionHandle;
use agent_stream::AgentStream;
use budget::Budget;
use head::{Gathered, Head, HeadError};
use own_addresses::OwnAddresses;
use pace::Paces;
use policy::Refused;
use session_core::egress::Target;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::io::{InspectReader, InspectWriter};

/// How long the agent may take to say what it wants.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The first refusals are noted in the session's log and the daemon's one by one; of later ones, which are counted like
/// them, every thousandth, so that a loop cannot flood the logs.
const NOTED_REFUSALS: u64 = 50;

/// See [`NOTED_REFUSALS`].
const NOTED_EVERY: u64 = 1000;

/// Names being resolved at once, for all sessions. The resolver's calls block one thread each, for as long as a name server
/// keeps silent, and nothing can interrupt them: without a bound, agents that ask for such names would take all of the
/// runtime's blocking threads, which launches and logs need too.
const LOOKUPS: usize = 128;

/// The same for one session.
const LOOKUPS_PER_SESSION: usize = 8;

/// How long a refusal takes once there were more than [`NOTED_REFUSALS`].
const REFUSAL_PAUSE: Duration = Duration::from_millis(250);

/// How long an agent may take to close after it was turned away.
const FAREWELL: Duration = Duration::from_secs(1);

/// What [`head::parse`] reads, for `fuzz/`.
#[cfg(fuzzing)]
pub fn fuzzed_head(bytes: &[u8]) -> Option<(Target, Vec<u8>)> {
    let head = head::parse(bytes).ok()??;
    Some((head.target, head.forward))
}

/// The broker's half of every session's proxy.
#[derive(Debug)]
pub struct Egress {
    broker: OnceLock<Weak<Broker>>,
    lookups: Arc<Semaphore>,
    budget: Budget,
    paces: Paces,
    own: OwnAddresses,
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            broker: OnceLock::new(),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            budget: Budget::of_this_process(),
            paces: Paces::default(),
            own: OwnAddresses::default(),
        }
    }
}

impl Egress {
    /// Tells it whose configuration holds; once.
    pub fn belong_to(&self, broker: &Arc<Broker>) {
        // A second call would say the same.
        let _ = self.broker.set(Arc::downgrade(broker));
    }

    /// Addresses of a name. A lookup keeps its places until the resolver returns, also when nobody waits any more.
    async fn resolve(
        &self,
        session: &SessionHandle,
        target: &Target,
    ) -> io::Result<Vec<SocketAddr>> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let own = Arc::clone(&session.lookups).acquire_owned().await;
        let own = own.map_err(closed)?;
        let place = Arc::clone(&self.lookups).acquire_owned().await;
        let place = place.map_err(closed)?;
        let (host, port) = (target.host.clone(), target.port);
        tokio::task::spawn_blocking(move || {
            let resolved = (host.as_str(), port).to_socket_addrs();
            drop((own, place));
            resolved.map(Iterator::collect)
        })
        .await?
    }

    /// How many lookups a session may have under way.
    #[must_use]
    pub fn lookups_of_a_session() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(LOOKUPS_PER_SESSION))
    }

    /// Serves one connection of a session in a task of its own.
    pub fn serve(&self, stream: AgentStream, session: Arc<SessionHandle>) {
        let Some(broker) = self.broker.get().and_then(Weak::upgrade) else {
            return;
        };
        let Ok(place) = Arc::clone(&session.egress_places).try_acquire_owned() else {
            // Dropping the connection is the answer: the limit is far above what a client library opens.
            let why = "the session has as many connections as it may (network.max_connections)";
            note_refusal(&session, "a target", &why);
            return;
        };
        tokio::spawn(async move {
            // Ends with the session: a connection must not outlive the one who may use it.
            let ended = session.ending();
            tokio::select! {
                outcome = in_turn(&broker, &session, stream) => {
                    if let Err(error) = outcome {
                        tracing::debug!(session_id = %session.id, %error, "outbound connection");
                    }
                }
                _end = ended => {}
            }
            drop(place);
        });
    }
}

/// A connection that has a place of its session's: its turn, and a place of all sessions'.
async fn in_turn(broker: &Broker, session: &SessionHandle, agent: AgentStream) -> io::Result<()> {
    let egress = &broker.egress;
    let Some(_place) = egress.budget.place() else {
        let told = egress.budget.farewell();
        let agent = told.is_some().then_some(agent);
        egress.paces.turn(&session.id).await;
        let why = "this daemon has no more outbound connections, for all sessions together";
        count_refusal(session, "a target", &why).await;
        let Some(mut agent) = agent else {
            return Ok(());
        };
        refuse(&mut agent, 503, "Service Unavailable", why).await?;
        return until_closed(&mut agent).await;
    };
    egress.paces.turn(&session.id).await;
    connection(broker, session, agent).await
}

/// Reads what the agent still sends until it closes, for a moment: closing with its bytes unread would reset the connection
/// and could take the answer with it.
async fn until_closed(agent: &mut AgentStream) -> io::Result<()> {
    let mut sink = tokio::io::sink();
    match tokio::time::timeout(FAREWELL, tokio::io::copy(agent, &mut sink)).await {
        Ok(outcome) => outcome.map(|_| ()),
        Err(_elapsed) => Ok(()),
    }
}

async fn connection(
    broker: &Broker,
    session: &SessionHandle,
    mut agent: AgentStream,
) -> io::Result<()> {
    let read = tokio::time::timeout(HEAD_TIMEOUT, read_head(&mut agent)).await;
    let head = match read {
        Ok(Ok(head)) => head,
        Ok(Err(HeadError::Io(error))) => return Err(error),
        Ok(Err(error)) => {
            if let HeadError::Target(refused) = &error {
                // An address in a notation that only a resolver would understand is an attempt like any other.
                count_refusal(session, "a target", refused).await;
            }
            return refuse(&mut agent, 400, "Bad Request", &error.to_string()).await;
        }
        Err(_elapsed) => {
            return refuse(&mut agent, 408, "Request Timeout", "no request came").await;
        }
    };
    let server = match dial(broker, session, &head.target).await {
        Ok(server) => server,
        Err(Dial::Refused(refused)) => {
            let asked = format!("{}:{}", head.target.host, head.target.port);
            count_refusal(session, &asked, &refused).await;
            return refuse(
                &mut agent,
                403,
                "Forbidden",
                &format!("{}:{}: {refused}", head.target.host, head.target.port),
            )
            .await;
        }
        Err(Dial::Failed(detail)) => return refuse(&mut agent, 502, "Bad Gateway", &detail).await,
        Err(Dial::TimedOut) => {
            return refuse(
                &mut agent,
                504,
                "Gateway Timeout",
                "the server did not accept in time",
            )
            .await;
        }
    };
    // Small writes of a conversation (TLS handshakes, JSON) should not wait for each other.
    server.set_nodelay(true)?;
    if head.is_connect() {
        agent
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await?;
    }
    let account = &session.account;
    let server = InspectReader::new(server, |bytes: &[u8]| account.egress(wide(bytes.len()), 0));
    let mut server =
        InspectWriter::new(server, |bytes: &[u8]| account.egress(0, wide(bytes.len())));
    server.write_all(&head.forward).await?;
    copy_bidirectional(&mut agent, &mut server).await?;
    Ok(())
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

async fn read_head(agent: &mut AgentStream) -> Result<Head, HeadError> {
    let mut gathered = Gathered::default();
    let mut fresh = [0; head::READ];
    loop {
        let count = agent.read(&mut fresh).await.map_err(HeadError::Io)?;
        if count == 0 {
            return Err(HeadError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(head) = gathered.add(&fresh[..count])? {
            return Ok(head);
        }
    }
}

enum Dial {
    Refused(Refused),
    Failed(String),
    TimedOut,
}

async fn dial(
    broker: &Broker,
    session: &SessionHandle,
    target: &Target,
) -> Result<TcpStream, Dial> {
    let config = broker.config();
    let policy = &session.version.spec.network;
    policy::may_ask(policy, target).map_err(Dial::Refused)?;
    let attempt = async {
        let resolved: Vec<_> = match target.address() {
            Some(address) => vec![(address, target.port).into()],
            None => broker
                .egress
                .resolve(session, target)
                .await
                .map_err(|error| {
                    Dial::Failed(format!("{} could not be resolved: {error}", target.host))
                })?,
        };
        let own = broker.egress.own.now().map_err(|error| {
            Dial::Failed(format!("this host's own addresses are not known: {error}"))
        })?;
        let dialled = policy::may_dial(&config.network.allow_private, target, &resolved, &own)
            .map_err(Dial::Refused)?;
        TcpStream::connect(dialled.as_slice())
            .await
            .map_err(|error| {
                Dial::Failed(format!(
                    "{}:{} could not be reached: {error}",
                    target.host, target.port
                ))
            })
    };
    match tokio::time::timeout(config.network.dial_timeout, attempt).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(Dial::TimedOut),
    }
}

/// Counts a refusal, and holds its connection for a while once there were many.
async fn count_refusal(session: &SessionHandle, asked: &str, why: &impl std::fmt::Display) {
    if note_refusal(session, asked, why) > NOTED_REFUSALS {
        // Held in its place: a loop of refused requests costs the broker's time, which nobody charges to the agent.
        tokio::time::sleep(REFUSAL_PAUSE).await;
    }
}

/// Counts a refusal and notes it if it is one of the first, or the count is round. Says the count.
fn note_refusal(session: &SessionHandle, asked: &str, why: &impl std::fmt::Display) -> u64 {
    let count = session.egress_refused.fetch_add(1, Ordering::Relaxed) + 1;
    if count <= NOTED_REFUSALS || count.is_multiple_of(NOTED_EVERY) {
        session.log.note(&format!(
            "outbound connection to {asked} refused: {why} (refusal {count} of this session)"
        ));
        tracing::info!(
            session_id = %session.id,
            runtime = %session.version.name,
            asked,
            reason = %why,
            count,
            "outbound connection refused"
        );
    }
    count
}

async fn refuse(
    agent: &mut AgentStream,
    status: u16,
    reason: &str,
    detail: &str,
) -> io::Result<()> {
    let body = format!("agentcore: {detail}\n");
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    agent.write_all(answer.as_bytes()).await?;
    agent.shutdown().await
}
