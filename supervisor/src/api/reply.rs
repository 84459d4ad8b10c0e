//! Every error answer: AWS-shaped on the AWS wire, RFC 9457 on ours, both with a request id (contract §2.9).

use super::evidence::AgentEvidence;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use proto::api::{FieldFault, Problem};
use proto::code::ErrorCode;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Carries the request id in answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
/// Carries the AWS error name.
pub const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
/// Milliseconds that boto3 waits before it tries again (contract §7.3).
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("x-amz-retry-after");

/// A call that failed.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// Which row of the table.
    pub code: ErrorCode,
    /// What happened, what it means, what to do.
    pub message: String,
    /// Field by field, if the request broke rules.
    pub fields: Vec<FieldFault>,
    /// What the wire itself calls this failure, where that is not the row's to say: the model's reason of a broken rule
    /// (contract §2.9), S3's name of an error.
    pub reason: Option<&'static str>,
    /// When to try again, if more is known than its row says.
    pub retry_after: Option<Duration>,
    /// What the agent itself said.
    pub agent: Option<Box<AgentEvidence>>,
    /// What is behind it, for the daemon's log only.
    cause: Option<Box<str>>,
    /// How a caller was turned away.
    refusal: Option<Box<Refusal>>,
}

/// What is behind a refusal.
#[derive(Debug, Clone, Default)]
struct Refusal {
    /// Why, for the audit only.
    reason: String,
    /// `WWW-Authenticate`.
    challenge: Option<String>,
    /// See [`ApiError::to_insider`].
    insider: bool,
}

/// On the answer of everybody who was turned away: why.
#[derive(Debug, Clone)]
pub struct TurnedAway(pub String);

impl ApiError {
    /// A failure of this kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            fields: Vec::new(),
            reason: None,
            retry_after: None,
            agent: None,
            cause: None,
            refusal: None,
        }
    }

    /// Turns a caller away. The message is for the caller, the reason for the audit.
    pub fn refused(code: ErrorCode, message: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            refusal: Some(Box::new(Refusal {
                reason: reason.into(),
                ..Refusal::default()
            })),
            ..Self::new(code, message)
        }
    }

    /// Whoever is turned away may know of what it was turned away from.
    #[must_use]
    pub fn to_insider(mut self) -> Self {
        self.refusal.get_or_insert_default().insider = true;
        self
    }

    /// See [`Self::to_insider`].
    #[must_use]
    pub fn is_to_insider(&self) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| refusal.insider)
    }

    /// Says how to authenticate (RFC 9110 §11.6.1).
    #[must_use]
    pub fn challenge(mut self, challenge: String) -> Self {
        self.refusal.get_or_insert_default().challenge = Some(challenge);
        self
    }

    /// A request that breaks a rule of one field.
    pub fn field(name: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            fields: vec![FieldFault {
                name: name.to_owned(),
                message: message.clone(),
            }],
            ..Self::new(ErrorCode::Validation, format!("{name} {message}"))
        }
    }

    /// A request that breaks several rules.
    #[must_use]
    pub fn fields(fields: Vec<FieldFault>) -> Self {
        let message = fields
            .iter()
            .map(|fault| format!("{} {}", fault.name, fault.message))
            .collect::<Vec<_>>()
            .join("; ");
        Self {
            fields,
            ..Self::new(ErrorCode::Validation, message)
        }
    }

    /// A body over its bound.
    pub fn too_large(field: &str, message: impl Into<String>) -> Self {
        Self {
            code: ErrorCode::PayloadTooLarge,
            ..Self::field(field, message)
        }
    }

    /// Nothing of that name.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, what)
    }

    /// Our fault; the cause goes to the log under the request's id, not to the caller.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        Self {
            cause: Some(crate::fault::chain(error).into()),
            ..Self::new(
                ErrorCode::Internal,
                "the daemon could not do this; its log has the cause under this request id",
            )
        }
    }

    /// Says what the wire itself calls it.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Adds the agent's own words, the last of its log to the message too.
    #[must_use]
    pub fn evidence(mut self, agent: AgentEvidence) -> Self {
        if let Some(words) = agent.last_words() {
            self.message.push_str("; its log ends with: ");
            self.message.push_str(&words);
        }
        self.agent = Some(Box::new(agent));
        self
    }

    /// Bytes that it takes to keep it.
    #[must_use]
    pub fn weight(&self) -> usize {
        let fields = self.fields.iter();
        let fields: usize = fields.map(|f| f.name.len() + f.message.len()).sum();
        let agent = self.agent.as_ref().map_or(0, |agent| agent.weight());
        self.message.len() + fields + agent
    }

    /// The status of its row.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.row().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Writes down what callers are not told.
    pub fn log(&self, request_id: &str) {
        if let Some(cause) = &self.cause {
            tracing::error!(request_id, error = cause, "request failed");
        }
    }

    /// As the AWS wire says it.
    #[must_use]
    pub fn aws(&self, request_id: &str) -> Response {
        let row = self.code.row();
        let mut body = Map::from_iter([("message".to_owned(), json!(self.message))]);
        if row.aws == "ValidationException" {
            let reason = self.reason.unwrap_or(if self.fields.is_empty() {
                "CannotParse"
            } else {
                "FieldValidationFailed"
            });
            body.insert("reason".to_owned(), json!(reason));
            body.insert("fieldList".to_owned(), json!(self.fields));
        }
        self.add_evidence(&mut body);
        self.finish(request_id, "application/json", &Value::Object(body))
    }

    /// As our own routes say it.
    #[must_use]
    pub fn problem(&self, request_id: &str) -> Response {
        let row = self.code.row();
        let problem = Problem {
            title: row.title.to_owned(),
            status: row.http,
            detail: self.message.clone(),
            code: row.aws.to_owned(),
            request_id: request_id.to_owned(),
            errors: self.fields.clone(),
        };
        let mut body = match serde_json::to_value(&problem) {
            Ok(Value::Object(map)) => map,
            Ok(_) | Err(_) => Map::new(),
        };
        self.add_evidence(&mut body);
        self.finish(request_id, "application/problem+json", &Value::Object(body))
    }

    fn add_evidence(&self, body: &mut Map<String, Value>) {
        if let Some(agent) = &self.agent {
            agent.tell(body);
        }
    }

    /// What a protocol with an error form of its own says beside it: name, request id, the agent's words.
    #[must_use]
    pub fn data(&self, request_id: &str) -> Value {
        let mut data = Map::from_iter([
            ("type".to_owned(), json!(self.code.row().aws)),
            ("requestId".to_owned(), json!(request_id)),
        ]);
        if !self.fields.is_empty() {
            data.insert("fieldList".to_owned(), json!(self.fields));
        }
        self.add_evidence(&mut data);
        Value::Object(data)
    }

    fn finish(&self, request_id: &str, kind: &'static str, body: &Value) -> Response {
        self.answer(request_id, self.code.row().http, kind, body.to_string())
    }

    /// In another form, with the headers that every error has; `status` is of `proto::code`'s too.
    #[must_use]
    pub fn answer(
        &self,
        request_id: &str,
        status: u16,
        kind: &'static str,
        body: String,
    ) -> Response {
        self.log(request_id);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(ERROR_TYPE, HeaderValue::from_static(self.code.row().aws));
        set_request_id(headers, request_id);
        let challenge = self.refusal.as_ref().and_then(|refusal| {
            let challenge = refusal.challenge.as_deref()?;
            HeaderValue::from_str(challenge).ok()
        });
        headers.extend(challenge.map(|challenge| (WWW_AUTHENTICATE, challenge)));
        let again = self.code.again().map(Duration::from_secs);
        if let Some(delay) = self.retry_after.or(again) {
            let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).max(1);
            // Whole seconds, and none too few.
            headers.insert(RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
        }
        if matches!(
            self.code,
            ErrorCode::Unauthorized
                | ErrorCode::InvalidSignature
                | ErrorCode::AccessDenied
                | ErrorCode::MisdirectedRequest
        ) {
            let reason = self.refusal.as_ref().map(|refusal| &refusal.reason);
            let reason = reason.unwrap_or(&self.message).clone();
            response.extensions_mut().insert(TurnedAway(reason));
        }
        response
    }
}

/// Puts the request id on an answer.
pub fn set_request_id(headers: &mut HeaderMap, request_id: &str) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
}

impl From<crate::store::StoreError> for ApiError {
    fn from(error: crate::store::StoreError) -> Self {
        let code = error.code();
        if code == ErrorCode::Internal {
            return Self::internal(&error);
        }
        match &error {
            crate::store::StoreError::Invalid { field, message } => {
                Self::field(field, message.clone())
            }
            crate::store::StoreError::TokenReused => Self {
                reason: Some("IdempotentParameterMismatchException"),
                ..Self::field("clientToken", error.to_string())
            },
            _ => Self::new(code, error.to_string()),
        }
    }
}

impl From<crate::artifacts::ArtifactError> for ApiError {
    fn from(error: crate::artifacts::ArtifactError) -> Self {
        let code = error.code();
        if code == ErrorCode::Internal {
            Self::internal(&error)
        } else {
            Self::new(code, crate::fault::chain(&error))
        }
    }
}

impl From<crate::objects::ObjectError> for ApiError {
    fn from(error: crate::objects::ObjectError) -> Self {
        use crate::objects::ObjectError as Object;
        let told = |code, name| Self::new(code, crate::fault::chain(&error)).because(name);
        match &error {
            Object::TooLarge => told(ErrorCode::PayloadTooLarge, "EntityTooLarge"),
            Object::Full(_)
            | Object::Share(_)
            | Object::TooManyUploads(_)
            | Object::UploadShare(_) => told(ErrorCode::QuotaExceeded, "QuotaExceeded"),
            Object::NotYours => Self::refused(
                ErrorCode::AccessDenied,
                error.to_string(),
                "a change to another caller's object",
            ),
            Object::NoUpload(_) => told(ErrorCode::NotFound, "NoSuchUpload"),
            Object::NoPart(_) => told(ErrorCode::Validation, "InvalidPart"),
            Object::Interrupted => told(ErrorCode::Validation, "IncompleteBody"),
            Object::Store(error) => Self::from(error.clone()),
            Object::File { source, .. }
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
                ) =>
            {
                told(ErrorCode::StorageFull, "InternalError")
            }
            Object::File { .. } => Self::internal(&error),
        }
    }
}
