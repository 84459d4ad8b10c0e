//! Bodies that must be known whole before anybody sees a byte of them: a signature covers the hash of the body, which comes
//! after the headers that it vouches for.
//!
//! A small body waits in memory, a larger one in a file without a name, and all of those together have a bound: whoever
//! would exceed it waits, and is told to come back if that takes too long. Room is taken for a whole body before its
//! first byte, so that two half-read bodies never wait for each other. Nobody can have all of it ([`crate::room`]): while
//! a signature is not checked, its room is its peer's, afterwards its caller's ([`Spooled::verified`]), until the body's
//! agent has read it.

use crate::room::{Holder, NoRoom, Room, Taken};
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
use tokio::time::Instant;

/// Largest body that waits in memory.
const IN_MEMORY: u64 = 64 * 1024;

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
    #[error(
        "too many bodies wait to be checked, or for their agents (limits.spool, limits.body_memory)"
    )]
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
    room: Arc<Room>,
    /// Room in memory.
    memory: Arc<Room>,
}

/// A body that is all here.
#[derive(Debug)]
pub struct Spooled {
    /// SHA-256 of it.
    pub hash: [u8; 32],
    content: Content,
    caller: Holder,
}

/// Whose a body is.
#[derive(Debug, Clone)]
pub struct Whose {
    /// Who brings it.
    pub peer: Holder,
    /// Who it is said to be of, which is not checked yet.
    pub caller: Holder,
}

#[derive(Debug)]
enum Content {
    Memory(Bytes, Option<Taken>),
    File(FileBody),
}

impl Spooled {
    /// The body, from its beginning, now that it is known whose it is: its room is taken from what is the caller's.
    pub async fn verified(self) -> Result<Body, SpoolError> {
        let holder = self.caller;
        Ok(match self.content {
            Content::Memory(bytes, None) => Body::from(bytes),
            Content::Memory(bytes, Some(mut room)) => {
                let passed = room.pass_to(holder, ROOM_PATIENCE).await;
                passed.map_err(|NoRoom| SpoolError::Full)?;
                Body::from(room.hold(bytes))
            }
            Content::File(mut file) => {
                let passed = file.room.pass_to(holder, ROOM_PATIENCE).await;
                passed.map_err(|NoRoom| SpoolError::Full)?;
                Body::new(file)
            }
        })
    }
}

impl Spool {
    /// Opens or makes the directory; at most `bytes` wait there at once, and `memory` in memory: a connection of HTTP/2 can
    /// bring a hundred small ones.
    pub fn open(directory: &Path, bytes: u64, memory: u64) -> Result<Self, SpoolError> {
        std::fs::create_dir_all(directory).map_err(|source| SpoolError::File {
            verb: "create",
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self {
            directory: directory.to_owned(),
            room: Room::new(bytes),
            memory: Room::new(memory),
        })
    }

    /// Reads a body of at most `max` bytes to its end, for a peer that is not known yet.
    pub async fn take(
        &self,
        mut body: Body,
        max: u64,
        whose: &Whose,
    ) -> Result<Spooled, SpoolError> {
        let hint = body.size_hint();
        if hint.lower() > max {
            return Err(SpoolError::TooLarge(max));
        }
        let most = hint.upper().unwrap_or(max).min(max);
        let began = Instant::now();
        let memory = self.held(most, whose).await?;
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
                none => none.insert(self.file(most, whose).await?),
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
        let content = match file {
            None => {
                let memory = memory.map(|mut memory| {
                    memory.shrink(size);
                    memory
                });
                Content::Memory(held.freeze(), memory)
            }
            Some((mut file, mut room)) => {
                let rewound = async {
                    file.flush().await?;
                    file.seek(SeekFrom::Start(0)).await
                };
                rewound
                    .await
                    .map_err(|source| self.fault("read in", source))?;
                // What was taken for a body without a length and not needed.
                room.shrink(size);
                Content::File(FileBody {
                    file,
                    left: size,
                    room,
                })
            }
        };
        Ok(Spooled {
            hash: hash.finalize().into(),
            content,
            caller: whose.caller.clone(),
        })
    }

    /// Room in memory for a body of `most` bytes, or for its beginning.
    async fn held(&self, most: u64, whose: &Whose) -> Result<Option<Taken>, SpoolError> {
        let wanted = most.min(IN_MEMORY);
        if wanted == 0 {
            return Ok(None);
        }
        room_in(&self.memory, wanted, whose).await.map(Some)
    }

    /// A file without a name, with room for `most` bytes.
    async fn file(&self, most: u64, whose: &Whose) -> Result<(File, Taken), SpoolError> {
        let room = room_in(&self.room, most, whose).await?;
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

/// Room of the peer's, where the caller has room for it too.
async fn room_in(room: &Arc<Room>, bytes: u64, whose: &Whose) -> Result<Taken, SpoolError> {
    let Whose { peer, caller } = whose;
    let taken = room.take(peer, Some(caller), bytes, ROOM_PATIENCE).await;
    taken.map_err(|NoRoom| SpoolError::Full)
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
    room: Taken,
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
    use crate::owner::Principal;
    use futures_util::{StreamExt as _, stream};
    use http_body_util::StreamBody;

    fn of_pieces(pieces: Vec<Bytes>) -> Body {
        let frames = pieces
            .into_iter()
            .map(|piece| Ok::<_, io::Error>(Frame::data(piece)));
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    const MEMORY: u64 = 64 << 20;

    fn whose(peer: u8, caller: u32) -> Whose {
        Whose {
            peer: Holder::at([127, 0, 0, peer].into()),
            caller: Holder::Caller(Principal::user(caller)),
        }
    }

    /// Taken, verified, and known to be somebody's.
    async fn taken(spool: &Spool, body: Body, caller: u32) -> Result<Body, SpoolError> {
        spool
            .take(body, 1 << 20, &whose(1, caller))
            .await?
            .verified()
            .await
    }

    fn files(directory: &Path) -> usize {
        std::fs::read_dir(directory).expect("directory").count()
    }

    #[tokio::test]
    async fn a_body_comes_back_as_it_was_with_its_hash() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 1 << 20, MEMORY).expect("spool");
        for size in [0, 1, 65_536, 65_537, 700_000] {
            let content: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[0]).collect();
            let pieces = content.chunks(10_000).map(Bytes::copy_from_slice).collect();
            for body in [of_pieces(pieces), Body::from(content.clone())] {
                let taken = spool
                    .take(body, 1 << 20, &whose(1, 1))
                    .await
                    .expect("taken");
                let expected: [u8; 32] = Sha256::digest(&content).into();
                assert_eq!(taken.hash, expected, "{size}");
                let body = taken.verified().await.expect("room");
                assert_eq!(body.size_hint().exact(), Some(u64::from(size)));
                let back = body.collect().await.expect("read").to_bytes();
                assert!(back == content, "{size}");
            }
        }
        assert_eq!(spool.room.free(), 1 << 20);
        assert_eq!(spool.memory.free(), MEMORY);
        assert_eq!(files(ground.path()), 0);
    }

    #[tokio::test]
    async fn a_body_over_its_bound_is_refused_and_leaves_nothing() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 1 << 20, MEMORY).expect("spool");
        let piece = Bytes::from(vec![0; 60_000]);
        for body in [
            of_pieces(vec![piece.clone(), piece.clone()]),
            Body::from(vec![0; 120_000]),
        ] {
            let error = spool.take(body, 100_000, &whose(1, 1)).await;
            let error = error.expect_err("too large");
            assert!(matches!(error, SpoolError::TooLarge(100_000)), "{error:?}");
        }
        let broken = stream::iter([Ok(Frame::data(piece)), Err(io::Error::other("gone"))]);
        let error = spool
            .take(Body::new(StreamBody::new(broken)), 100_000, &whose(1, 1))
            .await;
        assert!(matches!(error, Err(SpoolError::Broken(_))), "{error:?}");
        assert_eq!(spool.room.free(), 1 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sender_keeps_no_room() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 1 << 20, MEMORY).expect("spool");
        // A byte every 20 s is no silence.
        let drops = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Some((
                Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"x"))),
                (),
            ))
        });
        let began = Instant::now();
        let slow = Body::new(StreamBody::new(Box::pin(drops)));
        let whose = whose(1, 1);
        let taken = spool.take(slow, 1 << 20, &whose);
        let error = taken.await.expect_err("too slow");
        assert!(matches!(error, SpoolError::Broken(_)), "{error:?}");
        assert_eq!(began.elapsed(), FIRST);
        assert_eq!(spool.memory.free(), MEMORY);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_for_small_bodies_has_a_bound_until_they_are_gone() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 1 << 20, MEMORY).expect("spool");
        let small = || Body::from(vec![7; 65_536]);
        let mut held = Vec::new();
        let full = loop {
            match taken(&spool, small(), 1).await {
                Ok(body) => held.push(body),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, SpoolError::Full), "{full:?}");
        // Half of all of it is one caller's.
        assert_eq!(held.len(), 512);
        drop(taken(&spool, small(), 2).await.expect("another caller's"));
        drop(
            taken(&spool, Body::empty(), 1)
                .await
                .expect("no body needs none"),
        );
        held.clear();
        drop(taken(&spool, small(), 1).await.expect("room again"));
        assert_eq!(spool.memory.free(), MEMORY);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_its_bodies_keeps_half_of_the_room_and_no_more() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 1 << 20, MEMORY).expect("spool");
        let large = || Body::from(vec![7; 128 * 1024]);
        let mut held = Vec::new();
        let full = loop {
            match taken(&spool, large(), 1).await {
                Ok(body) => held.push(body),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, SpoolError::Full), "{full:?}");
        assert_eq!(held.len(), 4);
        for _ in 0..3 {
            let body = taken(&spool, large(), 2).await.expect("another caller's");
            assert_eq!(
                body.collect().await.expect("read").to_bytes().len(),
                128 * 1024
            );
        }
        // What is read leaves.
        let read = held.pop().expect("one of them").collect().await;
        read.expect("read");
        drop(taken(&spool, large(), 1).await.expect("room again"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_nobody_knows_keeps_half_of_it_either() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 1 << 20, MEMORY).expect("spool");
        // Announced, and never sent.
        let never = || {
            let first = stream::iter([Ok::<_, io::Error>(Frame::data(Bytes::from(vec![
                7;
                70_000
            ])))]);
            Body::new(StreamBody::new(first.chain(stream::pending())))
        };
        let (slow, others) = (whose(1, 1), whose(2, 2));
        let slow: Vec<_> = (0..9)
            .map(|_| spool.take(never(), 200_000, &slow))
            .collect();
        let quick = async {
            // They are all under way.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let large = Body::from(vec![7; 200_000]);
            spool
                .take(large, 1 << 20, &others)
                .await
                .expect("room for another")
        };
        let (slow, _quick) = tokio::join!(futures_util::future::join_all(slow), quick);
        let full = slow
            .iter()
            .filter(|taken| matches!(taken, Err(SpoolError::Full)));
        assert_eq!(full.count(), 7, "two of 200,000 are as much as they leave");
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_wait_for_room_and_are_told_to_come_back() {
        let ground = tempfile::tempdir().expect("directory");
        let spool = Spool::open(ground.path(), 200 * 1024, MEMORY).expect("spool");
        let large = || Body::from(vec![7; 150_000]);
        let first = taken(&spool, large(), 1).await.expect("room");
        // A small one needs none.
        drop(taken(&spool, Body::from("{}"), 1).await.expect("memory"));
        let error = taken(&spool, large(), 2).await.expect_err("full");
        assert!(matches!(error, SpoolError::Full), "{error:?}");
        let (second, ()) = tokio::join!(taken(&spool, large(), 2), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(first);
        });
        drop(second.expect("the first one's room"));
    }
}
