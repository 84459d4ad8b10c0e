//! Which addresses an agent may reach through its session's proxy.
//!
//! Two questions, asked in this order. **May this name be asked for?** — the runtime's allow-list, if it has one
//! ([`AllowList::permits`]). **May this address be dialled?** — after resolving: metadata, private, loopback, link-local,
//! multicast and the host's own addresses are refused, also when a public name resolves to them, unless the *operator's*
//! list names exactly that target ([`classify`], [`Target`]).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host and port, as the agent asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Lower-case name without a final dot, or an address in its canonical form.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Why a target or an entry of an allow-list is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a host name or address.
    #[error("`{0}` is not a host name or IP address")]
    Host(String),
    /// Not a port.
    #[error("`{0}` is not a port between 1 and 65535, or `*`")]
    Port(String),
}

impl Target {
    /// Reads `host:port` or `[v6]:port`; without a port, `default_port`.
    ///
    /// Numbers in other notations than dotted decimal (`0x7f000001`, `2130706433`, `0177.1`) are refused here, so that no
    /// resolver can read them as an address behind our back.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, TargetError> {
        let (host, port) = split_port(text)?;
        let port = match port {
            None => default_port,
            Some(port) => parse_port(port)?,
        };
        Ok(Self {
            host: canonical_host(host)?,
            port,
        })
    }

    /// The address, if the host is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

fn split_port(text: &str) -> Result<(&str, Option<&str>), TargetError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest
            .split_once(']')
            .ok_or_else(|| TargetError::Host(text.to_owned()))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(TargetError::Port(after.to_owned())),
        };
    }
    match text.split_once(':') {
        // More than one colon without brackets: a bare IPv6 address.
        Some((_, rest)) if rest.contains(':') => Ok((text, None)),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn parse_port(text: &str) -> Result<u16, TargetError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TargetError::Port(text.to_owned()));
    }
    text.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| TargetError::Port(text.to_owned()))
}

fn canonical_host(host: &str) -> Result<String, TargetError> {
    let bad = || TargetError::Host(host.to_owned());
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(unmapped(address).to_string());
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label_ok) {
        return Err(bad());
    }
    // inet_aton notations: a last label that is a number makes the whole an address for some resolvers.
    let last = name.rsplit('.').next().unwrap_or("");
    if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
        return Err(bad());
    }
    Ok(name)
}

/// `::ffff:1.2.3.4` and other forms that carry an IPv4 address, as that address.
#[must_use]
pub fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => IpAddr::V4(v4),
            None => address,
        },
    }
}

/// The IPv4 address inside a v4-mapped, v4-compatible, NAT64 (`64:ff9b::/96`) or 6to4 (`2002::/16`) address.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let from = |hi: u16, lo: u16| {
        let [a, b] = hi.to_be_bytes();
        let [c, d] = lo.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, hi, lo] | [0x64, 0xff9b, 0, 0, 0, 0, hi, lo] => Some(from(hi, lo)),
        [0, 0, 0, 0, 0, 0, hi, lo] if hi != 0 => Some(from(hi, lo)),
        [0x2002, hi, lo, ..] => Some(from(hi, lo)),
        _ => None,
    }
}

/// What kind of address this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// Anywhere on the internet.
    Public,
    /// This host, by the loopback range.
    Loopback,
    /// Cloud metadata services.
    Metadata,
    /// A private, shared or unique-local network.
    Private,
    /// Link-local.
    LinkLocal,
    /// Unspecified, multicast, broadcast, documentation, benchmarking, reserved.
    Special,
}

impl AddressKind {
    /// For logs and refusals.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Loopback => "loopback",
            Self::Metadata => "metadata",
            Self::Private => "private",
            Self::LinkLocal => "link-local",
            Self::Special => "special-purpose",
        }
    }
}

/// Sorts an address. IPv4 addresses inside IPv6 ones are judged as what they carry.
#[must_use]
pub fn classify(address: IpAddr) -> AddressKind {
    match unmapped(address) {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v4(v4: Ipv4Addr) -> AddressKind {
    match v4.octets() {
        // AWS, GCP, Azure, Oracle, OpenStack and others; AWS's resolver and clock; ECS and EKS credentials.
        [169, 254, 169, 254 | 253 | 123] | [169, 254, 170, 2 | 23] => AddressKind::Metadata,
        // Alibaba, Tencent, Scaleway, Oracle (older instances).
        [100, 100, 100, 200] | [169, 254, 0, 23] | [169, 254, 42, 42] | [192, 0, 0, 192] => {
            AddressKind::Metadata
        }
        // Azure's WireServer, which hands out certificates and extensions' settings: a public address by its number.
        [168, 63, 129, 16] => AddressKind::Metadata,
        [127, ..] => AddressKind::Loopback,
        [10, ..] | [192, 168, ..] => AddressKind::Private,
        [172, b, ..] if (16..=31).contains(&b) => AddressKind::Private,
        // Carrier-grade NAT, RFC 6598.
        [100, b, ..] if (64..=127).contains(&b) => AddressKind::Private,
        [169, 254, ..] => AddressKind::LinkLocal,
        [0, ..] | [192, 0, 0, _] | [192, 0, 2, _] | [198, 18 | 19, ..] => AddressKind::Special,
        [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] | [224..=255, ..] => {
            AddressKind::Special
        }
        _ => AddressKind::Public,
    }
}

fn classify_v6(v6: Ipv6Addr) -> AddressKind {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressKind::Loopback,
        // AWS: metadata, resolver, clock, EKS credentials.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254 | 0x253 | 0x123 | 0x23] => AddressKind::Metadata,
        // GCP, Scaleway, OpenStack.
        [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
        | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]
        | [0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe] => AddressKind::Metadata,
        [first, ..] if first & 0xffc0 == 0xfe80 => AddressKind::LinkLocal,
        [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => AddressKind::Private,
        // Only 2000::/3 is global unicast; of it, not documentation, ORCHID, Teredo and benchmarking.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => AddressKind::Special,
        [first, ..] if first & 0xe000 == 0x2000 && first != 0x3fff => AddressKind::Public,
        _ => AddressKind::Special,
    }
}

/// One entry of an allow-list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    host: HostPattern,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Exact(String),
    Below(String),
}

/// Names and ports that a runtime may reach, or private targets that the operator opens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowList(Vec<Pattern>);

impl AllowList {
    /// Reads entries: `host`, `host:port`, `host:*`, `*.example.com:443`, `[v6]:port`. Without a port: 443.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, TargetError> {
        entries
            .into_iter()
            .map(Pattern::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether an entry names this target. A wildcard covers names below, not the name itself, and never an address.
    #[must_use]
    pub fn permits(&self, target: &Target) -> bool {
        self.0.iter().any(|pattern| pattern.matches(target))
    }

    /// Whether an entry names this host (exactly, with whatever port).
    #[must_use]
    pub fn names_host(&self, host: &str) -> bool {
        self.0
            .iter()
            .any(|pattern| matches!(&pattern.host, HostPattern::Exact(name) if name == host))
    }

    /// Entries, in their canonical form, that name targets which no entry of `widest` does.
    #[must_use]
    pub fn beyond(&self, widest: &Self) -> Vec<String> {
        self.0
            .iter()
            .filter(|mine| !widest.0.iter().any(|wide| wide.covers(mine)))
            .map(Pattern::to_string)
            .collect()
    }

    /// Entries, in their canonical form, that name more than one host and port. An exception for a private target must not.
    #[must_use]
    pub fn inexact(&self) -> Vec<String> {
        self.0
            .iter()
            .filter(|p| p.port.is_none() || matches!(p.host, HostPattern::Below(_)))
            .map(Pattern::to_string)
            .collect()
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, TargetError> {
        let (host, port) = split_port(text.trim())?;
        let port = match port {
            Some("*") => None,
            Some(port) => Some(parse_port(port)?),
            None => Some(443),
        };
        let host = match host.strip_prefix("*.") {
            Some(rest) => HostPattern::Below(format!(".{}", canonical_host(rest)?)),
            None => HostPattern::Exact(canonical_host(host)?),
        };
        Ok(Self { host, port })
    }

    fn matches(&self, target: &Target) -> bool {
        let host = match &self.host {
            HostPattern::Exact(host) => *host == target.host,
            HostPattern::Below(suffix) => {
                target.address().is_none() && target.host.ends_with(suffix.as_str())
            }
        };
        host && self.port.is_none_or(|port| port == target.port)
    }

    /// Whether everything that `narrow` matches is matched here too.
    fn covers(&self, narrow: &Self) -> bool {
        let host = match (&self.host, &narrow.host) {
            (HostPattern::Exact(mine), HostPattern::Exact(theirs)) => mine == theirs,
            (HostPattern::Exact(_), HostPattern::Below(_)) => false,
            (HostPattern::Below(suffix), HostPattern::Exact(host)) => {
                host.parse::<IpAddr>().is_err() && host.ends_with(suffix.as_str())
            }
            (HostPattern::Below(mine), HostPattern::Below(theirs)) => {
                theirs.ends_with(mine.as_str())
            }
        };
        host && (self.port.is_none() || self.port == narrow.port)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Exact(host) if host.contains(':') => write!(f, "[{host}]")?,
            HostPattern::Exact(host) => f.write_str(host)?,
            HostPattern::Below(suffix) => write!(f, "*{suffix}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> AddressKind {
        classify(text.parse().expect("an address"))
    }

    #[test]
    fn metadata_private_and_own_addresses_are_told_from_public_ones() {
        for (text, expected) in [
            ("8.8.8.8", AddressKind::Public),
            ("2606:4700::1111", AddressKind::Public),
            ("127.0.0.1", AddressKind::Loopback),
            ("::1", AddressKind::Loopback),
            ("::ffff:127.0.0.1", AddressKind::Loopback),
            ("64:ff9b::7f00:1", AddressKind::Loopback),
            ("2002:7f00:1::", AddressKind::Loopback),
            ("169.254.169.254", AddressKind::Metadata),
            ("::ffff:169.254.169.254", AddressKind::Metadata),
            ("169.254.170.2", AddressKind::Metadata),
            ("169.254.170.23", AddressKind::Metadata),
            ("100.100.100.200", AddressKind::Metadata),
            ("169.254.0.23", AddressKind::Metadata),
            ("169.254.42.42", AddressKind::Metadata),
            ("192.0.0.192", AddressKind::Metadata),
            ("168.63.129.16", AddressKind::Metadata),
            ("::ffff:168.63.129.16", AddressKind::Metadata),
            ("64:ff9b::a83f:8110", AddressKind::Metadata),
            ("168.63.129.17", AddressKind::Public),
            ("fd00:ec2::254", AddressKind::Metadata),
            ("fd00:ec2::23", AddressKind::Metadata),
            ("fd20:ce::254", AddressKind::Metadata),
            ("fe80::a9fe:a9fe", AddressKind::Metadata),
            ("64:ff9b:1::7f00:1", AddressKind::Special),
            ("10.1.2.3", AddressKind::Private),
            ("172.16.0.1", AddressKind::Private),
            ("172.32.0.1", AddressKind::Public),
            ("192.168.1.1", AddressKind::Private),
            ("100.64.0.1", AddressKind::Private),
            ("fc00::1", AddressKind::Private),
            ("169.254.1.1", AddressKind::LinkLocal),
            ("fe80::1", AddressKind::LinkLocal),
            ("0.0.0.0", AddressKind::Special),
            ("::", AddressKind::Special),
            ("224.0.0.1", AddressKind::Special),
            ("255.255.255.255", AddressKind::Special),
            ("2001:db8::1", AddressKind::Special),
            ("ff02::1", AddressKind::Special),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn other_notations_of_addresses_are_refused() {
        for bad in [
            "2130706433:80",
            "0x7f000001:80",
            "0177.0.0.1:80",
            "127.1:80",
            "1.2.3.4.5:80",
            "a..b:80",
            "-a:80",
            "",
            ":80",
            "host:0",
            "host:99999",
            "host:http",
            "[::1:80",
        ] {
            assert!(Target::parse(bad, 80).is_err(), "{bad}");
        }
        assert_eq!(
            Target::parse("[::ffff:127.0.0.1]:80", 1).expect("mapped"),
            Target {
                host: "127.0.0.1".into(),
                port: 80
            }
        );
        assert_eq!(
            Target::parse("Example.COM.", 443).expect("name"),
            Target {
                host: "example.com".into(),
                port: 443
            }
        );
    }

    #[test]
    fn allow_lists_name_hosts_ports_and_names_below() {
        let list = AllowList::parse(["api.example.com", "*.models.test:8443", "10.0.0.5:*"])
            .expect("list");
        for (text, permitted) in [
            ("api.example.com:443", true),
            ("api.example.com:80", false),
            ("evil-api.example.com:443", false),
            ("a.b.models.test:8443", true),
            ("models.test:8443", false),
            ("evilmodels.test:8443", false),
            ("10.0.0.5:22", true),
            ("10.0.0.6:22", false),
        ] {
            assert_eq!(
                list.permits(&Target::parse(text, 443).expect(text)),
                permitted,
                "{text}"
            );
        }
    }

    #[test]
    fn a_wider_list_covers_a_narrower_one() {
        for (wide, narrow, beyond) in [
            ("*.example.com:*", "api.example.com:443", None),
            ("*.example.com:*", "*.eu.example.com:*", None),
            (
                "*.example.com:443",
                "*.example.com:*",
                Some("*.example.com:*"),
            ),
            ("*.example.com", "example.com", Some("example.com:443")),
            (
                "*.example.com",
                "evilexample.com",
                Some("evilexample.com:443"),
            ),
            (
                "api.example.com",
                "*.example.com",
                Some("*.example.com:443"),
            ),
            ("192.0.2.1", "192.0.2.1:443", None),
            (
                "[2001:db8::1]:1",
                "[2001:db8::1]:2",
                Some("[2001:db8::1]:2"),
            ),
        ] {
            let list = |text| AllowList::parse([text]).expect("list");
            let expected: Vec<String> = beyond.map(str::to_owned).into_iter().collect();
            assert_eq!(
                list(narrow).beyond(&list(wide)),
                expected,
                "{wide} / {narrow}"
            );
        }
    }

    #[test]
    fn exceptions_must_name_one_host_and_one_port() {
        let list = AllowList::parse(["a.lan:1", "127.0.0.1:2", "b.lan:*", "*.lan:3"]);
        assert_eq!(list.expect("list").inexact(), ["b.lan:*", "*.lan:3"]);
    }
}
