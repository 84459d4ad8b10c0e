//! An agent that costs next to nothing: what a benchmark measures through it is the runtime.
//!
//! It echoes bodies as they come, in constant memory, and streams events on request. Threads accept in turns: each
//! serves the connection that it accepted, and the last one that waits starts another first, so that a request is
//! never handed from thread to thread.

#![forbid(unsafe_code)]

mod answer;
mod connection;
mod request;
mod websocket;

use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::connection::Connection;

/// Threads count against the session's pids limit (256 by default).
const MAX_THREADS: usize = 200;
const STACK_BYTES: usize = 128 * 1024;

struct Server {
    listener: TcpListener,
    /// Unix seconds: when the status last changed, that is, when it became healthy.
    healthy_since: u64,
    waiting: AtomicUsize,
    threads: AtomicUsize,
}

fn main() -> ExitCode {
    let port = match std::env::var("PORT").map_or(Ok(8080), |text| text.parse::<u16>()) {
        Ok(port) => port,
        Err(error) => {
            eprintln!("native-agent: PORT: {error}");
            return ExitCode::from(2);
        }
    };
    let listener = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("native-agent: cannot listen on port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let healthy_since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let server = Arc::new(Server {
        listener,
        healthy_since,
        waiting: AtomicUsize::new(1),
        threads: AtomicUsize::new(1),
    });
    accept_in_turn(&server);
    ExitCode::FAILURE
}

/// Accept and serve, one connection after the other; returns only when the listener fails.
fn accept_in_turn(server: &Arc<Server>) {
    loop {
        let accepted = server.listener.accept();
        if server.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            start_thread(server);
        }
        match accepted {
            // A client that broke off has nobody left to be told.
            Ok((stream, _)) => drop(Connection::new(stream).serve(server.healthy_since)),
            Err(error) => eprintln!("native-agent: accept: {error}"),
        }
        server.waiting.fetch_add(1, Ordering::AcqRel);
    }
}

fn start_thread(server: &Arc<Server>) {
    if server.threads.fetch_add(1, Ordering::AcqRel) >= MAX_THREADS {
        server.threads.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    server.waiting.fetch_add(1, Ordering::AcqRel);
    let shared = Arc::clone(server);
    let started = thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || accept_in_turn(&shared));
    if let Err(error) = started {
        eprintln!("native-agent: no further thread: {error}");
        server.waiting.fetch_sub(1, Ordering::AcqRel);
        server.threads.fetch_sub(1, Ordering::AcqRel);
    }
}
