//! Invocations that the shim keeps for whoever is the broker: they survive the loss of the daemon that began them.
//!
//! An `invoke` with [`Keep`] runs as any other, but it belongs to its session and not to the link: when the link is lost its
//! agent's connection stays. What is different for the one who gives the order:
//!
//! - **The answer is kept until it is safe.** The shim holds every byte that has not been acknowledged ([`Ack`]), at most
//!   [`KEPT_WINDOW`] of them; when that is full the agent waits. So a broker acknowledges as it goes on.
//! - **The end is said by `ended`** ([`Ended`]), not by `body.end`: with the number of bytes of the whole answer, also where it
//!   failed, and why. The bytes before a failure are delivered first. An answer that has no head yet fails as every `invoke`
//!   does, by the error of the call.
//! - **The outcome is kept until it is settled** ([`Settle`]), however it ended, `cancel` included. Until then it has a seat
//!   among the session's invocations. What is refused at its beginning (by the error of the call) is not kept at all.
//! - **Going away is no cancelling.** A stream that closes, at either end of the request, changes nothing: only `cancel`, the
//!   deadline, the agent and the session's end end it.
//! - **Another broker goes on.** [`Attached::kept`](super::Attached::kept) lists what there is; `resume` gives it a new
//!   stream. What the list has not, no agent has got a byte of, or it was settled: orders of an older link are not carried out
//!   once a newer one is attached.
//! - **It holds the session.** While it is in flight neither the session's lifetime nor the orphan timeout end it. At its
//!   deadline the shim ends it by itself, as [`AgentTimeout`](crate::code::ErrorCode::AgentTimeout). The orphan timeout counts
//!   anew from the end of the last one that was in flight. An outcome that is not settled holds off the lifetime until the
//!   deadline, and the orphan timeout not at all.
//!
//! **Every count of bytes is absolute**: of the whole body, whatever stream it goes over. Over a stream of `resume` the answer
//! begins with byte [`Resume::from`] and the request with byte [`Resume::request_from`]; [`Ended::bytes`] and the `body.end` of
//! a request tell whole lengths.

use crate::ids::InvocationId;
use crate::jsonrpc::ErrorObject;
use serde::{Deserialize, Serialize};

/// Most bytes of one kept answer that are not acknowledged. It is the session's memory.
pub const KEPT_WINDOW: u64 = 256 * 1024;

/// Most invocations that one shim keeps, those that have ended and are not settled included.
pub const MAX_KEPT: usize = 64;

/// The longest deadline, in milliseconds: 31 days.
pub const MAX_KEEP_MS: u64 = 31 * 24 * 3_600_000;

/// In `invoke`: keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// From now on; 1 to [`MAX_KEEP_MS`].
    pub deadline_ms: u64,
}

/// In `attach`'s answer: one that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// As its `invoke` had it.
    pub id: InvocationId,
    /// Bytes of the answer that have been acknowledged.
    pub acked: u64,
    /// Bytes of the answer that the agent has given so far.
    pub produced: u64,
    /// Bytes of the request that the shim has.
    pub uploaded: u64,
    /// It is not in flight any more.
    pub ended: bool,
    /// Until its deadline; 0 when that is over.
    pub left_ms: u64,
}

/// `resume`: goes on with a kept invocation over a new stream. Answered as `invoke` is: with the agent's head when that is
/// there, with the error of an invocation that ended without one. The newest stream counts: one before it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Which one.
    pub id: InvocationId,
    /// The answer's bytes before this one are safe (this acknowledges them) and not sent again.
    pub from: u64,
    /// The byte of the request with which the stream begins; what the shim has of it already is thrown away.
    pub request_from: u64,
}

/// `ack`: what comes before this byte of the answer is safe with the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Which one.
    pub id: InvocationId,
    /// How many bytes are safe. Fewer than before says nothing new.
    pub bytes: u64,
}

/// `settle`: the outcome is safe with the broker; the shim forgets the invocation. One that is still in flight is not
/// settled, and stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settle {
    /// Which one.
    pub id: InvocationId,
}

/// `ended`: all of a kept answer is in the stream, which closes after this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Which one.
    pub id: InvocationId,
    /// How many bytes the whole answer has.
    pub bytes: u64,
    /// Why it is not complete, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ErrorObject>,
}
