//! Whose a session is: the caller that made it, and the user it was made for. It is part of a session's key, so to everybody
//! else the session does not exist: the same answer, after the same search.

use crate::tokens::TokenCaller;
use proto::ids::IdError;
use std::fmt;

/// The caller's user (contract §2.2).
pub const USER_ID: &str = "x-amzn-bedrock-agentcore-runtime-user-id";

/// Most characters of a user's id (contract §2.2).
const MAX_USER: usize = 1024;

/// Who calls, as far as sessions are concerned: callers with the same principal are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(String);

impl Principal {
    /// Callers of this machine that cannot be told apart, because some of them come unauthenticated.
    #[must_use]
    pub fn local() -> Self {
        Self("local".to_owned())
    }

    /// This daemon itself.
    #[must_use]
    pub fn daemon() -> Self {
        Self("daemon".to_owned())
    }

    /// A local user.
    #[must_use]
    pub fn user(uid: u32) -> Self {
        Self(format!("uid:{uid}"))
    }

    /// Whoever holds an access key.
    #[must_use]
    pub fn key(id: &str) -> Self {
        Self(format!("key:{id}"))
    }

    /// Whom tokens are issued for. What an issuer calls itself is its own word: it is the place from which a runtime's
    /// authorizer has its metadata that makes two of them different.
    #[must_use]
    pub fn token(caller: &TokenCaller) -> Self {
        let parts = serde_json::json!([
            caller.discovery_url,
            caller.issuer,
            caller.claim.name(),
            caller.subject
        ]);
        Self(format!("token:{parts}"))
    }

    /// Everybody who may call a runtime that is shared.
    #[must_use]
    pub fn everybody() -> Self {
        Self("shared".to_owned())
    }

    /// Reads what the store has of one: what [`Principal::as_str`] was.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text, for records and people.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A caller's own user, as the caller names it (`X-Amzn-Bedrock-AgentCore-Runtime-User-Id`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(String);

impl UserId {
    /// 1 to 1024 characters.
    pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        let found = text.chars().count();
        if !(1..=MAX_USER).contains(&found) {
            return Err(IdError::Length {
                min: 1,
                max: MAX_USER,
                found,
            });
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The caller.
    pub principal: Principal,
    /// Its user, if it named one.
    pub user: Option<UserId>,
}

impl Owner {
    /// Of sessions that are everybody's who may call their runtime (`shared = true`).
    #[must_use]
    pub fn everybody() -> Self {
        Self {
            principal: Principal::everybody(),
            user: None,
        }
    }

    /// Of sessions that wait in a pool, for whoever comes.
    #[must_use]
    pub fn pool() -> Self {
        Self {
            principal: Principal::daemon(),
            user: Some(UserId("pool".to_owned())),
        }
    }

    /// Reads what [`Owner::key`] wrote; `None` for sessions from before there were owners.
    #[must_use]
    pub fn from_key(text: &str) -> Option<Self> {
        let (principal, user): (String, Option<String>) = serde_json::from_str(text).ok()?;
        Some(Self {
            principal: Principal(principal),
            user: user.map(UserId),
        })
    }

    /// For the store: no two owners have the same text.
    #[must_use]
    pub fn key(&self) -> String {
        let user = self.user.as_ref().map(UserId::as_str);
        serde_json::json!([self.principal.as_str(), user]).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_owners_share_a_key() {
        let owner = |principal: &str, user: Option<&str>| Owner {
            principal: Principal(principal.to_owned()),
            user: user.map(|user| UserId::parse(user).expect("id")),
        };
        let owners = [
            owner("local", None),
            owner("local", Some("local")),
            owner("uid:0", None),
            owner("uid:0", Some("a")),
            owner("uid:0\",\"a", None),
            owner("uid:0", Some("null")),
        ];
        let keys: std::collections::HashSet<_> = owners.iter().map(Owner::key).collect();
        assert_eq!(keys.len(), owners.len());
        for owner in owners {
            assert_eq!(Owner::from_key(&owner.key()), Some(owner));
        }
    }

    #[test]
    fn user_ids_are_bounded() {
        assert!(UserId::parse("").is_err());
        assert!(UserId::parse("ü".repeat(1024)).is_ok());
        assert!(UserId::parse("a".repeat(1025)).is_err());
    }
}
