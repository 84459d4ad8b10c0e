//! A packet of the session link: whatever it holds, both ends either refuse it or read it, and what was read means the
//! same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::jsonrpc::{self, Message};
use proto::shim::*;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::fmt::Debug;

fn again<T: DeserializeOwned + serde::Serialize + PartialEq + Debug>(raw: &RawValue) {
    if let Ok(typed) = jsonrpc::typed::<T>(raw) {
        let written = serde_json::to_string(&typed).expect("our own types can be written");
        let read: T = serde_json::from_str(&written).expect("and read again");
        assert_eq!(typed, read);
    }
}

fn every_type(raw: &RawValue) {
    again::<Attach>(raw);
    again::<Attached>(raw);
    again::<Invoke>(raw);
    again::<InvokeHead>(raw);
    again::<BodyEnd>(raw);
    again::<Cancel>(raw);
    again::<Exec>(raw);
    again::<Execed>(raw);
    again::<Resize>(raw);
    again::<Signal>(raw);
    again::<Shutdown>(raw);
    again::<Health>(raw);
    again::<Log>(raw);
    again::<AgentExited>(raw);
    again::<ExecExited>(raw);
    again::<Egress>(raw);
    again::<Fault>(raw);
    again::<Boot>(raw);
}

fuzz_target!(|packet: &[u8]| {
    match jsonrpc::parse(packet) {
        Ok(Message::Request { id, method, params }) => {
            every_type(params);
            let written = jsonrpc::request(id, &method, &params);
            if written.len() <= jsonrpc::MAX_PACKET {
                let read = jsonrpc::parse(&written).expect("readable");
                assert!(matches!(read, Message::Request { id: i, method: m, .. } if i == id && m == method));
            }
        }
        Ok(Message::Notification { method, params }) => {
            every_type(params);
            let written = jsonrpc::notification(&method, &params);
            if written.len() <= jsonrpc::MAX_PACKET {
                let read = jsonrpc::parse(&written).expect("readable");
                assert!(matches!(read, Message::Notification { method: m, .. } if m == method));
            }
        }
        Ok(Message::Response { outcome: Ok(result), .. }) => every_type(result),
        Ok(Message::Response { outcome: Err(error), .. }) => {
            // A number that nobody knows must not become a panic where it is told to a client.
            let _ = proto::code::ErrorCode::from_rpc(error.code).row();
        }
        Err(_) => {}
    }
});
