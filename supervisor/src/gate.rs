//! What stands between strangers and operations: keys, signatures, the audit, and the place where bodies wait until their
//! signature is known.

use crate::audit::Audit;
use crate::keys::{AccessKeys, KeyError, Sealer};
use crate::signature::Verifier;
use crate::spool::{Spool, SpoolError};
use crate::store::Store;
use crate::tokens::Tokens;
use proto::units::MemoryBytes;
use std::path::Path;

/// See the module.
#[derive(Debug)]
pub struct Gate {
    /// Access keys.
    pub keys: AccessKeys,
    /// Compares signatures.
    pub verifier: Verifier,
    /// Bodies that wait.
    pub spool: Spool,
    /// Verifies tokens.
    pub tokens: Tokens,
    /// Records of refusals.
    pub audit: Audit,
}

/// Why the gate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Keys.
    #[error("access keys")]
    Keys(#[from] KeyError),
    /// Bodies.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

impl Gate {
    /// Opens what it needs below the broker's directory; `spool` is how many bytes of bodies may wait on disk, `memory` in
    /// memory.
    pub async fn open(
        directory: &Path,
        store: &Store,
        spool: MemoryBytes,
        memory: MemoryBytes,
    ) -> Result<Self, GateError> {
        let sealer = Sealer::open(&directory.join("keys.seal")).map_err(KeyError::from)?;
        Ok(Self {
            keys: AccessKeys::load(store.clone(), sealer).await?,
            verifier: Verifier::default(),
            spool: Spool::open(&directory.join("spool"), spool.0, memory.0)?,
            tokens: Tokens::default(),
            audit: Audit::start(store.clone()),
        })
    }
}
