//! Tier 1: pure. `vectors.json` is AWS's test suite (awslabs/aws-c-auth, Apache-2.0; here from the crate aws-sigv4), every case in
//! header and in query form.

use super::*;
use crate::permit::Grant;
use http::Request;
use serde::Deserialize;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

#[derive(Debug, Deserialize)]
struct Vector {
    name: String,
    normalize: bool,
    twice: bool,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: String,
    canonical: String,
    signature: Option<String>,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("tests/vectors.json")).expect("vectors")
}

fn head(method: &str, target: &str, headers: &[(String, String)]) -> Parts {
    // The suite has paths as a browser's address bar shows them.
    let target = target.replace(' ', "%20");
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(name.as_str(), value.as_bytes());
    }
    request.body(()).expect("request").into_parts().0
}

fn key() -> AccessKey {
    AccessKey::of("AKIDEXAMPLE", SECRET, Grant::default())
}

#[test]
fn the_test_suite_of_aws() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 78);
    let mut verified = 0;
    for vector in vectors {
        let name = &vector.name;
        let head = head(&vector.method, &vector.target, &vector.headers);
        let form = PathForm {
            twice: vector.twice,
            normal: vector.normalize,
        };
        if vector.twice {
            // These two are about the path only: their requests are not the signed ones of their canonical forms.
            let line = vector.canonical.lines().nth(1).expect("a path");
            assert_eq!(canonical::path(head.uri.path(), form), line, "{name}");
            continue;
        }
        // AWS IoT's way: a token that is put into the query after it was signed. Here every parameter is covered.
        if name == "post-sts-header-after/query" {
            continue;
        }
        let claim = Claim::of(head.uri.query(), &head.headers);
        let claim = claim
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .expect("signed");
        let payload = Some(Sha256::digest(&vector.body).into());
        let canonical = canonical_request(&claim, &head, form, payload, canonical::Host::AsSent)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            String::from_utf8_lossy(&canonical),
            vector.canonical,
            "{name}"
        );
        let signature = vector.signature.expect("a signature");
        let text = string_to_sign(&claim, &canonical);
        let signing = signing_key(SECRET.as_bytes(), &claim);
        assert_eq!(hex(claim.signature), signature, "{name}");
        hmac::verify(&signing, text.as_bytes(), &claim.signature).expect(name);
        verified += 1;
    }
    assert_eq!(verified, 75);
}

/// A request signed as SDKs do, from what this module makes of it.
struct Signed {
    target: String,
    headers: Vec<(String, String)>,
    body: &'static str,
}

const NOW: Timestamp = Timestamp(1_796_000_000_000);
const PLACE: Place<'_> = Place {
    region: "us-local-1",
    service: Service::AgentCore,
};
const PATH: &str = "/runtimes/arn%3Aaws%3Abedrock-agentcore%3Aus-local-1%3A000000000000%3Aruntime%2Fa-AbCdEf1234/invocations";

fn amz_date(at: Timestamp) -> String {
    at.to_string().replace(['-', ':'], "")[..15].to_owned() + "Z"
}

impl Signed {
    fn header(target: &str, more: &[(&str, &str)], names: &str, at: Timestamp) -> Self {
        let date = amz_date(at);
        let mut headers = vec![
            ("host".to_owned(), "127.0.0.1:8080".to_owned()),
            ("x-amz-date".to_owned(), date.clone()),
        ];
        headers.extend(more.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let placeholder = "0".repeat(64);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{}/us-local-1/bedrock-agentcore/aws4_request, SignedHeaders={names}, Signature=",
            &date[..8]
        );
        headers.push((
            "authorization".to_owned(),
            authorization.clone() + &placeholder,
        ));
        let mut signed = Self {
            target: target.to_owned(),
            headers,
            body: "{}",
        };
        let signature = signed.right_signature();
        if let Some(last) = signed.headers.last_mut() {
            last.1 = authorization + &signature;
        }
        signed
    }

    fn query(target: &str, expires: u32, at: Timestamp) -> Self {
        let date = amz_date(at);
        let target = format!(
            "{target}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F{}%2Fus-local-1%2Fbedrock-agentcore%2Faws4_request&X-Amz-Date={date}&X-Amz-Expires={expires}&X-Amz-SignedHeaders=host&qualifier=DEFAULT&X-Amz-Signature=",
            &date[..8]
        );
        let mut signed = Self {
            target: target.clone() + &"0".repeat(64),
            headers: vec![("host".to_owned(), "127.0.0.1:8080".to_owned())],
            body: "",
        };
        signed.target = target + &signed.right_signature();
        signed
    }

    fn right_signature(&self) -> String {
        let head = head("POST", &self.target, &self.headers);
        let claim = Claim::of(head.uri.query(), &head.headers)
            .expect("claim")
            .expect("signed");
        let payload = Some(Sha256::digest(self.body).into());
        let form = Service::AgentCore.path_form();
        let canonical = canonical_request(&claim, &head, form, payload, canonical::Host::AsSent)
            .expect("canonical");
        let text = string_to_sign(&claim, &canonical);
        let made = hmac::sign(&signing_key(SECRET.as_bytes(), &claim), text.as_bytes());
        hex(made.as_ref().try_into().expect("32 bytes"))
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As a listener would judge it.
    fn judge(&self) -> Result<(), Refused> {
        let head = head("POST", &self.target, &self.headers);
        let claim = Claim::of(head.uri.query(), &head.headers)?.expect("signed");
        claim.check(&head, PLACE, NOW)?;
        let digest: [u8; 32] = Sha256::digest(self.body).into();
        let payload = match claim.payload(&head.headers)? {
            Payload::Covered => Some(digest),
            Payload::Declared(hash) if hash == digest => Some(hash),
            Payload::Declared(_) => return Err(Refused::Payload),
            Payload::Unsigned => None,
        };
        Verifier::default().verify(&claim, &head, PLACE.service, &key(), payload)
    }
}

fn later(seconds: i64) -> Timestamp {
    Timestamp(NOW.0 + seconds * 1000)
}

#[test]
fn a_signed_request_is_believed_for_a_quarter_of_an_hour_each_way() {
    let at = |seconds| Signed::header(PATH, &[], "host;x-amz-date", later(seconds)).judge();
    for seconds in [0, -899, 899] {
        assert_eq!(at(seconds), Ok(()), "{seconds}");
    }
    for seconds in [-901, 901, -86_400, 86_400] {
        assert_eq!(
            at(seconds),
            Err(Refused::Skewed { at: later(seconds) }),
            "{seconds}"
        );
    }
}

#[test]
fn a_presigned_request_is_believed_until_it_expires() {
    let at = |expires, seconds| Signed::query("/runtimes/a/ws", expires, later(seconds)).judge();
    assert_eq!(at(300, -299), Ok(()));
    assert_eq!(at(300, 0), Ok(()));
    assert_eq!(
        at(300, -301),
        Err(Refused::Expired {
            at: later(-301),
            expires: 300
        })
    );
    assert_eq!(
        at(60, -61),
        Err(Refused::Expired {
            at: later(-61),
            expires: 60
        })
    );
    assert_eq!(at(300, 901), Err(Refused::Skewed { at: later(901) }));
    for expires in [0, 301, 604_800] {
        assert!(
            matches!(at(expires, 0), Err(Refused::Malformed(_))),
            "{expires}"
        );
    }
}

#[test]
fn whatever_is_changed_is_noticed() {
    let signed = || {
        Signed::header(
            PATH,
            &[("x-amzn-bedrock-agentcore-runtime-user-id", "u")],
            "host;x-amz-date;x-amzn-bedrock-agentcore-runtime-user-id",
            NOW,
        )
    };
    assert_eq!(signed().judge(), Ok(()));
    let mut body = signed();
    body.body = "{ }";
    assert_eq!(body.judge(), Err(Refused::Mismatch));
    let mut path = signed();
    path.target = path.target.replace("runtime%2Fa-", "runtime%2Fb-");
    assert_eq!(path.judge(), Err(Refused::Mismatch));
    // The same text after decoding is another path on the wire.
    let mut path = signed();
    path.target = path.target.replace("%3A", ":");
    assert_eq!(path.judge(), Err(Refused::Mismatch));
    let mut query = signed();
    query.target.push_str("?qualifier=other");
    assert_eq!(query.judge(), Err(Refused::Mismatch));
    let mut user = signed();
    user.headers[2].1 = "v".to_owned();
    assert_eq!(user.judge(), Err(Refused::Mismatch));
    let mut twice = signed();
    twice.headers.push((
        "x-amzn-bedrock-agentcore-runtime-user-id".to_owned(),
        "v".to_owned(),
    ));
    assert_eq!(twice.judge(), Err(Refused::Mismatch));

    let presigned = || Signed::query("/runtimes/a/ws", 300, NOW);
    assert_eq!(presigned().judge(), Ok(()));
    for (from, to) in [
        ("Expires=300", "Expires=299"),
        ("qualifier=DEFAULT", "qualifier=other"),
        ("/runtimes/a/ws", "/runtimes/b/ws"),
        ("&qualifier=DEFAULT", "&qualifier=DEFAULT&more=1"),
    ] {
        let mut tampered = presigned();
        tampered.target = tampered.target.replace(from, to);
        assert_eq!(tampered.judge(), Err(Refused::Mismatch), "{to}");
    }
}

#[test]
fn a_host_may_be_signed_without_its_port() {
    let mut signed = Signed::query("/runtimes/a/ws", 300, NOW);
    signed.headers[0].1 = "127.0.0.1".to_owned();
    let (before, _) = signed.target.split_at(signed.target.len() - 64);
    signed.target = before.to_owned() + &signed.right_signature();
    assert_eq!(signed.judge(), Ok(()));
    for (host, judged) in [
        ("127.0.0.1:8443", Ok(())),
        ("127.0.0.2:8443", Err(Refused::Mismatch)),
        ("127.0.0.1:x", Err(Refused::Mismatch)),
    ] {
        signed.headers[0].1 = host.to_owned();
        assert_eq!(signed.judge(), judged, "{host}");
    }
}

#[test]
fn the_same_host_twice_is_one_and_two_are_none() {
    let with = |host: &str| {
        let signed = Signed::header(PATH, &[], "host;x-amz-date", NOW);
        signed.with("host", host).judge()
    };
    assert_eq!(with("127.0.0.1:8080"), Ok(()));
    for other in [
        "127.0.0.2:8080",
        "127.0.0.1",
        "127.0.0.1:8080,127.0.0.1:8080",
    ] {
        assert_eq!(with(other), Err(Refused::Mismatch), "{other}");
    }
}

#[test]
fn what_decides_must_be_covered() {
    let user = "x-amzn-bedrock-agentcore-runtime-user-id";
    let session = "x-amzn-bedrock-agentcore-runtime-session-id";
    let signed = || Signed::header(PATH, &[], "host;x-amz-date", NOW);
    for name in [user, "x-amz-target"] {
        assert_eq!(
            signed().with(name, "v").judge(),
            Err(Refused::NotCovered(name.to_owned()))
        );
    }
    // SDKs sign only host and date for a WebSocket.
    assert_eq!(signed().with(session, "v").judge(), Ok(()));
    assert_eq!(signed().with("x-amz-security-token", "t").judge(), Ok(()));
    let presigned = Signed::query("/runtimes/a/ws", 300, NOW).with(session, "v");
    assert_eq!(
        presigned.judge(),
        Err(Refused::NotCovered(session.to_owned()))
    );
    let claim = |names: &str| {
        let mut signed = signed();
        let last = signed.headers.last_mut().expect("authorization");
        last.1 = last.1.replace("host;x-amz-date", names);
        signed.judge()
    };
    assert_eq!(
        claim("host"),
        Err(Refused::NotCovered("x-amz-date".to_owned()))
    );
    assert_eq!(
        claim("x-amz-date"),
        Err(Refused::NotCovered("host".to_owned()))
    );
    for names in [
        "x-amz-date;host",
        "host;host;x-amz-date",
        "host;;x-amz-date",
        "host;x-amz-date;nothing",
    ] {
        assert!(
            matches!(claim(names), Err(Refused::Malformed(_))),
            "{names}"
        );
    }
}

#[test]
fn a_declared_payload_must_be_the_payload() {
    let names = "host;x-amz-content-sha256;x-amz-date";
    let of = |hash: &str| Signed::header(PATH, &[("x-amz-content-sha256", hash)], names, NOW);
    let right = hex(Sha256::digest("{}").into());
    assert_eq!(of(&right).judge(), Ok(()));
    let mut other = of(&right);
    other.body = "{ }";
    assert_eq!(other.judge(), Err(Refused::Payload));
    assert!(matches!(
        of("STREAMING-AWS4-HMAC-SHA256-PAYLOAD").judge(),
        Err(Refused::Malformed(_))
    ));
    assert!(matches!(
        of("STREAMING-UNSIGNED-PAYLOAD-TRAILER").judge(),
        Err(Refused::Malformed(_))
    ));
    // Declared but not covered, somebody else could have declared it.
    let uncovered = Signed::header(PATH, &[], "host;x-amz-date", NOW);
    let uncovered = uncovered.with("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
    assert!(matches!(uncovered.judge(), Err(Refused::NotCovered(_))));
}

#[test]
fn requests_for_other_places_and_paths_of_two_meanings_are_refused() {
    let signed = Signed::header(PATH, &[], "host;x-amz-date", NOW);
    let place = |region, service| {
        let head = head("POST", &signed.target, &signed.headers);
        let claim = Claim::of(None, &head.headers)
            .expect("claim")
            .expect("signed");
        claim.check(&head, Place { region, service }, NOW)
    };
    assert_eq!(place("us-local-1", Service::AgentCore), Ok(()));
    assert!(matches!(
        place("us-west-2", Service::AgentCore),
        Err(Refused::Elsewhere(_))
    ));
    assert!(matches!(
        place("us-local-1", Service::S3),
        Err(Refused::Elsewhere(_))
    ));
    for path in ["/runtimes//a/ws", "/runtimes/x/../a/ws", "/./runtimes/a/ws"] {
        let signed = Signed::header(path, &[], "host;x-amz-date", NOW);
        assert!(
            matches!(signed.judge(), Err(Refused::Malformed(_))),
            "{path}"
        );
    }
    let plus = Signed::header("/runtimes/a/ws?q=a%2Bb", &[], "host;x-amz-date", NOW);
    assert_eq!(plus.judge(), Ok(()));
    let plus = Signed {
        target: plus.target.replace("%2B", "+"),
        ..plus
    };
    assert!(matches!(plus.judge(), Err(Refused::Malformed(_))));
}

#[test]
fn nonsense_is_refused_and_never_believed() {
    let right = Signed::header(PATH, &[], "host;x-amz-date", NOW);
    let authorization = right.headers.last().expect("authorization").1.clone();
    let judged = |value: &str| {
        let mut headers = right.headers.clone();
        headers.pop();
        let signed = Signed {
            target: PATH.to_owned(),
            headers,
            body: "{}",
        };
        signed.with("authorization", value).judge()
    };
    assert_eq!(judged(&authorization), Ok(()));
    for (from, to) in [
        ("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256"),
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        ("Credential=AKIDEXAMPLE/", "Credential="),
        ("Credential=", "Credentials="),
        (", Signature=", ", Signature=0"),
        (", Signature=", ", Signature=A"),
        (", SignedHeaders=host;x-amz-date", ""),
        (", SignedHeaders", ", SignedHeaders=host, SignedHeaders"),
        ("aws4_request", "aws5_request"),
        ("/us-local-1/", "/"),
        ("AKIDEXAMPLE/2", "AKIDEXAMPLE/1"),
    ] {
        let found = judged(&authorization.replacen(from, to, 1));
        assert!(
            matches!(found, Err(Refused::Malformed(_))),
            "{from} ▸ {to}: {found:?}"
        );
    }
    let twice = Signed::header(PATH, &[], "host;x-amz-date", NOW);
    assert!(twice.with("authorization", "Bearer x").judge().is_err());
    let mut both = Signed::query("/runtimes/a/ws", 300, NOW);
    both.headers.extend(right.headers.iter().skip(1).cloned());
    assert!(matches!(both.judge(), Err(Refused::Malformed(_))));
    let none = head("GET", "/runtimes/a/ws", &[]);
    assert_eq!(Claim::of(none.uri.query(), &none.headers), Ok(None));
    for date in [
        "20261129",
        "20261129T000000",
        "20261329T000000Z",
        "20261129 000000Z",
        "２０261129T000000Z",
    ] {
        assert!(
            matches!(claim_of_date(date), Err(Refused::Malformed(_))),
            "{date}"
        );
    }
}

fn claim_of_date(date: &str) -> Result<Option<Claim>, Refused> {
    let mut signed = Signed::header(PATH, &[], "host;x-amz-date", NOW);
    signed.headers[1].1 = date.to_owned();
    let head = head("POST", &signed.target, &signed.headers);
    Claim::of(None, &head.headers)
}
