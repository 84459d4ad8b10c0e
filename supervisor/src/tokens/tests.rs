//! Tier 1: pure. What is on the wire between us and an issuer is `tests/tests/tokens.rs`.

use super::*;
use crate::owner::Principal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::get_current_timestamp;
use proto::config::ClaimType;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

const ISSUER: &str = "https://id.test";

/// A key pair that signs with ES256.
struct Signer {
    pair: EcdsaKeyPair,
    kid: &'static str,
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        provider::install();
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("key");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("key");
        Self { pair, kid }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": encoded(&point[1..33]), "y": encoded(&point[33..]),
        })
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims.to_string())
        );
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message.as_bytes())
            .expect("signed");
        format!("{message}.{}", encoded(signature))
    }
}

fn keys(list: &[Value]) -> Keys {
    let read = |key: &Value| serde_json::from_value(key.clone()).expect("JWK");
    Keys {
        issuer: ISSUER.to_owned(),
        keys: list.iter().map(read).collect(),
    }
}

fn claims(more: Value) -> Value {
    let now = get_current_timestamp();
    let mut claims = json!({ "iss": ISSUER, "sub": "someone", "aud": "agents", "exp": now + 600 });
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

fn es256(kid: &str) -> Value {
    json!({ "alg": "ES256", "typ": "JWT", "kid": kid })
}

/// As [`Tokens::verify`] does once the keys are there.
fn judge(token: &str, keys: &Keys) -> Result<Map<String, Value>, String> {
    let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
    if symmetric(header.alg) {
        return Err("symmetric".to_owned());
    }
    let key = find(keys, header.kid.as_deref(), header.alg)?;
    decoded(token, &keys.issuer, &key, header.alg)
}

#[test]
fn a_token_is_believed_until_it_ends_and_from_its_issuer_only() {
    let signer = Signer::new("one");
    let set = keys(&[signer.jwk()]);
    let of = |more| judge(&signer.token(&es256("one"), &claims(more)), &set);
    let now = get_current_timestamp();
    assert_eq!(of(json!({})).expect("good")["sub"], "someone");
    assert!(
        of(json!({ "exp": now - 30, "nbf": now + 30 })).is_ok(),
        "within the leeway"
    );
    for (bad, why) in [
        (json!({ "exp": now - 61 }), "ExpiredSignature"),
        (json!({ "exp": "never" }), "exp"),
        (json!({ "exp": null }), "exp"),
        (json!({ "nbf": now + 120 }), "ImmatureSignature"),
        (json!({ "nbf": "soon" }), "nbf"),
        (json!({ "iss": "https://other.test" }), "InvalidIssuer"),
        (json!({ "iss": 5 }), "iss"),
    ] {
        let found = of(bad.clone()).expect_err("bad");
        assert!(found.contains(why), "{bad}: {found}");
    }
    // Without a key's name the issuer's only key for the algorithm is meant.
    let header = json!({ "alg": "ES256" });
    let nameless = signer.token(&header, &claims(json!({})));
    assert!(judge(&nameless, &set).is_ok());
    let second = Signer::new("two");
    assert!(judge(&nameless, &keys(&[signer.jwk(), second.jwk()])).is_err());
    // Another's signature under this one's name.
    let forged = second.token(&es256("one"), &claims(json!({})));
    assert!(judge(&forged, &set).is_err());
    let good = signer.token(&es256("one"), &claims(json!({})));
    let other = encoded(claims(json!({ "sub": "admin" })).to_string());
    let parts: Vec<&str> = good.split('.').collect();
    assert!(judge(&format!("{}.{other}.{}", parts[0], parts[2]), &set).is_err());
    assert!(judge(&format!("{}.{}.", parts[0], parts[1]), &set).is_err());
}

#[test]
fn the_algorithm_is_the_keys() {
    let signer = Signer::new("one");
    let set = keys(&[signer.jwk()]);
    // The public key as an HMAC's secret, no algorithm at all, another one of the same family, unknown demands.
    for header in [
        json!({ "alg": "HS256", "kid": "one" }),
        json!({ "alg": "none", "kid": "one" }),
        json!({ "alg": "ES384", "kid": "one" }),
        json!({ "alg": "RS256", "kid": "one" }),
        json!({ "alg": "EdDSA", "kid": "one" }),
        json!({ "alg": "ES256", "kid": "one", "crit": ["exp"] }),
        json!({ "kid": "one" }),
    ] {
        let token = signer.token(&header, &claims(json!({})));
        assert!(judge(&token, &set).is_err(), "{header}");
    }
    let token = signer.token(&es256("one"), &claims(json!({})));
    for (name, value) in [
        ("use", json!("enc")),
        ("alg", json!("ES384")),
        ("key_ops", json!(["sign"])),
        ("crv", json!("P-384")),
    ] {
        let mut jwk = signer.jwk();
        jwk[name] = value;
        assert!(judge(&token, &keys(&[jwk])).is_err(), "{name}");
    }
    // Of several keys of that name the one that fits, and none of the others.
    let mut encrypts = signer.jwk();
    encrypts["use"] = json!("enc");
    assert!(judge(&token, &keys(&[encrypts, signer.jwk()])).is_ok());
    // A symmetric key in the set is nobody's.
    let oct = json!({ "kty": "oct", "k": encoded(b"secret"), "kid": "one" });
    assert!(judge(&token, &keys(&[oct])).is_err());
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("key");
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("key");
    let jwk =
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encoded(pair.public_key()) });
    let header = json!({ "alg": "EdDSA", "kid": "ed" });
    let message = format!(
        "{}.{}",
        encoded(header.to_string()),
        encoded(claims(json!({})).to_string())
    );
    let signature = encoded(pair.sign(message.as_bytes()));
    assert!(judge(&format!("{message}.{signature}"), &keys(&[jwk])).is_ok());
}

fn authorizer(change: impl FnOnce(&mut Authorizer)) -> Authorizer {
    let mut authorizer = Authorizer {
        discovery_url: format!("{ISSUER}/.well-known/openid-configuration"),
        allowed_audience: None,
        allowed_clients: None,
        allowed_scopes: None,
        custom_claims: None,
    };
    change(&mut authorizer);
    authorizer
}

#[test]
fn every_list_must_fit() {
    let texts = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
    let judged = |authorizer: &Authorizer, more: Value| {
        let claims = claims(more);
        match permitted(claims.as_object().expect("an object"), authorizer) {
            Ok(()) => 200,
            Err(Refused::Invalid(_)) => 401,
            Err(Refused::Insufficient(_)) => 403,
        }
    };
    let audience = authorizer(|a| a.allowed_audience = texts(&["agents", "others"]));
    assert_eq!(judged(&audience, json!({})), 200);
    assert_eq!(judged(&audience, json!({ "aud": ["x", "others"] })), 200);
    for aud in [
        json!("x"),
        json!([]),
        json!(null),
        json!({"agents": 1}),
        json!("agents others"),
    ] {
        assert_eq!(judged(&audience, json!({ "aud": aud })), 401, "{aud}");
    }
    let client = authorizer(|a| a.allowed_clients = texts(&["web"]));
    assert_eq!(judged(&client, json!({ "client_id": "web" })), 200);
    assert_eq!(judged(&client, json!({ "client_id": ["web"] })), 401);
    assert_eq!(judged(&client, json!({ "azp": "web" })), 401);
    let scopes = authorizer(|a| a.allowed_scopes = texts(&["call", "admin"]));
    assert_eq!(judged(&scopes, json!({ "scope": "openid call" })), 200);
    assert_eq!(judged(&scopes, json!({ "scp": ["admin"] })), 200);
    assert_eq!(judged(&scopes, json!({ "scope": "recall calls" })), 403);
    assert_eq!(judged(&scopes, json!({})), 403);
    let claim = |value_type, operator, value| {
        authorizer(|a| {
            a.custom_claims = Some(vec![CustomClaim {
                name: "group".to_owned(),
                value_type,
                operator,
                value,
            }]);
        })
    };
    let one = || ClaimValue::One("a".to_owned());
    let equals = claim(ClaimType::String, ClaimOperator::Equals, one());
    assert_eq!(judged(&equals, json!({ "group": "a" })), 200);
    assert_eq!(judged(&equals, json!({ "group": ["a"] })), 403);
    let contains = claim(ClaimType::StringArray, ClaimOperator::Contains, one());
    assert_eq!(judged(&contains, json!({ "group": ["b", "a"] })), 200);
    assert_eq!(judged(&contains, json!({ "group": "a" })), 403);
    let any = ClaimValue::Any(vec!["a".to_owned(), "b".to_owned()]);
    let any = claim(ClaimType::StringArray, ClaimOperator::ContainsAny, any);
    assert_eq!(judged(&any, json!({ "group": ["c", "b"] })), 200);
    assert_eq!(judged(&any, json!({ "group": ["c"] })), 403);
}

#[test]
fn a_token_without_a_subject_is_its_clients() {
    let of = |claims: Value| caller("url", ISSUER, claims.as_object().expect("an object"));
    let found = of(json!({ "sub": "a", "client_id": "b" })).expect("a");
    assert_eq!(
        (found.claim, found.subject.as_str()),
        (SubjectClaim::Subject, "a")
    );
    let found = of(json!({ "client_id": "b" })).expect("b");
    assert_eq!(
        (found.claim, found.subject.as_str()),
        (SubjectClaim::Client, "b")
    );
    assert!(of(json!({})).is_err() && of(json!({ "sub": "" })).is_err());
    assert!(of(json!({ "sub": "s".repeat(1025) })).is_err());
}

#[test]
fn callers_of_another_issuer_or_kind_are_others() {
    let of = |url: &str, issuer: &str, claims: Value| {
        let found = caller(url, issuer, claims.as_object().expect("an object"));
        Principal::token(&found.expect("a caller"))
    };
    let found = [
        of("https://a.test/c", ISSUER, json!({ "sub": "one" })),
        // Whoever writes a metadata document says in it who it is.
        of("https://b.test/c", ISSUER, json!({ "sub": "one" })),
        of(
            "https://a.test/c",
            "https://c.test",
            json!({ "sub": "one" }),
        ),
        of("https://a.test/c", ISSUER, json!({ "client_id": "one" })),
        of("https://a.test/c", ISSUER, json!({ "sub": "two" })),
        of("https://a.test/c\",\"x", ISSUER, json!({ "sub": "one" })),
    ];
    let different: std::collections::HashSet<_> = found.iter().collect();
    assert_eq!(different.len(), found.len(), "{found:?}");
}
