//! Whom callbacks may tell: judged by address, after resolving.

use super::url::CallbackUrl;
use ipnet::IpNet;
use session_core::egress::{AddressKind, AllowList, Target, TargetError, classify, unmapped};
use std::net::{IpAddr, SocketAddr};

/// What the operator opens beside public addresses over TLS (`callbacks.allow_private`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CallbackPolicy {
    /// Nothing.
    #[default]
    PublicOnly,
    /// Everything but metadata services.
    All,
    /// These.
    Listed {
        /// Hosts, with their ports.
        targets: AllowList,
        /// Networks, with any port.
        networks: Vec<IpNet>,
    },
}

/// Why a callback's URL is not called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its payload would be readable on the way.
    #[error(
        "must begin with https://; without TLS only what callbacks.allow_private opens can be told"
    )]
    Plain,
    /// All its addresses are of a kind that is not called.
    #[error("{0} is a {1} address; an operator can open it with callbacks.allow_private")]
    Address(IpAddr, &'static str),
    /// It is never called.
    #[error("{0} is a {1} address, which is never called")]
    Never(IpAddr, &'static str),
    /// The name has no address.
    #[error("the name has no address")]
    NoAddress,
}

impl CallbackPolicy {
    /// Reads the entries of a list: `host`, `host:port`, `*.host`, or a network such as `10.0.0.0/8`.
    pub fn listed(entries: &[String]) -> Result<Self, (String, EntryError)> {
        let mut names = Vec::new();
        let mut networks = Vec::new();
        for entry in entries {
            let at = |error| (entry.clone(), error);
            if entry.contains('/') {
                let network: IpNet = entry.trim().parse().map_err(|_| at(EntryError::Network))?;
                networks.push(network);
            } else {
                AllowList::parse([entry.as_str()]).map_err(|error| at(error.into()))?;
                names.push(entry.as_str());
            }
        }
        let targets = AllowList::parse(names.iter().copied())
            .map_err(|error| (names.join(", "), error.into()))?;
        Ok(Self::Listed { targets, networks })
    }

    /// May this URL be called at all? Its name is judged again when it has been resolved.
    pub fn may_submit(&self, url: &CallbackUrl) -> Result<(), Refused> {
        let address = url.target.address();
        if !url.secure {
            // A name can still turn out to be in a listed network; what it turns out to be is judged then.
            let may_be = match (self, address) {
                (Self::All, _) => true,
                (Self::PublicOnly, _) => false,
                (Self::Listed { .. }, Some(address)) => self.opens(&url.target, address),
                (Self::Listed { targets, networks }, None) => {
                    targets.permits(&url.target) || !networks.is_empty()
                }
            };
            if !may_be {
                return Err(Refused::Plain);
            }
        }
        // The host's own addresses are looked for when it is called: they change.
        address.map_or(Ok(()), |address| self.judge(url, address, &[]))
    }

    /// Which of the addresses that the URL's name has may be dialled. `own` are the addresses of this host's interfaces.
    pub fn may_dial(
        &self,
        url: &CallbackUrl,
        resolved: &[SocketAddr],
        own: &[IpAddr],
    ) -> Result<Vec<SocketAddr>, Refused> {
        let mut refused = Refused::NoAddress;
        let mut dialled = Vec::new();
        for socket in resolved {
            match self.judge(url, socket.ip(), own) {
                Ok(()) => dialled.push(*socket),
                Err(why) => refused = why,
            }
        }
        if dialled.is_empty() {
            Err(refused)
        } else {
            Ok(dialled)
        }
    }

    fn judge(&self, url: &CallbackUrl, address: IpAddr, own: &[IpAddr]) -> Result<(), Refused> {
        let bare = unmapped(address);
        let kind = classify(address);
        let nobody = match bare {
            IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
        };
        if nobody {
            return Err(Refused::Never(address, kind.name()));
        }
        if self.opens(&url.target, address) {
            return Ok(());
        }
        if kind != AddressKind::Public {
            return Err(Refused::Address(address, kind.name()));
        }
        if own.contains(&bare) {
            return Err(Refused::Address(address, "host's own"));
        }
        if url.secure {
            Ok(())
        } else {
            Err(Refused::Plain)
        }
    }

    /// Whether the operator opened it. What opens many things opens no metadata service: that is done by its very address.
    fn opens(&self, target: &Target, address: IpAddr) -> bool {
        let metadata = classify(address) == AddressKind::Metadata;
        match self {
            Self::PublicOnly => false,
            Self::All => !metadata,
            Self::Listed { targets, networks } => {
                let listed = targets.permits(target);
                if metadata {
                    return listed && target.address().is_some();
                }
                let bare = unmapped(address);
                let within =
                    |network: &IpNet| network.contains(&address) || network.contains(&bare);
                listed || networks.iter().any(within)
            }
        }
    }
}

/// Why an entry is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not a network.
    #[error("is not a network such as 10.0.0.0/8 or fd00::/8")]
    Network,
    /// Not a host.
    #[error(transparent)]
    Target(#[from] TargetError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> CallbackUrl {
        CallbackUrl::parse(text).expect("a URL")
    }

    fn listed(entries: &[&str]) -> CallbackPolicy {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        CallbackPolicy::listed(&entries).expect("entries")
    }

    fn judged(policy: &CallbackPolicy, text: &str, address: &str) -> Result<(), Refused> {
        let address: SocketAddr = (address.parse::<IpAddr>().expect("an address"), 443).into();
        let own = ["93.184.216.99".parse().expect("an address")];
        policy
            .may_dial(&url(text), &[address], &own)
            .map(|dialled| {
                assert_eq!(dialled, [address], "exactly what was judged");
            })
    }

    /// Every kind of address that must not be called unless it was opened, in all its disguises.
    const INSIDE: &[&str] = &[
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "10.0.0.1",
        "172.16.5.5",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.1.1",
        "fe80::1",
        "fc00::1",
        "fd12:3456::1",
        "fec0::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::10.0.0.1",
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "2002:a00:1::",
        "198.18.0.1",
        "192.0.2.1",
        "240.0.0.1",
        "2001:db8::1",
        "93.184.216.99",
        "::ffff:93.184.216.99",
    ];

    const METADATA: &[&str] = &[
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fd00:ec2::254",
        "168.63.129.16",
    ];

    const NOBODY: &[&str] = &[
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:0.0.0.0",
    ];

    #[test]
    fn only_public_addresses_are_called_unless_more_is_opened() {
        let none = CallbackPolicy::default();
        assert_eq!(judged(&none, "https://a.test/", "93.184.216.34"), Ok(()));
        assert_eq!(judged(&none, "https://a.test/", "2606:4700::1111"), Ok(()));
        for address in INSIDE.iter().chain(METADATA).chain(NOBODY) {
            assert!(
                judged(&none, "https://a.test/", address).is_err(),
                "{address}"
            );
        }
    }

    #[test]
    fn an_operator_opens_all_or_some() {
        for address in INSIDE {
            assert_eq!(
                judged(&CallbackPolicy::All, "http://a.test/", address),
                Ok(()),
                "{address}"
            );
        }
        for address in METADATA.iter().chain(NOBODY) {
            for policy in [
                CallbackPolicy::All,
                listed(&["a.test", "0.0.0.0/0", "::/0"]),
            ] {
                assert!(
                    judged(&policy, "https://a.test/", address).is_err(),
                    "{address}"
                );
            }
        }
        let some = listed(&[
            "10.0.0.0/8",
            "hooks.lan:8443",
            "169.254.169.254:80",
            "fd12::/16",
        ]);
        for (text, address, open) in [
            ("https://a.test/", "10.9.9.9", true),
            ("https://a.test/", "::ffff:10.9.9.9", true),
            ("https://a.test/", "11.0.0.1", true),
            ("http://a.test/", "11.0.0.1", false),
            ("https://a.test/", "172.16.0.1", false),
            ("https://a.test/", "fd12::1", true),
            ("https://a.test/", "fd13::1", false),
            ("https://hooks.lan:8443/", "192.168.1.1", true),
            ("http://hooks.lan:8443/", "192.168.1.1", true),
            ("https://hooks.lan/", "192.168.1.1", false),
            ("http://169.254.169.254/", "169.254.169.254", true),
        ] {
            assert_eq!(
                judged(&some, text, address).is_ok(),
                open,
                "{text} at {address}"
            );
        }
    }

    #[test]
    fn a_name_with_a_public_and_a_private_address_is_called_at_the_public_one() {
        let addresses: Vec<SocketAddr> = ["10.0.0.1:443", "93.184.216.34:443"]
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect();
        let dialled = CallbackPolicy::default().may_dial(&url("https://a.test/"), &addresses, &[]);
        assert_eq!(dialled, Ok(vec![addresses[1]]));
        let none = CallbackPolicy::default().may_dial(&url("https://a.test/"), &[], &[]);
        assert_eq!(none, Err(Refused::NoAddress));
    }

    #[test]
    fn what_can_never_be_called_is_refused_at_submission() {
        let none = CallbackPolicy::default();
        let some = listed(&["hooks.lan:80", "10.0.0.0/8"]);
        for (policy, text, may) in [
            (&none, "https://a.test/", true),
            (&none, "http://a.test/", false),
            (&none, "https://127.0.0.1/", false),
            (&none, "https://[::ffff:10.0.0.1]/", false),
            (&some, "http://hooks.lan/", true),
            (&some, "http://10.1.1.1:99/", true),
            (&some, "http://11.1.1.1/", false),
            (&some, "https://192.168.0.1/", false),
            (&CallbackPolicy::All, "http://a.test/", true),
            (&CallbackPolicy::All, "http://169.254.169.254/", false),
        ] {
            assert_eq!(policy.may_submit(&url(text)).is_ok(), may, "{text}");
        }
    }

    #[test]
    fn entries_that_are_none_are_named() {
        for bad in ["10.0.0.0/33", "/", "a..b", "x:99999"] {
            let (entry, _) =
                CallbackPolicy::listed(&["ok.test".into(), bad.into()]).expect_err(bad);
            assert_eq!(entry, bad);
        }
    }
}
