//! Everything that needs a raw system call: namespaces, mounts, capabilities, seccomp, cgroups, descriptor passing.
//!
//! The only crate with `unsafe`, and there only in [`sys`]: one small file per wrapper. Synchronous throughout, so that it
//! is legal in the single-threaded launcher, after a fork, and in PID 1 of a session.
//! Not for: decisions (`session-core`), wire types (`proto`), waiting (the supervisor's tokio).

pub mod agent;
pub mod cgroup;
pub mod exit_mark;
pub mod faults;
pub mod host;
mod identity;
pub mod memfd;
pub mod plan;
pub mod privileges;
pub mod seccomp;
pub mod seqpacket;
pub mod share;
pub mod shim_entry;
pub mod stager;
pub mod steps;
pub mod storage;
pub mod sys;
pub mod template;
pub mod uid_block;
