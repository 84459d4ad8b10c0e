//! A session whose agent is a fork of its version's template: from the order to the first healthy answer.
//!
//! ```text
//!  template's shim ◀─fork + one end──┐
//!  launcher ◀─launch below it────────┤ at once
//!  session's shim ◀─attach ▸ fork + other end ▸ forked ─▶ launcher looks ─▶ go ─▶ healthy
//! ```
//!
//! Nothing of the caller's is in the session before it is healthy, so whatever goes wrong up to then is nobody's loss: what was made is
//! removed, and the session is made as if there were no template. Its caller waits longer, and sees nothing of it.

use super::boot::LaunchFailure;
use super::driver::{Completion, Running};
use super::handle::SessionHandle;
use crate::broker::Broker;
use crate::exits::Exits;
use crate::fault::chain;
use crate::launcher::client::Launched;
use crate::launcher::message::{LaunchOrder, OrderFault};
use crate::relay::link::{Link, ShimEvent};
use crate::templates::{NoFork, Template};
use proto::ids::SessionId;
use proto::shim::HealthStatus;
use sandbox::seqpacket::Seqpacket;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the session's launch may take up to where its fork is waited for, and again the look at that: in both are the
/// launcher's other orders, which a start would have to wait for as well. How long the template is waited for in between is its
/// own affair ([`Template::hangs`]).
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the end of a session that came to nothing is waited for, which its removal has made sure of.
const LAST: Duration = Duration::from_secs(2);

/// Why there is no fork.
#[derive(Debug)]
pub(super) enum Failed {
    /// There would be no session without a template either.
    Launch(LaunchFailure),
    /// It is to be made without one.
    Fork(NoFork),
}

fn failed(why: impl Into<String>) -> Failed {
    Failed::Fork(NoFork::Failed(why.into()))
}

/// What a launch needs.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) order: LaunchOrder,
    pub(super) boot: OwnedFd,
    pub(super) tree: OwnedFd,
    pub(super) token: String,
}

/// Makes the session of a fork. If there is none, nothing of it is left, unless the session is ending anyhow.
pub(super) async fn launch(
    broker: &Arc<Broker>,
    handle: &SessionHandle,
    template: &Arc<Template>,
    made: Made,
    driver: &mpsc::Sender<Completion>,
) -> Result<Running, Failed> {
    let mut exit = Exit::divert(&broker.exits, &handle.id, driver);
    let mut launched = false;
    let outcome = tokio::select! {
        outcome = forked(broker, handle, template, made, driver, &mut launched) => outcome,
        () = exit.comes() => Err(failed("the session's PID 1 ended")),
    };
    if let Err(Failed::Fork(why)) = &outcome {
        if handle.view().end.is_some() {
            return Err(Failed::Launch(why.why().to_owned().into()));
        }
        let removed = broker.launcher.remove_to_the_end(handle.id.clone()).await;
        removed.map_err(|fault| Failed::Launch(fault.into()))?;
        if launched {
            // The next one of this name is another.
            let _ = tokio::time::timeout(LAST, exit.comes()).await;
        }
        exit.swallow();
    }
    outcome
}

async fn forked(
    broker: &Arc<Broker>,
    handle: &SessionHandle,
    template: &Arc<Template>,
    made: Made,
    driver: &mpsc::Sender<Completion>,
    launched: &mut bool,
) -> Result<Running, Failed> {
    let turn = template.turn().await;
    let begins = begins(broker, handle, template, made, driver, launched);
    let (mut running, made) = in_time(begins).await?;
    let agent = tokio::select! {
        biased;
        agent = arrives(&mut running) => agent?,
        waited = template.hangs() => {
            let waited = waited.as_secs_f64();
            return Err(failed(format!("no fork came within {waited:.1} s")));
        }
    };
    template.came();
    in_time(is_looked_at(broker, handle, agent)).await?;
    broker.record_launch(handle, &made, Some(template.id.clone()));
    drop(turn);
    running.link.go().await;
    // Its start has its own time.
    loop {
        let event = running.events.recv().await;
        match &event {
            Some(ShimEvent::Health(health)) => match health.status {
                HealthStatus::Healthy | HealthStatus::HealthyBusy => {
                    running.early.extend(event);
                    return Ok(running);
                }
                HealthStatus::Unhealthy { .. } => running.early.extend(event),
            },
            Some(ShimEvent::AgentExited(exited)) => {
                let how = match &exited.status {
                    Ok(status) => format!("with {status}"),
                    Err(why) => why.clone(),
                };
                told(handle, running.early);
                return Err(failed(format!("the fork ended before it was ready, {how}")));
            }
            Some(ShimEvent::Closed(_)) | None => {
                told(handle, running.early);
                return Err(failed("the fork's session ended before it was ready"));
            }
            Some(_) => running.early.extend(event),
        }
    }
}

/// What a fork wrote that is given up is in the session's log all the same.
fn told(handle: &SessionHandle, early: Vec<ShimEvent>) {
    for event in early {
        if let ShimEvent::Log(log) = event {
            handle.log.append(log, std::time::Instant::now());
        }
    }
}

async fn in_time<T>(step: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let step = tokio::time::timeout(PATIENCE, step).await;
    step.map_err(|_late| failed("the fork did not come in time"))?
}

/// Up to where the template and the session have their ends of the channel.
async fn begins(
    broker: &Arc<Broker>,
    handle: &SessionHandle,
    template: &Arc<Template>,
    made: Made,
    driver: &mpsc::Sender<Completion>,
    launched: &mut bool,
) -> Result<(Running, Launched), Failed> {
    let to_template = template
        .link()
        .ok_or_else(|| failed("it cannot be forked any more"))?;
    let (theirs, ours) =
        Seqpacket::pair().map_err(|error| failed(format!("a channel for the fork: {error}")))?;
    let Made {
        order,
        boot,
        tree,
        token,
    } = made;
    let (asked, made) = tokio::join!(
        to_template.fork(theirs.as_fd()),
        broker.launcher.launch(order, boot, tree)
    );
    drop(theirs);
    let made = made.map_err(not_launched)?;
    *launched = true;
    asked.map_err(|error| failed(format!("the template takes no order: {error}")))?;
    // The driver is there: it waits for this.
    let _ = driver.send(Completion::Pid(made.pid)).await;
    let socket = broker.shim_socket(&handle.id);
    let attach = Link::attach(&socket, &token, broker.epoch);
    let (link, attached, events) = attach.await.map_err(|error| failed(chain(&error)))?;
    let asked = link.fork(ours.as_fd()).await;
    asked.map_err(|error| failed(format!("the session takes no fork: {error}")))?;
    let running = Running {
        link,
        attached,
        events,
        early: Vec::new(),
    };
    Ok((running, made))
}

/// By the launcher, from outside.
async fn is_looked_at(
    broker: &Broker,
    handle: &SessionHandle,
    agent: OwnedFd,
) -> Result<(), Failed> {
    let looked = broker.launcher.inspect(handle.id.clone(), agent).await;
    looked.map_err(|fault| match fault {
        OrderFault::Refused(found) => Failed::Fork(NoFork::Unfit(format!(
            "a fork of it was not what it must be: {found}"
        ))),
        other => failed(chain(&other)),
    })
}

/// The fork's process, as the session's shim has seen it.
async fn arrives(running: &mut Running) -> Result<OwnedFd, Failed> {
    loop {
        match running.events.recv().await {
            Some(ShimEvent::Forked(agent)) => return Ok(agent),
            Some(ShimEvent::AgentExited(exited)) => {
                let why = exited.status.err();
                return Err(failed(why.unwrap_or_else(|| "the fork ended".to_owned())));
            }
            Some(ShimEvent::Closed(_)) | None => {
                return Err(failed("the fork's session ended on its way"));
            }
            Some(other) => running.early.push(other),
        }
    }
}

/// What the launcher does not make below a template it may make without; but not where the caller is told to come again.
fn not_launched(fault: OrderFault) -> Failed {
    let text = chain(&fault);
    let failure = LaunchFailure::from(fault);
    match failure.code {
        Some(_) => Failed::Launch(failure),
        None => failed(text),
    }
}

/// The end of a session that may not be its driver's concern. Dropped, its driver hears of it again.
struct Exit<'a> {
    exits: &'a Exits,
    session: SessionId,
    driver: mpsc::Sender<Completion>,
    notices: mpsc::Receiver<Completion>,
    /// It has come.
    heard: Option<Completion>,
}

impl<'a> Exit<'a> {
    fn divert(exits: &'a Exits, session: &SessionId, driver: &mpsc::Sender<Completion>) -> Self {
        let (here, notices) = mpsc::channel(1);
        exits.register(session.clone(), here);
        Self {
            exits,
            session: session.clone(),
            driver: driver.clone(),
            notices,
            heard: None,
        }
    }

    async fn comes(&mut self) {
        if self.heard.is_none() {
            self.heard = self.notices.recv().await;
        }
    }

    /// It is nobody's concern.
    fn swallow(&mut self) {
        self.heard = None;
        while self.notices.try_recv().is_ok() {}
        self.notices.close();
    }
}

impl Drop for Exit<'_> {
    fn drop(&mut self) {
        self.exits
            .register(self.session.clone(), self.driver.clone());
        let (_, none) = mpsc::channel(1);
        let mut notices = std::mem::replace(&mut self.notices, none);
        let (heard, driver) = (self.heard.take(), self.driver.clone());
        // One may be on its way here still. Without a runtime the daemon is over.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let notice = match heard {
                    Some(notice) => Some(notice),
                    None => notices.recv().await,
                };
                if let Some(notice) = notice {
                    let _ = driver.send(notice).await;
                }
            });
        }
    }
}
