//! One live session's account: its meter, and the work that is counted in it.
//!
//! What is in flight pays for the CPU time of its session (`session_core::shares`). An invocation touches this twice, when it
//! begins and when it ends, each time under a lock that nobody holds for long; what it becomes on disk is the business of the
//! next round.

use super::journal::{self, Journal, Journalled};
use super::record::{Invocation, SavedMeter, SessionPart, Subject, day};
use crate::store::{LiveUse, Timestamp};
use proto::api::{EndReason, Phase};
use proto::config::Budgets;
use proto::ids::SessionId;
use session_core::lifecycle::ladder::Quiet;
use session_core::meter::{Activity, Allocated, Meter, Reading, Totals};
use session_core::moment::Moment;
use session_core::shares::{Share, Shares, WorkNumber};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub struct Account {
    /// Which session's.
    pub session: SessionId,
    /// Whose it is.
    pub subject: Subject,
    /// When this daemon opened it: the zero of its shares.
    opened: Instant,
    /// How many invocations may still have a record of their own until the next round; all accounts'.
    room: Arc<AtomicUsize>,
    journal: Arc<Journal>,
    /// What its lines there begin with.
    prefix: String,
    /// Those of its runtime's configuration.
    budgets: OnceLock<Budgets>,
    egress_in: AtomicU64,
    egress_out: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    meter: Meter,
    /// What the meter does not know.
    counted: Totals,
    /// What is in records of parts already.
    recorded: Totals,
    /// What figures were told of.
    told: Totals,
    /// The day whose part is not recorded.
    day: i64,
    shares: Shares<Ended>,
    /// What is in flight.
    open: HashMap<WorkNumber, Arc<Counts>>,
    /// Where among those that wait for their share the next ones go that have no room of their own.
    /// And the journal's file that they are all in.
    folded: Option<(usize, i64)>,
    /// Changed since it was written down last.
    changed: bool,
    /// So that it is to be written down with the next round: new, or with more in it than readings.
    urgent: bool,
    closed: bool,
    /// Its first and last reading since it is idle.
    quiet: Option<[(Moment, u64); 2]>,
    /// Memory, by the last reading, bytes.
    memory_bytes: u64,
}

/// Work that ended and waits for its share.
#[derive(Debug)]
struct Ended {
    at: Timestamp,
    /// The journal's file that it is in.
    file: i64,
    task: Option<String>,
    count: u64,
    wall_ms: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Account {
    /// Of a session that begins, or that another daemon has left with this meter and so much counted and recorded.
    pub(super) fn new(
        session: SessionId,
        subject: Subject,
        meter: Meter,
        (counted, recorded): (Totals, Totals),
        (room, journal): (Arc<AtomicUsize>, Arc<Journal>),
    ) -> Self {
        Self {
            journal,
            prefix: journal::prefix(&subject),
            session,
            subject,
            opened: Instant::now(),
            room,
            budgets: OnceLock::new(),
            egress_in: AtomicU64::new(0),
            egress_out: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                told: meter.totals().plus(&counted),
                meter,
                counted,
                recorded,
                day: day(Timestamp::now()),
                shares: Shares::new(0),
                open: HashMap::new(),
                folded: None,
                changed: true,
                urgent: true,
                closed: false,
                quiet: None,
                memory_bytes: 0,
            }),
        }
    }

    /// Work begins; it ends with the last holder of the charge.
    #[must_use]
    pub fn charge(self: &Arc<Self>) -> Arc<Charge> {
        let counts = Arc::new(Counts {
            began: Instant::now(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            task: OnceLock::new(),
            waived: AtomicBool::new(false),
        });
        let mut inner = self.inner();
        let number = inner.shares.begin(self.micros(counts.began));
        // What begins when all is over is nobody's: the sums are on record.
        if !inner.closed {
            inner.open.insert(number, Arc::clone(&counts));
        }
        drop(inner);
        Arc::new(Charge {
            account: Arc::clone(self),
            number,
            counts,
        })
    }

    /// Whether its session waits in a pool, for nobody yet.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.session != self.subject.session
    }

    /// Its runtime's configuration has these budgets. To be told once.
    pub fn bound(&self, budgets: Budgets) {
        if budgets != Budgets::default() {
            let _ = self.budgets.set(budgets);
        }
    }

    /// Budgets of its runtime's configuration, if there are any.
    #[must_use]
    pub fn budgets(&self) -> Option<&Budgets> {
        self.budgets.get()
    }

    /// Bytes of outbound connections.
    pub fn egress(&self, came: u64, went: u64) {
        self.egress_in.fetch_add(came, Ordering::Relaxed);
        self.egress_out.fetch_add(went, Ordering::Relaxed);
    }

    /// The session is in another phase.
    pub fn phase(&self, now: Moment, phase: Phase) {
        let activity = match phase {
            Phase::Busy => Activity::Active,
            Phase::Frozen => Activity::Frozen,
            Phase::Requested
            | Phase::Launching
            | Phase::Starting
            | Phase::Ready
            | Phase::Draining
            | Phase::Ended
            | Phase::Failed => Activity::Idle,
        };
        self.doing(now, activity);
    }

    /// The session does something else.
    pub(super) fn doing(&self, now: Moment, activity: Activity) {
        let mut inner = self.inner();
        if inner.meter.doing() != activity {
            inner.meter.activity(now, activity);
            inner.changed = true;
            inner.urgent = true;
        }
    }

    /// The session has other limits.
    pub fn allocate(&self, now: Moment, allocated: Allocated) {
        let mut inner = self.inner();
        inner.meter.allocate(now, allocated);
        inner.changed = true;
    }

    /// What it has used of a CPU since [`Self::weigh_anew`], between the readings that were made since then.
    #[must_use]
    pub fn quiet(&self) -> Option<Quiet> {
        let [(first, cpu_before), (last, cpu_after)] = self.inner().quiet?;
        Some(Quiet {
            over: last - first,
            cpu: std::time::Duration::from_micros(cpu_after.saturating_sub(cpu_before)),
        })
    }

    /// It is idle from now on, or from now on once more.
    pub fn weigh_anew(&self) {
        self.inner().quiet = None;
    }

    /// Memory that it used when it was last read, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.inner().memory_bytes
    }

    /// Whether its counters move.
    #[must_use]
    pub fn awake(&self) -> bool {
        let inner = self.inner();
        !inner.closed && inner.meter.doing() != Activity::Frozen
    }

    /// Takes a reading. Gives what has ended since the last one.
    pub(super) fn read(&self, now: Moment, reading: Reading) -> Vec<Journalled> {
        let mut inner = self.inner();
        if inner.closed {
            return Vec::new();
        }
        let before = inner.meter.totals().cpu_us;
        inner.meter.read(now, reading);
        inner.changed = true;
        inner.memory_bytes = reading.memory_bytes;
        let this = (now, reading.cpu_us);
        inner.quiet = Some([inner.quiet.map_or(this, |[first, _]| first), this]);
        let used = inner.meter.totals().cpu_us.saturating_sub(before);
        self.settle(&mut inner, used)
    }

    /// What has ended, where there is no reading: of a session that was frozen with work in it, or that is not there yet.
    pub(super) fn unread(&self) -> Vec<Journalled> {
        let mut inner = self.inner();
        if inner.shares.count() == 0 {
            return Vec::new();
        }
        self.settle(&mut inner, 0)
    }

    /// The session is over. What is still in flight ends here. Gives its last part, and what has ended.
    pub(super) fn close(
        &self,
        now: Moment,
        last: Reading,
        reason: EndReason,
    ) -> (SessionPart, Vec<Journalled>) {
        let mut inner = self.inner();
        let before = inner.meter.totals().cpu_us;
        inner.meter.close(now, last);
        // Their holders find the account closed.
        for (number, counts) in std::mem::take(&mut inner.open) {
            self.end(&mut inner, number, &counts);
        }
        let used = inner.meter.totals().cpu_us.saturating_sub(before);
        let ended = self.settle(&mut inner, used);
        inner.closed = true;
        let whole = self.whole(&inner);
        let part = SessionPart {
            subject: self.subject.clone(),
            at: Timestamp::now(),
            reason: Some(reason),
            used: whole.since(&inner.recorded),
        };
        (part, ended)
    }

    /// The session has waited long enough: somebody has claimed it. Its meter as it is then.
    pub(super) fn close_waiting(&self, now: Moment, last: Reading, boot: &Boot) -> SavedMeter {
        let _ = self.close(now, last, EndReason::Stopped);
        let inner = self.inner();
        self.saved(&inner, boot, inner.recorded)
    }

    /// The part of a day that is over, if one is, with the meter as it is once that part is on record.
    pub(super) fn part(&self, now: Moment, boot: &Boot) -> Option<(SessionPart, SavedMeter)> {
        let mut inner = self.inner();
        let today = day(Timestamp::now());
        if inner.closed || today <= inner.day {
            return None;
        }
        inner.meter.settle(now);
        let whole = self.whole(&inner);
        let part = SessionPart {
            subject: self.subject.clone(),
            // Its day's last moment, though a round may have come a little later.
            at: Timestamp(crate::store::end_of(inner.day).0 - 1),
            reason: None,
            used: whole.since(&inner.recorded),
        };
        let saved = self.saved(&inner, boot, whole);
        Some((part, saved))
    }

    /// A part is on record: `saved` came with it.
    pub(super) fn parted(&self, saved: &SavedMeter) {
        let mut inner = self.inner();
        inner.recorded = saved.recorded;
        inner.day = day(Timestamp::now());
    }

    /// Its meter as it is written down, if it has changed since it was.
    pub(super) fn to_save(&self, boot: &Boot) -> Option<SavedMeter> {
        let mut inner = self.inner();
        if inner.closed || !inner.changed {
            return None;
        }
        inner.changed = false;
        // What it does now goes on.
        inner.urgent = inner.meter.doing() == Activity::Active;
        let recorded = inner.recorded;
        Some(self.saved(&inner, boot, recorded))
    }

    /// It was not written down after all.
    pub(super) fn not_saved(&self) {
        self.inner().changed = true;
    }

    fn end(&self, inner: &mut Inner, number: WorkNumber, counts: &Counts) {
        if counts.waived.load(Ordering::Relaxed) {
            return inner.shares.forget(number);
        }
        let now = Instant::now();
        let wall = now.duration_since(counts.began).as_millis();
        let mut ended = Ended {
            at: Timestamp::now(),
            file: 0,
            task: counts.task.get().cloned(),
            count: 1,
            wall_ms: u64::try_from(wall).unwrap_or(u64::MAX),
            bytes_in: counts.bytes_in.load(Ordering::Relaxed),
            bytes_out: counts.bytes_out.load(Ordering::Relaxed),
        };
        // Under the account's lock: what is in the journal's earlier files is here when a round looks.
        let line = journal::Line {
            at: ended.at,
            task: ended.task.as_deref(),
            wall_ms: ended.wall_ms,
            bytes_in: ended.bytes_in,
            bytes_out: ended.bytes_out,
        };
        let file = self.journal.add(&self.prefix, line);
        ended.file = file;
        inner.changed = true;
        inner.urgent = true;
        let sums = &mut inner.counted;
        sums.invocations += 1;
        sums.bytes_in = sums.bytes_in.saturating_add(ended.bytes_in);
        sums.bytes_out = sums.bytes_out.saturating_add(ended.bytes_out);
        let for_task = ended.task.is_some();
        inner.shares.end(number, self.micros(now), ended);
        let one_less = |room: usize| room.checked_sub(1);
        let room = &self.room;
        let taken = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if for_task || taken.is_ok() {
            return;
        }
        // No room for a record of its own: its figures go to that of others of its session, and none is lost.
        let here = inner.shares.count().saturating_sub(1);
        match inner.folded {
            // No record is of two files: it is made when the one is old.
            Some((into, of)) if of == file => inner.shares.fold_last(into, |sum, more| {
                sum.at = more.at;
                sum.count += more.count;
                sum.wall_ms = sum.wall_ms.saturating_add(more.wall_ms);
                sum.bytes_in = sum.bytes_in.saturating_add(more.bytes_in);
                sum.bytes_out = sum.bytes_out.saturating_add(more.bytes_out);
            }),
            Some(_) | None => inner.folded = Some((here, file)),
        }
    }

    /// Whether it is to be written down with every round.
    pub(super) fn is_urgent(&self) -> bool {
        self.inner().urgent
    }

    fn saved(&self, inner: &Inner, boot: &Boot, recorded: Totals) -> SavedMeter {
        SavedMeter {
            subject: self.subject.clone(),
            boot_id: boot.id.clone(),
            boot_ms: super::since_boot_ms(),
            saved_at: Timestamp::now(),
            meter: inner.meter.saved(),
            counted: self.counted(inner),
            recorded,
            closed: inner.closed,
        }
    }

    /// What it has used by `now`.
    #[must_use]
    pub fn used(&self, now: Moment) -> Totals {
        let inner = self.inner();
        self.used_by(&inner, now)
    }

    /// What it has used that figures were not told of.
    #[must_use]
    pub fn untold(&self, now: Moment) -> Totals {
        let mut inner = self.inner();
        let used = self.used_by(&inner, now);
        let more = used.since(&inner.told);
        inner.told = used;
        more
    }

    /// What of it is in no record.
    #[must_use]
    pub fn unrecorded(&self, now: Moment) -> Option<LiveUse> {
        let inner = self.inner();
        (!inner.closed).then(|| LiveUse {
            subject: self.subject.clone(),
            used: self.used_by(&inner, now).since(&inner.recorded),
        })
    }

    fn used_by(&self, inner: &Inner, now: Moment) -> Totals {
        let mut meter = inner.meter.clone();
        if !inner.closed {
            meter.settle(now);
        }
        meter.totals().plus(&self.counted(inner))
    }

    fn whole(&self, inner: &Inner) -> Totals {
        inner.meter.totals().plus(&self.counted(inner))
    }

    fn counted(&self, inner: &Inner) -> Totals {
        Totals {
            egress_in: inner.counted.egress_in + self.egress_in.load(Ordering::Relaxed),
            egress_out: inner.counted.egress_out + self.egress_out.load(Ordering::Relaxed),
            ..inner.counted
        }
    }

    fn settle(&self, inner: &mut Inner, used: u64) -> Vec<Journalled> {
        inner.folded = None;
        let now = self.micros(Instant::now());
        let ended = inner.shares.settle(now, used).into_iter();
        ended
            .map(|Share { cpu_us, of }| Journalled {
                file: of.file,
                of: Invocation {
                    subject: self.subject.clone(),
                    at: of.at,
                    task: of.task,
                    count: of.count,
                    wall_ms: of.wall_ms,
                    bytes_in: of.bytes_in,
                    bytes_out: of.bytes_out,
                    cpu_us,
                },
            })
            .collect()
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.opened).as_micros()).unwrap_or(u64::MAX)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; the sums are whole in any case.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The boot of the host that meters are told by.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    /// `/proc/sys/kernel/random/boot_id`.
    pub(super) id: String,
}

/// What is known of work in flight.
#[derive(Debug)]
struct Counts {
    began: Instant,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    task: OnceLock<String>,
    waived: AtomicBool,
}

/// Work in a session. When its last holder drops it, it is over and becomes a record.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    number: WorkNumber,
    counts: Arc<Counts>,
}

impl Charge {
    /// So many bytes of its request.
    pub fn came(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.counts.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes of its answer.
    pub fn went(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.counts.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It runs for this task.
    pub fn for_task(&self, id: &str) {
        // Told once.
        let _ = self.counts.task.set(id.to_owned());
    }

    /// Nobody is charged for it: a health check.
    pub fn waive(&self) {
        self.counts.waived.store(true, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut inner = self.account.inner();
        if inner.open.remove(&self.number).is_some() {
            self.account.end(&mut inner, self.number, &self.counts);
        }
    }
}
