//! What a request claims: by whose key it is signed, when, and what is covered. Nothing of it is believed yet.

use super::Refused;
use super::canonical::SIGNATURE;
use crate::store::Timestamp;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HOST, HeaderName};
use percent_encoding::percent_decode_str;
use std::time::{Duration, UNIX_EPOCH};

/// The one algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// When the request was signed.
const DATE: &str = "x-amz-date";

/// Most signed headers.
const MAX_SIGNED: usize = 64;

/// Where the signature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `Authorization: AWS4-HMAC-SHA256 …`.
    Header,
    /// Presigned: in the query, good for so many seconds.
    Query {
        /// From the time it was signed.
        expires: u32,
    },
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Where it was found.
    pub form: Form,
    /// Id of the key.
    pub key_id: String,
    /// Day of the scope, `YYYYMMDD`.
    pub(super) day: String,
    /// Region of the scope.
    pub(super) region: String,
    /// Service of the scope.
    pub(super) service: String,
    /// Names of the headers that are covered, sorted.
    pub(super) signed: Vec<HeaderName>,
    /// The signature.
    pub(super) signature: [u8; 32],
    /// When, as it was signed.
    pub(super) date: String,
    /// When.
    pub(super) at: Timestamp,
}

impl Claim {
    /// What a request claims; `None` if it is not signed.
    pub fn of(query: Option<&str>, headers: &HeaderMap) -> Result<Option<Self>, Refused> {
        let in_header = headers
            .get(AUTHORIZATION)
            .map(http::HeaderValue::as_bytes)
            .is_some_and(|value| value.starts_with(b"AWS4-"));
        let parameters = Parameters(query.unwrap_or(""));
        let in_query =
            parameters.get("X-Amz-Algorithm")?.is_some() || parameters.get(SIGNATURE)?.is_some();
        match (in_header, in_query) {
            (false, false) => Ok(None),
            (true, true) => Err(Refused::Malformed("there are two signatures")),
            (true, false) => Self::of_header(headers).map(Some),
            (false, true) => Self::of_query(&parameters).map(Some),
        }
    }

    fn of_header(headers: &HeaderMap) -> Result<Self, Refused> {
        let malformed = Refused::Malformed;
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().and_then(|value| value.to_str().ok());
        let (Some(value), None) = (value, values.next()) else {
            return Err(malformed("Authorization is given twice, or is not text"));
        };
        let parts = value
            .strip_prefix(ALGORITHM)
            .filter(|rest| rest.starts_with(' '))
            .ok_or(malformed("the algorithm is not AWS4-HMAC-SHA256"))?;
        let (mut credential, mut signed, mut signature) = (None, None, None);
        for part in parts.split(',') {
            let (name, value) = part
                .trim()
                .split_once('=')
                .ok_or(malformed("Authorization has a part without a value"))?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed,
                "Signature" => &mut signature,
                _ => return Err(malformed("Authorization has an unknown part")),
            };
            if place.replace(value).is_some() {
                return Err(malformed("Authorization has a part twice"));
            }
        }
        let (Some(credential), Some(signed), Some(signature)) = (credential, signed, signature)
        else {
            return Err(malformed("Authorization lacks a part"));
        };
        let mut dates = headers.get_all(DATE).iter();
        let date = dates.next().and_then(|date| date.to_str().ok());
        let (Some(date), None) = (date, dates.next()) else {
            return Err(malformed("X-Amz-Date is missing, or given twice"));
        };
        let claim = Self::read(Form::Header, credential, signed, signature, date)?;
        claim.covers(&HeaderName::from_static(DATE))?;
        Ok(claim)
    }

    fn of_query(parameters: &Parameters<'_>) -> Result<Self, Refused> {
        let missing = Refused::Malformed("the query lacks a part of the signature");
        let get = |name| parameters.get(name)?.ok_or(missing.clone());
        if get("X-Amz-Algorithm")? != ALGORITHM {
            return Err(Refused::Malformed("the algorithm is not AWS4-HMAC-SHA256"));
        }
        let expires = get("X-Amz-Expires")?
            .parse()
            .map_err(|_| Refused::Malformed("X-Amz-Expires is not a number of seconds"))?;
        Self::read(
            Form::Query { expires },
            &get("X-Amz-Credential")?,
            &get("X-Amz-SignedHeaders")?,
            &get(SIGNATURE)?,
            &get("X-Amz-Date")?,
        )
    }

    fn read(
        form: Form,
        credential: &str,
        signed: &str,
        signature: &str,
        date: &str,
    ) -> Result<Self, Refused> {
        let malformed = Refused::Malformed;
        // From the end: nothing keeps slashes out of a key's id.
        let mut scope = credential.rsplitn(5, '/');
        let (Some("aws4_request"), Some(service), Some(region), Some(day), Some(key_id)) = (
            scope.next(),
            scope.next(),
            scope.next(),
            scope.next(),
            scope.next(),
        ) else {
            return Err(malformed(
                "the credential is not <key>/<day>/<region>/<service>/aws4_request",
            ));
        };
        let at = seconds(date).ok_or(malformed("X-Amz-Date is not YYYYMMDDTHHMMSSZ"))?;
        if date.get(..8) != Some(day) {
            return Err(malformed("the credential's day is not that of X-Amz-Date"));
        }
        let signed = signed
            .split(';')
            .take(MAX_SIGNED + 1)
            .map(HeaderName::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| malformed("SignedHeaders has what is no header's name"))?;
        // One order only, or two texts would mean the same.
        let sorted = signed
            .windows(2)
            .all(|pair| pair[0].as_str() < pair[1].as_str());
        if !sorted || signed.len() > MAX_SIGNED {
            return Err(malformed("SignedHeaders is not sorted, or too long"));
        }
        let claim = Self {
            form,
            key_id: key_id.to_owned(),
            day: day.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            signed,
            signature: unhex(signature).ok_or(malformed("the signature is not 64 hex digits"))?,
            date: date.to_owned(),
            at,
        };
        claim.covers(&HOST)?;
        Ok(claim)
    }

    /// Refuses a request whose signature does not cover a header.
    pub(super) fn covers(&self, name: &HeaderName) -> Result<(), Refused> {
        if self.signed.contains(name) {
            Ok(())
        } else {
            Err(Refused::NotCovered(name.to_string()))
        }
    }
}

/// A query's parameters, by decoded name. One that is given twice means nothing.
struct Parameters<'a>(&'a str);

impl Parameters<'_> {
    fn get(&self, wanted: &str) -> Result<Option<String>, Refused> {
        let mut found = None;
        for pair in self.0.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if percent_decode_str(name).eq(wanted.bytes()) {
                let value = percent_decode_str(value)
                    .decode_utf8()
                    .map_err(|_| Refused::Malformed("a part of the signature is not text"))?;
                if found.replace(value.into_owned()).is_some() {
                    return Err(Refused::Malformed("a part of the signature is given twice"));
                }
            }
        }
        Ok(found)
    }
}

/// `YYYYMMDDTHHMMSSZ`.
fn seconds(date: &str) -> Option<Timestamp> {
    let digits = |range: std::ops::Range<usize>| {
        date.get(range)
            .filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if date.len() != 16 || date.as_bytes()[8] != b'T' || date.as_bytes()[15] != b'Z' {
        return None;
    }
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        digits(0..4)?,
        digits(4..6)?,
        digits(6..8)?,
        digits(9..11)?,
        digits(11..13)?,
        digits(13..15)?
    );
    let at = humantime::parse_rfc3339(&text).ok()?;
    let since: Duration = at.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(Timestamp)
}

/// Exactly 64 lower-case hex digits: one text for each signature.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}
