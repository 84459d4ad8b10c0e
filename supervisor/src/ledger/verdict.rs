//! Whether the ledger is what this daemon wrote: every record, every sum, every checkpoint.

use super::Ledger;
use super::chain::Chain;
use super::record::day;
use crate::store::{ChainHead, StoreError, Timestamp};
use proto::api::{LedgerCheck, LedgerFault};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

impl Ledger {
    /// Looks at everything, and says what is wrong first.
    pub async fn verify(&self) -> Result<LedgerCheck, StoreError> {
        let mut check = LedgerCheck::default();
        let checkpoints = match self.read_checkpoints().await? {
            Ok(checkpoints) => checkpoints,
            Err(line) => {
                check.fault = Some(LedgerFault {
                    chain: "checkpoints".to_owned(),
                    record: Some(u64::try_from(line).unwrap_or(u64::MAX)),
                    message: format!("line {line} of ledger.checkpoints is not this daemon's word"),
                });
                return Ok(check);
            }
        };
        check.checkpoints = u64::try_from(checkpoints.len()).unwrap_or(u64::MAX);
        let newest = checkpoints.last();
        check.last_checkpoint_at = newest.map(|newest| newest.at.to_string());
        let mut by_day = BTreeMap::new();
        let before = self.store.heads().await?;
        for chain in Chain::ALL {
            let mut known: BTreeMap<i64, (ChainHead, String)> = BTreeMap::new();
            for checkpoint in &checkpoints {
                let head = checkpoint.of(chain);
                known
                    .entry(head.seq)
                    .or_insert_with(|| (head, checkpoint.at.to_string()));
            }
            let (count, fault) = self.walk(chain, &known, &mut by_day).await?;
            match chain {
                Chain::Sessions => check.sessions = count,
                Chain::Invocations => check.invocations = count,
            }
            if let Some((record, message)) = fault {
                check.fault = Some(LedgerFault {
                    chain: chain.name().to_owned(),
                    record,
                    message,
                });
                return Ok(check);
            }
        }
        let removed = self.store.removed_until().await?;
        let first = removed.map_or(i64::MIN, |day| day.saturating_add(1));
        let store = &self.store;
        let mut fault = store.check_sums(by_day.clone(), (first, i64::MAX)).await?;
        if fault.is_some() && store.heads().await? != before {
            // Records came meanwhile, and may be in one of both only: of days that are not over.
            let whole = day(Timestamp::now()).saturating_sub(2);
            fault = store.check_sums(by_day, (first, whole)).await?;
        }
        check.fault = fault.map(|message| LedgerFault {
            chain: "sums".to_owned(),
            record: None,
            message,
        });
        check.ok = check.fault.is_none();
        Ok(check)
    }

    /// One chain, to its end. Counts its records, and gives the number of the first that is wrong.
    async fn walk(
        &self,
        chain: Chain,
        known: &BTreeMap<i64, (ChainHead, String)>,
        by_day: &mut BTreeMap<i64, (u64, session_core::meter::Totals)>,
    ) -> Result<(u64, Option<(Option<u64>, String)>), StoreError> {
        let numbered = |seq: i64| u64::try_from(seq).ok();
        let mut last = match self.store.chain_begin(chain).await? {
            Ok(begin) => begin,
            Err(message) => return Ok((0, Some((None, message)))),
        };
        let mut count = 0;
        if let Some(fault) = differs(known, last) {
            return Ok((0, Some((numbered(last.seq), fault))));
        }
        loop {
            let page = self.store.chain_page(chain, last).await?;
            if page.records.is_empty() {
                break;
            }
            for record in page.records {
                last = ChainHead {
                    seq: record.seq,
                    mac: record.mac,
                };
                let fault = record.fault.or_else(|| differs(known, last));
                if fault.is_some() {
                    return Ok((count, fault.map(|fault| (numbered(last.seq), fault))));
                }
                count += 1;
            }
            for (day, (ended, used)) in page.by_day {
                let (count, sum): &mut (u64, session_core::meter::Totals) =
                    by_day.entry(day).or_default();
                *count += ended;
                *sum = sum.plus(&used);
            }
        }
        let cut = known.last_key_value().filter(|(seq, _)| **seq > last.seq);
        Ok((
            count,
            cut.map(|(seq, (_, at))| {
                let message = format!(
                    "its end was cut off: there were {seq} records at {at}, and the last one now is {}",
                    last.seq
                );
                (numbered(last.seq + 1), message)
            }),
        ))
    }

    async fn read_checkpoints(
        &self,
    ) -> Result<Result<Vec<super::checkpoint::Checkpoint>, usize>, StoreError> {
        let file = self.checkpoints.clone();
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || file.read(store.chain())).await;
        read.unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| StoreError::File {
                verb: "read",
                path: self.checkpoints.path().to_owned(),
                source: Arc::new(source),
            })
    }
}

/// What a checkpoint holds against a record.
fn differs(known: &BTreeMap<i64, (ChainHead, String)>, found: ChainHead) -> Option<String> {
    let (head, at) = known.get(&found.seq)?;
    (head.mac != found.mac).then(|| format!("it is not the one that was there at {at}"))
}
