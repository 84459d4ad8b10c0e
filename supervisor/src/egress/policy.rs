//! The two questions of an outbound connection: may this target be asked for, may this address be dialled?

use session_core::egress::{AddressKind, AllowList, Target, classify, unmapped};
use session_core::spec::NetworkPolicy;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Why not. The text is for the agent's log and the operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The runtime has an allow-list, and this is not on it.
    NotListed,
    /// The runtime has no outbound network.
    NoNetwork,
    /// Every address of the target is of a kind that sessions may not reach.
    Address(IpAddr, &'static str),
    /// The name has no address.
    NoAddress,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotListed => f.write_str(
                "not on this runtime's allow-list (network.allow), or beyond the operator's",
            ),
            Self::NoNetwork => f.write_str("this runtime has no outbound network (network.mode)"),
            Self::Address(address, kind) => write!(
                f,
                "{address} is a {kind} address; an operator can open exactly this target in [network] allow_private"
            ),
            Self::NoAddress => f.write_str("the name has no address"),
        }
    }
}

/// May the runtime ask for this target at all?
pub(super) fn may_ask(policy: &NetworkPolicy, target: &Target) -> Result<(), Refused> {
    match policy {
        NetworkPolicy::None => Err(Refused::NoNetwork),
        NetworkPolicy::Outbound { allow, ceiling } => {
            let listed =
                |list: &Option<AllowList>| list.as_ref().is_none_or(|list| list.permits(target));
            if listed(allow) && listed(ceiling) {
                Ok(())
            } else {
                Err(Refused::NotListed)
            }
        }
    }
}

/// Which of the resolved addresses may be dialled. `own` are the addresses of this host's interfaces.
pub(crate) fn may_dial(
    private: &AllowList,
    target: &Target,
    resolved: &[SocketAddr],
    own: &[IpAddr],
) -> Result<Vec<SocketAddr>, Refused> {
    let named = private.permits(target);
    let mut refused = Refused::NoAddress;
    let mut dialled = Vec::new();
    for socket in resolved {
        let address = socket.ip();
        let kind = classify(address);
        // A public name that the operator opened may be private, but never turns into a metadata service.
        let open = named && (kind != AddressKind::Metadata || target.address().is_some());
        if open {
            dialled.push(*socket);
        } else if kind != AddressKind::Public {
            refused = Refused::Address(address, kind.name());
        } else if own.contains(&unmapped(address)) {
            refused = Refused::Address(address, "host's own");
        } else {
            dialled.push(*socket);
        }
    }
    if dialled.is_empty() {
        Err(refused)
    } else {
        Ok(dialled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> AllowList {
        AllowList::parse(entries.iter().copied()).expect("list")
    }

    fn target(text: &str) -> Target {
        Target::parse(text, 443).expect("target")
    }

    #[test]
    fn names_are_asked_for_only_where_the_runtime_lists_them() {
        let listed = NetworkPolicy::Outbound {
            allow: Some(list(&["api.test:443"])),
            ceiling: None,
        };
        assert_eq!(may_ask(&listed, &target("api.test:443")), Ok(()));
        assert_eq!(
            may_ask(&listed, &target("other.test:443")),
            Err(Refused::NotListed)
        );
        assert_eq!(
            may_ask(&NetworkPolicy::None, &target("api.test")),
            Err(Refused::NoNetwork)
        );
        assert_eq!(
            may_ask(
                &NetworkPolicy::Outbound {
                    allow: None,
                    ceiling: None
                },
                &target("any.test")
            ),
            Ok(())
        );
    }

    #[test]
    fn addresses_are_judged_after_resolution() {
        let none = AllowList::default();
        let public: SocketAddr = "93.184.216.34:443".parse().expect("addr");
        let loopback: SocketAddr = "127.0.0.1:443".parse().expect("addr");
        let metadata: SocketAddr = "169.254.169.254:443".parse().expect("addr");
        // A name with one public and one private address: only the public one is dialled.
        assert_eq!(
            may_dial(&none, &target("x.test"), &[loopback, public], &[]),
            Ok(vec![public])
        );
        assert!(may_dial(&none, &target("x.test"), &[loopback], &[]).is_err());
        assert_eq!(
            may_dial(&none, &target("x.test"), &[public], &[public.ip()]),
            Err(Refused::Address(public.ip(), "host's own"))
        );
        // The same address in an AAAA record.
        let mapped: SocketAddr = "[::ffff:93.184.216.34]:443".parse().expect("addr");
        assert!(may_dial(&none, &target("x.test"), &[mapped], &[public.ip()]).is_err());
        let open = list(&["127.0.0.1:443", "models.lan:443"]);
        assert_eq!(
            may_dial(&open, &target("127.0.0.1:443"), &[loopback], &[]),
            Ok(vec![loopback])
        );
        assert!(may_dial(&open, &target("127.0.0.1:444"), &[loopback], &[]).is_err());
        assert_eq!(
            may_dial(&open, &target("models.lan"), &[loopback], &[]),
            Ok(vec![loopback])
        );
        assert!(may_dial(&open, &target("models.lan"), &[metadata], &[]).is_err());
        assert_eq!(
            may_dial(&none, &target("x.test"), &[], &[]),
            Err(Refused::NoAddress)
        );
    }
}
