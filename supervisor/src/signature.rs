//! Signature Version 4, the verifying side: was this request made by somebody who has the key's secret, just now, and has
//! nobody changed it since? (contract §7.2; AWS, "Authenticating requests: signature version 4")
//!
//! ```text
//! Claim::of ▸ claim.check (place, time, coverage) ▸ payload known ▸ Verifier::verify (canonical request, constant time)
//! ```
//!
//! Own code, because verifiers on crates.io want the body whole in memory, and ours may be 100 MB: here the payload's hash
//! comes from whoever reads the body. Held to AWS's test suite.
//!
//! Not for: what a key may do ([`crate::permit`]), and reading bodies (`api::payload`).

mod canonical;
mod claim;

pub use claim::{Claim, Form};

use crate::keys::AccessKey;
use crate::store::Timestamp;
use canonical::PathForm;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use ring::hmac;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How far a signer's clock may be off.
const SKEW: Duration = Duration::from_secs(15 * 60);

/// Longest life of a presigned request (contract §2.6).
const MAX_EXPIRES: u32 = 300;

/// The same for objects, as S3 has it.
const MAX_EXPIRES_S3: u32 = 7 * 86_400;

/// The header with which a signer may say the payload's hash itself.
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// What a signer says who does not cover the payload.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// The same, for a body that has a checksum of its own behind it: S3 clients over TLS.
const UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

/// Comes with temporary credentials. Ours are not: it says nothing here, signed or not.
const SECURITY_TOKEN: &str = "x-amz-security-token";

/// The caller's user: it decides whose a session is.
const USER_ID: &str = "x-amzn-bedrock-agentcore-runtime-user-id";

/// Headers that decide whose and which session it is.
const SESSION_HEADERS: &str = "x-amzn-bedrock-agentcore-";

/// The same for MCP's clients.
const MCP_SESSION_ID: &str = "mcp-session-id";

/// Signing keys remembered; when they are more, all are derived anew.
const KEYS_KNOWN: usize = 1024;

/// Why a request is not believed. For the audit record; the answer does not tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a signature that could be checked.
    #[error("malformed signature: {0}")]
    Malformed(&'static str),
    /// Made for another place.
    #[error("signed for {0}")]
    Elsewhere(String),
    /// Too far from this host's time.
    #[error("signed at {at}, which is more than 15 minutes from this host's time")]
    Skewed {
        /// When it was signed.
        at: Timestamp,
    },
    /// A presigned request after its time.
    #[error("presigned at {at} for {expires} s, which are over")]
    Expired {
        /// When it was signed.
        at: Timestamp,
        /// For how long.
        expires: u32,
    },
    /// A header that must be signed is not.
    #[error("the signature does not cover {0}")]
    NotCovered(String),
    /// The signature is another.
    #[error("the signature does not match")]
    Mismatch,
    /// The body is not the signed one.
    #[error("the payload does not have the signed hash")]
    Payload,
    /// No key has the id, or it was revoked.
    #[error("there is no access key {0}")]
    UnknownKey(String),
    /// The key's time is over.
    #[error("access key {0} has expired")]
    ExpiredKey(String),
}

/// Where requests must have been signed for.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Our region.
    pub region: &'a str,
    /// The service whose wire the request is on.
    pub service: Service,
}

/// A service that we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Both planes of AgentCore, and `/v1`.
    AgentCore,
    /// The S3 subset.
    S3,
}

impl Service {
    const fn name(self) -> &'static str {
        match self {
            Self::AgentCore => "bedrock-agentcore",
            Self::S3 => "s3",
        }
    }

    const fn path_form(self) -> PathForm {
        let own = matches!(self, Self::AgentCore);
        PathForm {
            twice: own,
            normal: own,
        }
    }

    const fn longest(self) -> u32 {
        match self {
            Self::AgentCore => MAX_EXPIRES,
            Self::S3 => MAX_EXPIRES_S3,
        }
    }
}

/// What the signature says of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// It is covered: the canonical request has its hash, which must be computed first.
    Covered,
    /// The signer says the hash, and covers what he says: the body must have it.
    Declared([u8; 32]),
    /// It is not covered.
    Unsigned,
}

impl Claim {
    /// Everything that can be refused without the key's secret.
    pub fn check(&self, head: &Parts, place: Place<'_>, now: Timestamp) -> Result<(), Refused> {
        if self.region != place.region || self.service != place.service.name() {
            return Err(Refused::Elsewhere(format!(
                "{} in {}, this is {} in {}",
                self.service,
                self.region,
                place.service.name(),
                place.region
            )));
        }
        let ahead = self.at.before(SKEW) > now;
        match self.form {
            Form::Header if ahead || self.at < now.before(SKEW) => {
                return Err(Refused::Skewed { at: self.at });
            }
            Form::Header => {}
            Form::Query { .. } if ahead => return Err(Refused::Skewed { at: self.at }),
            Form::Query { expires } => {
                if !(1..=place.service.longest()).contains(&expires) {
                    return Err(Refused::Malformed("X-Amz-Expires is out of range"));
                }
                let at = self.at;
                if now.before(Duration::from_secs(u64::from(expires))) > at {
                    return Err(Refused::Expired { at, expires });
                }
            }
        }
        if place.service.path_form().normal
            && canonical::normalized(head.uri.path()) != head.uri.path()
        {
            // Several paths would have this signature.
            return Err(Refused::Malformed(
                "the path has empty, `.` or `..` segments",
            ));
        }
        for name in head.headers.keys() {
            let text = name.as_str();
            let amazon = text.starts_with("x-amz-") && text != SECURITY_TOKEN;
            // Whoever was given a presigned URL must not choose the session, where its maker has not.
            let chooses = text.starts_with(SESSION_HEADERS) || text == MCP_SESSION_ID;
            let session = chooses && self.form != Form::Header;
            if amazon || session || text == USER_ID {
                self.covers(name)?;
            }
        }
        Ok(())
    }

    /// What is said of the payload.
    pub fn payload(&self, headers: &HeaderMap) -> Result<Payload, Refused> {
        let mut values = headers.get_all(CONTENT_SHA256).iter();
        let Some(value) = values.next() else {
            // As S3 presigns.
            let presigned_object = self.service == Service::S3.name() && self.form != Form::Header;
            return Ok(if presigned_object {
                Payload::Unsigned
            } else {
                Payload::Covered
            });
        };
        if values.next().is_some() {
            return Err(Refused::Malformed("x-amz-content-sha256 is given twice"));
        }
        match value.to_str() {
            Ok(UNSIGNED) => Ok(Payload::Unsigned),
            Ok(UNSIGNED_TRAILER) if self.service == Service::S3.name() => Ok(Payload::Unsigned),
            Ok(text) => claim::unhex(text)
                .map(Payload::Declared)
                .ok_or(Refused::Malformed(
                    "x-amz-content-sha256 is neither a hash nor UNSIGNED-PAYLOAD",
                )),
            Err(_) => Err(Refused::Malformed("x-amz-content-sha256 is not text")),
        }
    }
}

/// Compares signatures, and remembers keys derived for a day, region and service.
#[derive(Debug, Default)]
pub struct Verifier {
    derived: Mutex<HashMap<[String; 4], hmac::Key>>,
}

impl Verifier {
    /// Whether the claim was signed with the key. `payload` is the hash of the body; `None` if it is not covered.
    pub fn verify(
        &self,
        claim: &Claim,
        head: &Parts,
        service: Service,
        key: &AccessKey,
        payload: Option<[u8; 32]>,
    ) -> Result<(), Refused> {
        let derived = self.derived(claim, key);
        for host in [canonical::Host::AsSent, canonical::Host::WithoutPort] {
            let canonical = canonical_request(claim, head, service.path_form(), payload, host)?;
            let text = string_to_sign(claim, &canonical);
            // In constant time.
            if hmac::verify(&derived, text.as_bytes(), &claim.signature).is_ok() {
                return Ok(());
            }
        }
        Err(Refused::Mismatch)
    }

    fn derived(&self, claim: &Claim, key: &AccessKey) -> hmac::Key {
        let scope = [&claim.key_id, &claim.day, &claim.region, &claim.service].map(Clone::clone);
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = derived.get(&scope) {
            return found.clone();
        }
        if derived.len() >= KEYS_KNOWN {
            derived.clear();
        }
        let made = signing_key(key.secret(), claim);
        derived.insert(scope, made.clone());
        made
    }
}

fn signing_key(secret: &[u8], claim: &Claim) -> hmac::Key {
    let first = [b"AWS4", secret].concat();
    let steps = [&claim.day, &claim.region, &claim.service, "aws4_request"];
    let made = steps.iter().fold(first, |key, step| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        hmac::sign(&key, step.as_bytes()).as_ref().to_vec()
    });
    hmac::Key::new(hmac::HMAC_SHA256, &made)
}

fn canonical_request(
    claim: &Claim,
    head: &Parts,
    form: PathForm,
    payload: Option<[u8; 32]>,
    host: canonical::Host,
) -> Result<Vec<u8>, Refused> {
    let names: Vec<&str> = claim.signed.iter().map(HeaderName::as_str).collect();
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    let said = head.headers.get(CONTENT_SHA256);
    let said = said.and_then(|said| said.to_str().ok());
    let payload = payload.map_or_else(|| said.unwrap_or(UNSIGNED).to_owned(), hex);
    let mut text = format!(
        "{}\n{}\n{}\n",
        head.method,
        canonical::path(head.uri.path(), form),
        canonical::query(head.uri.query().unwrap_or(""))?
    )
    .into_bytes();
    text.extend(canonical::headers(
        &claim.signed,
        &head.headers,
        authority,
        host,
    )?);
    text.extend_from_slice(format!("\n{}\n{payload}", names.join(";")).as_bytes());
    Ok(text)
}

fn string_to_sign(claim: &Claim, canonical: &[u8]) -> String {
    format!(
        "AWS4-HMAC-SHA256\n{}\n{}/{}/{}/aws4_request\n{}",
        claim.date,
        claim.day,
        claim.region,
        claim.service,
        hex(Sha256::digest(canonical).into())
    )
}

fn hex(bytes: [u8; 32]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests;
