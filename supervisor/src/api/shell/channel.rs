//! What a shell's binary messages mean: one byte for the channel, the rest for it (as `v5.channel.k8s.io`; contract §2.7).

use super::ShellId;
use bytes::{BufMut, Bytes, BytesMut};
use proto::shim::{ExitStatus, TtySize};
use serde::Deserialize;
use serde_json::{Value, json};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const HEARTBEAT: u8 = 5;
const CLOSE: u8 = 0xff;

/// From the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) enum Said {
    /// Typed.
    Stdin(Bytes),
    /// Its terminal has this size now.
    Resize(TtySize),
    /// To be said back.
    Heartbeat,
    /// It wants the shell to end.
    Close,
    /// Nothing that this end knows; the text says what is wrong with it, if it is not merely newer.
    Unknown(Option<&'static str>),
}

/// A size as the wire has it.
#[derive(Deserialize)]
struct Size {
    width: u16,
    height: u16,
}

impl Said {
    /// Reads a message.
    pub(in crate::api) fn read(mut message: Bytes) -> Self {
        if message.is_empty() {
            return Self::Unknown(Some("an empty message has no channel"));
        }
        match message.split_to(1)[0] {
            STDIN => Self::Stdin(message),
            RESIZE => match serde_json::from_slice(&message) {
                Ok(Size { width, height }) if width > 0 && height > 0 => Self::Resize(TtySize {
                    rows: height,
                    cols: width,
                }),
                Ok(_) | Err(_) => Self::Unknown(Some(
                    "a resize is {\"width\":…,\"height\":…}, each 1 to 65535",
                )),
            },
            HEARTBEAT => Self::Heartbeat,
            CLOSE => Self::Close,
            // The shell's own, and those of newer clients.
            _ => Self::Unknown(None),
        }
    }
}

/// Output of the terminal.
pub(in crate::api) fn stdout(bytes: &[u8]) -> Bytes {
    frame(STDOUT, bytes)
}

/// A word of this daemon's own.
pub(in crate::api) fn diagnostic(text: &str) -> Bytes {
    frame(STDERR, format!("{text}\r\n").as_bytes())
}

/// The answer to a heartbeat.
pub(in crate::api) fn heartbeat() -> Bytes {
    frame(HEARTBEAT, &[])
}

/// This end ends the shell, which has not ended by itself.
pub(in crate::api) fn close() -> Bytes {
    frame(CLOSE, &[])
}

/// The first message of a connection.
pub(in crate::api) fn connected(id: &ShellId, reconnected: bool) -> Bytes {
    let metadata = json!({"shellId": id.as_str(), "reconnected": reconnected});
    status(metadata, json!({"status": "Success"}))
}

/// How the shell ended.
pub(in crate::api) fn exited(ended: ExitStatus) -> Bytes {
    let cause =
        |reason: &str, number: i32| json!({"reason": reason, "message": number.to_string()});
    let (code, causes) = match ended {
        ExitStatus::Code(0) => return status(json!({}), json!({"status": "Success"})),
        ExitStatus::Code(code) => (code, vec![cause("ExitCode", code)]),
        ExitStatus::Signal(signal) => {
            let code = 128 + signal;
            (code, vec![cause("ExitCode", code), cause("Signal", signal)])
        }
    };
    let more = json!({
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": format!("command terminated with exit code {code}"),
        "details": {"causes": causes},
    });
    status(json!({}), more)
}

fn status(metadata: Value, more: Value) -> Bytes {
    let mut all = json!({"kind": "Status", "apiVersion": "v1", "metadata": metadata});
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    frame(STATUS, all.to_string().as_bytes())
}

fn frame(channel: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 1);
    frame.put_u8(channel);
    frame.put_slice(payload);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Said {
        Said::read(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn each_channel_and_what_is_none() {
        let size = TtySize {
            rows: 50,
            cols: 220,
        };
        assert_eq!(read(b"\0ls\n"), Said::Stdin(Bytes::from_static(b"ls\n")));
        assert_eq!(
            read(b"\x04{\"width\": 220, \"height\": 50}"),
            Said::Resize(size)
        );
        assert_eq!(read(b"\x05"), Said::Heartbeat);
        assert_eq!(read(b"\xff"), Said::Close);
        assert_eq!(read(b"\x01x"), Said::Unknown(None));
        assert_eq!(read(b"\x77"), Said::Unknown(None));
        for wrong in [
            &b""[..],
            b"\x04",
            b"\x04{\"width\":0,\"height\":1}",
            b"\x04{\"width\":65536,\"height\":1}",
        ] {
            assert!(matches!(read(wrong), Said::Unknown(Some(_))), "{wrong:?}");
        }
    }

    #[test]
    fn statuses_are_as_the_sdk_reads_them() {
        let json = |frame: Bytes| -> Value {
            assert_eq!(frame[0], STATUS);
            serde_json::from_slice(&frame[1..]).expect("JSON")
        };
        let id = ShellId::parse("s").expect("id");
        assert_eq!(
            json(connected(&id, true)),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {"shellId": "s", "reconnected": true}, "status": "Success"})
        );
        assert_eq!(
            json(exited(ExitStatus::Code(0))),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        );
        assert_eq!(
            json(exited(ExitStatus::Code(7)))["details"]["causes"],
            json!([{"reason": "ExitCode", "message": "7"}])
        );
        let killed = json(exited(ExitStatus::Signal(9)));
        assert_eq!(killed["reason"], "NonZeroExitCode");
        assert_eq!(
            killed["details"]["causes"],
            json!([{"reason": "ExitCode", "message": "137"}, {"reason": "Signal", "message": "9"}])
        );
    }

    proptest! {
        #[test]
        fn any_bytes_mean_something(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes);
        }
    }
}
