//! Files that clients upload as to S3, so that `codeConfiguration` can name them: any bytes, whole, by bucket and key.
//!
//! ```text
//! <state>/broker/objects/<32 hex>      the bytes of one version of an object; the store has its row
//! <state>/broker/objects/incoming/…    being received; emptied at start
//! ```
//!
//! A file is written, hashed and synced in `incoming/`, renamed, and only then noted in the store: an object that is there
//! is whole. One that is replaced or deleted loses its row first and its file after. What a killed daemon leaves between
//! the two is removed at start. All bytes together, those on their way included, keep below `limits.objects`, and those of
//! one caller below its share of that.
//!
//! An object is its maker's: who is let at its own only ([`Asker`]) finds nobody else's, and a name that is somebody else's is
//! not to be had. Who may do what is decided in `crate::permit`.
//!
//! Not for: what is in the bytes. They become a bundle, or are refused as one, when a version is made of them
//! ([`Objects::unpack`]).

mod incoming;
mod uploads;
mod used;

pub(crate) use incoming::hex;
pub use incoming::{Digest, Incoming};
pub use uploads::{MOST_PARTS, Part};
pub use used::Room;

use crate::artifacts::Library;
use crate::owner::Principal;
use crate::store::{Change, NewObject, ObjectRow, Store, StoreError};
use proto::api::Artifact;
use proto::ids::ArtifactId;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::io::ReaderStream;
use uploads::Uploads;
use used::{OVERHEAD, Used};

/// Largest object: what a bundle may have packed.
pub const MAX_OBJECT: u64 = 250 << 20;

/// Longest key (S3's own bound), in bytes.
pub const MAX_KEY: usize = 1024;

/// Whether a name is a bucket's.
#[must_use]
pub fn is_bucket(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
    (3..=63).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with(['.', '-'])
        && !name.ends_with(['.', '-'])
}

/// Who asks for objects, and whose it is let at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// As whom it is known; what it makes is its.
    pub principal: Principal,
    /// Others' objects do not exist for it.
    pub own_only: bool,
}

impl Asker {
    /// Whose objects it is let at, if not everybody's.
    fn only(&self) -> Option<String> {
        self.own_only.then(|| self.principal.as_str().to_owned())
    }
}

/// Why an object could not be taken or given.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Over its own bound.
    #[error("an object has at most {MAX_OBJECT} bytes")]
    TooLarge,
    /// Over the bound of all.
    #[error("all objects together have at most {0} bytes (limits.objects); delete some")]
    Full(u64),
    /// Over the bound of one caller's.
    #[error(
        "the objects of one caller have together at most {0} bytes (limits.objects_per_caller); delete some"
    )]
    Share(u64),
    /// The name is somebody else's object's.
    #[error("the object of this name is another caller's")]
    NotYours,
    /// More uploads in parts than are remembered.
    #[error("there are {0} uploads in parts already; complete or abort some")]
    TooManyUploads(usize),
    /// More of one caller's.
    #[error("one caller has at most {0} uploads in parts; complete or abort some")]
    UploadShare(usize),
    /// An upload in parts that is unknown, or was given up.
    #[error(
        "there is no upload {0}; it may have been completed, aborted, or forgotten after an hour"
    )]
    NoUpload(String),
    /// A part that was not uploaded, or with another content.
    #[error("part {0} was not uploaded, or has another ETag")]
    NoPart(u16),
    /// The body ended before its end.
    #[error("the body broke off")]
    Interrupted,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file operation failed.
    #[error("cannot {verb} a file of {}", .path.display())]
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

/// The objects of one daemon; cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    store: Store,
    used: Used,
    uploads: Uploads,
}

/// What an object is called, and how it is to be given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Media type, if the caller said one.
    pub content_type: Option<String>,
}

impl Objects {
    /// Opens the directory and removes files that the store knows nothing of.
    pub async fn open(root: &Path, store: Store) -> Result<Self, ObjectError> {
        let rows = store.objects().await?;
        let incoming = root.join("incoming");
        let file = |verb| {
            let path = root.to_owned();
            move |source| ObjectError::File { verb, path, source }
        };
        if incoming.exists() {
            fs::remove_dir_all(&incoming).map_err(file("remove"))?;
        }
        fs::create_dir_all(&incoming).map_err(file("create"))?;
        for entry in fs::read_dir(root).map_err(file("list"))? {
            let entry = entry.map_err(file("list"))?;
            let known = rows
                .iter()
                .any(|row| entry.file_name().to_str() == Some(row.version.as_str()));
            if !known && entry.path() != incoming {
                fs::remove_file(entry.path()).map_err(file("remove"))?;
            }
        }
        let used = Used::default();
        for row in &rows {
            used.found(&Principal::from_text(&row.maker), charge(row));
        }
        Ok(Self(Arc::new(Shared {
            root: root.to_owned(),
            used,
            uploads: Uploads::default(),
            store,
        })))
    }

    /// Begins to receive into a file that is not an object yet, and counts as this caller's.
    pub fn begin(&self, maker: &Principal, room: Room) -> Result<Incoming, ObjectError> {
        self.0.store.room()?;
        let incoming = self.0.root.join("incoming");
        Incoming::begin(&incoming, self.0.used.clone(), maker.clone(), room)
    }

    /// Makes what was received an object of the asker's, in the place of one that has the same name.
    pub async fn publish(
        &self,
        asker: &Asker,
        name: ObjectName,
        incoming: Incoming,
        etag: String,
    ) -> Result<ObjectRow, ObjectError> {
        let (objects, asker) = (self.clone(), asker.clone());
        // A task: a caller that goes away must not stop between file and row.
        let published = tokio::spawn(async move {
            let version = uuid::Uuid::new_v4().simple().to_string();
            let digest = incoming.digest();
            let path = objects.0.root.join(&version);
            let target = path.clone();
            let charged = blocking(move || incoming.keep(&target)).await?;
            let new = NewObject {
                maker: asker.principal.as_str().to_owned(),
                bucket: name.bucket,
                key: name.key,
                version,
                etag,
                sha256: digest.sha256,
                size: digest.size,
                content_type: name.content_type,
            };
            let refused = match objects.0.store.put_object(new, asker.only()).await {
                Ok(Change::Done((row, replaced))) => {
                    if let Some(old) = replaced {
                        objects.forget(&old);
                    }
                    return Ok(row);
                }
                Ok(Change::NotYours) => ObjectError::NotYours,
                Err(error) => error.into(),
            };
            objects.0.used.give_back(&asker.principal, charged);
            remove(&path);
            Err(refused)
        });
        published.await.map_err(|_| ObjectError::Interrupted)?
    }

    /// An object's row, where the asker is let at it.
    pub async fn find(
        &self,
        asker: &Asker,
        bucket: &str,
        key: &str,
    ) -> Result<Option<ObjectRow>, StoreError> {
        self.0.store.object(bucket, key, asker.only()).await
    }

    /// Those of a bucket's objects that the asker is let at, whose keys begin with `prefix` and come after `after`.
    pub async fn list(
        &self,
        asker: &Asker,
        bucket: &str,
        prefix: &str,
        after: &str,
        most: u16,
    ) -> Result<Vec<ObjectRow>, StoreError> {
        let only = asker.only();
        self.0
            .store
            .objects_of(bucket, prefix, after, most, only)
            .await
    }

    /// An object's bytes; they stay readable when it is replaced or deleted meanwhile.
    pub fn file(&self, row: &ObjectRow) -> Result<File, ObjectError> {
        let path = self.0.root.join(&row.version);
        File::open(&path).map_err(|source| ObjectError::File {
            verb: "open",
            path,
            source,
        })
    }

    /// Deletes an object, if it is there.
    pub async fn delete(
        &self,
        asker: &Asker,
        bucket: &str,
        key: &str,
        version: Option<&str>,
    ) -> Result<(), ObjectError> {
        let store = &self.0.store;
        let version = version.map(str::to_owned);
        let deleted = store.delete_object(bucket, key, version, asker.only());
        match deleted.await? {
            Change::Done(Some(old)) => self.forget(&old),
            Change::Done(None) => {}
            Change::NotYours => return Err(ObjectError::NotYours),
        }
        Ok(())
    }

    /// Makes a bundle of the object that has these bytes; the reason, for whoever deployed it, if it is none.
    pub async fn unpack(
        &self,
        bytes: &ArtifactId,
        library: &Library,
    ) -> Result<(Artifact, bool), String> {
        let row = self
            .0
            .store
            .object_of_bytes(bytes.as_str())
            .await
            .map_err(|error| crate::fault::chain(&error))?
            .ok_or("the object was replaced or deleted before it was unpacked")?;
        let file = self
            .file(&row)
            .map_err(|error| crate::fault::chain(&error))?;
        library
            .receive(ReaderStream::new(tokio::fs::File::from_std(file)))
            .await
            .map_err(|error| {
                format!(
                    "Your artifact could not be unpacked: {}",
                    crate::fault::chain(&error)
                )
            })
    }

    /// Removes the file of an object whose row is gone.
    fn forget(&self, row: &ObjectRow) {
        let maker = Principal::from_text(&row.maker);
        self.0.used.give_back(&maker, charge(row));
        remove(&self.0.root.join(&row.version));
    }
}

/// What an object counts.
fn charge(row: &ObjectRow) -> u64 {
    row.size.saturating_add(OVERHEAD)
}

/// What cannot be removed now is removed when the next daemon starts.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove an object's file");
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ObjectError> + Send + 'static,
) -> Result<T, ObjectError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ObjectError::Interrupted)?
}
