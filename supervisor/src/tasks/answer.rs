//! A task's answer as it is kept: in memory while it is small, else in a file, readable from any place while it still grows.
//!
//! What is in the file survives the daemon, as the kernel has it; before a task has its outcome it is synced, so that it survives
//! the machine too.

use crate::store::Head;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The largest answer that is kept in the database, with its task's outcome: one write for both.
pub const SMALL: usize = 64 * 1024;

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Answer {
    /// The agent's.
    pub head: Head,
    path: PathBuf,
    body: Mutex<Body>,
    told: watch::Sender<Told>,
}

#[derive(Debug)]
enum Body {
    Memory(BytesMut),
    File(Arc<File>),
}

/// How far an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Bytes that can be read.
    pub bytes: u64,
    /// Whether it is complete, once no more comes.
    pub over: Option<bool>,
}

/// Why an answer cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// Not all of it came.
    #[error("the agent's answer ended before it was complete")]
    Incomplete,
    /// Its file.
    #[error("cannot read {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Answer {
    /// One that begins; in its file from the first byte if it is `filed`.
    pub async fn begin(path: PathBuf, head: Head, filed: bool) -> io::Result<Arc<Self>> {
        let body = match filed {
            true => Body::File(create(path.clone()).await?),
            false => Body::Memory(BytesMut::new()),
        };
        let told = Told {
            bytes: 0,
            over: None,
        };
        Ok(Self::with(path, head, body, told))
    }

    /// One that goes on where it stopped.
    pub async fn again(path: PathBuf, head: Head) -> io::Result<Arc<Self>> {
        let open = path.clone();
        let (file, bytes) = blocking(move || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&open)?;
            sync_directory(&open)?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        })
        .await?;
        let told = Told { bytes, over: None };
        Ok(Self::with(path, head, Body::File(Arc::new(file)), told))
    }

    /// One that is over, from the database.
    #[must_use]
    pub fn whole(head: Head, body: &Bytes, complete: bool) -> Arc<Self> {
        let told = Told {
            bytes: length(body.len()),
            over: Some(complete),
        };
        let body = Body::Memory(BytesMut::from(body.as_ref()));
        Self::with(PathBuf::new(), head, body, told)
    }

    /// One that is over, from its file.
    pub async fn filed(
        path: PathBuf,
        head: Head,
        bytes: u64,
        complete: bool,
    ) -> io::Result<Arc<Self>> {
        let open = path.clone();
        let file = blocking(move || File::open(open)).await?;
        let told = Told {
            bytes,
            over: Some(complete),
        };
        Ok(Self::with(path, head, Body::File(Arc::new(file)), told))
    }

    fn with(path: PathBuf, head: Head, body: Body, told: Told) -> Arc<Self> {
        Arc::new(Self {
            head,
            path,
            body: Mutex::new(body),
            told: watch::Sender::new(told),
        })
    }

    /// How far it is.
    #[must_use]
    pub fn told(&self) -> Told {
        *self.told.borrow()
    }

    /// Whether it is an event stream.
    #[must_use]
    pub fn streamed(&self) -> bool {
        let kind = self.head.content_type.as_deref();
        kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
    }

    /// Whether the next bytes make it too large for memory.
    #[must_use]
    pub fn outgrows(&self, more: usize) -> bool {
        matches!(&*self.body(), Body::Memory(begun) if begun.len() + more > SMALL)
    }

    /// Whether it is in a file, which a daemon that is killed leaves.
    #[must_use]
    pub fn is_filed(&self) -> bool {
        matches!(&*self.body(), Body::File(_))
    }

    /// Moves what there is into a file.
    pub async fn file(&self) -> io::Result<()> {
        let begun = match &*self.body() {
            Body::Memory(begun) => begun.clone().freeze(),
            Body::File(_) => return Ok(()),
        };
        let file = create(self.path.clone()).await?;
        let write = Arc::clone(&file);
        blocking(move || write.write_all_at(&begun, 0)).await?;
        *self.body() = Body::File(file);
        Ok(())
    }

    /// The next bytes. There is one writer.
    pub async fn push(&self, bytes: Bytes) -> io::Result<()> {
        let more = length(bytes.len());
        let at = self.told().bytes;
        let file = match &mut *self.body() {
            Body::Memory(begun) => {
                begun.extend_from_slice(&bytes);
                None
            }
            Body::File(file) => Some(Arc::clone(file)),
        };
        if let Some(file) = file {
            blocking(move || file.write_all_at(&bytes, at)).await?;
        }
        self.told.send_modify(|told| told.bytes += more);
        Ok(())
    }

    /// What is in memory; `None` if it is in a file, which is on disk now.
    pub async fn settle(&self) -> io::Result<Option<Bytes>> {
        let file = match &*self.body() {
            Body::Memory(begun) => return Ok(Some(begun.clone().freeze())),
            Body::File(file) => Arc::clone(file),
        };
        blocking(move || file.sync_data()).await?;
        Ok(None)
    }

    /// No more comes. To be called when that is written down.
    pub fn over(&self, complete: bool) {
        self.told.send_modify(|told| told.over = Some(complete));
    }

    /// What there is from a place on, and what comes. It ends with an error unless it is complete.
    pub fn follow(self: Arc<Self>, from: u64) -> impl Stream<Item = Result<Bytes, Unread>> + Send {
        let hear = self.told.subscribe();
        stream::try_unfold((self, hear, from), async |(answer, mut hear, at)| {
            loop {
                let told = *hear.borrow_and_update();
                if at < told.bytes {
                    let bytes = answer.read(at, told.bytes).await?;
                    let at = at + length(bytes.len());
                    return Ok(Some((bytes, (answer, hear, at))));
                }
                match told.over {
                    Some(true) => return Ok(None),
                    Some(false) => return Err(Unread::Incomplete),
                    None if hear.changed().await.is_err() => return Err(Unread::Incomplete),
                    None => {}
                }
            }
        })
    }

    /// Some bytes from a place on, at least one if there are any before `end`.
    pub async fn read(&self, at: u64, end: u64) -> Result<Bytes, Unread> {
        let wanted = usize::try_from(end.saturating_sub(at))
            .unwrap_or(CHUNK)
            .min(CHUNK);
        let file = match &*self.body() {
            Body::Memory(begun) => {
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                let rest = begun.get(at..).unwrap_or_default();
                let some = rest.get(..wanted).unwrap_or(rest);
                return Ok(Bytes::copy_from_slice(some));
            }
            Body::File(file) => Arc::clone(file),
        };
        let read = blocking(move || {
            let mut buffer = vec![0; wanted];
            let read = file.read_at(&mut buffer, at)?;
            buffer.truncate(read);
            match read {
                // Somebody has cut it.
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(Bytes::from(buffer)),
            }
        });
        read.await.map_err(|source| Unread::File {
            path: self.path.clone(),
            source,
        })
    }

    fn body(&self) -> std::sync::MutexGuard<'_, Body> {
        // Nothing panics while it holds the lock.
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An empty file of this name, which a power cut leaves there.
async fn create(path: PathBuf) -> io::Result<Arc<File>> {
    blocking(move || {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        sync_directory(&path)?;
        Ok(Arc::new(file))
    })
    .await
}

/// Syncs the directory that a file is in.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Off the event loop.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};

    fn head() -> Head {
        Head {
            status: 200,
            content_type: None,
        }
    }

    async fn all(answer: &Arc<Answer>, from: u64) -> Result<Vec<u8>, Unread> {
        let pieces: Vec<Bytes> = Arc::clone(answer).follow(from).try_collect().await?;
        Ok(pieces.concat())
    }

    #[tokio::test]
    async fn it_is_read_from_any_place_while_it_grows_and_whether_or_not_it_outgrew_memory() {
        let ground = tempfile::tempdir().expect("directory");
        let path = ground.path().join("a");
        let answer = Answer::begin(path.clone(), head(), false)
            .await
            .expect("begun");
        let mut reader = Box::pin(Arc::clone(&answer).follow(2));
        assert!(reader.next().now_or_never().is_none());
        answer
            .push(Bytes::from_static(b"abcdef"))
            .await
            .expect("pushed");
        assert_eq!(reader.next().await.expect("more").expect("read"), "cdef");
        assert!(!path.exists() && answer.outgrows(SMALL));
        answer.file().await.expect("filed");
        answer.push(vec![b'x'; SMALL].into()).await.expect("pushed");
        assert_eq!(answer.settle().await.expect("synced"), None);
        answer.over(true);
        let rest: Vec<Bytes> = reader.try_collect().await.expect("read");
        assert_eq!(rest.concat(), vec![b'x'; SMALL]);
        assert_eq!(all(&answer, 4).await.expect("read").len(), SMALL + 2);
        // As after a restart.
        let bytes = length(SMALL + 6);
        let later = Answer::filed(path, head(), bytes, true)
            .await
            .expect("there");
        assert!(all(&later, 0).await.expect("read").starts_with(b"abcdefxx"));
    }

    #[tokio::test]
    async fn one_that_was_cut_off_never_looks_complete() {
        let answer = Answer::whole(head(), &Bytes::from_static(b"half"), false);
        assert!(matches!(all(&answer, 0).await, Err(Unread::Incomplete)));
        assert!(matches!(all(&answer, 4).await, Err(Unread::Incomplete)));
    }

    #[tokio::test]
    async fn one_that_goes_on_after_a_restart_has_what_it_had() {
        let ground = tempfile::tempdir().expect("directory");
        let path = ground.path().join("a");
        let first = Answer::begin(path.clone(), head(), true)
            .await
            .expect("begun");
        first
            .push(Bytes::from_static(b"one "))
            .await
            .expect("pushed");
        drop(first);
        let answer = Answer::again(path, head()).await.expect("there");
        assert_eq!(answer.told().bytes, 4);
        answer
            .push(Bytes::from_static(b"two"))
            .await
            .expect("pushed");
        answer.over(true);
        assert_eq!(all(&answer, 0).await.expect("read"), b"one two");
    }
}
