//! What a broker may order: packets ▸ typed orders, with exactly the descriptors that are due.
//!
//! Pure, so that a fuzz target can drive it. What is wrong with a request is answered; what is wrong with the envelope, a
//! notification or the descriptors closes the connection, because then the two ends no longer agree on the protocol.

use proto::code::ErrorCode;
use proto::jsonrpc::{self, Message};
use proto::shim::{BodyEnd, Cancel, Exec, Invoke, Resize, Shutdown, Signal};
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;

/// One order.
#[derive(Debug)]
pub(crate) enum Order {
    Invoke {
        rpc: u64,
        invoke: Invoke,
        stream: OwnedFd,
    },
    Cancel(Cancel),
    BodyEnd(BodyEnd),
    Exec {
        rpc: u64,
        exec: Exec,
        stdio: ExecFds,
    },
    Resize(Resize),
    Signal {
        rpc: u64,
        signal: Signal,
    },
    Shutdown(Shutdown),
    /// A notification of a newer generation.
    Unknown,
}

/// The descriptors of an `exec`.
#[derive(Debug)]
pub(crate) enum ExecFds {
    /// Standard input, output and error.
    Straight([OwnedFd; 3]),
    /// One stream, for a terminal that the shim pumps.
    Terminal(OwnedFd),
}

/// Why a packet is not an order.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Answer this request so.
    Answer {
        rpc: u64,
        code: ErrorCode,
        text: String,
    },
    /// Close the connection.
    Close(String),
}

/// Types one packet.
pub(crate) fn parse(packet: &[u8], fds: Vec<OwnedFd>) -> Result<Order, Refusal> {
    match jsonrpc::parse(packet) {
        Ok(Message::Request { id, method, params }) => match &*method {
            "invoke" => {
                let invoke = request(id, "invoke", params)?;
                let [stream] = due(id, "invoke", fds)?;
                Ok(Order::Invoke {
                    rpc: id,
                    invoke,
                    stream,
                })
            }
            "exec" => {
                let exec: Exec = request(id, "exec", params)?;
                let stdio = if exec.tty.is_some() {
                    let [stream] = due(id, "exec with tty", fds)?;
                    ExecFds::Terminal(stream)
                } else {
                    ExecFds::Straight(due(id, "exec", fds)?)
                };
                Ok(Order::Exec {
                    rpc: id,
                    exec,
                    stdio,
                })
            }
            "signal" => {
                let signal = request(id, "signal", params)?;
                let [] = due(id, "signal", fds)?;
                Ok(Order::Signal { rpc: id, signal })
            }
            other => {
                let [] = due(id, other, fds)?;
                let (code, text) = if other == "attach" {
                    (ErrorCode::BadOrder, "attached already".to_owned())
                } else {
                    (ErrorCode::NoSuchMethod, format!("no method {other:?}"))
                };
                Err(Refusal::Answer {
                    rpc: id,
                    code,
                    text,
                })
            }
        },
        Ok(Message::Notification { method, params }) => {
            if !fds.is_empty() {
                return Err(Refusal::Close(format!("{method}: descriptors not due")));
            }
            match &*method {
                "cancel" => notification("cancel", params).map(Order::Cancel),
                "body.end" => notification("body.end", params).map(Order::BodyEnd),
                "resize" => notification("resize", params).map(Order::Resize),
                "shutdown" => notification("shutdown", params).map(Order::Shutdown),
                _ => Ok(Order::Unknown),
            }
        }
        // The shim asks nothing, so there is nothing to answer.
        Ok(Message::Response { .. }) => Err(Refusal::Close("an answer to nothing".to_owned())),
        Err(error) => Err(Refusal::Close(error.to_string())),
    }
}

fn request<T: DeserializeOwned>(
    rpc: u64,
    method: &str,
    params: &serde_json::value::RawValue,
) -> Result<T, Refusal> {
    jsonrpc::typed(params).map_err(|error| Refusal::Answer {
        rpc,
        code: ErrorCode::BadOrder,
        text: format!("{method}: {error}"),
    })
}

fn notification<T: DeserializeOwned>(
    method: &str,
    params: &serde_json::value::RawValue,
) -> Result<T, Refusal> {
    jsonrpc::typed(params).map_err(|error| Refusal::Close(format!("{method}: {error}")))
}

/// Exactly `N` descriptors: fewer is a request that cannot be carried out, more is a peer that cannot be trusted.
fn due<const N: usize>(rpc: u64, method: &str, fds: Vec<OwnedFd>) -> Result<[OwnedFd; N], Refusal> {
    let found = fds.len();
    fds.try_into().map_err(|_| {
        if found > N {
            Refusal::Close(format!("{method}: {found} descriptors, {N} are due"))
        } else {
            Refusal::Answer {
                rpc,
                code: ErrorCode::BadOrder,
                text: format!("{method}: {found} descriptors, {N} are due"),
            }
        }
    })
}
