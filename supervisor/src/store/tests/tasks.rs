use super::*;
use bytes::Bytes;
use proto::api::{CallbackState, TaskStatus};
use proto::ids::{RuntimeId, TaskId};
use std::time::Duration;

const KEEP: Duration = Duration::from_secs(60);

fn task(number: u32) -> NewTask {
    let now = Timestamp::now();
    NewTask {
        id: TaskId::parse(format!("t{number:025}")).expect("id"),
        kind: TaskKind::Task,
        runtime: name("agent"),
        runtime_id: RuntimeId::parse("agent-0123456789").expect("id"),
        endpoint: EndpointName::default_endpoint(),
        client_id: ClientSessionId::parse("x".repeat(33)).expect("id"),
        own_session: false,
        owner: Owner {
            principal: Principal::user(1),
            user: None,
        },
        once: None,
        digest: [0; 32],
        headers: vec![("a".into(), "b".into())],
        payload_bytes: 3,
        payload: Inline::Here(Bytes::from_static(b"abc")),
        retries: 0,
        backoff: Duration::ZERO,
        created_at: now,
        deadline_at: now.after(KEEP),
        callback: None,
    }
}

fn over(from: TaskStatus, outcome: TaskStatus) -> Over {
    Over {
        from,
        outcome,
        attempts: 1,
        reason: None,
        head: None,
        bytes: 0,
        body: None,
        complete: false,
        keep: KEEP,
    }
}

fn begun() -> Begun {
    Begun {
        attempt: 1,
        session: SessionId::parse("s0123456789").expect("id"),
        invocation: 7,
    }
}

impl Ground {
    async fn submit(&self, new: NewTask) -> i64 {
        match self.store.submit_task(new).await.expect("written") {
            Submitted::New(seq) => seq,
            Submitted::Before(row) => panic!("{row:?}"),
        }
    }

    async fn at(&self, seq: i64) -> TaskRow {
        self.store.task_at(seq).await.expect("read").expect("there")
    }
}

#[tokio::test]
async fn what_is_written_of_a_task_is_read_and_survives_the_daemon() {
    let ground = Ground::new();
    let new = task(1);
    let seq = ground.submit(new.clone()).await;
    assert_eq!(ground.at(seq).await, TaskRow::fresh(seq, &new));
    let ground = ground.reopened().await;
    assert_eq!(ground.at(seq).await, TaskRow::fresh(seq, &new));
    assert_eq!(ground.store.task_payload(seq).await.expect("read"), "abc");
    assert_eq!(ground.store.task(&new.id).await.expect("read").seq, seq);
    let unfinished = ground.store.unfinished_tasks(0, 10).await.expect("read");
    assert_eq!((unfinished.len(), unfinished[0].seq), (1, seq));
    assert!(
        ground
            .store
            .unfinished_tasks(seq, 10)
            .await
            .expect("read")
            .is_empty()
    );
}

#[tokio::test]
async fn of_two_who_end_a_task_one_does() {
    let ground = Ground::new();
    let seq = ground.submit(task(1)).await;
    let store = &ground.store;
    assert!(store.task_starts(seq).await.expect("written"));
    assert!(!store.task_starts(seq).await.expect("written"), "twice");
    assert!(store.task_runs(seq, begun()).await.expect("written"));
    assert!(
        !store.task_runs(seq, begun()).await.expect("written"),
        "twice"
    );
    let too_late = over(TaskStatus::Queued, TaskStatus::Cancelled);
    assert!(!store.task_over(seq, too_late).await.expect("written"));
    let ends = [TaskStatus::Succeeded, TaskStatus::Cancelled].map(|outcome| {
        let body = Inline::Here(Bytes::from_static(b"answer"));
        let end = Over {
            body: Some(body),
            ..over(TaskStatus::Running, outcome)
        };
        store.task_over(seq, end)
    });
    let done = futures_util::future::join_all(ends).await;
    let done: Vec<bool> = done.into_iter().map(|end| end.expect("written")).collect();
    assert_eq!(done, [true, false]);
    let row = ground.at(seq).await;
    assert_eq!(
        (row.status, row.attempts, row.invocation),
        (TaskStatus::Succeeded, 1, Some(7))
    );
    assert_eq!(store.task_result(seq).await.expect("read"), "answer");
    assert!(
        store.task_payload(seq).await.expect("read").is_empty(),
        "nothing sends it again"
    );
    assert_eq!(
        store
            .task_progressed(seq, "{}".into())
            .await
            .expect("written"),
        None
    );
    let (events, ended) = store
        .task_events(seq, 0, 100)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(
        events.iter().map(|event| event.id).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    assert!(ended && row.events == 4);
    let (rest, _) = store
        .task_events(seq, 3, 100)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(rest, events[3..]);
}

#[tokio::test]
async fn a_key_is_its_callers_at_one_runtime() {
    let ground = Ground::new();
    let keyed = |number: u32, digest: u8| NewTask {
        once: Some("k".into()),
        digest: [digest; 32],
        ..task(number)
    };
    let seq = ground.submit(keyed(1, 1)).await;
    let again = ground
        .store
        .submit_task(keyed(2, 1))
        .await
        .expect("answered");
    assert!(matches!(again, Submitted::Before(row) if row.seq == seq));
    let another = ground.store.submit_task(keyed(3, 2)).await;
    assert!(
        matches!(another, Err(StoreError::Conflict(_))),
        "{another:?}"
    );
    let somebody = Owner {
        principal: Principal::user(2),
        user: None,
    };
    ground
        .submit(NewTask {
            owner: somebody,
            ..keyed(4, 2)
        })
        .await;
    let elsewhere = RuntimeId::parse("other-0123456789").expect("id");
    ground
        .submit(NewTask {
            runtime_id: elsewhere,
            ..keyed(5, 2)
        })
        .await;
    let all = ground
        .store
        .tasks(PageRequest::default(), TaskFilter::default())
        .await;
    assert_eq!(all.expect("read").items.len(), 3);
}

#[tokio::test]
async fn progress_is_the_tasks_own_and_an_event_and_old_ones_go() {
    let ground = Ground::new();
    let seq = ground.submit(task(1)).await;
    let store = &ground.store;
    store.task_starts(seq).await.expect("written");
    assert_eq!(
        store
            .task_progressed(seq, "{}".into())
            .await
            .expect("written"),
        None
    );
    store.task_runs(seq, begun()).await.expect("written");
    for n in 0..300 {
        let id = store
            .task_progressed(seq, format!("{{\"n\":{n}}}"))
            .await
            .expect("written");
        assert_eq!(id, Some(n + 4));
    }
    let row = ground.at(seq).await;
    assert_eq!(row.progress.as_deref(), Some("{\"n\":299}"));
    let (events, ended) = store
        .task_events(seq, 0, 1000)
        .await
        .expect("read")
        .expect("there");
    assert!(!ended);
    // Its statuses, and the newest records.
    assert_eq!(events.len(), 3 + 257);
    assert_eq!(
        events
            .iter()
            .take(4)
            .map(|event| event.id)
            .collect::<Vec<_>>(),
        [1, 2, 3, 47]
    );
    // A retry has it.
    let waits = Waits {
        from: TaskStatus::Running,
        attempts: 1,
        retried: 1,
        not_before: Timestamp::now(),
        reason: Some("because".into()),
    };
    assert!(store.task_waits(seq, waits).await.expect("written"));
    let row = ground.at(seq).await;
    assert_eq!(
        (row.status, row.retried, row.reason.as_deref()),
        (TaskStatus::Queued, 1, Some("because"))
    );
    assert_eq!(row.progress.as_deref(), Some("{\"n\":299}"));
}

#[tokio::test]
async fn a_callback_is_due_with_the_outcome_and_until_it_is_told_or_given_up() {
    let ground = Ground::new();
    let store = &ground.store;
    let called = |number| NewTask {
        callback: Some("https://example.com/".into()),
        ..task(number)
    };
    let (told, given_up) = (
        ground.submit(called(1)).await,
        ground.submit(called(2)).await,
    );
    let quiet = ground.submit(task(3)).await;
    let now = || Timestamp::now().after(Duration::from_secs(1));
    let due = async || {
        let due = store.due_callbacks(now(), 10).await.expect("read");
        due.into_iter().map(|row| row.seq).collect::<Vec<_>>()
    };
    assert_eq!(
        (due().await, store.next_callback().await.expect("read")),
        (vec![], None)
    );
    for seq in [told, given_up, quiet] {
        let end = Over {
            keep: Duration::ZERO,
            ..over(TaskStatus::Queued, TaskStatus::Cancelled)
        };
        assert!(store.task_over(seq, end).await.expect("written"));
    }
    assert_eq!(due().await, [told, given_up]);
    assert!(store.next_callback().await.expect("read").is_some());
    let later = Timestamp::now().after(KEEP);
    store
        .callback_failed(told, "no".into(), Some(later))
        .await
        .expect("written");
    assert_eq!(due().await, [given_up]);
    // What is still to be told is not forgotten.
    let expired = store.forget_tasks(now(), 10).await.expect("forgotten");
    assert_eq!(
        expired.into_iter().map(|task| task.id).collect::<Vec<_>>(),
        [task(3).id]
    );
    store
        .callback_failed(given_up, "never".into(), None)
        .await
        .expect("written");
    store.callback_done(told).await.expect("written");
    let state = |row: TaskRow| {
        (
            row.callback_state,
            row.callback_attempts,
            row.callback_error,
        )
    };
    assert_eq!(
        state(ground.at(told).await),
        (CallbackState::Delivered, 2, None)
    );
    assert_eq!(
        state(ground.at(given_up).await),
        (CallbackState::GivenUp, 1, Some("never".into()))
    );
    assert_eq!(
        store
            .forget_tasks(now(), 10)
            .await
            .expect("forgotten")
            .len(),
        2
    );
}

#[tokio::test]
async fn lists_have_what_fits_and_no_number_is_given_twice() {
    let ground = Ground::new();
    let store = &ground.store;
    let mut seqs = Vec::new();
    for number in 0..6 {
        seqs.push(ground.submit(task(number)).await);
    }
    for (seq, outcome) in seqs.iter().zip([
        TaskStatus::Cancelled,
        TaskStatus::TimedOut,
        TaskStatus::Succeeded,
    ]) {
        assert!(
            store
                .task_over(*seq, over(TaskStatus::Queued, outcome))
                .await
                .expect("written")
        );
    }
    let of = async |statuses: &[TaskStatus]| {
        let filter = TaskFilter {
            statuses: statuses.to_vec(),
            runtime: Some(name("agent")),
            session: None,
        };
        let page = store
            .tasks(PageRequest::default(), filter)
            .await
            .expect("read");
        page.items
            .into_iter()
            .map(|row| row.seq)
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&[TaskStatus::Queued]).await, [seqs[5], seqs[4], seqs[3]]);
    assert_eq!(
        of(&[TaskStatus::TimedOut, TaskStatus::Cancelled]).await,
        [seqs[1], seqs[0]]
    );
    assert_eq!(
        of(&[TaskStatus::Queued, TaskStatus::Succeeded]).await,
        [seqs[5], seqs[4], seqs[3], seqs[2]]
    );
    assert_eq!(of(&[]).await.len(), 6);
    let known = store.tasks_by_owner().await.expect("read");
    assert_eq!(
        (
            known.len(),
            known[0].tasks,
            known[0].unfinished,
            known[0].bytes
        ),
        (1, 6, 3, 9)
    );
    for seq in &seqs[3..] {
        let end = over(TaskStatus::Queued, TaskStatus::Cancelled);
        assert!(store.task_over(*seq, end).await.expect("written"));
    }
    let later = Timestamp::now().after(KEEP * 2);
    assert_eq!(
        store
            .forget_tasks(later, 100)
            .await
            .expect("forgotten")
            .len(),
        6
    );
    assert!(ground.submit(task(9)).await > seqs[5]);
}
