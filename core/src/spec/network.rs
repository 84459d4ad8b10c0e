//! Targets of outbound connections: how a rule is written, and what it matches.
//!
//! Rules compare the host *as the agent asked for it*. That a permitted name does not lead to a private address is the
//! dialler's duty: only it sees what the name resolves to.

use std::fmt;
use std::net::IpAddr;

/// One entry of an allow-list: `host:port`, `*.example.com:443`, `host` (port 443), `host:*`, `[2001:db8::1]:443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowRule {
    host: HostRule,
    port: PortRule,
}

/// The host part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HostRule {
    /// Exactly this name, lower case, no trailing dot.
    Name(String),
    /// Any name strictly below this one (`*.example.com` holds `example.com`).
    Below(String),
    /// Exactly this address, when the agent asks for the address itself.
    Address(IpAddr),
}

/// The port part of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PortRule {
    /// This one.
    One(u16),
    /// Any.
    Any,
}

/// Why a rule was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Not a DNS name, address, or `*.` followed by a name.
    #[error(
        "`{0}` is not a host; write a name such as api.example.com, *.example.com, or an address such as 192.0.2.1 or [2001:db8::1]"
    )]
    Host(String),
    /// Not a port.
    #[error("`{0}` is not a port; write a number from 1 to 65535, or *")]
    Port(String),
}

/// Port of a rule that names none.
const DEFAULT_PORT: u16 = 443;

impl AllowRule {
    /// Reads a rule.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let (host, port) = split(text)?;
        let port = match port {
            None => PortRule::One(DEFAULT_PORT),
            Some("*") => PortRule::Any,
            Some(number) => PortRule::One(
                number
                    .parse()
                    .ok()
                    .filter(|port| *port != 0 && number.bytes().all(|b| b.is_ascii_digit()))
                    .ok_or_else(|| RuleError::Port(number.to_owned()))?,
            ),
        };
        let host = host_rule(host).ok_or_else(|| RuleError::Host(host.to_owned()))?;
        Ok(Self { host, port })
    }

    /// Whether the rule names exactly one host and one port: what an exception for a private target must do.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        matches!(self.port, PortRule::One(_)) && !matches!(self.host, HostRule::Below(_))
    }

    /// Whether a connection to `host` and `port`, as the agent asked for it, is what this rule means.
    #[must_use]
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let port_fits = match self.port {
            PortRule::One(one) => one == port,
            PortRule::Any => true,
        };
        let Some(asked) = host_rule(host) else {
            return false;
        };
        port_fits
            && match (&self.host, &asked) {
                (HostRule::Name(rule), HostRule::Name(name)) => rule == name,
                (HostRule::Below(rule), HostRule::Name(name)) => is_below(name, rule),
                (HostRule::Address(rule), HostRule::Address(address)) => rule == address,
                // What is asked for is never a pattern, and a name never matches a rule for an address.
                (HostRule::Name(_) | HostRule::Below(_) | HostRule::Address(_), _) => false,
            }
    }

    /// Whether everything that `other` matches is matched by this rule too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let port_fits = match (self.port, other.port) {
            (PortRule::Any, _) => true,
            (PortRule::One(mine), PortRule::One(theirs)) => mine == theirs,
            (PortRule::One(_), PortRule::Any) => false,
        };
        port_fits
            && match (&self.host, &other.host) {
                (HostRule::Below(mine), HostRule::Name(theirs)) => is_below(theirs, mine),
                (HostRule::Below(mine), HostRule::Below(theirs)) => {
                    mine == theirs || is_below(theirs, mine)
                }
                (mine, theirs) => mine == theirs,
            }
    }
}

impl fmt::Display for AllowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostRule::Name(name) => f.write_str(name)?,
            HostRule::Below(name) => write!(f, "*.{name}")?,
            HostRule::Address(IpAddr::V4(address)) => write!(f, "{address}")?,
            HostRule::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
        }
        match self.port {
            PortRule::One(port) => write!(f, ":{port}"),
            PortRule::Any => f.write_str(":*"),
        }
    }
}

fn split(text: &str) -> Result<(&str, Option<&str>), RuleError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, tail) = rest
            .split_once(']')
            .ok_or_else(|| RuleError::Host(text.to_owned()))?;
        return match tail {
            "" => Ok((host, None)),
            _ => Ok((
                host,
                Some(
                    tail.strip_prefix(':')
                        .ok_or_else(|| RuleError::Port(tail.to_owned()))?,
                ),
            )),
        };
    }
    Ok(match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    })
}

/// Reads a host as a rule or as an agent asks for it.
fn host_rule(text: &str) -> Option<HostRule> {
    if let Ok(address) = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text)
        .parse::<IpAddr>()
    {
        // An IPv4 address in IPv6 clothes is the same target.
        return Some(HostRule::Address(address.to_canonical()));
    }
    match text.strip_prefix("*.") {
        Some(name) => dns_name(name).map(HostRule::Below),
        None => dns_name(text).map(HostRule::Name),
    }
}

/// A DNS name in lower case without trailing dot, or `None` if it is not one. A last label of digits only (or `0x…`) is
/// refused: some resolvers read such names as addresses, past a rule that was written for names.
fn dns_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next()?;
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    (name.len() <= 253 && !numeric && name.split('.').all(label_ok)).then_some(name)
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent)
        .is_some_and(|head| head.len() > 1 && head.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> AllowRule {
        AllowRule::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn rules_match_what_they_say() {
        for (text, host, port, expected) in [
            ("api.example.com", "api.example.com", 443, true),
            ("api.example.com", "API.Example.COM.", 443, true),
            ("api.example.com", "api.example.com", 80, false),
            ("api.example.com:*", "api.example.com", 80, true),
            ("api.example.com:8443", "api.example.com", 8443, true),
            ("api.example.com", "evil-api.example.com", 443, false),
            ("*.example.com", "a.b.example.com", 443, true),
            ("*.example.com", "example.com", 443, false),
            ("*.example.com", "evilexample.com", 443, false),
            ("*.example.com", ".example.com", 443, false),
            ("127.0.0.1:8999", "127.0.0.1", 8999, true),
            ("127.0.0.1:8999", "::ffff:127.0.0.1", 8999, true),
            ("127.0.0.1:8999", "localhost", 8999, false),
            ("[2001:db8::1]:443", "2001:db8:0::1", 443, true),
            ("[2001:db8::1]", "[2001:db8::1]", 443, true),
            ("example.com", "*.example.com", 443, false),
            ("*.example.com", "*.example.com", 443, false),
        ] {
            assert_eq!(
                rule(text).matches(host, port),
                expected,
                "{text} / {host}:{port}"
            );
        }
    }

    #[test]
    fn broken_rules_are_refused() {
        for bad in [
            "",
            ":443",
            "*",
            "*.",
            "a..b",
            "exa mple.com",
            "example.com:0",
            "example.com:65536",
            "example.com:+80",
            "example.com:",
            "http://example.com",
            "example.com/path",
            "-a.com",
            "*.*.com",
            "a.*.com",
            "[::1",
            "[::1]8080",
            "127.1",
            "0x7f000001",
            "2130706433",
            "user@example.com",
        ] {
            assert!(AllowRule::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rules_print_what_they_read() {
        for text in [
            "a.example:443",
            "*.example.com:*",
            "192.0.2.1:80",
            "[::1]:1",
        ] {
            assert_eq!(rule(text).to_string(), text);
            assert_eq!(rule(&rule(text).to_string()), rule(text));
        }
    }

    #[test]
    fn a_wider_rule_covers_a_narrower_one() {
        for (wide, narrow, expected) in [
            ("*.example.com:*", "api.example.com:443", true),
            ("*.example.com:*", "*.eu.example.com:*", true),
            ("*.example.com:443", "*.example.com:*", false),
            ("*.example.com", "example.com", false),
            ("api.example.com", "*.example.com", false),
            ("192.0.2.1", "192.0.2.1", true),
        ] {
            assert_eq!(
                rule(wide).covers(&rule(narrow)),
                expected,
                "{wide} ⊇ {narrow}"
            );
        }
    }
}
