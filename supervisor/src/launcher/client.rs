//! The broker's end of the launcher's link: numbered orders out, answers and exit notices in.

use super::message::{
    AdoptOrder, Counters, Enforced, ExitNumbers, Exited, FromLauncher, LaunchOrder, MAX_PACKET,
    Metered, Order, OrderFault, Ordered, Orphans, OwnPressure, Pressure, Reply, SetLimits, Slice,
};
use crate::seqpacket::AsyncSeqpacket;
use nix::errno::Errno;
use proto::ids::{RuntimeId, SessionId};
use sandbox::seqpacket::Seqpacket;
use sandbox::sys::scm::Received;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

/// Exit notices on their way to the router. It passes each on at once; while it does not, the launcher's answers wait
/// too, and its own queue is bounded by the number of sessions.
const NOTICES: usize = 256;

/// Between two tries to remove what would not go. The launcher has waited by itself before it said so.
const REMOVE_PAUSE: std::time::Duration = std::time::Duration::from_secs(10);

/// A launched session, as the launcher proves it.
#[derive(Debug)]
pub struct Launched {
    /// Host pid of its PID 1.
    pub pid: i32,
    /// Start time of that process, clock ticks since boot.
    pub start_time: u64,
    /// Inode of its cgroup.
    pub cgroup_inode: u64,
    /// Readable when PID 1 has ended.
    pub pidfd: OwnedFd,
}

/// What is left of a session that is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct Removed {
    /// Final reading.
    pub usage: Counters,
    /// For `proto::shim::ExitRecord::from_numbers`, as its shim left it: an attacker's numbers, or none.
    pub record: Option<ExitNumbers>,
}

/// Gives orders. Cheap to clone; when the launcher is gone every order fails. When the last clone is dropped the link is
/// closed, which ends the launcher (its sessions live on).
#[derive(Debug, Clone)]
pub struct LauncherClient {
    shared: Arc<Shared>,
    gone: watch::Receiver<bool>,
    _reader: Arc<Reader>,
}

/// The task that reads the link; it ends with the last client.
#[derive(Debug)]
struct Reader(AbortHandle);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Shared {
    link: AsyncSeqpacket,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
}

type Answer = Result<(Reply, Option<OwnedFd>), OrderFault>;

/// Orders without an answer. `None` once the launcher is gone: nobody may begin to wait then.
type Waiting = Option<HashMap<u64, oneshot::Sender<Answer>>>;

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> OrderFault {
    OrderFault::Host {
        detail: "the launcher is gone".to_owned(),
        errno: Errno::EPIPE as i32,
    }
}

fn unexpected(reply: &Reply) -> OrderFault {
    OrderFault::Host {
        detail: format!("the launcher answered out of turn: {reply:?}"),
        errno: Errno::EPROTO as i32,
    }
}

impl LauncherClient {
    /// Takes the link over; inside the runtime. The receiver yields every exit notice, and ends with the launcher.
    pub fn new(link: Seqpacket) -> io::Result<(Self, mpsc::Receiver<Exited>)> {
        let shared = Arc::new(Shared {
            link: AsyncSeqpacket::new(link)?,
            next: AtomicU64::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
        });
        let (notices, receiver) = mpsc::channel(NOTICES);
        let (say_gone, gone) = watch::channel(false);
        let reader = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let error = read(&reader, &notices).await;
            tracing::error!(error = %error, "the launcher is gone");
            // Dropping the senders answers everyone who waits.
            reader.waiting().take();
            // Nobody left to tell is fine.
            let _ = say_gone.send(true);
        });
        let client = Self {
            shared,
            gone,
            _reader: Arc::new(Reader(task.abort_handle())),
        };
        Ok((client, receiver))
    }

    /// Makes a cgroup and parks a stager in it, for a quick [`Self::launch`] of the same name.
    pub async fn prepare(&self, session: SessionId) -> Result<(), OrderFault> {
        self.done(Order::Prepare { session }).await
    }

    /// Makes a session. `boot` is a sealed memory file with the shim's `Boot`, `bundle` the directory for `/app`.
    pub async fn launch(
        &self,
        order: LaunchOrder,
        boot: OwnedFd,
        bundle: OwnedFd,
    ) -> Result<Launched, OrderFault> {
        let fds = [boot.as_fd(), bundle.as_fd()];
        match self.order(Order::Launch(order), &fds).await? {
            (
                Reply::Launched {
                    pid,
                    start_time,
                    cgroup_inode,
                },
                Some(pidfd),
            ) => Ok(Launched {
                pid,
                start_time,
                cgroup_inode,
                pidfd,
            }),
            (Reply::Launched { .. }, None) => Err(OrderFault::Host {
                detail: "this daemon has too many files open to take one more session".to_owned(),
                errno: nix::errno::Errno::EMFILE as i32,
            }),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Takes a forked agent into its session's cgroup and looks at it. A session whose agent does not pass is killed.
    pub async fn inspect(&self, session: SessionId, agent: OwnedFd) -> Result<(), OrderFault> {
        match self
            .order(Order::Inspect { session }, &[agent.as_fd()])
            .await?
        {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Takes over a session that an earlier launcher made; from now on its end is noticed. Whether it is frozen.
    pub async fn adopt(&self, order: AdoptOrder) -> Result<bool, OrderFault> {
        match self.order(Order::Adopt(order), &[]).await? {
            (Reply::Adopted { frozen }, _) => Ok(frozen),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Stops every process of a session where it is; done when all stand still. On failure all run.
    pub async fn freeze(&self, session: SessionId) -> Result<(), OrderFault> {
        self.done(Order::Freeze { session }).await
    }

    /// Lets them go on.
    pub async fn thaw(&self, session: SessionId) -> Result<(), OrderFault> {
        self.done(Order::Thaw { session }).await
    }

    /// Gives some of a frozen session's memory back to the host; what it held before and holds after, if there is a way.
    pub async fn reclaim(
        &self,
        session: SessionId,
        bytes: u64,
    ) -> Result<Option<(u64, u64)>, OrderFault> {
        match self.order(Order::Reclaim { session, bytes }, &[]).await? {
            (Reply::Reclaimed(held), _) => Ok(held),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// The limits that a session has.
    pub async fn limits(&self, session: SessionId) -> Result<Enforced, OrderFault> {
        self.enforced(Order::Limits { session }).await
    }

    /// Changes limits of a session that runs; the answer is what the kernel has now.
    pub async fn set_limits(&self, order: SetLimits) -> Result<Enforced, OrderFault> {
        self.enforced(Order::SetLimits(order)).await
    }

    /// Changes what all sessions may have together; the answer is what the kernel has now.
    pub async fn limit_all(&self, all: Slice) -> Result<Slice, OrderFault> {
        match self.order(Order::LimitAll(all), &[]).await? {
            (Reply::LimitedAll(found), _) => Ok(found),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn enforced(&self, order: Order) -> Result<Enforced, OrderFault> {
        match self.order(order, &[]).await? {
            (Reply::Limits(enforced), _) => Ok(enforced),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// How much a session's processes wait; `None` where the kernel does not tell.
    pub async fn pressure(&self, session: SessionId) -> Result<Option<Pressure>, OrderFault> {
        match self.order(Order::Pressure { session }, &[]).await? {
            (Reply::Pressure(pressure), _) => Ok(pressure),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// How much all sessions together wait; `None` where the kernel does not tell.
    pub async fn own_pressure(&self) -> Result<Option<OwnPressure>, OrderFault> {
        match self.order(Order::OwnPressure, &[]).await? {
            (Reply::OwnPressure(pressure), _) => Ok(pressure),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Kills every process of a session at once. What remains is for [`Self::remove`].
    pub async fn kill(&self, session: SessionId) -> Result<(), OrderFault> {
        self.done(Order::Kill { session }).await
    }

    /// Reads a session's counters.
    pub async fn usage(&self, session: SessionId) -> Result<Counters, OrderFault> {
        match self.order(Order::Usage { session }, &[]).await? {
            (Reply::Usage(counters), _) => Ok(counters),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Reads what meters need of at most [`super::message::MAX_METERED`] sessions; with `tmp` also what their tmpfs mounts hold.
    pub async fn meter(
        &self,
        sessions: Vec<SessionId>,
        tmp: bool,
    ) -> Result<Vec<Option<Metered>>, OrderFault> {
        match self.order(Order::Meter { sessions, tmp }, &[]).await? {
            (Reply::Metered(found), _) => Ok(found),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Ends a session and clears everything of it away.
    pub async fn remove(&self, session: SessionId) -> Result<Removed, OrderFault> {
        match self.order(Order::Remove { session }, &[]).await? {
            (Reply::Removed { usage, record }, _) => Ok(Removed { usage, record }),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// [`Self::remove`], as often as it takes until nothing of the session is left; `None` if nothing was. A process in
    /// uninterruptible sleep can outlive its SIGKILL, and as long as it is there its uid range is not free: whoever gave
    /// the range to another session would share a uid between the two. Fails only when the launcher is gone.
    pub async fn remove_to_the_end(
        &self,
        session: SessionId,
    ) -> Result<Option<Removed>, OrderFault> {
        loop {
            match self.remove(session.clone()).await {
                Ok(removed) => return Ok(Some(removed)),
                Err(OrderFault::Unknown) => return Ok(None),
                Err(fault) if *self.gone.borrow() => return Err(fault),
                Err(fault) => {
                    tracing::error!(session_id = %session, fault = %fault, "remains of a session could not be removed; trying again");
                }
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
    }

    /// Ends and removes what an earlier launcher left and nobody has adopted or is removing.
    pub async fn clear_orphans(&self) -> Result<Orphans, OrderFault> {
        match self.order(Order::ClearOrphans, &[]).await? {
            (Reply::Orphans(found), _) => Ok(found),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Says that the end of a session is on record. A launcher that is gone keeps what it has of it until the next is told of
    /// all that is known ([`Self::clear_orphans`]).
    pub async fn forget(&self, session: SessionId) -> Result<(), OrderFault> {
        self.done(Order::Forget { session }).await
    }

    /// Removes the session storage of a runtime.
    pub async fn forget_storage(&self, runtime: RuntimeId) -> Result<(), OrderFault> {
        self.done(Order::ForgetStorage { runtime }).await
    }

    /// What this host offers: name, 0 on · 1 degraded · 2 off, detail.
    pub async fn probe(&self) -> Result<Vec<(String, u8, String)>, OrderFault> {
        match self.order(Order::Probe, &[]).await? {
            (Reply::Probed(found), _) => Ok(found),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Resolves when the launcher is gone.
    pub async fn closed(&self) {
        // An error means that the reader has ended without a word, which is the same.
        let _ = self.gone.clone().wait_for(|gone| *gone).await;
    }

    /// Tells the launcher that the broker ends in order.
    pub async fn retire(&self) -> Result<(), OrderFault> {
        self.done(Order::Retire).await
    }

    async fn done(&self, order: Order) -> Result<(), OrderFault> {
        match self.order(order, &[]).await? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn order(&self, order: Order, fds: &[BorrowedFd<'_>]) -> Answer {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let packet = postcard::to_stdvec(&Ordered { number, order }).map_err(|error| {
            OrderFault::Refused(format!("the order cannot be written down: {error}"))
        })?;
        let (answer, answered) = oneshot::channel();
        match &mut *self.shared.waiting() {
            Some(waiting) => waiting.insert(number, answer),
            None => return Err(gone()),
        };
        // A caller that gives up waiting must not leave its place behind.
        let _place = Place {
            shared: &self.shared,
            number,
        };
        self.shared
            .link
            .send(&packet, fds)
            .await
            .map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// An entry among the waiting, given back when dropped.
struct Place<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = &mut *self.shared.waiting() {
            waiting.remove(&self.number);
        }
    }
}

/// Reads until the launcher is gone; says how.
async fn read(shared: &Shared, notices: &mpsc::Sender<Exited>) -> io::Error {
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        let mut received: Received = match shared.link.recv(&mut buffer).await {
            Ok(received) if received.len > 0 => received,
            Ok(_) => return io::ErrorKind::UnexpectedEof.into(),
            Err(error) => return error,
        };
        let message = match postcard::from_bytes(&buffer[..received.len]) {
            // Without room for its pidfd a launch fails, by whoever waits for it: never the link, and with it the daemon.
            Ok(message) if !received.truncated || received.lost_fds => message,
            Ok(_) | Err(_) => {
                return io::Error::new(io::ErrorKind::InvalidData, "its packet is not understood");
            }
        };
        match message {
            FromLauncher::Replied(replied) => {
                let place = shared
                    .waiting()
                    .as_mut()
                    .and_then(|waiting| waiting.remove(&replied.number));
                if let Some(place) = place {
                    let fd = received.fds.pop();
                    // Its caller may have given up in this moment; a pidfd is then closed.
                    let _ = place.send(replied.reply.map(|reply| (reply, fd)));
                }
            }
            // Without a router nobody wants exit notices.
            FromLauncher::Exited(exited) => {
                let _ = notices.send(exited).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers removals like a launcher whose session's processes do not die at first.
    fn reluctant(link: &Seqpacket) -> usize {
        let mut buffer = [0; MAX_PACKET];
        let answers = [
            Err(OrderFault::Host {
                detail: "its processes do not die".to_owned(),
                errno: Errno::EBUSY as i32,
            }),
            Ok(Reply::Removed {
                usage: Counters::default(),
                record: None,
            }),
            Err(OrderFault::Unknown),
        ];
        let mut answered = 0;
        for reply in answers {
            let received = link.recv(&mut buffer).expect("an order");
            let Ok(Ordered { number, order }) = postcard::from_bytes(&buffer[..received.len])
            else {
                return answered;
            };
            assert!(matches!(order, Order::Remove { .. }));
            let answer = FromLauncher::Replied(super::super::message::Replied { number, reply });
            let bytes = postcard::to_stdvec(&answer).expect("encodes");
            link.send(&bytes, &[]).expect("send");
            answered += 1;
        }
        answered
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_is_over_only_when_nothing_is_left() {
        let (ours, theirs) = Seqpacket::pair().expect("pair");
        let launcher = std::thread::spawn(move || {
            let answered = reluctant(&theirs);
            drop(theirs);
            answered
        });
        let (client, _notices) = LauncherClient::new(ours).expect("client");
        let session = SessionId::parse("sreluctant").expect("id");
        let removed = client.remove_to_the_end(session.clone()).await;
        assert!(matches!(removed, Ok(Some(_))), "{removed:?}");
        let again = client.remove_to_the_end(session.clone()).await;
        assert_eq!(again, Ok(None));
        assert_eq!(launcher.join().expect("no panic"), 3);
        client.closed().await;
        let gone = client.remove_to_the_end(session).await;
        assert!(
            matches!(gone, Err(OrderFault::Host { .. })),
            "no end of trying without a launcher"
        );
    }
}
