//! Who runs next: tasks that were submitted are read from the store, in order, and begun as places come free.

use super::run::{self, machine};
use super::{Running, end};
use crate::broker::Broker;
use crate::store::{StoreError, Timestamp, Unfinished};
use proto::api::TaskStatus;
use session_core::task::Event;
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

/// Looks after tasks that an earlier daemon left without an outcome. Before anybody is served, and after sessions were adopted.
pub async fn recover(broker: &Arc<Broker>) -> Result<(), StoreError> {
    let mut ending = JoinSet::new();
    loop {
        let seen = broker.tasks.state().seen;
        let page = broker.store.unfinished_tasks(seen, PAGE).await?;
        let Some(last) = page.last() else { break };
        broker.tasks.state().seen = last.seq;
        for task in page {
            match task.status {
                TaskStatus::Queued => enqueue(broker, &task),
                _ => {
                    let broker = Arc::clone(broker);
                    ending.spawn(async move { found(&broker, task).await });
                }
            }
        }
    }
    while ending.join_next().await.is_some() {}
    Ok(())
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

/// One that an earlier daemon had begun.
async fn found(broker: &Arc<Broker>, task: Unfinished) {
    let Ok(Some(row)) = broker.store.task_at(task.seq).await else {
        return;
    };
    end::found(broker, row).await;
}

/// Begins tasks until this daemon stops.
pub async fn keep_running(broker: Arc<Broker>) {
    let mut looked = Instant::now();
    loop {
        if let Err(error) = load(&broker).await {
            tracing::error!(error = %crate::fault::chain(&error), "tasks not read");
        }
        begin(&broker).await;
        let next = broker.tasks.state().queue.next_moment();
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
