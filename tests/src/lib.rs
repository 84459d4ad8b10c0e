//! The end-to-end framework: starts built binaries, speaks plain HTTP to them, reads the host's own view of what they made.
//!
//! Nothing here links the daemon. A suite in `tests/tests/*.rs` gets a [`daemon::Daemon`] of its own (own state and
//! runtime directories, so suites run side by side), deploys an agent of `tests/agents` or `examples` with
//! [`deploy`], calls it through [`http`], and looks at it from the host with [`host`], [`cgroup`] and [`leaks`].
//!
//! Tiers (style.md): every test here is of tier *root* unless it says otherwise; it names its ground with [`ground!`] and skips
//! loudly where the ground is missing. `cargo xtask test` counts those skips.
//!
//! Where things are is decided by the environment, so that the same binaries run in the virtual machine:
//!
//! | variable | default |
//! |---|---|
//! | `AGENTCORE_BIN_DIR` | the profile directory that this test was built in |
//! | `AGENTCORE_FAULT_BIN_DIR` | `target/fault-injection` |
//! | `AGENTCORE_SOURCE_DIR` | the workspace |
//! | `AGENTCORE_TEST_DIR` | `/var/tmp/ac-e2e` |
//! | `AGENTCORE_SKIPS` | a file that skips are appended to, one a line |
//! | `AGENTCORE_PATIENCE` | `1`: factor on every waiting time (emulated machines need 10) |

#![forbid(unsafe_code)]

pub mod audit;
pub mod base;
pub mod canaries;
pub mod cgroup;
pub mod chaos;
pub mod client;
pub mod daemon;
pub mod deploy;
pub mod ground;
pub mod host;
pub mod http;
pub mod issuer;
pub mod leaks;
pub mod neighbour;
pub mod netns;
pub mod places;
pub mod ports;
pub mod probe;
pub mod puppet;
pub mod sharing;
pub mod smalldisk;
pub mod sockets;
pub mod storage;
pub mod sysv;
pub mod task;
pub mod venv;
pub mod wait;
pub mod warm;

pub use client::Client;
pub use daemon::{Daemon, Options};

/// Result of a test or of a step of one.
pub type Result<T = ()> = anyhow::Result<T>;
