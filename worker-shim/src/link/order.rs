//! What a broker may order: packets ▸ typed orders, with exactly the descriptors that are due.
//!
//! Pure, so that a fuzz target can drive it. What is wrong with a request is answered; what is wrong with the envelope, a
//! notification or the descriptors closes the connection, because then the two ends no longer agree on the protocol.

use proto::code::ErrorCode;
use proto::jsonrpc::{self, Message};
use proto::shim::{
    Ack, BodyEnd, Cancel, Claim, ClockGap, Exec, Fork, Go, Invoke, Resize, Resume, Settle,
    Shutdown, Signal,
};
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;

/// One order.
#[derive(Debug)]
pub enum Order {
    /// `invoke`.
    Invoke {
        /// The request to answer.
        rpc: u64,
        /// Its parameters.
        invoke: Invoke,
        /// The body stream.
        stream: OwnedFd,
    },
    /// `resume`.
    Resume {
        /// The request to answer.
        rpc: u64,
        /// Its parameters.
        resume: Resume,
        /// The body stream.
        stream: OwnedFd,
    },
    /// `cancel`.
    Cancel(Cancel),
    /// `ack`.
    Ack(Ack),
    /// `settle`.
    Settle(Settle),
    /// `body.end`.
    BodyEnd(BodyEnd),
    /// `exec`.
    Exec {
        /// The request to answer.
        rpc: u64,
        /// Its parameters.
        exec: Exec,
        /// What the process reads and writes.
        stdio: ExecFds,
    },
    /// `resize`.
    Resize(Resize),
    /// `signal`.
    Signal {
        /// The request to answer.
        rpc: u64,
        /// Its parameters.
        signal: Signal,
    },
    /// `clock-gap`.
    ClockGap(ClockGap),
    /// `claim`.
    Claim {
        /// The request to answer.
        rpc: u64,
        /// Its parameters.
        claim: Claim,
    },
    /// `shutdown`.
    Shutdown(Shutdown),
    /// `fork`.
    Fork {
        /// The request to answer.
        rpc: u64,
        /// One end of the channel between the fork and its session.
        channel: OwnedFd,
    },
    /// `go`.
    Go,
    /// A notification of a newer generation.
    Unknown,
}

/// The descriptors of an `exec`.
#[derive(Debug)]
pub enum ExecFds {
    /// Standard input, output and error.
    Straight([OwnedFd; 3]),
    /// One stream, for a terminal that the shim pumps.
    Terminal(OwnedFd),
}

/// Why a packet is not an order.
#[derive(Debug)]
pub enum Refusal {
    /// Answer this request so.
    Answer {
        /// The request.
        rpc: u64,
        /// Of the error.
        code: ErrorCode,
        /// Of the error.
        text: String,
    },
    /// Close the connection.
    Close(String),
}

/// Types one packet.
pub fn parse(packet: &[u8], fds: Vec<OwnedFd>) -> Result<Order, Refusal> {
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
            "resume" => {
                let resume = request(id, "resume", params)?;
                let [stream] = due(id, "resume", fds)?;
                Ok(Order::Resume {
                    rpc: id,
                    resume,
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
            "claim" => {
                let claim = request(id, "claim", params)?;
                let [] = due(id, "claim", fds)?;
                Ok(Order::Claim { rpc: id, claim })
            }
            "fork" => {
                let Fork {} = request(id, "fork", params)?;
                let [channel] = due(id, "fork", fds)?;
                Ok(Order::Fork { rpc: id, channel })
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
                "ack" => notification("ack", params).map(Order::Ack),
                "settle" => notification("settle", params).map(Order::Settle),
                "body.end" => notification("body.end", params).map(Order::BodyEnd),
                "resize" => notification("resize", params).map(Order::Resize),
                "clock-gap" => notification("clock-gap", params).map(Order::ClockGap),
                "shutdown" => notification("shutdown", params).map(Order::Shutdown),
                "go" => notification("go", params).map(|Go {}| Order::Go),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fds(n: usize) -> Vec<OwnedFd> {
        (0..n)
            .map(|_| OwnedFd::from(std::io::pipe().expect("pipe").0))
            .collect()
    }

    fn exec(tty: &str) -> Vec<u8> {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"exec","params":{{"id":1,"argv":["a"],"env":{{}},"cwd":null,"tty":{tty}}}}}"#
        )
        .into_bytes()
    }

    #[test]
    fn exactly_the_descriptors_that_are_due() {
        let packets = [
            (
                br#"{"jsonrpc":"2.0","id":1,"method":"invoke","params":{"id":1,"method":"GET","target":"/","headers":[],"content_length":null}}"#.to_vec(),
                1,
            ),
            (
                br#"{"jsonrpc":"2.0","id":1,"method":"resume","params":{"id":1,"from":0,"request_from":0}}"#.to_vec(),
                1,
            ),
            (exec("null"), 3),
            (exec(r#"{"rows":1,"cols":1}"#), 1),
            (
                br#"{"jsonrpc":"2.0","id":1,"method":"signal","params":{"id":null,"signal":1}}"#.to_vec(),
                0,
            ),
            (
                br#"{"jsonrpc":"2.0","id":1,"method":"claim","params":{"max_lifetime_ms":1}}"#.to_vec(),
                0,
            ),
        ];
        for (packet, due) in packets {
            for given in 0..5 {
                let order = parse(&packet, fds(given));
                let as_due = match order {
                    Ok(_) => given == due,
                    Err(Refusal::Answer { code, .. }) => given < due && code == ErrorCode::BadOrder,
                    Err(Refusal::Close(_)) => given > due,
                };
                assert!(
                    as_due,
                    "{due} due, {given} given: {}",
                    packet.escape_ascii()
                );
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_packets_never_panic(packet in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&packet, Vec::new());
        }

        #[test]
        fn unknown_methods_are_answered_and_unknown_notifications_ignored(
            method in "[a-z.]{1,12}",
        ) {
            prop_assume!(!["invoke", "resume", "exec", "signal", "attach", "cancel", "ack", "settle", "body.end", "resize", "clock-gap", "claim", "shutdown"]
                .contains(&method.as_str()));
            let request = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{{}}}}"#);
            let answered = matches!(
                parse(request.as_bytes(), Vec::new()),
                Err(Refusal::Answer { rpc: 7, code: ErrorCode::NoSuchMethod, .. })
            );
            prop_assert!(answered);
            let told = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{}}}}"#);
            prop_assert!(matches!(parse(told.as_bytes(), Vec::new()), Ok(Order::Unknown)));
        }
    }
}
