//! What an agent asks of its proxy, and the names and addresses in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::ids::{ArtifactId, ClientSessionId, RuntimeName, SessionId};
use session_core::egress::{AllowList, Target, classify};

fn target(text: &str) {
    if let Ok(target) = Target::parse(text, 443) {
        assert!(target.port != 0);
        // Canonical: reading it once more changes nothing, so a rule and what is dialled cannot drift apart.
        let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
        let again = Target::parse(&format!("{host}:{}", target.port), 1).expect("canonical");
        assert_eq!(target, again);
        match target.address() {
            Some(address) => {
                let _ = classify(address);
            }
            None => assert!(target.host.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)
            })),
        }
    }
    if let Ok(list) = AllowList::parse([text]) {
        assert!(list.beyond(&list).is_empty(), "a list covers itself");
    }
    if let Ok(id) = SessionId::parse(text) {
        assert!(id.as_str().len() <= 26 && id.as_str().bytes().all(|b| b.is_ascii_alphanumeric()));
    }
    if let Ok(id) = ClientSessionId::parse(text) {
        assert!((33..=256).contains(&id.as_str().len()) && id.as_str().bytes().all(|b| b.is_ascii_graphic()));
    }
    if let Ok(name) = RuntimeName::parse(text) {
        assert!(name.as_str().len() <= 48 && !name.as_str().contains(['/', '.', '-']));
    }
    if let Ok(id) = ArtifactId::parse(text) {
        assert!(id.as_str().len() == 64 && !id.as_str().contains(['/', '.']));
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((target, forward)) = supervisor::egress::fuzzed_head(bytes) {
        assert!(target.port != 0 && forward.len() <= bytes.len() + 200);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        target(text);
    }
});
