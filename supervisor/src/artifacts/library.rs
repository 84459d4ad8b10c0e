//! Bundles and what the store knows of them, kept in step.
//!
//! A bundle is there when both its tree and its row are. Publishing makes the tree first, deleting takes the row first, and
//! both happen under one lock, so that a bundle that is uploaded while it is being deleted ends up either there or gone. A
//! daemon that is killed in between leaves a tree without a row, which [`Library::open`] removes.

use super::{ArtifactError, ArtifactStore, Bounds, BundleFile, Refusal, Unpacked};
use crate::store::{PageRequest, Store, StoreError};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use proto::api::Artifact;
use proto::ids::ArtifactId;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

/// Uploads that are received or unpacked at once; others wait. Each may take a gigabyte of disk and a core.
const AT_ONCE: usize = 2;

/// Pieces of an upload between the connection and the disk.
const PIECES: usize = 8;

/// The bundles of this daemon; cheap to clone.
#[derive(Debug, Clone)]
pub struct Library {
    files: ArtifactStore,
    store: Store,
    places: Arc<Semaphore>,
    /// Held while tree and row change together.
    step: Arc<Mutex<()>>,
}

impl Library {
    /// Opens the directory and removes trees that the store knows nothing of.
    pub async fn open(root: &Path, store: Store, bounds: Bounds) -> Result<Self, ArtifactError> {
        let root = root.to_owned();
        let files = blocking(move || ArtifactStore::open(&root, bounds)).await?;
        let library = Self {
            files,
            store,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            step: Arc::new(Mutex::new(())),
        };
        library.sweep().await?;
        Ok(library)
    }

    /// Refuses a bundle of this many bytes if that is too many.
    pub fn admit(&self, packed: u64) -> Result<(), ArtifactError> {
        self.files.admit(packed)
    }

    /// Most packed bytes of a bundle.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.files.bounds().packed
    }

    /// Receives a bundle. The second part of the answer says whether it is new. A body that fails or is given up leaves
    /// nothing.
    pub async fn receive<E>(
        &self,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<(Artifact, bool), ArtifactError> {
        self.store.room()?;
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|_| ArtifactError::Interrupted)?;
        let (pieces, received) = mpsc::channel(PIECES);
        let files = self.files.clone();
        // The place goes with the work, which goes on for a while when its sender goes away.
        let unpacked = tokio::task::spawn_blocking(move || {
            let unpacked = spool(&files, received);
            drop(place);
            unpacked
        });
        let mut body = pin!(body);
        let mut complete = true;
        let (began, mut bytes) = (Instant::now(), 0);
        let bounds = self.files.bounds();
        // Dropping the spool's channel without its end leaves nothing.
        let slow = |_| Refusal::Pace(bounds.upload_pace).whole();
        while let Some(piece) = timeout_at(began + bounds.arrival(bytes), body.next())
            .await
            .map_err(slow)?
        {
            let Ok(piece) = piece else {
                complete = false;
                break;
            };
            bytes += piece.len() as u64;
            // Refused already: the answer says why.
            if pieces.send(Piece::Bytes(piece)).await.is_err() {
                break;
            }
        }
        if complete {
            // Whoever drops this future before here leaves the spool without its end, and it is thrown away.
            let _ = pieces.send(Piece::End).await;
        }
        drop(pieces);
        let unpacked = unpacked.await.map_err(|_| ArtifactError::Interrupted)??;
        self.publish(unpacked).await
    }

    /// A bundle's row.
    pub async fn artifact(&self, id: &ArtifactId) -> Result<Artifact, ArtifactError> {
        Ok(self.store.artifact(id).await?)
    }

    /// Deletes a bundle that nothing uses.
    pub async fn delete(&self, id: &ArtifactId) -> Result<(), ArtifactError> {
        let (library, id) = (self.clone(), id.clone());
        // A task of its own: a caller that goes away must not stop between the two.
        let deleted = tokio::spawn(async move {
            let _step = library.step.lock().await;
            library.store.delete_artifact(&id).await?;
            let files = library.files.clone();
            blocking(move || files.delete(&id)).await
        });
        deleted.await.map_err(|_| ArtifactError::Interrupted)??;
        Ok(())
    }

    /// The root of a bundle's files, as a descriptor to hand on (`O_PATH`).
    pub async fn tree_dir(&self, id: &ArtifactId) -> Result<OwnedFd, ArtifactError> {
        // One call that opens a directory: quicker than handing it to another thread.
        self.files.tree_dir(id)
    }

    /// Whether a bundle has a file at this path, and whether it may be executed.
    pub async fn file(
        &self,
        id: &ArtifactId,
        path: &str,
    ) -> Result<Option<BundleFile>, ArtifactError> {
        self.files.file(id, path)
    }

    async fn publish(&self, unpacked: Unpacked) -> Result<(Artifact, bool), ArtifactError> {
        let library = self.clone();
        let published = tokio::spawn(async move {
            let _step = library.step.lock().await;
            let artifact = blocking(move || unpacked.publish()).await?;
            let id = artifact.id.clone();
            let put = library.store.put_artifact(artifact).await;
            if put.is_err()
                && let Err(StoreError::NotFound(_)) = library.store.artifact(&id).await
            {
                // Its tree would be nobody's until the next start, and take room that the next upload may need.
                let files = library.files.clone();
                blocking(move || files.delete(&id)).await?;
            }
            Ok(put?)
        });
        published.await.map_err(|_| ArtifactError::Interrupted)?
    }

    async fn sweep(&self) -> Result<(), ArtifactError> {
        let mut known = HashSet::new();
        let mut token = None;
        loop {
            let request = PageRequest::parse(Some(1000), token.as_deref())?;
            let page = self.store.artifacts(request).await?;
            known.extend(page.items.into_iter().map(|artifact| artifact.artifact_id));
            token = page.next_token;
            if token.is_none() {
                break;
            }
        }
        let files = self.files.clone();
        blocking(move || {
            for id in files.list()?.into_iter().filter(|id| !known.contains(id)) {
                files.delete(&id)?;
            }
            Ok(())
        })
        .await
    }
}

enum Piece {
    Bytes(Bytes),
    /// The body is complete.
    End,
}

fn spool(
    files: &ArtifactStore,
    mut received: mpsc::Receiver<Piece>,
) -> Result<Unpacked, ArtifactError> {
    let mut upload = files.begin_upload()?;
    loop {
        match received.blocking_recv() {
            Some(Piece::Bytes(bytes)) => upload.write(&bytes)?,
            Some(Piece::End) => return upload.unpack(),
            None => return Err(ArtifactError::Interrupted),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, ArtifactError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ArtifactError::Interrupted)?
}
