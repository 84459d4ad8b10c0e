//! From a command's output to events for its caller: text in pieces of bounded size, all of it bounded, and a sign of life in
//! long silences (boto3 takes a minute without a byte for a broken connection).

use super::text::Text;
use crate::api::aws::event_stream;
use bytes::Bytes;
use proto::api::ExecChannel;
use serde_json::json;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Bytes of output in an event at most: as JSON each can become six, and an event has at most 64 KiB (contract §6).
pub(super) const PIECE: usize = 10 * 1024;

/// After so much silence an event without text is sent.
const SILENCE: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Debug)]
pub(super) struct Delivery {
    events: mpsc::Sender<Bytes>,
    stdout: Text,
    stderr: Text,
    left: u64,
    too_much: CancellationToken,
}

impl Delivery {
    /// Of at most `most` bytes of text; `too_much` is told when there are more.
    pub(super) fn new(events: mpsc::Sender<Bytes>, most: u64, too_much: CancellationToken) -> Self {
        Self {
            events,
            stdout: Text::default(),
            stderr: Text::default(),
            left: most,
            too_much,
        }
    }

    /// Delivers until the last output is over, the caller is gone, or it is too much.
    pub(super) async fn run(mut self, mut frames: mpsc::Receiver<(ExecChannel, Vec<u8>)>) {
        let start = event_stream::event(&json!({"contentStart": {}}));
        if self.events.send(start).await.is_err() {
            return;
        }
        loop {
            let (name, text) = match tokio::time::timeout(SILENCE, frames.recv()).await {
                Ok(Some((ExecChannel::Stderr, bytes))) => ("stderr", self.stderr.take(&bytes)),
                Ok(Some((_, bytes))) => ("stdout", self.stdout.take(&bytes)),
                Ok(None) => break,
                Err(_silence) => {
                    if self.events.send(delta("stdout", "")).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            if !self.send(name, &text).await {
                return;
            }
        }
        for (name, text) in [("stdout", &mut self.stdout), ("stderr", &mut self.stderr)]
            .map(|(name, text)| (name, std::mem::take(text).finish()))
        {
            if !self.send(name, &text).await {
                return;
            }
        }
    }

    /// Whether there may be more.
    async fn send(&mut self, name: &str, text: &str) -> bool {
        if text.is_empty() {
            return true;
        }
        let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let Some(left) = self.left.checked_sub(size) else {
            self.too_much.cancel();
            return false;
        };
        self.left = left;
        self.events.send(delta(name, text)).await.is_ok()
    }
}

fn delta(name: &str, text: &str) -> Bytes {
    event_stream::event(&json!({"contentDelta": {name: text}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Frame = (ExecChannel, Vec<u8>);

    /// Sizes of the events that `frames` become, and whether they were too much.
    async fn delivered(frames: Vec<Frame>, most: u64) -> (Vec<Bytes>, bool) {
        let (events, mut told) = mpsc::channel(100);
        let (send, queue) = mpsc::channel(100);
        for frame in frames {
            send.send(frame).await.expect("room");
        }
        drop(send);
        let too_much = CancellationToken::new();
        Delivery::new(events, most, too_much.clone())
            .run(queue)
            .await;
        let mut all = Vec::new();
        while let Some(event) = told.recv().await {
            all.push(event);
        }
        (all, too_much.is_cancelled())
    }

    #[tokio::test]
    async fn the_worst_piece_fits_an_event() {
        let worst = |byte: u8| (ExecChannel::Stdout, vec![byte; PIECE]);
        // A character begun before is one more at most.
        let begun = (ExecChannel::Stdout, b"\xf0\x9f\x99".to_vec());
        for byte in [1, 0xff, b'"'] {
            let (events, _) = delivered(vec![begun.clone(), worst(byte)], u64::MAX).await;
            assert!(events.len() >= 2);
            assert!(
                events.iter().all(|event| event.len() <= 64 * 1024),
                "{byte}"
            );
        }
    }

    #[tokio::test]
    async fn the_bound_is_kept_and_told() {
        let frames = || {
            vec![
                (ExecChannel::Stdout, vec![b'x'; 6]),
                (ExecChannel::Stderr, vec![b'y'; 4]),
            ]
        };
        let (events, too_much) = delivered(frames(), 10).await;
        assert_eq!((events.len(), too_much), (3, false));
        let (events, too_much) = delivered(frames(), 9).await;
        assert_eq!((events.len(), too_much), (2, true));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken() {
        let (events, mut told) = mpsc::channel(1);
        let (_send, queue) = mpsc::channel(1);
        let _running = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(
            Delivery::new(events, 1, CancellationToken::new()).run(queue),
        ));
        told.recv().await.expect("the start");
        let before = tokio::time::Instant::now();
        let sign = told.recv().await.expect("a sign of life");
        assert_eq!(before.elapsed(), SILENCE);
        assert_eq!(sign, delta("stdout", ""));
    }
}
