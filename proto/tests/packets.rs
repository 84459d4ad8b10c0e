//! Tier 1 (pure): packets of the session protocol, over arbitrary bytes and arbitrary values.
#![allow(missing_docs, reason = "a test")]

use proptest::prelude::*;
use proto::ids::{ClientSessionId, InvocationId, RuntimeName, SessionId};
use proto::jsonrpc::{self, MAX_PACKET, Message, ParseError};
use proto::shim::{Invoke, InvokeHead, Log, LogLine, LogStream};
use proto::units::MemoryBytes;

fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("[a-z-]{1,20}", "\\PC{0,40}"), 0..20)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = jsonrpc::parse(&bytes);
    }

    #[test]
    fn bent_messages_are_messages_or_errors(at in 0_usize..200, byte in any::<u8>(), cut in 0_usize..200) {
        let mut packet = jsonrpc::request(5, "invoke", &Invoke {
            id: InvocationId(1), method: "POST".into(), target: "/".into(), headers: vec![], content_length: None, port: None, keep: None,
        });
        let at = at % packet.len();
        packet[at] = byte;
        let _ = jsonrpc::parse(&packet[..cut.min(packet.len())]);
        let _ = jsonrpc::parse(&packet);
    }

    #[test]
    fn what_is_encoded_is_read(
        id in any::<u64>(), method in "[A-Z]{1,7}", target in "/\\PC{0,60}", headers in headers(), length in any::<Option<u64>>(), port in any::<Option<u16>>(),
    ) {
        let invoke = Invoke { id: InvocationId(id), method, target, headers, content_length: length, port, keep: None };
        let packet = jsonrpc::request(id, "invoke", &invoke);
        match jsonrpc::parse(&packet) {
            Ok(Message::Request { id: read, method, params }) => {
                prop_assert_eq!(read, id);
                prop_assert_eq!(method.as_ref(), "invoke");
                prop_assert_eq!(jsonrpc::typed::<Invoke>(params).expect("typed"), invoke);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn answers_and_notifications_are_told_apart(status in any::<u16>(), text in "\\PC{0,200}", dropped in any::<u64>()) {
        let head = InvokeHead { status, headers: vec![], content_length: None };
        let is_response = matches!(jsonrpc::parse(&jsonrpc::result(3, &head)), Ok(Message::Response { id: 3, outcome: Ok(_) }));
        prop_assert!(is_response);
        let log = Log { lines: vec![LogLine { stream: LogStream::Stdout, at_ms: 0, text }], dropped };
        let packet = jsonrpc::notification("log", &log);
        match jsonrpc::parse(&packet) {
            Ok(Message::Notification { method, params }) => {
                prop_assert_eq!(method.as_ref(), "log");
                prop_assert_eq!(jsonrpc::typed::<Log>(params).expect("typed"), log);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn names_that_parse_are_safe_and_print_as_they_were(text in "\\PC{0,60}") {
        if let Ok(id) = SessionId::parse(text.clone()) {
            prop_assert_eq!(id.as_str(), text.as_str());
            prop_assert!(text.len() <= 26 && !text.contains(['/', '.', '\0']));
        }
        if let Ok(name) = RuntimeName::parse(text.clone()) {
            prop_assert!(name.as_str().len() <= 48);
        }
        if let Ok(id) = ClientSessionId::parse(text) {
            prop_assert!(id.as_str().is_ascii() && (33..=256).contains(&id.as_str().len()));
        }
    }

    #[test]
    fn amounts_of_memory_round_trip(bytes in any::<u64>()) {
        prop_assert_eq!(MemoryBytes::parse(&MemoryBytes(bytes).to_string()), Ok(MemoryBytes(bytes)));
    }
}

#[test]
fn a_packet_over_the_bound_is_refused_before_it_is_read() {
    let packet = vec![b' '; MAX_PACKET + 1];
    assert!(matches!(
        jsonrpc::parse(&packet),
        Err(ParseError::TooLarge(_))
    ));
}

#[test]
fn envelopes_that_are_neither_one_nor_the_other_are_refused() {
    for packet in [
        r#"{"jsonrpc":"2.0"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"x","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{},"result":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":""}}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{},"extra":1}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"x","params":{}}]"#,
        r#"{"jsonrpc":"2.0","id":-1,"method":"x","params":{}}"#,
    ] {
        assert!(jsonrpc::parse(packet.as_bytes()).is_err(), "{packet}");
    }
}
