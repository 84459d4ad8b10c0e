//! HTTP: bytes ▸ `Call` ▸ answer. One port serves the AWS wire, the local-dev wire and `/v1`.
//!
//! Nothing here decides about sessions; nothing outside chooses a status (`proto::code` has the table, [`reply`] applies it).

pub mod answer;
pub mod artifacts;
pub mod attempts;
pub mod audit;
pub mod authenticate;
pub mod authorize;
pub mod aws;
pub mod backup;
pub mod bearer;
pub mod budgets;
pub mod callback_secret;
pub mod endpoints;
pub mod evidence;
pub mod exec;
pub mod freezer;
pub mod identify;
pub mod input;
pub mod intake;
pub mod invoke;
pub mod keys;
pub mod limits;
mod lingering;
pub mod listener;
pub mod local;
pub mod metrics;
pub mod obtain;
pub mod occupancy;
pub mod openapi;
mod process;
pub mod reply;
pub mod resumable;
pub mod router;
pub mod runtimes;
pub mod s3;
pub mod session_header;
pub mod sessions;
pub mod shell;
pub mod stops;
pub mod system;
pub mod tasks;
mod to_the_end;
mod turn;
pub mod usage;
mod websocket;
