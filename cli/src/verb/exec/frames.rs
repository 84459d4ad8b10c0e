//! Frames of an exec connection: channel `u8`, length `u32` big-endian, payload (see `proto::api::ExecChannel`).

use proto::api::{ExecChannel, MAX_EXEC_FRAME};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const HEAD: usize = 5;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// What its payload is.
    pub(super) channel: ExecChannel,
    /// At most [`MAX_EXEC_FRAME`] bytes.
    pub(super) payload: Vec<u8>,
}

/// Why frames stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A channel that this protocol does not have.
    #[error("unknown channel {0}")]
    Channel(u8),
    /// A payload over the bound.
    #[error("a frame of {0} bytes")]
    Length(usize),
    /// The end came within a frame.
    #[error("it ended in the middle of a frame")]
    Cut,
}

/// Reads frames. `next` may be dropped at any await and called again: what was read is kept here.
#[derive(Debug)]
pub(super) struct Frames<R> {
    link: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Of this connection.
    pub(super) fn new(link: R) -> Self {
        Self {
            link,
            buffer: Vec::new(),
        }
    }

    /// The next frame; `None` at an end between frames.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            // Cancel safe: bytes are in the buffer as soon as they are read.
            let read = match self.link.read_buf(&mut self.buffer).await {
                // The other side closed before it had read all of ours (unix(7)): an end like any other.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                read => read?,
            };
            if read == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(FrameError::Cut)
                };
            }
        }
    }

    fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((&[channel, a, b, c, d], rest)) = self.buffer.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let channel = ExecChannel::from_byte(channel).ok_or(FrameError::Channel(channel))?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_EXEC_FRAME {
            return Err(FrameError::Length(length));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let payload = rest[..length].to_vec();
        self.buffer.drain(..HEAD + length);
        Ok(Some(Frame { channel, payload }))
    }
}

/// Writes one frame.
pub(super) async fn write(
    link: &mut (impl AsyncWrite + Unpin),
    channel: ExecChannel,
    payload: &[u8],
) -> Result<(), FrameError> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_EXEC_FRAME);
    let length = length.ok_or(FrameError::Length(payload.len()))?;
    let mut frame = Vec::with_capacity(HEAD + payload.len());
    frame.push(channel as u8);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    link.write_all(&frame).await?;
    link.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn frames(bytes: &[u8], cut: usize) -> Result<Vec<Frame>, FrameError> {
        // A pipe of `cut` bytes hands them over in pieces of that size.
        let (mut near, far) = tokio::io::duplex(cut);
        let bytes = bytes.to_vec();
        let feeding = tokio::spawn(async move { near.write_all(&bytes).await });
        let mut frames = Frames::new(far);
        let mut all = Vec::new();
        let end = loop {
            match frames.next().await {
                Ok(Some(frame)) => all.push(frame),
                Ok(None) => break Ok(all),
                Err(error) => break Err(error),
            }
        };
        feeding.abort();
        end
    }

    #[tokio::test]
    async fn frames_survive_any_cut() {
        let mut bytes = Vec::new();
        write(&mut bytes, ExecChannel::Stdout, b"hello")
            .await
            .expect("written");
        write(&mut bytes, ExecChannel::Stdin, b"")
            .await
            .expect("written");
        write(&mut bytes, ExecChannel::Status, &[7; 300])
            .await
            .expect("written");
        for cut in [1, 2, 5, 6, 64, 4096] {
            let all = frames(&bytes, cut).await.expect("sound");
            let seen: Vec<_> = all
                .iter()
                .map(|frame| (frame.channel, frame.payload.len()))
                .collect();
            let expected = [
                (ExecChannel::Stdout, 5),
                (ExecChannel::Stdin, 0),
                (ExecChannel::Status, 300),
            ];
            assert_eq!(seen, expected, "pieces of {cut}");
        }
    }

    #[tokio::test]
    async fn broken_streams_are_refused() {
        assert!(matches!(
            frames(&[1, 0, 0, 0, 9, b'x'], 64).await,
            Err(FrameError::Cut)
        ));
        assert!(matches!(
            frames(&[9, 0, 0, 0, 0], 64).await,
            Err(FrameError::Channel(9))
        ));
        assert!(matches!(
            frames(&[1, 1, 0, 0, 0], 64).await,
            Err(FrameError::Length(_))
        ));
        let long = vec![0; MAX_EXEC_FRAME + 1];
        let mut sink = Vec::new();
        let error = write(&mut sink, ExecChannel::Stdin, &long).await;
        assert!(matches!(error, Err(FrameError::Length(_))) && sink.is_empty());
    }
}
