//! Which storage a session has: that of its key on the wire.

use super::handle::{SessionHandle, SessionKey};
use crate::launcher::message::StorageOrder;
use crate::owner::Principal;
use sha2::{Digest, Sha256};

/// What the launcher is asked for, if the runtime has session storage. A template has none: it is nobody's, and would take room
/// from callers for as long as it is there.
pub(super) fn order(handle: &SessionHandle) -> Option<StorageOrder> {
    if handle.template.is_some() {
        return None;
    }
    let storage = handle.version.spec.storage.as_ref()?;
    Some(StorageOrder {
        runtime: handle.key.runtime.clone(),
        key: digest(&handle.key),
        caller: caller(&handle.key.owner.principal),
        version: handle.version.number.0,
        name: storage.name.clone(),
        bytes: storage.size.0,
        // This daemon's own sessions make warm-up calls.
        scratch: handle.key.owner.principal == Principal::daemon(),
    })
}

/// Half a digest: long enough that nobody makes up a name that has another's.
fn caller(principal: &Principal) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(principal.as_str().as_bytes()).into();
    let mut caller = [0; 16];
    caller.copy_from_slice(&digest[..16]);
    caller
}

/// Of everything in the key but the runtime, which has a directory of its own. No two keys have the same text, whatever
/// characters a caller puts into its names.
fn digest(key: &SessionKey) -> [u8; 32] {
    let SessionKey {
        runtime: _,
        endpoint,
        client,
        owner,
    } = key;
    let text = serde_json::json!([owner.key(), endpoint.as_str(), client.as_str()]).to_string();
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::{Owner, UserId};
    use proto::ids::{ClientSessionId, EndpointName, RuntimeId};

    #[test]
    fn whoever_differs_in_anything_has_another_storage() {
        let key = |endpoint: &str, client: &str, uid, user: Option<&str>| SessionKey {
            runtime: RuntimeId::parse("agent-AbCdEf1234").expect("id"),
            endpoint: EndpointName::parse(endpoint).expect("endpoint"),
            client: ClientSessionId::parse(client.repeat(40)).expect("client"),
            owner: Owner {
                principal: Principal::user(uid),
                user: user.map(|user| UserId::parse(user).expect("user")),
            },
        };
        let keys = [
            key("DEFAULT", "a", 0, None),
            key("prod", "a", 0, None),
            key("DEFAULT", "b", 0, None),
            key("DEFAULT", "a", 1, None),
            key("DEFAULT", "a", 0, Some("a")),
            key("DEFAULT", "a", 0, Some("b")),
        ];
        let digests: std::collections::HashSet<_> = keys.iter().map(digest).collect();
        assert_eq!(digests.len(), keys.len());
        assert_eq!(digest(&keys[0]), digest(&key("DEFAULT", "a", 0, None)));
    }

    #[test]
    fn callers_have_shares_of_their_own() {
        let callers = [
            Principal::local(),
            Principal::daemon(),
            Principal::everybody(),
            Principal::user(0),
            Principal::key("0"),
            Principal::key("1"),
        ];
        let shares: std::collections::HashSet<_> = callers.iter().map(caller).collect();
        assert_eq!(shares.len(), callers.len());
        assert_eq!(caller(&Principal::key("0")), caller(&Principal::key("0")));
    }
}
