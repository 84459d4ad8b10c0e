//! Who runs next: tasks that were submitted are read from the store, in order, and begun as places come free.

use super::run::{self, machine};
use super::{Running, end, release};
use crate::broker::Broker;
use crate::session::handle::{KeptWork, SessionHandle};
use crate::store::{StoreError, TaskRow, Timestamp, Unfinished};
use proto::api::{Phase, TaskStatus};
use proto::ids::SessionId;
use session_core::task::Event;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Read from the store at a time.
const PAGE: u32 = 1000;

/// At a burst of submissions the store is asked no more often than this.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// How long a stopping daemon's runs are given to write down how they end.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Looks after tasks that an earlier daemon left without an outcome: those whose session has kept them go on. Before anybody is
/// served, and after sessions were adopted; what they have kept of no task is then still to be cancelled.
pub async fn recover(broker: &Arc<Broker>) -> Result<(), StoreError> {
    release::left_over(broker).await;
    let mut kept = HashMap::new();
    for handle in broker.registry.all() {
        take_kept(&handle, &mut kept).await;
    }
    let mut ending = JoinSet::new();
    loop {
        let seen = broker.tasks.state().seen;
        let page = broker.store.unfinished_tasks(seen, PAGE).await?;
        let Some(last) = page.last() else { break };
        broker.tasks.state().seen = last.seq;
        for task in page {
            if task.status == TaskStatus::Queued {
                enqueue(broker, &task);
                continue;
            }
            let Some(row) = broker.store.task_at(task.seq).await? else {
                continue;
            };
            if row.status == TaskStatus::Running
                && let Some((handle, work)) = kept.remove(&invocation_of(&row))
            {
                tracing::info!(task_id = %row.id, session_id = %handle.id, "a task goes on");
                run::resumed(broker, row, handle, work);
            } else if row.status == TaskStatus::Running && sleeps(broker, &row) {
                let handle = row.session.as_ref().and_then(|id| broker.registry.get(id));
                broker.tasks.state().frozen.push(row);
                if let Some(handle) = handle {
                    let broker = Arc::clone(broker);
                    // It can end without being thawed.
                    tokio::spawn(async move {
                        handle.over().await;
                        thawed(&broker, &handle).await;
                    });
                }
            } else {
                let broker = Arc::clone(broker);
                ending.spawn(async move { end::found(&broker, row).await });
            }
        }
    }
    while ending.join_next().await.is_some() {}
    nobodys(kept);
    Ok(())
}

type KeptOf = HashMap<(Option<SessionId>, Option<u64>), (Arc<SessionHandle>, KeptWork)>;

fn invocation_of(row: &TaskRow) -> (Option<SessionId>, Option<u64>) {
    (row.session.clone(), row.invocation)
}

async fn take_kept(handle: &Arc<SessionHandle>, kept: &mut KeptOf) {
    for one in handle.take_kept().await {
        let key = (Some(handle.id.clone()), Some(one.kept.id.0));
        kept.insert(key, (Arc::clone(handle), one));
    }
}

/// What no task claims is ended: no daemon on this state knows of it any more.
fn nobodys(kept: KeptOf) {
    for (handle, one) in kept.into_values() {
        let invocation_id = one.kept.id.0;
        tracing::warn!(session_id = %handle.id, invocation_id, "an invocation of an earlier daemon is nobody's, and is cancelled");
        one.cancel();
    }
}

/// Whether its session was found frozen.
fn sleeps(broker: &Broker, row: &TaskRow) -> bool {
    let handle = row.session.as_ref().and_then(|id| broker.registry.get(id));
    handle.is_some_and(|handle| handle.view().phase == Phase::Frozen)
}

/// A session that was found frozen is awake, or over: its tasks go on, or are lost.
pub async fn thawed(broker: &Arc<Broker>, handle: &Arc<SessionHandle>) {
    let mut kept = KeptOf::new();
    take_kept(handle, &mut kept).await;
    let theirs: Vec<TaskRow> = {
        let mut state = broker.tasks.state();
        let frozen = std::mem::take(&mut state.frozen);
        let (theirs, others) = frozen
            .into_iter()
            .partition(|row| row.session.as_ref() == Some(&handle.id));
        state.frozen = others;
        theirs
    };
    for row in theirs {
        match kept.remove(&invocation_of(&row)) {
            Some((handle, work)) => run::resumed(broker, row, handle, work),
            None => end::found(broker, row).await,
        }
    }
    nobodys(kept);
}

fn enqueue(broker: &Broker, task: &Unfinished) {
    broker.tasks.state().queue.push(
        task.seq,
        task.runtime.clone(),
        task.not_before,
        task.deadline_at,
        Timestamp::now(),
    );
}

/// Begins tasks until this daemon stops.
pub async fn keep_running(broker: Arc<Broker>) {
    let mut looked = Instant::now();
    loop {
        if let Err(error) = load(&broker).await {
            tracing::error!(error = %crate::fault::chain(&error), "tasks not read");
        }
        begin(&broker).await;
        let next = broker.tasks.state().next_moment();
        let sleep = next.map_or(LONGEST_SLEEP, |at| {
            let ahead = at.0.saturating_sub(Timestamp::now().0);
            // Civil time can jump, so it is asked again every now and then.
            Duration::from_millis(u64::try_from(ahead).unwrap_or(0) + 1).min(LONGEST_SLEEP)
        });
        tokio::select! {
            () = broker.tasks.wake.notified() => {}
            () = tokio::time::sleep(sleep) => {}
            () = broker.stopping() => return,
        }
        tokio::time::sleep_until(looked + BETWEEN_LOOKS).await;
        looked = Instant::now();
    }
}

/// Reads what was submitted since.
async fn load(broker: &Arc<Broker>) -> Result<(), StoreError> {
    loop {
        let seen = broker.tasks.state().seen;
        let page = broker.store.unfinished_tasks(seen, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        broker.tasks.state().seen = last.seq;
        for task in &page {
            // What has begun already is a stream, whose caller saw to that.
            if task.status == TaskStatus::Queued {
                enqueue(broker, task);
            }
        }
        if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            return Ok(());
        }
    }
}

/// Begins as many as may run, and ends those whose deadline is over.
async fn begin(broker: &Arc<Broker>) {
    let now = Timestamp::now();
    loop {
        let overdue = broker.tasks.state().queue.overdue(now);
        let Some(seq) = overdue else { break };
        end::queued(broker, seq, Event::Deadline, end::TOO_LATE).await;
    }
    loop {
        let late = |row: &TaskRow| row.deadline_at <= now;
        let overdue = broker.tasks.state().take_frozen(late);
        let Some(row) = overdue else { break };
        end::late_asleep(broker, &row).await;
    }
    let bounds = broker.config().tasks;
    loop {
        let running = {
            let mut state = broker.tasks.state();
            if state.places >= bounds.concurrency {
                return;
            }
            let mut queue = std::mem::take(&mut state.queue);
            let next = queue.next(now, |runtime| {
                state.may_have_one(runtime, bounds.concurrency_per_runtime)
            });
            state.queue = queue;
            let Some((seq, runtime)) = next else { return };
            let running = Running::new(seq, runtime, true);
            state.insert(&running);
            running
        };
        tokio::spawn(run::queued(Arc::clone(broker), running));
    }
}

/// Back in the queue.
pub(super) fn again(broker: &Broker, task: &session_core::task::Task, seq: i64, running: &Running) {
    let mut state = broker.tasks.state();
    state.remove(running);
    if let session_core::task::State::Queued { not_before } = task.state() {
        let deadline = machine::civil(task.terms().deadline);
        state.queue.push(
            seq,
            running.runtime.clone(),
            machine::civil(not_before),
            deadline,
            Timestamp::now(),
        );
    }
    drop(state);
    broker.tasks.wake();
}
