//! What is written down of a live session now and then, for a daemon that finds it again or finds it gone.

use super::worker::Durability;
use super::{Store, StoreError};
use proto::ids::SessionId;
use rusqlite::{Row, params};

/// Longest id of an MCP server's own session that is remembered, in bytes: it is the agent's word.
const LONGEST_MCP: usize = 1024;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memo {
    /// Its agent was healthy once.
    pub was_ready: bool,
    /// What its MCP server calls its own session.
    pub mcp: Option<String>,
    /// Outbound connections refused by policy.
    pub egress_refused: u64,
    /// Lines of output dropped.
    pub log_lines_dropped: u64,
}

impl Store {
    /// Notes how these sessions are; those that have ended are left as they ended. Survives the daemon, not the machine.
    pub async fn remember(&self, memos: Vec<(SessionId, Memo)>) -> Result<(), StoreError> {
        self.write(Durability::Volatile, move |db| {
            let mut update = db.prepare_cached(
                "UPDATE sessions SET was_ready = ?2, mcp = ?3, egress_refused = ?4, log_lines_dropped = ?5
                 WHERE id = ?1 AND ended_at IS NULL",
            )?;
            for (id, memo) in &memos {
                update.execute(params![
                    id.as_str(),
                    memo.was_ready,
                    memo.mcp.as_deref().filter(|mcp| mcp.len() <= LONGEST_MCP),
                    memo.egress_refused.cast_signed(),
                    memo.log_lines_dropped.cast_signed(),
                ])?;
            }
            Ok(())
        })
        .await
    }
}

/// From `s.was_ready, s.mcp, s.egress_refused, s.log_lines_dropped`.
pub(super) fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<Memo> {
    let unsigned = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(Memo {
        was_ready: row.get(at)?,
        mcp: row.get(at + 1)?,
        egress_refused: unsigned(at + 2)?,
        log_lines_dropped: unsigned(at + 3)?,
    })
}
