//! Sockets to requests: accepts, bounds connections, knows the peer, serves HTTP/1.1 and h2c.

use super::identify::Peer;
use super::lingering::Lingering;
use super::occupancy::{Held, Occupancy};
use super::reply::ApiError;
use crate::broker::Broker;
use crate::systemd::Origin;
use axum::Router;
use axum::body::Body;
use http::Request;
use http::header::{CONNECTION, EXPECT, HeaderValue};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use proto::code::ErrorCode;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// How long to pause accepting when descriptors have run out (X16): long enough not to spin, short enough not to be felt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection that has asked for nothing yet is waited for when the daemon stops.
const FIRST_REQUEST: Duration = Duration::from_millis(250);

/// Connections over a user's bound that are told so at once, how long that may take, and how much of what comes by them is
/// read: whatever exceeds it is closed without a word.
const MOST_TOLD: usize = 16;
const TELLING: Duration = Duration::from_secs(1);
const MOST_IGNORED: u64 = 64 * 1024;

/// What to listen on; bound before privileges were dropped.
#[derive(Debug)]
pub struct Listeners {
    /// The API socket.
    pub unix: (UnixListener, Origin),
    /// TCP addresses.
    pub tcp: Vec<(TcpListener, Origin)>,
}

/// On the requests of a connection that was accepted when this daemon was told to stop already: only its health is told.
#[derive(Debug, Clone, Copy)]
pub struct Late;

/// Serves until `stop` turns true, then lets connections finish their requests. Meanwhile whoever comes to a listener of ours is
/// told at once that no more is taken ([`Late`]); who comes to one of the service manager's waits there for the next daemon.
pub async fn serve(broker: Arc<Broker>, listeners: Listeners, stop: watch::Receiver<bool>) {
    let router = super::router::router(Arc::clone(&broker));
    let most =
        usize::try_from(broker.config().limits.max_connections).unwrap_or(Semaphore::MAX_PERMITS);
    let server = Server {
        broker,
        router,
        places: Arc::new(Semaphore::new(most)),
        stop,
        served: TaskTracker::new(),
        late: false,
    };
    let mut accepting = JoinSet::new();
    let tcp_places = Arc::new(Semaphore::new(most - most / 4));
    for (listener, origin) in listeners.tcp {
        accepting.spawn(accept_tcp(
            server.clone(),
            listener,
            origin,
            Arc::clone(&tcp_places),
        ));
    }
    let (unix, origin) = listeners.unix;
    accepting.spawn(accept_unix(server, unix, origin));
    while accepting.join_next().await.is_some() {}
}

/// A listener of either kind.
trait Listening {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and who it is from.
    fn next(&self) -> impl Future<Output = std::io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listening for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> std::io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.accept().await?;
        let credentials = stream.peer_cred()?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        Ok((stream, Peer::Unix { uid, gid }))
    }
}

impl Listening for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> std::io::Result<(TcpStream, Peer)> {
        let (stream, remote) = self.accept().await?;
        let local = stream.local_addr()?;
        Ok((stream, Peer::Tcp { local, remote }))
    }
}

#[derive(Clone)]
struct Server {
    broker: Arc<Broker>,
    router: Router,
    places: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
    /// Connections that were accepted in time, of all listeners.
    served: TaskTracker,
    /// Those to come were not.
    late: bool,
}

async fn accept_unix(mut server: Server, listener: UnixListener, origin: Origin) {
    let users = Users::default();
    let mut turned_away = JoinSet::new();
    let mut stop = server.stop.clone();
    loop {
        let Some(place) = server.place(&mut stop).await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(credentials) = stream.peer_cred() else {
                    continue;
                };
                let Some(user) = users.enter(credentials.uid(), &server.broker) else {
                    if turned_away.len() < MOST_TOLD {
                        turned_away.spawn(tokio::time::timeout(TELLING, turn_away(stream)));
                    }
                    while turned_away.try_join_next().is_some() {}
                    continue;
                };
                let peer = Peer::Unix {
                    uid: credentials.uid(),
                    gid: credentials.gid(),
                };
                let place = Place::new((place, user));
                let served = server.served.clone();
                served.spawn(server.clone().connection(stream, peer, place));
            }
            Err(error) => pause(&error).await,
        }
    }
    if origin == Origin::Passed {
        drop(listener);
        return server.served_all().await;
    }
    server.tell_the_late(listener).await;
}

/// Tells a user with too many connections so. Nothing of its request is understood: it is read so that the end of the
/// connection does not take the answer along.
async fn turn_away(mut stream: UnixStream) -> std::io::Result<()> {
    let error = ApiError::new(
        ErrorCode::Throttled,
        "you have your highest number of connections (limits.max_connections_per_user); close some or try again later",
    );
    let mut answer = error.aws(&uuid::Uuid::new_v4().to_string());
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut head = format!("HTTP/1.1 {}\r\n", answer.status()).into_bytes();
    for (name, value) in answer.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    let body = answer.into_body().collect().await;
    let body = body.map_err(std::io::Error::other)?.to_bytes();
    head.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
    stream.write_all(&head).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(MOST_IGNORED), &mut tokio::io::sink()).await?;
    Ok(())
}

/// What a connection takes up of the bounds on connections. It is on each of its requests: whoever takes the connection
/// over (after an upgrade hyper is done with it) keeps the place as long as the connection.
#[derive(Debug, Clone)]
pub struct Place {
    _counted: Arc<dyn Counted>,
}

trait Counted: std::fmt::Debug + Send + Sync {}

impl<T: std::fmt::Debug + Send + Sync> Counted for T {}

impl Place {
    fn new(counted: impl Counted + 'static) -> Self {
        Self {
            _counted: Arc::new(counted),
        }
    }
}

/// Open connections of each local user, so that one of them cannot take all places.
#[derive(Debug, Clone, Default)]
struct Users(Arc<Mutex<HashMap<u32, u32>>>);

/// One connection of a user; dropping it counts it off.
#[derive(Debug)]
struct UserPlace {
    users: Users,
    uid: u32,
}

impl Users {
    /// A place for one more connection of `uid`; `None` closes it. Root is not bounded.
    fn enter(&self, uid: u32, broker: &Broker) -> Option<UserPlace> {
        let most = broker.config().limits.max_connections_per_user;
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(uid).or_default();
        if *count >= most && uid != 0 {
            return None;
        }
        *count += 1;
        Some(UserPlace {
            users: self.clone(),
            uid,
        })
    }
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        let mut counts = self.users.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// `tcp_places` are fewer than all: whoever fills them, and anybody may try who reaches the address, leaves some for the
/// Unix socket, by which the operator would see to it.
async fn accept_tcp(
    mut server: Server,
    listener: TcpListener,
    origin: Origin,
    tcp_places: Arc<Semaphore>,
) {
    let mut stop = server.stop.clone();
    loop {
        let Some(tcp_place) = place_in(&tcp_places, &mut stop).await else {
            break;
        };
        let Some(place) = server.place(&mut stop).await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, remote)) => {
                let Ok(local) = stream.local_addr() else {
                    continue;
                };
                // Small answers should not wait for an acknowledgement.
                if stream.set_nodelay(true).is_err() {
                    continue;
                }
                let place = Place::new((place, tcp_place));
                let peer = Peer::Tcp { local, remote };
                let served = server.served.clone();
                served.spawn(server.clone().connection(stream, peer, place));
            }
            Err(error) => pause(&error).await,
        }
    }
    if origin == Origin::Passed {
        drop(listener);
        return server.served_all().await;
    }
    server.tell_the_late(listener).await;
}

/// Resolves when the listeners are told to stop, or nobody is left to tell them.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn pause(error: &std::io::Error) {
    // A connection that was reset while it waited is its client's business; out of descriptors is ours.
    if !matches!(
        error.kind(),
        std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset
    ) {
        tracing::warn!(%error, "accepting a connection failed; pausing");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// One of `places`, unless the listeners are told to stop.
async fn place_in(
    places: &Arc<Semaphore>,
    stop: &mut watch::Receiver<bool>,
) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        place = Arc::clone(places).acquire_owned() => place.ok(),
        () = stopped(stop) => None,
    }
}

impl Server {
    /// A place for one more connection: beyond the bound, clients wait in the listen queue.
    async fn place(&mut self, stop: &mut watch::Receiver<bool>) -> Option<OwnedSemaphorePermit> {
        place_in(&self.places, stop).await
    }

    /// Resolves when every connection that was accepted in time is over.
    async fn served_all(&self) {
        self.served.close();
        self.served.wait().await;
    }

    /// Until then, tells whoever comes how this daemon is; beyond a bound at once, nothing.
    async fn tell_the_late(self, listener: impl Listening) {
        let late = Self {
            late: true,
            ..self.clone()
        };
        let mut told = JoinSet::new();
        let served_all = self.served_all();
        tokio::pin!(served_all);
        loop {
            let accepted = tokio::select! {
                accepted = listener.next() => accepted,
                () = &mut served_all => return,
            };
            while told.try_join_next().is_some() {}
            match accepted {
                Ok((stream, peer)) if told.len() < MOST_TOLD => {
                    let telling = late.clone().connection(stream, peer, Place::new(()));
                    // Whoever takes longer has no use for it.
                    told.spawn(async { drop(tokio::time::timeout(TELLING, telling).await) });
                }
                Ok(_too_many) => {}
                Err(error) => pause(&error).await,
            }
        }
    }

    async fn connection<S>(self, stream: S, peer: Peer, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.broker.config().limits.clone();
        let (router, late) = (self.router, self.late);
        let occupancy = Occupancy::default();
        let occupied = occupancy.clone();
        let held = place.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let router = router.clone();
            let in_flight = occupied.enter();
            let held = held.clone();
            async move {
                // Whoever waits for a 100 sends no body once it is refused.
                let waits = request.headers().contains_key(EXPECT);
                let mut request = request.map(|body| match waits {
                    true => Body::new(body),
                    false => Body::new(Lingering::new(body)),
                });
                request.extensions_mut().insert(peer);
                request.extensions_mut().insert(held);
                if late {
                    request.extensions_mut().insert(Late);
                }
                let Ok(response) = router.oneshot(request).await;
                Ok::<_, Infallible>(response.map(|body| Held::new(body, in_flight)))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        let max_head = usize::try_from(limits.max_head.0)
            .unwrap_or(64 * 1024)
            .max(8192);
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_headers(usize::try_from(limits.max_headers).unwrap_or(100))
            .max_buf_size(max_head);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(100)
            .max_header_list_size(limits.max_head.0.try_into().unwrap_or(64 * 1024))
            .keep_alive_interval(Duration::from_secs(30));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut stop = self.stop;
        let unused = || occupancy.unused(limits.head_timeout);
        tokio::select! {
            outcome = connection.as_mut() => return report(outcome),
            () = stopped(&mut stop) => {}
            () = unused() => {}
        }
        // Whoever was accepted in the last moment has a request on its way.
        tokio::select! {
            outcome = connection.as_mut() => return report(outcome),
            () = occupancy.used() => {}
            () = tokio::time::sleep(FIRST_REQUEST) => {}
        }
        // Requests in flight are answered. A peer that does not take part in the farewell is not waited for.
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            outcome = connection.as_mut() => report(outcome),
            () = unused() => {}
        }
        drop(place);
    }
}

/// Clients that break off or speak nonsense are theirs to notice; hyper has answered what can be answered.
fn report(outcome: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = outcome {
        tracing::debug!(error, "connection");
    }
}
