//! `/v1/usage`: what was used, by whom, what it costs, and whether the records are what was written.

use super::input::Query;
use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use super::runtimes::{Paging, respond, runtime_param};
use crate::broker::Broker;
use crate::owner::{Owner, Principal, UserId};
use crate::store::{InvocationRow, SumRow, UsageBy, UsageQuery, UsageRow, day_of};
use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use proto::api::{Amounts, InvocationRecord, LedgerCheck, Page, UsageRecord};
use proto::ids::{RuntimeName, SessionId};
use serde::Deserialize;
use session_core::meter::Totals;
use session_core::prices::{Prices, number};
use std::sync::Arc;
use utoipa::IntoParams;

/// The last day that there is: 9999-12-31.
const LAST_DAY: i64 = 2_932_896;

/// Longest owner in a query.
const MAX_OWNER: usize = 8192;

/// Query of the usage.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// What rows are about: `runtime`, `session` (newest first), `user` or `day` (UTC).
    #[param(default = "runtime", pattern = "^(runtime|session|user|day)$")]
    by: Option<String>,
    /// Of this runtime only; not by user.
    #[param(value_type = Option<RuntimeName>)]
    runtime: Option<String>,
    /// Of this owner only (as `Session` has it), and of no user of its own but `userId`; not by runtime.
    owner: Option<String>,
    /// See `owner`.
    user_id: Option<String>,
    /// First day, such as 2026-11-29 (UTC).
    since: Option<String>,
    /// Last day.
    until: Option<String>,
}

impl Filter {
    fn query(&self) -> Result<UsageQuery, ApiError> {
        let by = match self.by.as_deref() {
            None | Some("runtime") => UsageBy::Runtime,
            Some("session") => UsageBy::Session,
            Some("user") => UsageBy::User,
            Some("day") => UsageBy::Day,
            Some(_) => {
                let rule = "must be runtime, session, user or day";
                return Err(ApiError::field("by", rule));
            }
        };
        let runtime = self.runtime.as_deref().map(runtime_param).transpose()?;
        let owner = self.owner()?;
        match by {
            UsageBy::User if runtime.is_some() => {
                let rule = "cannot be told apart by user; ask by session, or leave it out";
                return Err(ApiError::field("runtime", rule));
            }
            UsageBy::Runtime if owner.is_some() => {
                let rule = "cannot be told apart by runtime; ask by session, or leave it out";
                return Err(ApiError::field("owner", rule));
            }
            UsageBy::Day if owner.is_some() && runtime.is_some() => {
                let rule = "cannot go with runtime by day; ask by session, or leave one out";
                return Err(ApiError::field("owner", rule));
            }
            UsageBy::User | UsageBy::Runtime | UsageBy::Day | UsageBy::Session => {}
        }
        let day = |field, text: &Option<String>, default| match text {
            None => Ok(default),
            Some(text) => day_of(text).map_err(|error| {
                let text = error.to_string();
                ApiError::field(field, text.trim_start_matches("`day` ").to_owned())
            }),
        };
        let days = (
            day("since", &self.since, 0)?,
            day("until", &self.until, LAST_DAY)?,
        );
        if days.0 > days.1 {
            return Err(ApiError::field("until", "must not be before since"));
        }
        Ok(UsageQuery {
            by,
            runtime,
            owner,
            days,
        })
    }

    fn owner(&self) -> Result<Option<Owner>, ApiError> {
        let user = self.user_id.as_deref().map(UserId::parse).transpose();
        let user = user.map_err(|error| ApiError::field("userId", error.to_string()))?;
        match &self.owner {
            Some(owner) if owner.is_empty() || owner.len() > MAX_OWNER => {
                let rule = format!("must have 1 to {MAX_OWNER} bytes");
                Err(ApiError::field("owner", rule))
            }
            Some(owner) => Ok(Some(Owner {
                principal: Principal::from_text(owner),
                user,
            })),
            None if user.is_some() => Err(ApiError::field("userId", "needs its owner beside it")),
            None => Ok(None),
        }
    }
}

/// `GET /v1/usage`.
#[utoipa::path(
    get,
    path = "/usage",
    operation_id = "getUsage",
    summary = "What was used, and what it costs",
    tag = "usage",
    params(Paging, Filter),
    responses(
        (status = 200, body = Page<UsageRecord>, description = "Found; live sessions are in it with what they used so far"),
        Refusals
    )
)]
pub async fn list(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Query(paging): Query<Paging>,
    Query(filter): Query<Filter>,
) -> Response {
    let result = async {
        let (request, query) = (paging.request()?, filter.query()?);
        let config = broker.config();
        let prices = &config.prices;
        let live = broker.ledger.live(broker.clock.now());
        let by = query.by;
        let page = if by == UsageBy::Session {
            let rows = broker.store.usage_sessions(request, query, live).await?;
            rows.map(|row| session(row, prices))
        } else {
            let rows = broker.store.usage_sums(request, query, live).await?;
            rows.map(|row| sum(by, row, prices))
        };
        Ok(Json(page).into_response())
    };
    respond(result.await, &id)
}

fn record(used: &Totals, prices: &Prices) -> UsageRecord {
    UsageRecord {
        used: amounts(used),
        cost: prices.cost(used),
        aws_cost: prices.aws_cost(used),
        currency: prices.currency.clone(),
        ..UsageRecord::default()
    }
}

fn session(row: UsageRow, prices: &Prices) -> UsageRecord {
    let subject = row.subject;
    UsageRecord {
        runtime: Some(subject.runtime),
        id: Some(subject.session),
        session_id: Some(subject.client),
        owner: Some(subject.owner.principal.to_string()),
        user_id: subject.owner.user.map(|user| user.as_str().to_owned()),
        sessions: u64::from(!row.live),
        live: u64::from(row.live),
        ..record(&row.used, prices)
    }
}

fn sum(by: UsageBy, row: SumRow, prices: &Prices) -> UsageRecord {
    let mut found = UsageRecord {
        sessions: row.sessions,
        live: row.live,
        ..record(&row.used, prices)
    };
    match by {
        UsageBy::Runtime | UsageBy::Session => found.runtime = RuntimeName::parse(row.key).ok(),
        UsageBy::Day => found.day = Some(row.key),
        UsageBy::User => {
            let owner = Owner::from_key(&row.key);
            found.owner = Some(
                owner
                    .as_ref()
                    .map_or_else(|| row.key.clone(), |owner| owner.principal.to_string()),
            );
            let user = owner.and_then(|owner| owner.user);
            found.user_id = user.map(|user| user.as_str().to_owned());
        }
    }
    found
}

/// As the API tells sums.
#[must_use]
pub fn amounts(used: &Totals) -> Amounts {
    let seconds = |ms: u64| number(ms) / 1e3;
    let gb = |kb: u64| number(kb) / 1e6;
    Amounts {
        wall_seconds: seconds(used.wall_ms),
        active_seconds: seconds(used.active_ms),
        frozen_seconds: seconds(used.frozen_ms),
        cpu_seconds: number(used.cpu_us) / 1e6,
        memory_gb_seconds: gb(used.memory_kbs),
        memory_peak_gb_seconds: gb(used.memory_peak_kbs),
        memory_aws_gb_seconds: gb(used.memory_aws_kbs),
        allocated_gb_seconds: gb(used.allocated_memory_kbs),
        allocated_cpu_seconds: seconds(used.allocated_cpu_ms),
        invocations: used.invocations,
        bytes_in: used.bytes_in,
        bytes_out: used.bytes_out,
        egress_in: used.egress_in,
        egress_out: used.egress_out,
        peak_bytes: used.peak_bytes,
        tmp_bytes: used.tmp_bytes,
    }
}

/// Query of the invocations.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Of this session: ours.
    #[param(value_type = Option<SessionId>)]
    session: Option<String>,
    /// Of this task.
    task: Option<String>,
}

/// `GET /v1/usage/invocations`.
#[utoipa::path(
    get,
    path = "/usage/invocations",
    operation_id = "listInvocations",
    summary = "Invocations on record, the newest first",
    tag = "usage",
    params(Paging, Which),
    responses(
        (status = 200, body = Page<InvocationRecord>, description = "Found; an invocation is here a second after its end"),
        Refusals
    )
)]
pub async fn invocations(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Query(paging): Query<Paging>,
    Query(which): Query<Which>,
) -> Response {
    let result = async {
        let session = which.session.map(|text| {
            SessionId::parse(text).map_err(|error| ApiError::field("session", error.to_string()))
        });
        let page = broker
            .store
            .invocations(paging.request()?, session.transpose()?, which.task)
            .await?;
        Ok(Json(page.map(invocation)).into_response())
    };
    respond(result.await, &id)
}

fn invocation(row: InvocationRow) -> InvocationRecord {
    let record = row.record;
    InvocationRecord {
        record: row.seq.cast_unsigned(),
        id: record.subject.session,
        runtime: record.subject.runtime,
        at: record.at.to_string(),
        task_id: record.task,
        count: record.count,
        wall_ms: record.wall_ms,
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        cpu_us: record.cpu_us,
    }
}

/// `GET /v1/usage/verify`.
#[utoipa::path(
    get,
    path = "/usage/verify",
    operation_id = "verifyUsage",
    summary = "Whether the records of usage are what was written",
    tag = "usage",
    responses(
        (status = 200, body = LedgerCheck, description = "Looked at all of them; `ok` says how it is"),
        Refusals
    )
)]
pub async fn verify(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
) -> Response {
    let result = async {
        let check = broker.ledger.verify().await?;
        Ok(Json(check).into_response())
    };
    respond(result.await, &id)
}
