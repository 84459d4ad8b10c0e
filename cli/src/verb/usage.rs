//! `agentcore usage [verify]`.

use super::Desk;
use crate::args::usage::{By, Usage, UsageAction, UsageQuery};
use crate::daemon::encode;
use crate::failure::{Exit, Failure};
use crate::table::{Table, bytes};
use proto::api::{LedgerCheck, UsageRecord};

/// Does what the verb says.
pub(super) async fn run(desk: &Desk, usage: &Usage) -> Result<(), Failure> {
    match &usage.action {
        Some(UsageAction::Verify) => verify(desk).await,
        None => show(desk, &usage.query).await,
    }
}

async fn show(desk: &Desk, query: &UsageQuery) -> Result<(), Failure> {
    let screen = &desk.screen;
    let mut path = format!("/v1/usage?by={}", query.by.word());
    let runtime = query.agent.as_ref().map(ToString::to_string);
    for (name, value) in [
        ("runtime", &runtime),
        ("owner", &query.owner),
        ("userId", &query.user_id),
        ("since", &query.since),
        ("until", &query.until),
    ] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    let records: Vec<UsageRecord> = desk.daemon.list(&path).await?;
    if screen.json {
        return screen.document(&records);
    }
    if query.csv {
        return screen.line(csv(&records));
    }
    if screen.quiet {
        return records
            .iter()
            .try_for_each(|each| screen.line(name(query.by, each)));
    }
    screen.line(table(query.by, &records))
}

fn name(by: By, record: &UsageRecord) -> String {
    let name = match by {
        By::Runtime => record.runtime.as_ref().map(ToString::to_string),
        By::Session => record.id.as_ref().map(ToString::to_string),
        By::Day => record.day.clone(),
        By::User => record.owner.clone(),
    };
    name.unwrap_or_default()
}

fn table(by: By, records: &[UsageRecord]) -> String {
    let currency = records.first().map_or("", |first| first.currency.as_str());
    let (first, second) = match by {
        By::Runtime => ("RUNTIME", "SESSIONS"),
        By::Session => ("ID", "RUNTIME"),
        By::User => ("OWNER", "USER"),
        By::Day => ("DAY", "SESSIONS"),
    };
    let (cost, aws) = (format!("COST {currency}"), format!("AT AWS {currency}"));
    let mut table = Table::new([
        first, second, "CALLS", "ACTIVE", "CPU", "GB-S", "PEAK", "IN", "OUT", &cost, &aws,
    ]);
    for each in records {
        let used = &each.used;
        let second = match by {
            By::Session => each
                .runtime
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            By::User => each.user_id.clone().unwrap_or_default(),
            By::Runtime | By::Day if each.live == 0 => each.sessions.to_string(),
            By::Runtime | By::Day => format!("{} + {} live", each.sessions, each.live),
        };
        table.row([
            name(by, each),
            second,
            used.invocations.to_string(),
            format!("{:.1}s", used.active_seconds),
            format!("{:.2}s", used.cpu_seconds),
            format!("{:.2}", used.memory_gb_seconds),
            bytes(used.peak_bytes),
            bytes(used.bytes_in),
            bytes(used.bytes_out),
            format!("{:.6}", each.cost),
            format!("{:.6}", each.aws_cost),
        ]);
    }
    table.text()
}

/// Every figure of every record, a header line first (RFC 4180).
fn csv(records: &[UsageRecord]) -> String {
    let mut lines = vec![
        "runtime,id,session_id,owner,user_id,day,sessions,live,wall_seconds,active_seconds,frozen_seconds,cpu_seconds,\
         memory_gb_seconds,memory_peak_gb_seconds,memory_aws_gb_seconds,allocated_gb_seconds,allocated_cpu_seconds,\
         invocations,bytes_in,bytes_out,egress_in,egress_out,peak_bytes,tmp_bytes,cost,aws_cost,currency"
            .to_owned(),
    ];
    for each in records {
        let used = &each.used;
        let text = |value: Option<String>| quoted(&value.unwrap_or_default());
        let cells = [
            text(each.runtime.as_ref().map(ToString::to_string)),
            text(each.id.as_ref().map(ToString::to_string)),
            text(each.session_id.as_ref().map(ToString::to_string)),
            text(each.owner.clone()),
            text(each.user_id.clone()),
            text(each.day.clone()),
            each.sessions.to_string(),
            each.live.to_string(),
            used.wall_seconds.to_string(),
            used.active_seconds.to_string(),
            used.frozen_seconds.to_string(),
            used.cpu_seconds.to_string(),
            used.memory_gb_seconds.to_string(),
            used.memory_peak_gb_seconds.to_string(),
            used.memory_aws_gb_seconds.to_string(),
            used.allocated_gb_seconds.to_string(),
            used.allocated_cpu_seconds.to_string(),
            used.invocations.to_string(),
            used.bytes_in.to_string(),
            used.bytes_out.to_string(),
            used.egress_in.to_string(),
            used.egress_out.to_string(),
            used.peak_bytes.to_string(),
            used.tmp_bytes.to_string(),
            each.cost.to_string(),
            each.aws_cost.to_string(),
            quoted(&each.currency),
        ];
        lines.push(cells.join(","));
    }
    lines.join("\n")
}

/// A value that a spreadsheet takes as text: users name themselves, and `=cmd()` is a formula to some.
fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let safe = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if safe.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", safe.replace('"', "\"\""))
    } else {
        safe
    }
}

async fn verify(desk: &Desk) -> Result<(), Failure> {
    let check: LedgerCheck = desk.daemon.get("/v1/usage/verify").await?;
    let screen = &desk.screen;
    if screen.json {
        screen.document(&check)?;
    }
    match &check.fault {
        None => {
            if screen.json {
                return Ok(());
            }
            let since = check.last_checkpoint_at.as_deref().unwrap_or("none yet");
            screen.line(format!(
                "{} records of sessions and {} of invocations hold, with {} checkpoints (the last: {since})",
                check.sessions, check.invocations, check.checkpoints
            ))
        }
        Some(fault) => {
            let place = match fault.record {
                Some(record) => format!("{}, record {record}", fault.chain),
                None => fault.chain.clone(),
            };
            Err(Failure::new(
                Exit::Failed,
                format!("the ledger is not what was written: {place}: {}", fault.message),
            )
            .advice("docs/threat-model.md says what can cause that; compare with a backup, or with checkpoints kept elsewhere"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_has_a_cell_for_each_heading_and_no_formulas() {
        let record = UsageRecord {
            owner: Some("token:[\"a\",\"b\"]".to_owned()),
            user_id: Some("=HYPERLINK(1)".to_owned()),
            ..UsageRecord::default()
        };
        let text = csv(&[record]);
        let (header, line) = text.split_once('\n').expect("two lines");
        assert_eq!(header.split(',').count(), 27);
        assert!(
            line.contains("\"token:[\"\"a\"\",\"\"b\"\"]\",'=HYPERLINK(1),"),
            "{line}"
        );
        // The owner's comma is within its quotes.
        assert_eq!(line.split(',').count(), 28);
    }
}
