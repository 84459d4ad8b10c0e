//! The network policy of a runtime, within what the operator grants.

use super::command::shown;
use super::faults::Faults;
use super::{NetworkGrant, NetworkPolicy};
use crate::egress::AllowList;
use proto::config::{Network, NetworkMode};

/// Most entries of an allow-list.
const MAX_ENTRIES: usize = 256;

/// The policy; worthless after a fault.
pub(super) fn resolve(asked: &Network, grant: &NetworkGrant, faults: &mut Faults) -> NetworkPolicy {
    let allow = asked.allow.as_deref().map(|entries| parse(entries, faults));
    // Whoever lists targets wants to reach them.
    let mode = asked.mode.unwrap_or(match allow {
        Some(_) => NetworkMode::Outbound,
        None => grant.mode,
    });
    match (mode, grant.ceiling) {
        (NetworkMode::None, _) => {
            if asked
                .allow
                .as_ref()
                .is_some_and(|entries| !entries.is_empty())
            {
                faults.add(
                    "network.allow",
                    "has no effect with mode \"none\"; leave one of the two out",
                );
            }
            NetworkPolicy::None
        }
        (NetworkMode::Outbound, NetworkMode::None) => {
            let field = if asked.mode.is_some() {
                "network.mode"
            } else {
                "network.allow"
            };
            faults.add(field, "asks for outbound connections, which this host grants to no runtime; use mode = \"none\"");
            NetworkPolicy::None
        }
        (NetworkMode::Outbound, NetworkMode::Outbound) => {
            let ceiling = grant.ceiling_allow.clone();
            if let (Some(allow), Some(ceiling)) = (&allow, &ceiling) {
                for entry in allow.beyond(ceiling) {
                    faults.add(
                        "network.allow",
                        format!("holds {entry}, which this host grants to no runtime"),
                    );
                }
            }
            let allow = match (allow, asked.mode) {
                (Some(allow), _) => Some(allow),
                (None, None) => grant.allow.clone(),
                (None, Some(_)) => None,
            };
            NetworkPolicy::Outbound { allow, ceiling }
        }
    }
}

fn parse(entries: &[String], faults: &mut Faults) -> AllowList {
    if entries.len() > MAX_ENTRIES {
        faults.add(
            "network.allow",
            format!("has {} entries; at most {MAX_ENTRIES}", entries.len()),
        );
        return AllowList::default();
    }
    for (at, entry) in entries.iter().enumerate() {
        if AllowList::parse([entry.as_str()]).is_err() {
            faults.add(
                format!("network.allow[{at}]"),
                format!(
                    "is not a target: {}; write host:port, *.example.com:443, host (port 443), host:* or [address]:port",
                    shown(entry)
                ),
            );
        }
    }
    // After a fault the list is not used.
    AllowList::parse(entries.iter().map(String::as_str)).unwrap_or_default()
}
