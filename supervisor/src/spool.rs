//! Bodies that must be known whole before anybody sees a byte of them: a signature covers the hash of the body, which comes
//! after the headers that it vouches for.
//!
//! A small body waits in memory, a larger one in a file without a name, and all of those together have a bound: whoever
//! would exceed it waits, and is told to come back if that takes too long. Room is taken for a whole body before its
//! first byte, so that two half-read bodies never wait for each other.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncSeekExt, AsyncWriteExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Largest body that waits in memory.
const IN_MEMORY: u64 = 64 * 1024;

/// Memory for all of them: a connection of HTTP/2 can bring a hundred.
const ALL_IN_MEMORY: u64 = 64 * 1024 * 1024;

/// What room is counted in.
const UNIT: u64 = 1024;

/// How long a body waits for room.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);

/// How long a sender may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// How long a body may take from its first byte on, and more for what has come: whose signature is not checked yet must not
/// keep room by being slow.
const FIRST: Duration = Duration::from_secs(60);

/// Bytes that earn one more second.
const PACE: u64 = 64 * 1024;

/// How long a body may take, which is as long as an invocation may by default.
const WHOLE: Duration = Duration::from_secs(15 * 60);

/// Bytes read back at a time.
const CHUNK: usize = 64 * 1024;

/// Why a body could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// More than it may have.
    #[error("the body has more than {0} bytes")]
    TooLarge(u64),
    /// It broke off, or took too long.
    #[error("the body {0}")]
    Broken(String),
    /// No room for it among the others.
    #[error("too many bodies wait for their signature to be checked (limits.spool)")]
    Full,
    /// The disk.
    #[error("cannot {verb} {}", .path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    room: Arc<Semaphore>,
    units: u32,
    /// Room in memory.
    memory: Semaphore,
}

/// A body that is all here.
#[derive(Debug)]
pub struct Spooled {
    /// The body, from its beginning.
    pub body: Body,
    /// SHA-256 of it.
    pub hash: [u8; 32],
}

impl Spool {
    /// Opens or makes the directory; at most `bytes` wait there at once.
    pub fn open(directory: &Path, bytes: u64) -> Result<Self, SpoolError> {
        std::fs::create_dir_all(directory).map_err(|source| SpoolError::File {
            verb: "create",
            path: directory.to_owned(),
            source,
        })?;
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX >> 4);
        let units = units.clamp(1, u32::MAX >> 4);
        Ok(Self {
            directory: directory.to_owned(),
            room: Arc::new(Semaphore::new(
                usize::try_from(units).unwrap_or(usize::MAX >> 4),
            )),
            units,
            memory: Semaphore::new(units_of(ALL_IN_MEMORY)),
        })
    }

    /// Reads a body of at most `max` bytes to its end.
    pub async fn take(&self, mut body: Body, max: u64) -> Result<Spooled, SpoolError> {
        let hint = body.size_hint();
        if hint.lower() > max {
            return Err(SpoolError::TooLarge(max));
        }
        let most = hint.upper().unwrap_or(max).min(max);
        let began = Instant::now();
        let _held = self.held(most).await?;
        let mut hash = Sha256::new();
        let mut held = BytesMut::new();
        let mut file = None;
        let mut size = 0_u64;
        while let Some(data) = piece(&mut body, began + earned(size)).await? {
            size = size.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            if size > max {
                return Err(SpoolError::TooLarge(max));
            }
            hash.update(&data);
            if file.is_none() && size <= IN_MEMORY {
                held.extend_from_slice(&data);
                continue;
            }
            let (file, _) = match &mut file {
                Some(file) => file,
                none => none.insert(self.file(most).await?),
            };
            let written = async {
                file.write_all(&held).await?;
                held.clear();
                file.write_all(&data).await
            };
            written
                .await
                .map_err(|source| self.fault("write in", source))?;
        }
        let body = match file {
            None => Body::from(held.freeze()),
            Some((mut file, mut room)) => {
                let rewound = async {
                    file.flush().await?;
                    file.seek(SeekFrom::Start(0)).await
                };
                rewound
                    .await
                    .map_err(|source| self.fault("read in", source))?;
                // What was taken for a body without a length and not needed.
                let unused = room.num_permits() - units_of(size).min(room.num_permits());
                drop(room.split(unused));
                Body::new(FileBody {
                    file,
                    left: size,
                    _room: room,
                })
            }
        };
        Ok(Spooled {
            body,
            hash: hash.finalize().into(),
        })
    }

    /// Room in memory for a body of `most` bytes, or for its beginning.
    async fn held(&self, most: u64) -> Result<Option<SemaphorePermit<'_>>, SpoolError> {
        let wanted = u32::try_from(units_of(most.min(IN_MEMORY))).unwrap_or(u32::MAX);
        if wanted == 0 {
            return Ok(None);
        }
        let room = tokio::time::timeout(ROOM_PATIENCE, self.memory.acquire_many(wanted));
        let room = room.await.map_err(|_| SpoolError::Full)?;
        room.map(Some).map_err(|_| SpoolError::Full)
    }

    /// A file without a name, with room for `most` bytes.
    async fn file(&self, most: u64) -> Result<(File, OwnedSemaphorePermit), SpoolError> {
        let wanted = u32::try_from(units_of(most))
            .unwrap_or(u32::MAX)
            .min(self.units);
        let room = Arc::clone(&self.room).acquire_many_owned(wanted);
        let room = tokio::time::timeout(ROOM_PATIENCE, room)
            .await
            .map_err(|_| SpoolError::Full)?
            .map_err(|_| SpoolError::Full)?;
        let directory = self.directory.clone();
        let file = tokio::task::spawn_blocking(move || tempfile::tempfile_in(directory))
            .await
            .map_err(io::Error::other)
            .and_then(|made| made)
            .map_err(|source| self.fault("create a file in", source))?;
        Ok((File::from_std(file), room))
    }

    fn fault(&self, verb: &'static str, source: io::Error) -> SpoolError {
        SpoolError::File {
            verb,
            path: self.directory.clone(),
            source,
        }
    }
}

fn units_of(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX)
}

/// How long a body may have taken of which so many bytes are here.
fn earned(bytes: u64) -> Duration {
    WHOLE.min(FIRST + Duration::from_secs(bytes / PACE))
}

/// The next bytes; trailers are not covered by any signature, and nobody here reads them.
async fn piece(body: &mut Body, deadline: Instant) -> Result<Option<Bytes>, SpoolError> {
    loop {
        let silence = Instant::now() + SILENCE;
        let frame = tokio::time::timeout_at(silence.min(deadline), body.frame())
            .await
            .map_err(|_| SpoolError::Broken("did not come in time".to_owned()))?;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => {
                let why = crate::fault::chain(&error);
                return Err(SpoolError::Broken(format!("broke off: {why}")));
            }
        }
    }
}

/// A body in a file, with its room.
#[derive(Debug)]
struct FileBody {
    file: File,
    left: u64,
    _room: OwnedSemaphorePermit,
}

impl HttpBody for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut chunk = vec![0; usize::try_from(self.left).map_or(CHUNK, |left| left.min(CHUNK))];
        let mut read = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.file).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        if count == 0 {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        self.left = self
            .left
            .saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        chunk.truncate(count);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(chunk)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::StreamBody;

    fn of_pieces(pieces: Vec<Bytes>) -> Body {
        let frames = pieces
            .into_iter()
            .map(|piece| Ok::<_, io::Error>(Frame::data(piece)));
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    fn files(directory: &Path) -> usize {
        std::fs::read_dir(directory).expect("directory").count()
    }

    #[tokio::test]
    async fn a_body_comes_back_as_it_was_with_its_hash() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 1 << 20).expect("spool");
        for size in [0, 1, 65_536, 65_537, 700_000] {
            let content: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[0]).collect();
            let pieces = content.chunks(10_000).map(Bytes::copy_from_slice).collect();
            for body in [of_pieces(pieces), Body::from(content.clone())] {
                let taken = spool.take(body, 1 << 20).await.expect("taken");
                let expected: [u8; 32] = Sha256::digest(&content).into();
                assert_eq!(taken.hash, expected, "{size}");
                assert_eq!(taken.body.size_hint().exact(), Some(u64::from(size)));
                let back = taken.body.collect().await.expect("read").to_bytes();
                assert!(back == content, "{size}");
            }
        }
        assert_eq!(spool.room.available_permits(), 1024);
        assert_eq!(files(ground.path()), 0);
    }

    #[tokio::test]
    async fn a_body_over_its_bound_is_refused_and_leaves_nothing() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 1 << 20).expect("spool");
        let piece = Bytes::from(vec![0; 60_000]);
        for body in [
            of_pieces(vec![piece.clone(), piece.clone()]),
            Body::from(vec![0; 120_000]),
        ] {
            let error = spool.take(body, 100_000).await.expect_err("too large");
            assert!(matches!(error, SpoolError::TooLarge(100_000)), "{error:?}");
        }
        let broken = stream::iter([Ok(Frame::data(piece)), Err(io::Error::other("gone"))]);
        let error = spool
            .take(Body::new(StreamBody::new(broken)), 100_000)
            .await;
        assert!(matches!(error, Err(SpoolError::Broken(_))), "{error:?}");
        assert_eq!(spool.room.available_permits(), 1024);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sender_keeps_no_room() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 1 << 20).expect("spool");
        // A byte every 20 s is no silence.
        let drops = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Some((
                Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"x"))),
                (),
            ))
        });
        let began = Instant::now();
        let taken = spool.take(Body::new(StreamBody::new(Box::pin(drops))), 1 << 20);
        let error = taken.await.expect_err("too slow");
        assert!(matches!(error, SpoolError::Broken(_)), "{error:?}");
        assert_eq!(began.elapsed(), FIRST);
        assert_eq!(spool.memory.available_permits(), units_of(ALL_IN_MEMORY));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_for_small_bodies_has_a_bound() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 1 << 20).expect("spool");
        let all = u32::try_from(units_of(ALL_IN_MEMORY)).expect("fits");
        let taken = spool.memory.acquire_many(all).await.expect("all of it");
        let error = spool.take(Body::from("{}"), 1 << 20).await;
        assert!(matches!(error, Err(SpoolError::Full)), "{error:?}");
        spool
            .take(Body::empty(), 1 << 20)
            .await
            .expect("no body needs none");
        drop(taken);
        spool
            .take(Body::from("{}"), 1 << 20)
            .await
            .expect("room again");
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_wait_for_room_and_are_told_to_come_back() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 200 * 1024).expect("spool");
        let large = || Body::from(vec![7; 150_000]);
        let first = spool.take(large(), 1 << 20).await.expect("room");
        // A small one needs none.
        spool.take(Body::from("{}"), 1 << 20).await.expect("memory");
        let error = spool.take(large(), 1 << 20).await.expect_err("full");
        assert!(matches!(error, SpoolError::Full), "{error:?}");
        let (second, ()) = tokio::join!(spool.take(large(), 1 << 20), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(first);
        });
        second.expect("the first one's room");
    }
}
