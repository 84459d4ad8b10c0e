//! Budgets: once a second it is asked anew whose is used up. Sessions of those freeze, with the reason for their callers (402),
//! and run again when somebody has approved; what was approved is on disk, so a restart changes nothing.
//!
//! Freezing itself, and what callers of a frozen session are told, are the driver's (`session_core::lifecycle::freeze`).

use super::{Account, Ledger, locked};
use crate::broker::Broker;
use crate::config::Budgets as Configured;
use crate::fault::chain;
use crate::session::handle::SessionHandle;
use crate::store::{StoreError, UsageBy};
use proto::api::FreezeCause;
use session_core::budget::{Budget, Reached};
use session_core::meter::Totals;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};

/// Whose a budget is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// A session's, by our name of it.
    Session,
    /// A user's, by [`crate::owner::Owner::key`].
    User,
    /// A runtime's, by name.
    Runtime,
}

impl Scope {
    /// All.
    pub const ALL: [Self; 3] = [Self::Session, Self::User, Self::Runtime];

    /// Its name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::User => "user",
            Self::Runtime => "runtime",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.word() == word)
    }

    fn key(self, account: &Account) -> String {
        let subject = &account.subject;
        match self {
            Self::Session => subject.session.to_string(),
            Self::User => subject.owner.key(),
            Self::Runtime => subject.runtime.to_string(),
        }
    }

    fn budget(self, configured: &Configured) -> &Budget {
        match self {
            Self::Session => &configured.session,
            Self::User => &configured.user,
            Self::Runtime => &configured.runtime,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whose, and which of them.
pub type Holder = (Scope, String);

/// See the module.
#[derive(Debug, Default)]
pub struct Budgets {
    /// How often each was approved.
    approved: Mutex<HashMap<Holder, u32>>,
    /// What is on record of those with live sessions, as last looked at.
    recorded: Mutex<HashMap<Holder, Totals>>,
    /// Used up now.
    reached: Mutex<BTreeMap<Holder, Reached>>,
}

impl Budgets {
    pub(super) fn new(approved: HashMap<Holder, u32>) -> Self {
        Self {
            approved: Mutex::new(approved),
            ..Self::default()
        }
    }

    /// Those that are used up, and how often each was approved.
    #[must_use]
    pub fn used_up(&self) -> Vec<(Holder, Reached, u32)> {
        let approved = locked(&self.approved);
        let reached = locked(&self.reached);
        let reached = reached.iter();
        reached
            .map(|(holder, reached)| {
                let times = approved.get(holder).copied().unwrap_or(0);
                (holder.clone(), reached.clone(), times)
            })
            .collect()
    }
}

impl Ledger {
    /// Budgets.
    #[must_use]
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// Approves another such amount. False if it is not used up.
    pub async fn approve(&self, holder: Holder) -> Result<bool, StoreError> {
        if !locked(&self.budgets.reached).contains_key(&holder) {
            return Ok(false);
        }
        let (scope, key) = &holder;
        let times = self.store.approve_budget(scope.word(), key.clone()).await?;
        locked(&self.budgets.approved).insert(holder.clone(), times);
        locked(&self.budgets.reached).remove(&holder);
        Ok(true)
    }

    /// Looks whose budget is used up, and freezes and thaws accordingly. `fresh`: what is on record is read again.
    pub(super) async fn look_at_budgets(&self, broker: &Broker, fresh: bool) {
        let config = broker.config();
        let now = broker.clock.now();
        let mut used: HashMap<Holder, Totals> = HashMap::new();
        let accounts = self.all();
        for account in &accounts {
            for scope in Scope::ALL {
                if scope.budget(&config.budgets).is_empty() {
                    continue;
                }
                let amount = match scope {
                    Scope::Session => Some(account.used(now)),
                    Scope::User | Scope::Runtime => account.unrecorded(now).map(|live| live.used),
                };
                let sum = used.entry((scope, scope.key(account))).or_default();
                *sum = sum.plus(&amount.unwrap_or_default());
            }
        }
        let mut reached = BTreeMap::new();
        for (holder, live) in used {
            let used = match self.on_record(&holder, fresh).await {
                Ok(recorded) => recorded.plus(&live),
                Err(error) => {
                    tracing::error!(scope = %holder.0, error = %chain(&error), "a budget is not known; it stays as it is");
                    if let Some(before) = locked(&self.budgets.reached).get(&holder) {
                        reached.insert(holder, before.clone());
                    }
                    continue;
                }
            };
            let approvals = locked(&self.budgets.approved).get(&holder).copied();
            let budget = holder.0.budget(&config.budgets);
            if let Some(over) = budget.reached(approvals.unwrap_or(0), &used, &config.prices) {
                reached.insert(holder, over);
            }
        }
        for account in &accounts {
            let over = Scope::ALL.into_iter().find_map(|scope| {
                let over = reached.get(&(scope, scope.key(account)))?;
                Some(format!("of the {scope}, {over}"))
            });
            if let Some(handle) = broker.registry.get(&account.subject.session) {
                hold(handle, over);
            }
        }
        *locked(&self.budgets.reached) = reached;
    }

    async fn on_record(&self, holder: &Holder, fresh: bool) -> Result<Totals, StoreError> {
        let by = match holder.0 {
            // An account knows all of its session.
            Scope::Session => return Ok(Totals::default()),
            Scope::User => UsageBy::User,
            Scope::Runtime => UsageBy::Runtime,
        };
        let known = locked(&self.budgets.recorded).get(holder).copied();
        if let Some(known) = known.filter(|_| !fresh) {
            return Ok(known);
        }
        let found = self.store.usage_total(by, holder.1.clone()).await?;
        locked(&self.budgets.recorded).insert(holder.clone(), found);
        Ok(found)
    }
}

/// Freezes a session, or lets go of it; nobody waits. Asked again every second, so one that is not ready for it is frozen later.
fn hold(handle: Arc<SessionHandle>, over: Option<String>) {
    let held = handle
        .view()
        .frozen
        .is_some_and(|note| note.causes.contains(&FreezeCause::Budget));
    match over {
        Some(reason) if !held => {
            tokio::spawn(async move {
                if handle
                    .freeze(FreezeCause::Budget, Some(reason.clone()))
                    .await
                    .is_ok()
                {
                    tracing::warn!(session_id = %handle.id, reason, "a budget is used up; the session is frozen");
                }
            });
        }
        None if held => {
            tokio::spawn(async move {
                if let Err(why) = handle.thaw(FreezeCause::Budget).await {
                    tracing::warn!(session_id = %handle.id, error = %why, "not thawed after its budget was approved");
                }
            });
        }
        Some(_) | None => {}
    }
}
