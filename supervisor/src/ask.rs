//! A question to a task, by the queue that it reads, and the one answer to it.
//!
//! Waiting for the answer alone is not enough. A question that is put at the moment at which the task drops its queue can
//! land in there after all others were thrown away (tokio's receiver empties the queue once, as it is dropped), and it, with
//! the sender of its answer, then lives as long as anybody could put another: for ever, if that is who waits. So the end of the
//! queue ends the wait too.

use tokio::sync::{mpsc, oneshot};

/// Puts `question` and waits for its answer; `None` if the task is gone, or drops the question.
pub(crate) async fn ask<Q, A>(
    queue: &mpsc::Sender<Q>,
    question: impl FnOnce(oneshot::Sender<A>) -> Q,
) -> Option<A> {
    let (answer, mut answered) = oneshot::channel();
    queue.send(question(answer)).await.ok()?;
    tokio::select! {
        biased;
        answer = &mut answered => answer.ok(),
        // It may have answered this one last, just now.
        () = queue.closed() => answered.try_recv().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn an_answer_counts_even_if_it_was_the_last() {
        let (queue, mut task) = mpsc::channel::<oneshot::Sender<u32>>(1);
        let mut asked = Box::pin(ask(&queue, |answer| answer));
        assert!((&mut asked).now_or_never().is_none());
        let answer = task.recv().await.expect("a question");
        drop(task);
        answer.send(7).expect("waits");
        assert_eq!(asked.await, Some(7));
        assert_eq!(ask(&queue, |answer| answer).await, None, "nobody is there");
    }

    #[tokio::test]
    async fn a_question_that_stays_in_a_dead_queue_is_not_waited_for() {
        let (queue, mut task) = mpsc::channel::<oneshot::Sender<u32>>(1);
        let mut asked = Box::pin(ask(&queue, |answer| answer));
        assert!((&mut asked).now_or_never().is_none());
        // As after the race in the module's text: the queue is closed, and the question is still in there.
        task.close();
        assert_eq!(asked.now_or_never(), Some(None));
        drop(task);
    }

    #[tokio::test]
    async fn a_dropped_question_has_no_answer() {
        let (queue, mut task) = mpsc::channel::<oneshot::Sender<u32>>(1);
        let (asked, ()) = tokio::join!(ask(&queue, |answer| answer), async {
            drop(task.recv().await);
        });
        assert_eq!(asked, None);
    }
}
