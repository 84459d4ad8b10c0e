//! `usage …`.

use clap::{Args, Subcommand, ValueEnum};
use proto::ids::RuntimeName;

/// `usage`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Usage {
    /// Instead of what was used.
    #[command(subcommand)]
    pub(crate) action: Option<UsageAction>,
    /// Which usage.
    #[command(flatten)]
    pub(crate) query: UsageQuery,
}

/// `usage verify`.
#[derive(Debug, Subcommand)]
pub(crate) enum UsageAction {
    /// Check that no record of usage was changed, taken out or cut off; exit code 1 if one was
    Verify,
}

/// Which usage.
#[derive(Debug, Args)]
pub(crate) struct UsageQuery {
    /// What each line is about
    #[arg(long, value_enum, value_name = "WHAT", default_value = "runtime")]
    pub(crate) by: By,
    /// Only of this runtime
    #[arg(short = 'a', long = "agent", value_name = "NAME", value_parser = super::runtime_name)]
    pub(crate) agent: Option<RuntimeName>,
    /// Only of this owner, as `session inspect` shows it
    #[arg(long, value_name = "OWNER")]
    pub(crate) owner: Option<String>,
    /// Only of this user of the owner's
    #[arg(short, long, value_name = "USER", requires = "owner")]
    pub(crate) user_id: Option<String>,
    /// From this day on (UTC), such as 2026-11-29
    #[arg(long, value_name = "DAY")]
    pub(crate) since: Option<String>,
    /// Up to this day, itself included
    #[arg(long, value_name = "DAY")]
    pub(crate) until: Option<String>,
    /// Print every figure as comma-separated values
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
}

/// What lines of usage are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// Runtimes.
    Runtime,
    /// Sessions, the newest first.
    Session,
    /// Owners and their users.
    User,
    /// Days (UTC).
    Day,
}

impl By {
    /// The query's word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Session => "session",
            Self::User => "user",
            Self::Day => "day",
        }
    }
}

/// `budget …`.
#[derive(Debug, Subcommand)]
pub(crate) enum BudgetVerb {
    /// List budgets that are used up; their sessions are frozen
    List,
    /// Add the same amount to a budget once more; its sessions run again
    Approve {
        /// Whose: session, user or runtime
        #[arg(value_name = "SCOPE", value_parser = ["session", "user", "runtime"])]
        scope: String,
        /// Which of them, as `budget list` shows it
        key: String,
        /// Only the budget that this runtime's own configuration has
        #[arg(long, value_name = "NAME")]
        runtime: Option<String>,
    },
}
