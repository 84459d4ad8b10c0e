//! Budgets: once a second it is asked anew whose is used up. Sessions of those freeze, with the reason for their callers (402),
//! and run again when somebody has approved; what was approved is on disk, so a restart changes nothing.
//!
//! There are the daemon's budgets, for everybody, and those of a runtime's configuration, for its sessions; a session is bound by
//! all of them, and frozen by the first that is used up. A period that is over takes its approvals with it, and its sessions run
//! again.
//!
//! Freezing itself, and what callers of a frozen session are told, are the driver's (`session_core::lifecycle::freeze`).

use super::record::{Subject, day};
use super::{Account, Ledger, locked};
use crate::broker::Broker;
use crate::fault::chain;
use crate::session::handle::SessionHandle;
use crate::store::{Approvals, Store, StoreError, Timestamp, UsageBy, day_name};
use proto::api::FreezeCause;
use proto::config::{Budget, Budgets as Configured, Period};
use proto::ids::{RuntimeName, SessionId};
use session_core::budget::{self, Reached};
use session_core::meter::Totals;
use session_core::moment::Moment;
use std::collections::{BTreeMap, HashMap, HashSet};
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

    fn key(self, subject: &Subject) -> String {
        match self {
            Self::Session => subject.session.to_string(),
            Self::User => subject.owner.key(),
            Self::Runtime => subject.runtime.to_string(),
        }
    }

    fn budget(self, all: &Configured) -> &Budget {
        match self {
            Self::Session => &all.session,
            Self::User => &all.user,
            Self::Runtime => &all.runtime,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One budget, and the time that it is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// Whose.
    pub scope: Scope,
    /// Which of them.
    pub key: String,
    /// The runtime whose configuration has it; none: the daemon's own.
    pub set_by: Option<RuntimeName>,
    /// First day of its period, counted from 1970-01-01; 0 if it has none.
    since: i64,
}

impl Holder {
    fn approvals(&self) -> Approvals {
        let set_by = self.set_by.as_ref();
        Approvals {
            set_by: set_by.map(ToString::to_string).unwrap_or_default(),
            scope: self.scope.word().to_owned(),
            key: self.key.clone(),
            since: self.since,
            times: 0,
        }
    }

    /// Whether what this session uses is of it.
    fn covers(&self, subject: &Subject) -> bool {
        let of_runtime = self.set_by.as_ref().is_none_or(|of| *of == subject.runtime);
        of_runtime && self.key == self.scope.key(subject)
    }
}

impl TryFrom<Approvals> for Holder {
    type Error = ();

    fn try_from(row: Approvals) -> Result<Self, ()> {
        let set_by = match row.set_by.as_str() {
            "" => None,
            name => Some(RuntimeName::parse(name).map_err(drop)?),
        };
        Ok(Self {
            scope: Scope::of(&row.scope).ok_or(())?,
            key: row.key,
            set_by,
            since: row.since,
        })
    }
}

/// The day on which a period began that this day is in.
fn begin_of(per: Option<Period>, today: i64) -> i64 {
    match per {
        None => 0,
        Some(Period::Day) => today,
        Some(Period::Month) => {
            let name = day_name(today);
            let number = name.rsplit('-').next().and_then(|day| day.parse().ok());
            today - number.unwrap_or(1) + 1
        }
    }
}

/// Longer than any period: approvals of earlier ones are not read any more.
const LONGEST_PERIOD_DAYS: i64 = 31;

/// Whose budget, of what, and how much: not how much of it was used, which others may go on doing.
type Told = (Holder, &'static str, f64);

/// See the module.
#[derive(Debug, Default)]
pub struct Budgets {
    /// How often each was approved.
    approved: Mutex<HashMap<Holder, u32>>,
    /// What sessions that are over have used of those that live ones use too. Held while a session goes over from the ones to
    /// the others, and while both are summed: nothing is missed or counted twice.
    recorded: Mutex<HashMap<Holder, Totals>>,
    /// Used up now.
    reached: Mutex<BTreeMap<Holder, Reached>>,
    /// Which of them holds each session that is held, as far as its callers were told of it.
    told: Mutex<HashMap<SessionId, Told>>,
}

impl Budgets {
    /// With what was approved in earlier daemons' time.
    pub(super) async fn open(store: &Store) -> Result<Self, StoreError> {
        let oldest = day(Timestamp::now()).saturating_sub(LONGEST_PERIOD_DAYS);
        let rows = store.approved_budgets(oldest).await?.into_iter();
        let approved = rows.filter_map(|row| {
            let times = row.times;
            Some((Holder::try_from(row).ok()?, times))
        });
        Ok(Self {
            approved: Mutex::new(approved.collect()),
            ..Self::default()
        })
    }

    /// A part of a session goes to the records: what `part` makes is not of a live session any more.
    pub(super) fn recording<T>(&self, part: impl FnOnce() -> (T, Subject, Totals)) -> T {
        let mut recorded = locked(&self.recorded);
        let (made, subject, used) = part();
        for (holder, sum) in recorded.iter_mut() {
            if holder.scope != Scope::Session && holder.covers(&subject) {
                *sum = sum.plus(&used);
            }
        }
        made
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

/// Budgets of one account that bound something.
pub(super) fn budgets_of<'a>(
    account: &'a Account,
    daemon: &'a Configured,
    today: i64,
) -> impl Iterator<Item = (Holder, &'a Budget)> {
    let subject = &account.subject;
    let own = account.budgets().map(|own| (Some(&subject.runtime), own));
    let sources = std::iter::once((None, daemon)).chain(own);
    sources.flat_map(move |(set_by, all)| {
        Scope::ALL.into_iter().filter_map(move |scope| {
            let budget = scope.budget(all);
            // What waits in a pool is no session, and of no user; its runtime pays for it.
            let bound = scope == Scope::Runtime || !account.waits();
            if budget.is_empty() || !bound {
                return None;
            }
            let holder = Holder {
                scope,
                key: scope.key(subject),
                set_by: set_by.cloned(),
                since: begin_of(budget.per, today),
            };
            Some((holder, budget))
        })
    })
}

impl Ledger {
    /// Budgets.
    #[must_use]
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// Approves another such amount of all budgets of this name that are used up, or of the one that `set_by` has set. False
    /// if none is.
    pub async fn approve(
        &self,
        scope: Scope,
        key: &str,
        set_by: Option<&RuntimeName>,
    ) -> Result<bool, StoreError> {
        let fits = |holder: &&Holder| {
            holder.scope == scope
                && holder.key == key
                && (set_by.is_none() || holder.set_by.as_ref() == set_by)
        };
        let found: Vec<Holder> = {
            let reached = locked(&self.budgets.reached);
            reached.keys().filter(fits).cloned().collect()
        };
        for holder in &found {
            let times = self.store.approve_budget(holder.approvals()).await?;
            locked(&self.budgets.approved).insert(holder.clone(), times);
            locked(&self.budgets.reached).remove(holder);
        }
        Ok(!found.is_empty())
    }

    /// Looks whose budget is used up, and freezes and thaws accordingly. `fresh`: what is on record is read again.
    pub(super) async fn look_at_budgets(&self, broker: &Broker, fresh: bool) {
        let config = broker.config();
        let today = day(Timestamp::now());
        let accounts = self.all();
        let budgets: Vec<Vec<(Holder, &Budget)>> = accounts
            .iter()
            .map(|account| budgets_of(account, &config.budgets, today).collect())
            .collect();
        let holders: HashSet<&Holder> =
            budgets.iter().flatten().map(|(holder, _)| holder).collect();
        let unknown = self.read_recorded(&holders, fresh).await;
        let used = self.sum(&accounts, &budgets, broker.clock.now());
        let mut reached = BTreeMap::new();
        let mut told = HashMap::new();
        for (account, budgets) in accounts.iter().zip(&budgets) {
            let mut first = None;
            for (holder, budget) in budgets {
                let over = if unknown.contains(holder) {
                    locked(&self.budgets.reached).get(holder).cloned()
                } else {
                    let approvals = locked(&self.budgets.approved).get(holder).copied();
                    let used = used.get(holder).copied().unwrap_or_default();
                    budget::reached(budget, approvals.unwrap_or(0), &used, &config.prices)
                };
                let Some(over) = over else { continue };
                let scope = holder.scope;
                first.get_or_insert_with(|| {
                    let reason = match &holder.set_by {
                        Some(runtime) if scope == Scope::User => {
                            format!("of the {scope} in the runtime {runtime}, {over}")
                        }
                        Some(_) | None => format!("of the {scope}, {over}"),
                    };
                    ((holder.clone(), over.measure, over.limit), reason)
                });
                reached.insert(holder.clone(), over);
            }
            let session = &account.subject.session;
            let (now, reason) = first.unzip();
            let anew = now != locked(&self.budgets.told).get(session).cloned();
            if let Some(now) = now {
                told.insert(session.clone(), now);
            }
            if let Some(handle) = broker.registry.get(session) {
                hold(handle, reason, anew);
            }
        }
        *locked(&self.budgets.told) = told;
        *locked(&self.budgets.reached) = reached;
    }

    /// What live sessions and those that are over have used of each.
    fn sum(
        &self,
        accounts: &[Arc<Account>],
        budgets: &[Vec<(Holder, &Budget)>],
        now: Moment,
    ) -> HashMap<Holder, Totals> {
        let recorded = locked(&self.budgets.recorded);
        let mut sums = recorded.clone();
        for (account, budgets) in accounts.iter().zip(budgets) {
            for (holder, _) in budgets {
                let used = match holder.scope {
                    Scope::Session => Some(account.used(now)),
                    Scope::User | Scope::Runtime => account.unrecorded(now).map(|live| live.used),
                };
                let sum = sums.entry(holder.clone()).or_default();
                *sum = sum.plus(&used.unwrap_or_default());
            }
        }
        sums
    }

    /// Reads what is on record of those of which that is not known, with `fresh` of all, and forgets the others. Gives those of
    /// which it could not be read.
    async fn read_recorded(&self, holders: &HashSet<&Holder>, fresh: bool) -> HashSet<Holder> {
        let known: HashSet<Holder> = {
            let mut recorded = locked(&self.budgets.recorded);
            recorded.retain(|holder, _| holders.contains(holder));
            recorded.keys().cloned().collect()
        };
        let mut unknown = HashSet::new();
        for holder in holders {
            // An account knows all of its session.
            if holder.scope == Scope::Session || (known.contains(*holder) && !fresh) {
                continue;
            }
            match self.on_record(holder).await {
                Ok(found) => {
                    // They only grow. What ended meanwhile is in one of both only, or, if this is the first look, in neither
                    // until the next.
                    let mut recorded = locked(&self.budgets.recorded);
                    let sum = recorded.entry((*holder).clone()).or_default();
                    *sum = sum.later(&found);
                }
                Err(error) => {
                    tracing::error!(scope = %holder.scope, error = %chain(&error), "a budget is not known; it stays as it is");
                    unknown.insert((*holder).clone());
                }
            }
        }
        unknown
    }

    async fn on_record(&self, of: &Holder) -> Result<Totals, StoreError> {
        let (store, key) = (&self.store, of.key.clone());
        match (of.scope, &of.set_by) {
            (Scope::Session, _) => Ok(Totals::default()),
            (Scope::User, None) => store.usage_total(UsageBy::User, key, of.since).await,
            (Scope::User, Some(runtime)) => {
                let runtime = runtime.to_string();
                store.usage_of_user(runtime, key, of.since).await
            }
            (Scope::Runtime, _) => store.usage_total(UsageBy::Runtime, key, of.since).await,
        }
    }
}

/// Freezes a session, or lets go of it; nobody waits. Asked again every second, so one that is not ready for it is frozen later.
/// `anew`: it is for another reason than a second ago.
fn hold(handle: Arc<SessionHandle>, over: Option<String>, anew: bool) {
    let held = handle
        .view()
        .frozen
        .is_some_and(|note| note.causes.contains(&FreezeCause::Budget));
    match over {
        Some(reason) if !held || anew => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_begins_with_its_first_day() {
        let day = |name| crate::store::day_of(name).expect("a day");
        for (today, month) in [
            ("2026-11-29", "2026-11-01"),
            ("2026-11-01", "2026-11-01"),
            ("2028-02-29", "2028-02-01"),
            ("2026-12-31", "2026-12-01"),
        ] {
            assert_eq!(begin_of(Some(Period::Month), day(today)), day(month));
            assert_eq!(begin_of(Some(Period::Day), day(today)), day(today));
            assert_eq!(begin_of(None, day(today)), 0);
        }
    }
}
