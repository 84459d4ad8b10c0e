//! Who may call a runtime with a token: the typed half of `customJWTAuthorizer` (contract §3.3). A runtime that has it takes
//! bearer tokens only, one without takes signed requests only.
//!
//! What is checked of it is `session_core::spec`.

use crate::object::optional_objects;
use serde::{Deserialize, Serialize};

/// Whose tokens are taken, and what must be in them. At least one of the lists must be there: an issuer issues tokens for
/// other services too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Authorizer {
    /// The issuer's metadata: `https://…/.well-known/openid-configuration`, or `…/.well-known/oauth-authorization-server[/…]`.
    pub discovery_url: String,
    /// Audiences (`aud`), one of which a token must be for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_audience: Option<Vec<String>>,
    /// Clients (`client_id`), one of which a token must have been issued to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_clients: Option<Vec<String>>,
    /// Scopes (`scope`), one of which a token must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_scopes: Option<Vec<String>>,
    /// Further claims, all of which must fit.
    #[serde(
        default,
        deserialize_with = "optional_objects",
        skip_serializing_if = "Option::is_none"
    )]
    pub custom_claims: Option<Vec<CustomClaim>>,
}

/// A claim that must be in a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CustomClaim {
    /// Its name (`inboundTokenClaimName`).
    pub name: String,
    /// What kind of value it has (`inboundTokenClaimValueType`).
    pub value_type: ClaimType,
    /// How it is compared (`claimMatchOperator`).
    pub operator: ClaimOperator,
    /// With what (`claimMatchValue`).
    pub value: ClaimValue,
}

/// What kind of value a claim has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClaimType {
    /// One string.
    String,
    /// A list of strings.
    StringArray,
}

/// How a claim is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClaimOperator {
    /// The string is this one.
    Equals,
    /// The list holds this string.
    Contains,
    /// The list holds one of these strings.
    ContainsAny,
}

/// What a claim is compared with: a string (`matchValueString`) or a list of them (`matchValueStringList`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum ClaimValue {
    /// For [`ClaimOperator::Equals`] and [`ClaimOperator::Contains`].
    One(String),
    /// For [`ClaimOperator::ContainsAny`].
    Any(Vec<String>),
}

impl Authorizer {
    /// The issuer as its metadata's address names it (RFC 8414 §3, OpenID Connect Discovery §4): what clients are told to ask
    /// for tokens. Tokens themselves are held to the issuer that the metadata names.
    #[must_use]
    pub fn issuer(&self) -> String {
        match self.discovery_url.split_once("/.well-known/") {
            None => self.discovery_url.clone(),
            Some((before, document)) => match document.split_once('/') {
                Some((_, suffix)) => format!("{before}/{suffix}"),
                None => before.to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_issuer_is_what_the_metadatas_address_names() {
        for (url, issuer) in [
            (
                "https://id.example/.well-known/openid-configuration",
                "https://id.example",
            ),
            (
                "https://id.example/tenant/.well-known/openid-configuration",
                "https://id.example/tenant",
            ),
            (
                "https://id.example/.well-known/oauth-authorization-server/tenant",
                "https://id.example/tenant",
            ),
        ] {
            let authorizer = Authorizer {
                discovery_url: url.to_owned(),
                allowed_audience: None,
                allowed_clients: None,
                allowed_scopes: None,
                custom_claims: None,
            };
            assert_eq!(authorizer.issuer(), issuer);
        }
    }
}
