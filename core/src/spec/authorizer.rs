//! What an authorizer must be to be of use (contract §3.3).

use super::command::shown;
use super::faults::Faults;
use proto::config::{Authorizer, ClaimOperator, ClaimType, ClaimValue, CustomClaim};

/// Longest address of an issuer's metadata.
const MAX_URL: usize = 2048;

/// Most entries of each list.
const MAX_ENTRIES: usize = 256;

/// Longest audience, client, scope, claim and value.
const MAX_TEXT: usize = 255;

/// Checks it.
pub(super) fn check(authorizer: &Authorizer, faults: &mut Faults) {
    if let Err(fault) = discovery_url(&authorizer.discovery_url) {
        faults.add("authorizer.discovery_url", fault);
    }
    let printable = |c: char| !c.is_control();
    // RFC 6749 §3.3.
    let scope = |c: char| matches!(c, '\x21' | '\x23'..='\x5b' | '\x5d'..='\x7e');
    texts(
        "allowed_audience",
        &authorizer.allowed_audience,
        printable,
        faults,
    );
    texts(
        "allowed_clients",
        &authorizer.allowed_clients,
        printable,
        faults,
    );
    texts("allowed_scopes", &authorizer.allowed_scopes, scope, faults);
    if let Some(claims) = &authorizer.custom_claims {
        count("custom_claims", claims.len(), faults);
        for (at, claim) in claims.iter().enumerate().take(MAX_ENTRIES) {
            custom_claim(&format!("authorizer.custom_claims[{at}]"), claim, faults);
        }
    }
    let lists = [
        authorizer.allowed_audience.is_some(),
        authorizer.allowed_clients.is_some(),
        authorizer.allowed_scopes.is_some(),
        authorizer.custom_claims.is_some(),
    ];
    if lists == [false; 4] {
        faults.add(
            "authorizer",
            "must say which of the issuer's tokens are meant for this runtime: at least one of allowed_audience, allowed_clients, allowed_scopes and custom_claims",
        );
    }
}

fn discovery_url(url: &str) -> Result<(), String> {
    let shape = || {
        format!(
            "must be a URL that ends in /.well-known/openid-configuration or has /.well-known/oauth-authorization-server, is {}",
            shown(url)
        )
    };
    if url.len() > MAX_URL {
        return Err(format!("must be at most {MAX_URL} characters long"));
    }
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))
        .ok_or_else(shape)?;
    let (before, document) = rest.split_once("/.well-known/").ok_or_else(shape)?;
    let known = ["openid-configuration", "oauth-authorization-server"]
        .iter()
        .any(|name| match document.strip_prefix(name) {
            Some("") => true,
            Some(suffix) => suffix.len() > 1 && suffix.starts_with('/'),
            None => false,
        });
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '\\' | '"' | '<' | '>');
    if !known || before.is_empty() || before.contains('@') || !rest.chars().all(plain) {
        return Err(shape());
    }
    Ok(())
}

fn count(list: &str, found: usize, faults: &mut Faults) {
    if !(1..=MAX_ENTRIES).contains(&found) {
        faults.add(
            format!("authorizer.{list}"),
            format!("must have 1 to {MAX_ENTRIES} entries, has {found}"),
        );
    }
}

fn texts(
    list: &str,
    entries: &Option<Vec<String>>,
    takes: impl Fn(char) -> bool,
    faults: &mut Faults,
) {
    let Some(entries) = entries else { return };
    count(list, entries.len(), faults);
    for (at, entry) in entries.iter().enumerate().take(MAX_ENTRIES) {
        text(&format!("authorizer.{list}[{at}]"), entry, &takes, faults);
    }
}

fn text(field: &str, text: &str, takes: &impl Fn(char) -> bool, faults: &mut Faults) {
    let found = text.chars().count();
    if !(1..=MAX_TEXT).contains(&found) {
        faults.add(
            field,
            format!("must be 1 to {MAX_TEXT} characters long, has {found}"),
        );
    } else if !text.chars().all(takes) {
        faults.add(
            field,
            format!("has characters that are not taken here: {}", shown(text)),
        );
    }
}

fn custom_claim(field: &str, claim: &CustomClaim, faults: &mut Faults) {
    let name = |c: char| c.is_ascii_alphanumeric() || "_.-:".contains(c);
    let value = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    text(&format!("{field}.name"), &claim.name, &name, faults);
    match &claim.value {
        ClaimValue::One(one) => text(&format!("{field}.value"), one, &value, faults),
        ClaimValue::Any(any) => {
            if !(1..=MAX_ENTRIES).contains(&any.len()) {
                faults.add(
                    format!("{field}.value"),
                    format!("must have 1 to {MAX_ENTRIES} entries, has {}", any.len()),
                );
            }
            for (at, one) in any.iter().enumerate().take(MAX_ENTRIES) {
                text(&format!("{field}.value[{at}]"), one, &value, faults);
            }
        }
    }
    let fits = match (claim.value_type, claim.operator, &claim.value) {
        (ClaimType::String, ClaimOperator::Equals, ClaimValue::One(_))
        | (ClaimType::StringArray, ClaimOperator::Contains, ClaimValue::One(_))
        | (ClaimType::StringArray, ClaimOperator::ContainsAny, ClaimValue::Any(_)) => true,
        (ClaimType::String | ClaimType::StringArray, _, _) => false,
    };
    if !fits {
        faults.add(
            format!("{field}.operator"),
            "must be EQUALS with value_type STRING and one value, or, with STRING_ARRAY, CONTAINS with one value or CONTAINS_ANY with a list",
        );
    }
}
