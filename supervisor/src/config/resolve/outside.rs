//! Keys of what may be reached beyond this host: by sessions, for tokens, and by callbacks.

use super::Resolver;
use crate::callback::{CallbackPolicy, Callbacks};
use crate::config::Network;
use crate::tokens::IssuerPolicy;
use proto::config::NetworkMode;
use session_core::egress::AllowList;
use session_core::spec::NetworkGrant;
use std::time::Duration;

/// `callbacks.allow_private` as typed.
#[derive(serde::Deserialize)]
#[serde(
    untagged,
    expecting = "expected true, false or a list such as [\"hooks.lan:8080\", \"10.0.0.0/8\"]"
)]
enum Opened {
    All(bool),
    These(Vec<String>),
}

impl Resolver<'_> {
    pub(super) fn network(&mut self) -> Network {
        let second = Duration::from_secs(1);
        let ceiling = self.or("network.ceiling", NetworkMode::Outbound);
        let typed = self.take::<NetworkMode>("network.mode");
        let grant = NetworkGrant {
            // A ceiling of `none` pulls the default down with it.
            mode: typed.unwrap_or(ceiling),
            allow: self.allow_list("network.allow"),
            ceiling,
            ceiling_allow: self.allow_list("network.ceiling_allow"),
        };
        if (typed, ceiling) == (Some(NetworkMode::Outbound), NetworkMode::None) {
            self.fault("network.mode", "is above `network.ceiling`");
        }
        if let (Some(allow), Some(widest)) = (&grant.allow, &grant.ceiling_allow) {
            for entry in allow.beyond(widest) {
                self.fault(
                    "network.allow",
                    format!("holds {entry}, which `network.ceiling_allow` does not"),
                );
            }
        }
        let allow_private = self.allow_list("network.allow_private").unwrap_or_default();
        for entry in allow_private.inexact() {
            self.fault(
                "network.allow_private",
                format!("must name exactly one host and one port in each entry; {entry} does not"),
            );
        }
        Network {
            grant,
            allow_private,
            dial_timeout: self.duration("network.dial_timeout", 10 * second, second..=300 * second),
            max_connections: self.within("network.max_connections", 128, 1..=4096),
        }
    }

    pub(super) fn tokens(&mut self) -> IssuerPolicy {
        let issuers = self.allow_list("tokens.issuers");
        let allow_private = self.allow_list("tokens.allow_private").unwrap_or_default();
        for entry in allow_private.inexact() {
            self.fault(
                "tokens.allow_private",
                format!("must name exactly one host and one port in each entry; {entry} does not"),
            );
        }
        IssuerPolicy {
            issuers,
            allow_private,
        }
    }

    pub(super) fn callbacks(&mut self) -> Callbacks {
        let key = "callbacks.allow_private";
        let policy = match self.take::<Opened>(key) {
            None | Some(Opened::All(false)) => CallbackPolicy::PublicOnly,
            Some(Opened::All(true)) => CallbackPolicy::All,
            Some(Opened::These(entries)) => {
                CallbackPolicy::listed(&entries).unwrap_or_else(|(entry, error)| {
                    self.fault(key, format!("holds {entry:?}: {error}"));
                    CallbackPolicy::PublicOnly
                })
            }
        };
        let second = Duration::from_secs(1);
        let day = 86_400 * second;
        Callbacks {
            policy,
            retry_for: self.duration("callbacks.retry_for", day, Duration::ZERO..=30 * day),
            timeout: self.duration("callbacks.timeout", 10 * second, second..=60 * second),
        }
    }

    pub(super) fn allow_list(&mut self, key: &'static str) -> Option<AllowList> {
        let entries: Vec<String> = self.take(key)?;
        for entry in &entries {
            if let Err(error) = AllowList::parse([entry.as_str()]) {
                self.fault(key, format!("holds {entry:?}: {error}"));
            }
        }
        AllowList::parse(entries.iter().map(String::as_str)).ok()
    }
}
