//! The daemon's records of whom it turned away (`GET /v1/audit`).

use crate::{Daemon, wait};
use anyhow::ensure;
use proto::api::{AuditRecord, Page};
use serde::Deserialize;
use std::collections::HashMap;

/// A refusal as its caller saw it, and why it was one.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// On the answer.
    pub request_id: String,
    /// Of the answer.
    pub status: u16,
    /// The answer's error name.
    pub code: String,
    /// What the record must say, and the answer must not have said.
    pub reason: String,
    /// What was asked for.
    pub path: String,
    /// Who asked, where that was known by then and is of interest.
    #[serde(default)]
    pub caller: Option<String>,
}

/// All records, the newest first.
pub fn records(daemon: &Daemon) -> anyhow::Result<Vec<AuditRecord>> {
    let mut all = Vec::new();
    let mut next = String::new();
    loop {
        let page: Page<AuditRecord> = daemon
            .client()
            .get(&format!("/v1/audit?maxResults=1000{next}"))?;
        all.extend(page.items);
        match page.next_token {
            None => return Ok(all),
            Some(token) => next = format!("&nextToken={}", crate::client::label(&token)),
        }
    }
}

/// Waits until each refusal has its record, and looks at it.
pub fn expect(daemon: &Daemon, refusals: &[Refused]) -> anyhow::Result<()> {
    ensure!(!refusals.is_empty(), "nothing was refused");
    // They come a little later than the answers, and in their order.
    let found = wait::until(20, "a record of each refusal", || {
        let all = records(daemon)?.into_iter();
        let all: HashMap<_, _> = all
            .map(|record| (record.request_id.clone(), record))
            .collect();
        let whole = refusals
            .iter()
            .all(|refused| all.contains_key(&refused.request_id));
        Ok(whole.then_some(all))
    })?;
    for refused in refusals {
        let record = &found[&refused.request_id];
        // Nobody is named whose credentials were not believed.
        let nobody = ["InvalidSignatureException", "UnauthorizedException"];
        ensure!(
            record.caller.is_none() || !nobody.contains(&record.code.as_str()),
            "{record:#?}"
        );
        ensure!(
            record.status == refused.status
                && record.code == refused.code
                && record.path == refused.path
                && (refused.caller.is_none() || record.caller == refused.caller)
                && record.reason.contains(&refused.reason),
            "{refused:#?}: {record:#?}"
        );
    }
    Ok(())
}
