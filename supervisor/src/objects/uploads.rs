//! Uploads in parts: SDKs send what is larger than 8 MB so, several parts at a time. They are remembered in memory only; a
//! daemon that stops forgets them, and the client begins anew.

use super::incoming::{AtRest, hex};
use super::{Asker, Digest, Incoming, ObjectError, ObjectName, Objects, Room, blocking};
use crate::owner::Principal;
use crate::store::ObjectRow;
use md5::{Digest as _, Md5};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Most uploads at once.
const MOST: usize = 64;

/// Most of one caller's: SDKs send a file at a time.
const MOST_OF_ONE: usize = 16;

/// Most parts of one: SDKs send 8 MB at a time, and the largest object has 250 MB.
pub const MOST_PARTS: u16 = 1000;

/// An upload that nothing was heard of for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);

/// Uploads under way, by id.
#[derive(Debug, Default)]
pub(super) struct Uploads(Mutex<HashMap<String, Upload>>);

#[derive(Debug)]
struct Upload {
    maker: Principal,
    name: ObjectName,
    parts: BTreeMap<u16, Arc<AtRest>>,
    touched: Instant,
}

/// A part, as whoever completes an upload names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// 1 to 1000.
    pub number: u16,
    /// Its ETag, without quotes.
    pub etag: String,
}

impl Uploads {
    fn map(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        // Nothing panics while it holds the lock; the map is whole in any case.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Objects {
    /// Begins an upload in parts; its id.
    pub fn begin_upload(&self, maker: &Principal, name: ObjectName) -> Result<String, ObjectError> {
        let mut uploads = self.0.uploads.map();
        uploads.retain(|_, upload| upload.touched.elapsed() < FORGOTTEN_AFTER);
        if uploads.len() >= MOST {
            return Err(ObjectError::TooManyUploads(uploads.len()));
        }
        let own = uploads.values().filter(|upload| upload.maker == *maker);
        if own.count() >= MOST_OF_ONE {
            return Err(ObjectError::UploadShare(MOST_OF_ONE));
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let upload = Upload {
            maker: maker.clone(),
            name,
            parts: BTreeMap::new(),
            touched: Instant::now(),
        };
        uploads.insert(id.clone(), upload);
        Ok(id)
    }

    /// Whether an upload of this caller's, of this object, is under way.
    pub fn require_upload(
        &self,
        maker: &Principal,
        id: &str,
        bucket: &str,
        key: &str,
    ) -> Result<(), ObjectError> {
        let meant = |upload: &Upload| {
            upload.maker == *maker && upload.name.bucket == bucket && upload.name.key == key
        };
        match self.0.uploads.map().get_mut(id) {
            Some(upload) if meant(upload) => {
                upload.touched = Instant::now();
                Ok(())
            }
            Some(_) | None => Err(ObjectError::NoUpload(id.to_owned())),
        }
    }

    /// Takes a part, in the place of one of the same number.
    pub fn put_part(&self, id: &str, number: u16, part: Incoming) -> Result<Digest, ObjectError> {
        let part = part.rest();
        let digest = part.digest.clone();
        let mut uploads = self.0.uploads.map();
        let upload = uploads
            .get_mut(id)
            .ok_or_else(|| ObjectError::NoUpload(id.to_owned()))?;
        upload.parts.insert(number, Arc::new(part));
        upload.touched = Instant::now();
        Ok(digest)
    }

    /// Puts the parts together as the object. The upload stays if that fails.
    pub async fn complete_upload(
        &self,
        asker: &Asker,
        id: &str,
        parts: Vec<Part>,
        room: Room,
    ) -> Result<ObjectRow, ObjectError> {
        let (name, pieces) = self.named_parts(id, &parts)?;
        let mut whole = self.begin(&asker.principal, room)?;
        let whole = blocking(move || {
            let mut buffer = vec![0; 256 << 10];
            for piece in pieces {
                let mut file = piece.open()?;
                loop {
                    let count = file
                        .read(&mut buffer)
                        .map_err(|source| piece.fault("read", source))?;
                    if count == 0 {
                        break;
                    }
                    whole.write(&buffer[..count])?;
                }
            }
            Ok(whole)
        })
        .await?;
        let etag = self.etag(id, &parts)?;
        let row = self.publish(asker, name, whole, etag).await?;
        self.0.uploads.map().remove(id);
        Ok(row)
    }

    /// Gives an upload up, if it is there.
    pub fn abort_upload(&self, id: &str) {
        self.0.uploads.map().remove(id);
    }

    fn named_parts(
        &self,
        id: &str,
        parts: &[Part],
    ) -> Result<(ObjectName, Vec<Arc<AtRest>>), ObjectError> {
        let uploads = self.0.uploads.map();
        let upload = uploads
            .get(id)
            .ok_or_else(|| ObjectError::NoUpload(id.to_owned()))?;
        let mut pieces = Vec::with_capacity(parts.len());
        for part in parts {
            let piece = upload
                .parts
                .get(&part.number)
                .filter(|piece| hex(&piece.digest.md5) == part.etag)
                .ok_or(ObjectError::NoPart(part.number))?;
            pieces.push(Arc::clone(piece));
        }
        Ok((upload.name.clone(), pieces))
    }

    /// As S3 makes it: the MD5 of the parts' MD5s, and how many they are.
    fn etag(&self, id: &str, parts: &[Part]) -> Result<String, ObjectError> {
        let (_, pieces) = self.named_parts(id, parts)?;
        let mut all = Md5::new();
        for piece in &pieces {
            all.update(piece.digest.md5);
        }
        Ok(format!("{}-{}", hex(&all.finalize()), pieces.len()))
    }
}
