//! What `/ping` answered: bytes ▸ healthy, or what was seen instead.

use crate::invocation::body::Decoder;
use crate::invocation::head::{self, Asked, Head};
use proto::shim::{Health, HealthStatus};
use serde_json::Value;

/// Most bytes of an answer's body; a health check has no reason to say more.
const MOST_BODY: usize = 16 * 1024;

/// Most characters of a body shown in a detail.
const MOST_SHOWN: usize = 200;

/// A judged answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Healthy(Health),
    Unhealthy(String),
}

/// Collects one answer.
#[derive(Debug, Default)]
pub(super) struct Reader {
    head: Vec<u8>,
    body: Option<(Head, Decoder, Vec<u8>)>,
}

impl Reader {
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_none()
    }

    /// Takes bytes; the answer once it is complete or cannot become good any more.
    pub(super) fn take(&mut self, bytes: &mut [u8]) -> Option<Answer> {
        if self.body.is_some() {
            return self.take_body(bytes);
        }
        let searched = self.head.len();
        self.head.extend_from_slice(bytes);
        while let Some(end) = head::end(&self.head, searched.min(self.head.len())) {
            let asked = Asked {
                head: false,
                upgrade: false,
            };
            let parsed = match head::parse(&self.head[..end], asked) {
                Ok(parsed) => parsed,
                Err(error) => return Some(Answer::Unhealthy(error.to_string())),
            };
            let mut rest = self.head.split_off(end);
            if parsed.status < 200 {
                self.head = rest;
                continue;
            }
            let decoder = Decoder::new(parsed.framing);
            self.body = Some((parsed, decoder, Vec::new()));
            return self.take_body(&mut rest);
        }
        head::plausible(&self.head)
            .err()
            .map(|error| Answer::Unhealthy(error.to_string()))
    }

    /// The connection has ended.
    pub(super) fn end(&mut self) -> Option<Answer> {
        Some(match &self.body {
            Some((head, decoder, body)) if decoder.ends_with_connection() => judge(head, body),
            Some(_) => Answer::Unhealthy("the answer was cut short".to_owned()),
            None => Answer::Unhealthy("the connection closed without an answer".to_owned()),
        })
    }

    fn take_body(&mut self, bytes: &mut [u8]) -> Option<Answer> {
        let (head, decoder, body) = self.body.as_mut()?;
        let decoded = match decoder.decode(bytes) {
            Ok(decoded) => decoded,
            Err(error) => return Some(Answer::Unhealthy(error.to_string())),
        };
        body.extend_from_slice(&bytes[decoded.data]);
        if body.len() > MOST_BODY {
            let text = format!("the answer's body is over {MOST_BODY} bytes");
            return Some(Answer::Unhealthy(text));
        }
        decoder.is_complete().then(|| judge(head, body))
    }
}

fn judge(head: &Head, body: &[u8]) -> Answer {
    if head.status != 200 {
        return Answer::Unhealthy(format!("status {}: {}", head.status, shown(body)));
    }
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
        return Answer::Unhealthy(format!("status 200, but no JSON object: {}", shown(body)));
    };
    let status = match fields.get("status").and_then(Value::as_str) {
        Some("Healthy") => HealthStatus::Healthy,
        Some("HealthyBusy") => HealthStatus::HealthyBusy,
        Some(_) | None => {
            let text = "status 200, but \"status\" is neither Healthy nor HealthyBusy";
            return Answer::Unhealthy(format!("{text}: {}", shown(body)));
        }
    };
    Answer::Healthy(Health {
        status,
        time_of_last_update: fields.get("time_of_last_update").and_then(seconds),
    })
}

/// Whole seconds; agents in languages with one number type may send a fraction.
fn seconds(value: &Value) -> Option<i64> {
    // The conversion saturates, which is as good an answer as any to a time outside of all time.
    #[allow(clippy::cast_possible_truncation)]
    let rounded = |seconds: f64| seconds.is_finite().then_some(seconds as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(rounded))
}

fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut shown: String = text
        .chars()
        .take(MOST_SHOWN)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(MOST_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Option<Answer> {
        let mut reader = Reader::default();
        reader
            .take(&mut text.as_bytes().to_vec())
            .or_else(|| reader.end())
    }

    fn ok(body: &str) -> Option<Answer> {
        answer(&format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    #[test]
    fn the_two_healthy_answers() {
        let healthy = |status, time_of_last_update| {
            Some(Answer::Healthy(Health {
                status,
                time_of_last_update,
            }))
        };
        assert_eq!(
            ok(r#"{"status":"Healthy","time_of_last_update":17}"#),
            healthy(HealthStatus::Healthy, Some(17))
        );
        assert_eq!(
            ok(r#"{"status":"HealthyBusy","time_of_last_update":17.9,"more":[]}"#),
            healthy(HealthStatus::HealthyBusy, Some(17))
        );
        assert_eq!(
            ok(r#"{"status":"Healthy","time_of_last_update":"noon"}"#),
            healthy(HealthStatus::Healthy, None)
        );
        assert_eq!(
            answer("HTTP/1.0 200 OK\r\n\r\n{\"status\":\"Healthy\"}"),
            healthy(HealthStatus::Healthy, None)
        );
        assert_eq!(
            answer(
                "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                 8\r\n{\"status\r\nb\r\n\":\"Healthy\"\r\n1\r\n}\r\n0\r\n\r\n"
            ),
            healthy(HealthStatus::Healthy, None)
        );
    }

    #[test]
    fn anything_else_says_what_was_seen() {
        for (answer, seen) in [
            (ok("[]"), "no JSON object: []"),
            (ok("{}"), "neither Healthy nor HealthyBusy"),
            (ok(r#"{"status":"healthy"}"#), "healthy"),
            (
                answer("HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nsoon"),
                "status 503: soon",
            ),
            (
                answer("HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n{"),
                "cut short",
            ),
            (answer("SSH-2.0-OpenSSH\r\n"), "not HTTP/1"),
            (answer(""), "without an answer"),
            (ok(&"x".repeat(MOST_BODY + 1)), "is over"),
        ] {
            match answer {
                Some(Answer::Unhealthy(text)) => assert!(text.contains(seen), "{text}: {seen}"),
                other => panic!("{seen}: {other:?}"),
            }
        }
    }
}
