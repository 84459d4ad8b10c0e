//! Callbacks: whoever submitted a task can have somebody told of its outcome, with a signed `POST` to a URL.
//!
//! The URL is a stranger's word and the daemon stands inside the operator's network, so the way out is narrow:
//! - [`url`] reads it at submission: `https`, no user, no fragment. Without TLS only where the operator opened the target.
//! - [`policy`] judges addresses when it is called: the name is resolved once, and exactly an address that was judged is
//!   dialled. Private, loopback, link-local, multicast, metadata and the host's own addresses are refused unless
//!   `callbacks.allow_private` opens them; those inside of IPv6 ones (mapped, NAT64, 6to4) count as what they carry.
//! - [`post`] makes one call: no redirect is followed, nothing of the answer is read but its head, all of it has one bound of
//!   time. Certificates are verified by this host's authorities.
//! - [`signature`] signs it as [Standard Webhooks](https://www.standardwebhooks.com) has it, so receivers find libraries.
//! - [`pace`] says when the next attempt is, and when there is none; [`delivery`] makes them.
//!
//! An attempt is made at least once for each outcome; a receiver may see one twice (an answer that was lost, a daemon that was
//! killed), with the same `webhook-id`.

pub mod delivery;
pub mod pace;
pub mod policy;
pub mod post;
pub mod signature;
pub mod url;

pub use policy::CallbackPolicy;
pub use url::CallbackUrl;

use post::Post;
use signature::Secrets;
use std::time::Duration;

/// Tells outcomes.
#[derive(Debug)]
pub struct Courier {
    /// What it signs with.
    pub secrets: Secrets,
    /// How it calls.
    pub post: Post,
}

impl Courier {
    /// One that signs with these.
    #[must_use]
    pub fn new(secrets: Secrets) -> Self {
        Self {
            secrets,
            post: Post::default(),
        }
    }
}

/// The configuration of callbacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callbacks {
    /// Who may be told.
    pub policy: CallbackPolicy,
    /// For how long an outcome is tried to be told.
    pub retry_for: Duration,
    /// How long one attempt may take.
    pub timeout: Duration,
}
