//! An answer that says no: the daemon's RFC 9457 problem, or the AWS-shaped error of the data plane.
//!
//! For: reading either (and anything else that a proxy in between may send) without ever failing itself, and choosing
//! exit code and words. Status codes mean what `proto::code` says.

use crate::failure::{Exit, Failure};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, RETRY_AFTER};
use proto::code::ErrorCode;
use serde_json::Value;

/// Most bytes of an error's body that are read; the rest is not worth a person's time.
const MAX_BODY: usize = 1 << 20;

/// Most lines of an agent's log that are shown with an error.
const MAX_LINES: usize = 30;

/// A refusal, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) status: u16,
    /// AWS error name, if one was given.
    pub(crate) code: Option<String>,
    /// What happened, in the daemon's words.
    pub(crate) message: String,
    /// Faults field by field.
    pub(crate) faults: Vec<String>,
    /// The agent's last log lines, if they came along.
    pub(crate) log: Vec<String>,
    /// The agent's own status and body, if it answered.
    pub(crate) agent: Option<AgentAnswer>,
    /// Seconds to wait before another try.
    pub(crate) retry_after: Option<String>,
    /// For finding it in the daemon's log.
    pub(crate) request_id: Option<String>,
    /// The session concerned.
    pub(crate) session: Option<String>,
    /// What the call was made with.
    pub(crate) credentials: Credentials,
}

/// Who a call said it was from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// The kernel told the daemon: a Unix socket.
    Peer,
    /// Nobody: TCP without a key.
    None,
    /// A key, as the signer describes it.
    Key(String),
}

/// What the agent itself answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentAnswer {
    /// Its status.
    pub(crate) status: u16,
    /// Its body, perhaps cut.
    pub(crate) body: String,
}

impl Refusal {
    /// Reads an answer. A body that breaks off is used as far as it came.
    pub(crate) async fn read(answer: Response<Incoming>, credentials: Credentials) -> Self {
        let (head, mut body) = answer.into_parts();
        let mut bytes = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(data) = frame.data_ref() {
                bytes.extend_from_slice(data);
            }
            if bytes.len() > MAX_BODY {
                bytes.truncate(MAX_BODY);
                break;
            }
        }
        Self::parse(head.status.as_u16(), &head.headers, &bytes, credentials)
    }

    fn parse(status: u16, headers: &HeaderMap, body: &[u8], credentials: Credentials) -> Self {
        let header = |name: &str| {
            let value = headers.get(name)?;
            Some(value.to_str().ok()?.to_owned())
        };
        let document: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |keys: &[&str]| {
            let found = keys.iter().find_map(|key| document.get(key)?.as_str());
            found.map(str::to_owned)
        };
        let row = ErrorCode::ALL
            .into_iter()
            .map(ErrorCode::row)
            .find(|row| row.http == status);
        let message = text(&["detail", "message", "Message", "title"])
            .or_else(|| {
                // A plain text of a proxy, perhaps; a whole page of HTML helps nobody.
                let plain = std::str::from_utf8(body).ok()?.trim();
                let page = plain.starts_with('<');
                (!plain.is_empty() && !page && plain.len() < 400 && document.is_null())
                    .then(|| plain.to_owned())
            })
            .or_else(|| row.map(|row| row.title.to_owned()))
            .unwrap_or_else(|| format!("HTTP status {status}"));
        Self {
            status,
            code: header("x-amzn-errortype").or_else(|| text(&["code", "__type"])),
            message,
            faults: faults(&document),
            log: log(&document),
            agent: agent(&document),
            retry_after: headers
                .get(RETRY_AFTER)
                .and_then(|value| Some(value.to_str().ok()?.to_owned())),
            request_id: header("x-amzn-requestid")
                .or_else(|| header("x-request-id"))
                .or_else(|| text(&["requestId"])),
            session: header(super::SESSION_HEADER),
            credentials,
        }
    }

    /// Exit code: see the table in the documentation of `agentcore`.
    pub(crate) fn exit(&self) -> Exit {
        let retryable = self.code.as_deref() == Some("RetryableConflictException");
        match self.status {
            400 | 405 => Exit::Usage,
            401 | 403 => Exit::NotPermitted,
            404 => Exit::NotFound,
            409 if retryable => Exit::TryLater,
            409 => Exit::Conflict,
            429 | 503 => Exit::TryLater,
            504 => Exit::TimedOut,
            _ => Exit::Failed,
        }
    }

    /// For the person.
    pub(crate) fn failure(&self) -> Failure {
        let mut details = self.faults.clone();
        let mut what = self.message.clone();
        // The daemon's sentence says all faults in a row; here each has its line, once.
        let in_a_row: Vec<_> = details.iter().map(|f| f.replacen(": ", " ", 1)).collect();
        if !details.is_empty() && what == in_a_row.join("; ") {
            what = match details.len() {
                1 => details.remove(0),
                several => format!("{several} faults"),
            };
        }
        if let Some(agent) = &self.agent {
            // The daemon's own words are those of AWS and speak of a body; here its content is shown.
            what = format!("the agent answered with status {}", agent.status);
            details.extend(agent.body.lines().take(MAX_LINES).map(str::to_owned));
        }
        if !self.log.is_empty() {
            details.push("the agent's last log lines:".to_owned());
            details.extend(self.log.iter().map(|line| format!("  {line}")));
        }
        if let Some(id) = self.request_id.as_ref().filter(|_| self.status >= 500) {
            details.push(format!("request id {id}"));
        }
        let failure = Failure::new(self.exit(), what).details(details);
        match self.hint() {
            Some(hint) => failure.advice(hint),
            None => failure,
        }
    }

    fn hint(&self) -> Option<String> {
        let wait = || match &self.retry_after {
            Some(seconds) => format!("try again in {seconds} s"),
            None => "try again in a moment".to_owned(),
        };
        match self.exit() {
            Exit::TryLater => Some(wait()),
            Exit::NotPermitted => Some(match &self.credentials {
                Credentials::Peer => "root and the group `agentcore` may do this on the Unix socket: \
                     `sudo usermod -aG agentcore $USER`, then log in again"
                    .to_owned(),
                Credentials::None => "over TCP this daemon wants signed calls: make a key with `agentcore keys create` on \
                     its host, and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION as it prints them"
                    .to_owned(),
                Credentials::Key(key) => format!(
                    "the call was signed with {key}: is the key live and not limited to something else, the region \
                     (AWS_REGION) the daemon's, and this clock right? `GET /v1/audit` on the daemon's host has the reason"
                ),
            }),
            Exit::TimedOut => Some(
                "the session is still there; a longer answer needs lifecycle.invocation_timeout in \
                 agentcore.toml"
                    .to_owned(),
            ),
            Exit::Failed if self.status == 507 => {
                Some("free space below the daemon's state directory".to_owned())
            }
            Exit::Failed
            | Exit::Usage
            | Exit::NotFound
            | Exit::Conflict
            | Exit::Unreachable
            | Exit::Command(_) => None,
        }
    }
}

/// RFC 9457 `errors` (ours) and AWS `fieldList` have the same two fields.
fn faults(document: &Value) -> Vec<String> {
    let list = document.get("errors").or_else(|| document.get("fieldList"));
    let list = list
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let line = |fault: &Value| {
        let name = fault.get("name")?.as_str()?;
        let message = fault.get("message")?.as_str()?;
        Some(format!("{name}: {message}"))
    };
    list.iter().filter_map(line).collect()
}

/// `agentLog`: lines as strings or as log records, or one text.
fn log(document: &Value) -> Vec<String> {
    let lines: Vec<String> = match document.get("agentLog") {
        Some(Value::String(text)) => text.lines().map(str::to_owned).collect(),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|line| line.as_str().or_else(|| line.get("text")?.as_str()))
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    };
    let skip = lines.len().saturating_sub(MAX_LINES);
    lines.into_iter().skip(skip).collect()
}

fn agent(document: &Value) -> Option<AgentAnswer> {
    let status = document.get("agentStatus")?.as_u64()?;
    let body = match document.get("agentBody") {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    };
    Some(AgentAnswer {
        status: u16::try_from(status).ok()?,
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Refusal {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a header value"));
        }
        Refusal::parse(status, &map, body.as_bytes(), Credentials::Peer)
    }

    #[test]
    fn our_problems_are_read_with_their_fields() {
        let body = r#"{"title":"Invalid request","status":400,"detail":"config is wrong","code":"ValidationException",
            "requestId":"r1","errors":[{"name":"lifecycle.idle_timeout","message":"at least 60"}]}"#;
        let read = refusal(400, &[], body);
        assert_eq!(read.exit(), Exit::Usage);
        assert_eq!(read.message, "config is wrong");
        assert_eq!(read.faults, ["lifecycle.idle_timeout: at least 60"]);
    }

    #[test]
    fn each_fault_is_said_once() {
        let told = |detail: &str, errors: &str| {
            let body = format!(r#"{{"detail":"{detail}","errors":{errors}}}"#);
            let failure = refusal(400, &[], &body).failure();
            (failure.what, failure.details)
        };
        let one = r#"[{"name":"name","message":"is long"}]"#;
        assert_eq!(
            told("name is long", one),
            ("name: is long".to_owned(), vec![])
        );
        let two = r#"[{"name":"name","message":"is long"},{"name":"pids","message":"is 0"}]"#;
        let (what, details) = told("name is long; pids is 0", two);
        assert_eq!(what, "2 faults");
        assert_eq!(details, ["name: is long", "pids: is 0"]);
    }

    #[test]
    fn aws_errors_bring_the_agents_last_words() {
        let body = r#"{"message":"Received error (500) from runtime.","agentStatus":500,
            "agentBody":"{\"error\":\"boom\"}","agentLog":["Traceback","ValueError: boom"]}"#;
        let read = refusal(424, &[("x-amzn-errortype", "RuntimeClientError")], body);
        assert_eq!(read.exit(), Exit::Failed);
        let failure = read.failure();
        assert_eq!(failure.what, "the agent answered with status 500");
        assert_eq!(failure.details.len(), 4, "{:?}", failure.details);
        assert!(failure.details[0].contains("boom"));
        assert!(failure.details[3].ends_with("ValueError: boom"));
    }

    #[test]
    fn exit_codes_follow_the_status_and_the_name() {
        let codes = [
            (400, Exit::Usage),
            (401, Exit::NotPermitted),
            (402, Exit::Failed),
            (403, Exit::NotPermitted),
            (404, Exit::NotFound),
            (409, Exit::Conflict),
            (413, Exit::Failed),
            (424, Exit::Failed),
            (429, Exit::TryLater),
            (500, Exit::Failed),
            (503, Exit::TryLater),
            (504, Exit::TimedOut),
            (507, Exit::Failed),
        ];
        for (status, exit) in codes {
            assert_eq!(refusal(status, &[], "").exit(), exit, "{status}");
        }
        let busy = [("x-amzn-errortype", "RetryableConflictException")];
        assert_eq!(refusal(409, &busy, "{}").exit(), Exit::TryLater);
    }

    #[test]
    fn retry_after_becomes_advice() {
        let throttled = refusal(429, &[("retry-after", "7")], r#"{"message":"slow down"}"#);
        assert_eq!(
            throttled.failure().advice.as_deref(),
            Some("try again in 7 s")
        );
    }

    #[test]
    fn bodies_that_are_no_json_still_say_something() {
        assert_eq!(refusal(502, &[], "bad gateway\n").message, "bad gateway");
        assert_eq!(refusal(404, &[], "").message, "Not found");
        assert_eq!(
            refusal(418, &[], &"<p>".repeat(500)).message,
            "HTTP status 418"
        );
    }
}
