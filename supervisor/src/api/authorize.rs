//! May this caller do this, here? The one place that every operation asks.
//!
//! A runtime without an authorizer takes signed requests, one with it takes bearer tokens, never both. Peers of the Unix socket
//! are operators. Who may not know whether a runtime exists gets the same answer for one that does not.

use super::bearer;
use super::identify::Caller;
use super::reply::ApiError;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::config::TcpAuth;
use crate::keys::AccessKey;
use crate::objects::Asker;
use crate::owner::USER_ID;
use crate::permit::{Action, Grant, Reach};
use crate::tokens::Refused;
use http::header::HOST;
use http::request::Parts;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proto::code::ErrorCode;
use proto::config::Authorizer;
use proto::ids::RuntimeName;
use std::sync::Arc;

/// What the AWS wire says when credentials are of the other kind.
const MISMATCH: &str = "Authorization method mismatch. The agent is configured for a different authorization method than what was used in your request.";

/// A caller on the AWS wire, of whom it is not known yet what it may do: [`on_runtime`] and [`without_runtime`] say.
#[derive(Debug, Clone)]
pub struct Presented(pub Caller);

/// Who may go to what is ours: operators.
pub fn operator(caller: &Caller) -> Result<(), ApiError> {
    let what = "this needs an operator: a peer of the Unix socket, or an access key without limits";
    match caller {
        Caller::User(_) | Caller::Loopback => Ok(()),
        Caller::Key(key) if key.grant.is_unlimited() => Ok(()),
        Caller::Key(key) => Err(ApiError::refused(
            ErrorCode::AccessDenied,
            what,
            format!("access key {} is limited", key.id),
        )),
        Caller::Token(_) | Caller::Stranger => Err(ApiError::refused(
            ErrorCode::AccessDenied,
            what,
            "no credentials, or a token where none is taken",
        )),
    }
}

/// The caller of an action that concerns no runtime in particular (list, create, upload).
pub fn without_runtime(presented: &Presented, action: Action) -> Result<Caller, ApiError> {
    let Presented(caller) = presented;
    match caller {
        Caller::User(_) | Caller::Loopback => Ok(caller.clone()),
        Caller::Key(key) if key.grant.covers(action, None) => Ok(caller.clone()),
        Caller::Key(_) => Err(not_permitted(caller, action)),
        // A token is its runtime's.
        Caller::Token(_) | Caller::Stranger => Err(unsigned(action)),
    }
}

/// The caller of an action of the control plane on the runtime of this name, whether or not there is one: it takes signed
/// requests only, whatever the runtime takes.
pub fn on_name(
    presented: &Presented,
    action: Action,
    name: &RuntimeName,
) -> Result<Caller, ApiError> {
    let Presented(caller) = presented;
    match caller {
        Caller::User(_) | Caller::Loopback => Ok(caller.clone()),
        Caller::Key(key) if key.grant.covers(action, Some(name)) => Ok(caller.clone()),
        Caller::Key(_) => Err(not_permitted(caller, action)),
        Caller::Token(_) | Caller::Stranger => Err(unsigned(action)),
    }
}

/// Who acts on the object of this name, whether or not there is one.
pub fn on_object(
    broker: &Broker,
    presented: &Presented,
    action: Action,
    bucket: &str,
    key: &str,
) -> Result<Asker, ApiError> {
    let reach = |grant: &Grant| grant.reach(action, bucket, key);
    asker(broker, presented, action, reach, || {
        format!("s3://{bucket}/{key}")
    })
}

/// Who lists a bucket's objects whose keys begin so.
pub fn on_objects(
    broker: &Broker,
    presented: &Presented,
    bucket: &str,
    prefix: &str,
) -> Result<Asker, ApiError> {
    let action = Action::LIST_BUCKET;
    let reach = |grant: &Grant| grant.reach_below(action, bucket, prefix);
    asker(broker, presented, action, reach, || {
        format!("s3://{bucket}/{prefix}*")
    })
}

/// Whether a caller may do one of these to some object of a bucket, or of any; all buckets are there.
pub fn on_some_object(
    presented: &Presented,
    actions: &[Action],
    bucket: Option<&str>,
) -> Result<(), ApiError> {
    let Presented(caller) = presented;
    let action = actions.first().copied().unwrap_or(Action::LIST_BUCKET);
    let reaches = |key: &AccessKey| {
        let mut actions = actions.iter();
        actions.any(|action| key.grant.reaches_some(*action, bucket))
    };
    match caller {
        Caller::User(_) | Caller::Loopback => Ok(()),
        Caller::Key(key) if reaches(key) => Ok(()),
        Caller::Key(_) => {
            let what = bucket.map_or("any object".to_owned(), |bucket| format!("s3://{bucket}"));
            Err(not_permitted_on(caller, action, &what))
        }
        Caller::Token(_) | Caller::Stranger => Err(unsigned(action)),
    }
}

fn asker(
    broker: &Broker,
    presented: &Presented,
    action: Action,
    reach: impl Fn(&Grant) -> Reach,
    what: impl Fn() -> String,
) -> Result<Asker, ApiError> {
    let Presented(caller) = presented;
    let reach = match caller {
        Caller::User(_) | Caller::Loopback => Reach::All,
        Caller::Key(key) => reach(&key.grant),
        Caller::Token(_) | Caller::Stranger => Reach::None,
    };
    match (caller.principal(broker), reach) {
        (None, _) => Err(unsigned(action)),
        (Some(_), Reach::None) => Err(not_permitted_on(caller, action, &what())),
        (Some(principal), Reach::Own | Reach::All) => Ok(Asker {
            principal,
            own_only: reach == Reach::Own,
        }),
    }
}

/// Refuses a stranger, whatever a known caller may do.
pub fn no_stranger(presented: &Presented, action: Action) -> Result<(), ApiError> {
    match &presented.0 {
        Caller::User(_) | Caller::Loopback | Caller::Key(_) => Ok(()),
        Caller::Token(_) | Caller::Stranger => Err(unsigned(action)),
    }
}

/// Refuses whoever may not do this to any runtime, before anything of a request is read.
pub fn anywhere(presented: &Presented, action: Action) -> Result<(), ApiError> {
    match &presented.0 {
        Caller::User(_) | Caller::Loopback => Ok(()),
        Caller::Key(key) if key.grant.acts(action) => Ok(()),
        caller @ Caller::Key(_) => Err(not_permitted(caller, action)),
        Caller::Token(_) | Caller::Stranger => Err(unsigned(action)),
    }
}

/// The caller of an action on a runtime that is there.
pub async fn on_runtime(
    broker: &Broker,
    presented: &Presented,
    action: Action,
    version: &RuntimeVersion,
    head: &Parts,
) -> Result<Caller, ApiError> {
    let Presented(caller) = presented;
    let has_token = bearer::token(&head.headers) != Ok(None);
    match (caller, &version.config.authorizer) {
        // Operators need no token, and are somebody else with one.
        (Caller::User(_), Some(authorizer)) if has_token => {
            with_token(broker, version, authorizer, head).await
        }
        (Caller::User(_), _) | (Caller::Loopback, None) => Ok(caller.clone()),
        (Caller::Key(key), authorizer) => {
            let for_user = head.headers.contains_key(USER_ID);
            let needed = [Some(action), for_user.then_some(Action::INVOKE_FOR_USER)];
            let mut needed = needed.into_iter().flatten();
            let lacking = needed.find(|action| !key.grant.covers(*action, Some(&version.name)));
            let refusal = match (lacking, authorizer) {
                (None, None) => return Ok(caller.clone()),
                (Some(action), _) => not_permitted(caller, action),
                (None, Some(_)) => {
                    mismatch(format!("runtime {} takes bearer tokens only", version.name))
                }
            };
            Err(match key.grant.knows(&version.name) {
                true => refusal.to_insider(),
                false => refusal,
            })
        }
        (Caller::Loopback, Some(authorizer)) => with_token(broker, version, authorizer, head).await,
        (Caller::Stranger, Some(authorizer)) if takes_tokens(broker) => {
            with_token(broker, version, authorizer, head).await
        }
        (Caller::Token(_) | Caller::Stranger, _) => Err(unsigned_or_mismatch(
            action,
            has_token,
            format!("runtime {} takes signed requests only", version.name),
        )),
    }
}

/// The caller of an action on a runtime that cannot be called: nothing of runtime `name` is ready, or (`None`) there is no such
/// runtime. Whoever may not know gets the answer of one that is there, and not for it.
pub fn on_absent(
    presented: &Presented,
    action: Action,
    name: Option<&RuntimeName>,
    head: &Parts,
) -> Result<Caller, ApiError> {
    let Presented(caller) = presented;
    match caller {
        Caller::User(_) | Caller::Loopback => Ok(caller.clone()),
        // One that may see every runtime may see that there is none.
        Caller::Key(key) if key.grant.covers(action, name) => Ok(caller.clone()),
        Caller::Key(_) => Err(not_permitted(caller, action)),
        Caller::Token(_) | Caller::Stranger => Err(unsigned_or_mismatch(
            action,
            bearer::token(&head.headers) != Ok(None),
            "a token for a runtime that cannot be called".to_owned(),
        )),
    }
}

fn takes_tokens(broker: &Broker) -> bool {
    matches!(broker.config().auth, TcpAuth::Checked(methods) if methods.jwt)
}

/// The caller by its token. That a runtime takes tokens anybody may know.
async fn with_token(
    broker: &Broker,
    version: &RuntimeVersion,
    authorizer: &Authorizer,
    head: &Parts,
) -> Result<Caller, ApiError> {
    let caller = by_token(broker, version, authorizer, head).await;
    caller.map_err(ApiError::to_insider)
}

async fn by_token(
    broker: &Broker,
    version: &RuntimeVersion,
    authorizer: &Authorizer,
    head: &Parts,
) -> Result<Caller, ApiError> {
    let challenge = |error: &str| {
        let metadata = resource_metadata(broker, version, head);
        format!("Bearer resource_metadata=\"{metadata}\"{error}")
    };
    let unauthorized = |reason: String, error: &str| {
        ApiError::refused(
            ErrorCode::Unauthorized,
            "this runtime takes bearer tokens: the token is missing or was not accepted",
            reason,
        )
        .challenge(challenge(error))
    };
    let invalid = ", error=\"invalid_token\"";
    let token = match bearer::token(&head.headers) {
        Ok(Some(token)) => token,
        Ok(None) => return Err(unauthorized("no token".to_owned(), "")),
        Err(fault) => return Err(unauthorized(fault.to_owned(), invalid)),
    };
    let policy = &broker.config().tokens;
    let verified = broker.gate.tokens.verify(&token, authorizer, policy).await;
    let caller = match verified {
        Ok(caller) => caller,
        Err(Refused::Invalid(reason)) => return Err(unauthorized(reason, invalid)),
        Err(Refused::Insufficient(reason)) => {
            let scopes = authorizer.allowed_scopes.as_deref().unwrap_or_default();
            let scopes = scopes.join(" ");
            return Err(ApiError::refused(
                ErrorCode::AccessDenied,
                "the token does not permit this",
                reason,
            )
            .challenge(challenge(&format!(
                ", error=\"insufficient_scope\", scope=\"{scopes}\""
            ))));
        }
    };
    // Whom a token is for, its issuer says, not its bearer.
    let users = head.headers.get_all(USER_ID).iter();
    if users
        .into_iter()
        .any(|user| user.as_bytes() != caller.subject.as_bytes())
    {
        return Err(ApiError::refused(
            ErrorCode::AccessDenied,
            "with a token the user is the token's subject; leave X-Amzn-Bedrock-AgentCore-Runtime-User-Id out",
            format!("{} named another user", caller.subject),
        ));
    }
    Ok(Caller::Token(Arc::new(caller)))
}

/// Where a runtime's protected-resource metadata is (RFC 9728 §5.1), by the address that the caller used.
fn resource_metadata(broker: &Broker, version: &RuntimeVersion, head: &Parts) -> String {
    format!(
        "{}/.well-known/oauth-protected-resource?qualifier=DEFAULT",
        resource(broker, version, head)
    )
}

/// A runtime's address, by the address that the caller used.
#[must_use]
pub fn resource(broker: &Broker, version: &RuntimeVersion, head: &Parts) -> String {
    let config = broker.config();
    let arn = format!(
        "arn:aws:bedrock-agentcore:{}:{}:runtime/{}",
        config.region, config.account, version.runtime
    );
    let escaped = utf8_percent_encode(&arn, LABEL);
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    let plain = |host: &&str| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        host.bytes().all(letter)
    };
    let host = host.or(authority).filter(plain).unwrap_or("localhost");
    // A proxy that speaks TLS for us says so; whoever else says so misleads itself only.
    let proto = head.headers.get("x-forwarded-proto");
    let scheme = match proto.map(http::HeaderValue::as_bytes) {
        Some(b"https") => "https",
        Some(_) | None => "http",
    };
    format!("{scheme}://{host}/runtimes/{escaped}/invocations")
}

/// As SDKs escape a path's label.
const LABEL: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

fn mismatch(reason: String) -> ApiError {
    ApiError::refused(ErrorCode::AccessDenied, MISMATCH, reason)
}

/// The refusal of a caller without a signature, the same for every runtime that takes no tokens and for none.
fn unsigned_or_mismatch(action: Action, has_token: bool, reason: String) -> ApiError {
    if has_token {
        mismatch(reason)
    } else {
        unsigned(action)
    }
}

fn not_permitted(caller: &Caller, action: Action) -> ApiError {
    not_permitted_on(caller, action, "this resource")
}

fn not_permitted_on(caller: &Caller, action: Action, what: &str) -> ApiError {
    let who = match caller {
        Caller::Key(key) => format!("access key {}", key.id),
        Caller::User(_) | Caller::Loopback | Caller::Token(_) | Caller::Stranger => {
            "this caller".to_owned()
        }
    };
    ApiError::refused(
        ErrorCode::AccessDenied,
        format!("{who} is not permitted to do {action} on {what}"),
        format!("the grant of {who} does not cover {action} on {what}"),
    )
}

fn unsigned(action: Action) -> ApiError {
    ApiError::refused(
        ErrorCode::AccessDenied,
        "Missing Authentication Token: sign the request with an access key (SigV4)",
        format!("{action} without credentials"),
    )
}
