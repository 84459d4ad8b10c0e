//! Bearer tokens: JWTs of the issuer that a runtime names in its authorizer (contract §3.3).
//!
//! The algorithm is the key's, never the token's alone: a token's header only selects among what its issuer's keys are for, and
//! symmetric ones cannot be verified here at all. Not for: how a caller is told (`api::authorize`).

mod fetch;
mod issuer;
pub(crate) mod lookups;
mod provider;

pub use fetch::IssuerPolicy;

use issuer::{Issuers, Keys};
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use proto::config::{Authorizer, ClaimOperator, ClaimValue, CustomClaim};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Longest token.
const MAX_TOKEN: usize = 16 * 1024;

/// How far an issuer's clock may be off, in seconds.
const LEEWAY: u64 = 60;

/// Longest subject: it becomes part of a session's owner.
const MAX_SUBJECT: usize = 1024;

/// Whom a token was issued for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenCaller {
    /// Where the issuer's metadata is: what it calls itself there, others can say of themselves too.
    pub discovery_url: String,
    /// By whom, as the issuer calls itself.
    pub issuer: String,
    /// Which claim says to whom: a user and a client of the same name are two callers.
    pub claim: SubjectClaim,
    /// To whom.
    pub subject: String,
}

/// The claim that says whom a token was issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectClaim {
    /// `sub`.
    Subject,
    /// `client_id`, where there is no `sub`.
    Client,
}

impl SubjectClaim {
    /// Its name in a token.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subject => "sub",
            Self::Client => "client_id",
        }
    }
}

/// Why a token is not taken. For the audit record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not believed: 401.
    #[error("{0}")]
    Invalid(String),
    /// It is genuine, and not enough: 403.
    #[error("{0}")]
    Insufficient(String),
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Tokens {
    issuers: Issuers,
}

impl Default for Tokens {
    fn default() -> Self {
        provider::install();
        Self {
            issuers: Issuers::default(),
        }
    }
}

impl Tokens {
    /// Whose token it is, if the authorizer takes it.
    pub async fn verify(
        &self,
        token: &str,
        authorizer: &Authorizer,
        policy: &IssuerPolicy,
    ) -> Result<TokenCaller, Refused> {
        let invalid = |fault: String| Refused::Invalid(fault);
        if token.len() > MAX_TOKEN {
            return Err(invalid(format!(
                "the token has more than {MAX_TOKEN} bytes"
            )));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|error| invalid(format!("not a token: {error}")))?;
        if symmetric(header.alg) {
            return Err(invalid(format!("algorithm {:?} is symmetric", header.alg)));
        }
        let url = &authorizer.discovery_url;
        let unavailable = |fault| invalid(format!("the issuer's keys are not known: {fault}"));
        let keys = self
            .issuers
            .keys(url, None, policy)
            .await
            .map_err(unavailable)?;
        let kid = header.kid.as_deref();
        let (keys, key) = match find(&keys, kid, header.alg) {
            Ok(key) => (Arc::clone(&keys), key),
            Err(_) => {
                let fresh = self.issuers.keys(url, Some(&keys), policy).await;
                let fresh = fresh.map_err(unavailable)?;
                let key = find(&fresh, kid, header.alg).map_err(invalid)?;
                (fresh, key)
            }
        };
        let claims = decoded(token, &keys.issuer, &key, header.alg).map_err(invalid)?;
        permitted(&claims, authorizer)?;
        caller(url, &keys.issuer, &claims).map_err(invalid)
    }
}

fn symmetric(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512
    )
}

/// The key that a token names, if it is for the token's algorithm. A token that names none means the only one. Keys of
/// different kinds may have one name (RFC 7517 §4.5).
fn find(keys: &Keys, kid: Option<&str>, algorithm: Algorithm) -> Result<Jwk, String> {
    let named = |key: &&Jwk| kid.is_none() || key.common.key_id.as_deref() == kid;
    let mut found = keys.keys.iter().filter(named);
    let mut fitting = found.clone().filter(|key| fits(key, algorithm));
    let key = fitting.next().ok_or_else(|| match (kid, found.next()) {
        (Some(kid), None) => format!("the issuer has no key {kid:?}"),
        (Some(_), Some(_)) => format!("key {kid:?} is not for algorithm {algorithm:?}"),
        (None, _) => {
            format!("the token names no key, and the issuer has none for {algorithm:?}")
        }
    })?;
    if kid.is_none() && fitting.next().is_some() {
        return Err("the token names no key, and the issuer has several".to_owned());
    }
    Ok(key.clone())
}

/// Whether the key is of the algorithm's kind, and for verifying with it as far as it says.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let kind = match &key.algorithm {
        AlgorithmParameters::RSA(_) => matches!(
            algorithm,
            Algorithm::RS256
                | Algorithm::RS384
                | Algorithm::RS512
                | Algorithm::PS256
                | Algorithm::PS384
                | Algorithm::PS512
        ),
        AlgorithmParameters::EllipticCurve(curve) => matches!(
            (&curve.curve, algorithm),
            (EllipticCurve::P256, Algorithm::ES256) | (EllipticCurve::P384, Algorithm::ES384)
        ),
        AlgorithmParameters::OctetKeyPair(curve) => matches!(
            (&curve.curve, algorithm),
            (EllipticCurve::Ed25519, Algorithm::EdDSA)
        ),
        _ => false,
    };
    let common = &key.common;
    let said = common
        .key_algorithm
        .is_none_or(|said| said == KeyAlgorithm::from(algorithm));
    let signs = common
        .public_key_use
        .as_ref()
        .is_none_or(|said| *said == PublicKeyUse::Signature);
    let verifies = common
        .key_operations
        .as_ref()
        .is_none_or(|said| said.contains(&KeyOperations::Verify));
    kind && said && signs && verifies
}

/// The claims of a token whose signature, times and issuer are right.
fn decoded(
    token: &str,
    issuer: &str,
    key: &Jwk,
    algorithm: Algorithm,
) -> Result<Map<String, Value>, String> {
    let key = DecodingKey::from_jwk(key).map_err(|error| format!("the issuer's key: {error}"))?;
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    // The authorizer says which audiences.
    validation.validate_aud = false;
    validation.set_issuer(&[issuer]);
    validation.set_required_spec_claims(&["exp", "iss"]);
    jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation)
        .map(|data| data.claims)
        .map_err(|error| format!("the token is not valid: {error}"))
}

/// A claim's strings: it may be one or a list.
fn strings<'a>(claims: &'a Map<String, Value>, name: &str) -> Vec<&'a str> {
    match claims.get(name) {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(_) | None => Vec::new(),
    }
}

fn permitted(claims: &Map<String, Value>, authorizer: &Authorizer) -> Result<(), Refused> {
    let one_of = |allowed: &Option<Vec<String>>, found: &[&str]| match allowed {
        None => true,
        Some(allowed) => allowed.iter().any(|each| found.contains(&each.as_str())),
    };
    let audience = strings(claims, "aud");
    if !one_of(&authorizer.allowed_audience, &audience) {
        return Err(Refused::Invalid(format!("the token is for {audience:?}")));
    }
    let client: Vec<&str> = claims
        .get("client_id")
        .and_then(Value::as_str)
        .into_iter()
        .collect();
    if !one_of(&authorizer.allowed_clients, &client) {
        return Err(Refused::Invalid(format!(
            "the token was issued to client {client:?}"
        )));
    }
    // RFC 8693 §4.2 has one string; some issuers have a list of that name or of another.
    let scopes: Vec<&str> = [strings(claims, "scope"), strings(claims, "scp")]
        .concat()
        .into_iter()
        .flat_map(|text| text.split(' '))
        .collect();
    if !one_of(&authorizer.allowed_scopes, &scopes) {
        return Err(Refused::Insufficient(format!(
            "the token has scopes {scopes:?}"
        )));
    }
    for wanted in authorizer.custom_claims.iter().flatten() {
        if !matches(wanted, claims) {
            return Err(Refused::Insufficient(format!(
                "claim {:?} does not fit",
                wanted.name
            )));
        }
    }
    Ok(())
}

fn matches(wanted: &CustomClaim, claims: &Map<String, Value>) -> bool {
    let found = claims.get(&wanted.name);
    let listed = |value: &String| {
        found
            .and_then(Value::as_array)
            .is_some_and(|list| list.iter().any(|each| each.as_str() == Some(value)))
    };
    match (wanted.operator, &wanted.value) {
        (ClaimOperator::Equals, ClaimValue::One(value)) => {
            found.and_then(Value::as_str) == Some(value)
        }
        (ClaimOperator::Contains, ClaimValue::One(value)) => listed(value),
        (ClaimOperator::ContainsAny, ClaimValue::Any(values)) => values.iter().any(listed),
        // Refused when it was deployed.
        (ClaimOperator::Equals | ClaimOperator::Contains, ClaimValue::Any(_))
        | (ClaimOperator::ContainsAny, ClaimValue::One(_)) => false,
    }
}

fn caller(
    discovery_url: &str,
    issuer: &str,
    claims: &Map<String, Value>,
) -> Result<TokenCaller, String> {
    let said = |claim: SubjectClaim| {
        let text = claims.get(claim.name()).and_then(Value::as_str)?;
        Some((claim, text))
    };
    let (claim, subject) = said(SubjectClaim::Subject)
        .or_else(|| said(SubjectClaim::Client))
        .filter(|(_, subject)| (1..=MAX_SUBJECT).contains(&subject.chars().count()))
        .ok_or("the token says neither for whom (sub) nor to which client it was issued")?;
    Ok(TokenCaller {
        discovery_url: discovery_url.to_owned(),
        issuer: issuer.to_owned(),
        claim,
        subject: subject.to_owned(),
    })
}

#[cfg(test)]
mod tests;
