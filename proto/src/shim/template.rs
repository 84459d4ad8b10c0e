//! Templates: a session that serves nobody and makes the agents of others by forking, and those others.
//!
//! ```text
//! broker                     template's shim      session's shim
//!   │── fork + channel end ───────▶│                    │          its interpreter forks
//!   │── fork + other end ─────────────────────────────▶ │          namespaces go through the channel
//!   │◀───────────────────────────────── forked + pidfd ─│          the fork has joined them and given up everything
//!   │   (the launcher moves it into its cgroup, and looks)
//!   │── go ───────────────────────────────────────────▶ │          its environment; it serves
//! ```
//!
//! The channel is a SEQPACKET pair that the broker makes for one fork. What goes through it is between shim and bootstrap
//! (`python/agentcore_template/_become.py`); the broker never reads it.

use serde::{Deserialize, Serialize};

/// Where the agent of a session comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The shim starts it, at once.
    #[default]
    Started,
    /// The same, but it is the bootstrap of a template: it is not asked for its health, says `template` once, and may end
    /// without ending the session, because others' agents are below it.
    Template,
    /// It is a fork of a template: nothing runs before `fork` and `go`.
    Fork,
}

impl Origin {
    /// Whether it is what it is where nothing is said.
    #[must_use]
    pub fn is_started(&self) -> bool {
        *self == Self::Started
    }
}

/// `fork`: to a template, that one end of the channel is its next fork's; to a session, that the other end is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fork {}

/// `go`: the fork was looked at, and may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Go {}

/// `forked`: the fork is there, and does nothing until `go`. Said again on every link until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forked {
    /// Its number in the session.
    pub pid: i32,
}

/// `template`: what has become of it. Said again on every link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", deny_unknown_fields)]
pub enum TemplateState {
    /// Forks can be asked for.
    Ready,
    /// It cannot be forked, and has ended.
    Refused {
        /// In words, for the agent's author.
        reason: String,
    },
}

/// Most characters of a reason.
pub const MAX_REASON: usize = 1000;
