//! Receiving a bundle: spool and hash, unpack, publish.

use super::{ArtifactError, ArtifactStore, Measures, Meta, make_directory, remove, unpack};
use crate::store::NewArtifact;
use proto::ids::ArtifactId;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// A bundle being received, in a file without a name. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    store: ArtifactStore,
    spool: File,
    hash: Sha256,
    packed: u64,
}

/// A bundle that was unpacked and is on disk, but not yet there for anyone. Dropping it removes it.
#[derive(Debug)]
pub struct Unpacked {
    store: ArtifactStore,
    artifact: NewArtifact,
    place: Place,
}

/// Where the tree is.
#[derive(Debug)]
enum Place {
    /// Published earlier: the same bytes were uploaded before.
    There,
    /// In a directory of its own.
    Incoming(Incoming),
}

/// A directory in `incoming/` that is removed unless it is moved away.
#[derive(Debug)]
struct Incoming(PathBuf);

impl Drop for Incoming {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the next daemon starts.
        if self.0.exists()
            && let Err(error) = remove(&self.0)
        {
            tracing::warn!(path = %self.0.display(), error = %error, "cannot remove a refused bundle");
        }
    }
}

impl Upload {
    pub(super) fn begin(store: ArtifactStore) -> Result<Self, ArtifactError> {
        let incoming = &store.places.incoming;
        let spool = tempfile::tempfile_in(incoming)
            .map_err(|e| ArtifactError::io("write in", incoming, e))?;
        Ok(Self {
            store,
            spool,
            hash: Sha256::new(),
            packed: 0,
        })
    }

    /// Takes the next bytes.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), ArtifactError> {
        self.packed += chunk.len() as u64;
        self.store.admit(self.packed)?;
        self.hash.update(chunk);
        self.spool
            .write_all(chunk)
            .map_err(|e| ArtifactError::io("write in", &self.store.places.incoming, e))
    }

    /// Checks and unpacks what came; takes as long as that takes.
    pub fn unpack(self) -> Result<Unpacked, ArtifactError> {
        let Self {
            store,
            spool,
            hash,
            packed,
        } = self;
        let hex = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        let id = ArtifactId::parse(hex).expect("a SHA-256 in hexadecimal is an artifact id");
        if let Some(artifact) = store.measures(&id)? {
            return Ok(Unpacked {
                store,
                artifact,
                place: Place::There,
            });
        }
        let name = format!("unpack-{}", uuid::Uuid::new_v4());
        let incoming = Incoming(store.places.incoming.join(name));
        make_directory(&incoming.0, 0o700)?;
        let tree = make_directory(&incoming.0.join("tree"), 0o755)?;
        let Measures {
            unpacked_bytes,
            entries,
        } = unpack(&spool, tree.as_fd(), &store.places.bounds)?;
        let meta = Meta {
            packed_bytes: packed,
            unpacked_bytes,
            entries,
        };
        write_meta(&incoming.0, &meta)?;
        let artifact = NewArtifact {
            id,
            packed_bytes: packed,
            unpacked_bytes,
            entries,
        };
        Ok(Unpacked {
            store,
            artifact,
            place: Place::Incoming(incoming),
        })
    }

    /// [`Self::unpack`] and [`Unpacked::publish`] at once.
    pub fn finish(self) -> Result<NewArtifact, ArtifactError> {
        self.unpack()?.publish()
    }
}

impl Unpacked {
    /// Its measures and id.
    #[must_use]
    pub fn artifact(&self) -> &NewArtifact {
        &self.artifact
    }

    /// Moves it to its place. If another upload of the same bytes was quicker, that one stays.
    pub fn publish(self) -> Result<NewArtifact, ArtifactError> {
        let Self {
            store,
            artifact,
            place,
        } = self;
        match &place {
            Place::Incoming(incoming) => {
                store.publish(&artifact.id, &incoming.0)?;
            }
            Place::There if store.measures(&artifact.id)?.is_none() => {
                return Err(ArtifactError::Deleted(artifact.id));
            }
            Place::There => {}
        }
        Ok(artifact)
    }
}

/// Written after the tree was synced: a directory that has it is complete.
fn write_meta(directory: &Path, meta: &Meta) -> Result<(), ArtifactError> {
    let path = directory.join("meta.json");
    let text = serde_json::to_vec(meta).map_err(|e| ArtifactError::io("write", &path, e.into()))?;
    File::create_new(&path)
        .and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            File::open(directory)?.sync_all()
        })
        .map_err(|e| ArtifactError::io("write", &path, e))
}
