//! Whether one more session may begin now: on what the host has, what its sessions may use, and who could give way.
//!
//! ```text
//!  a caller, in its turn ─▶ nothing is short ─▶ Admit
//!        │ something is
//!        ├─▶ members of warm pools hold it ─▶ GiveWay: so many of them end, and ask again when something has changed
//!        ├─▶ idle sessions could give it ─▶ Evict them, and ask again when something has changed
//!        ├─▶ its patience lasts ─▶ Wait
//!        └─▶ Refuse, with the name of what is short and when to come again
//! ```
//!
//! - **Commitment.** A session that runs may use its whole memory limit at any moment; one that is frozen, or a member of a warm pool
//!   (`crate::pool`), which works for nobody, holds what it holds.
//!   The sum may exceed the host's memory by a factor of the operator's choice, because agents seldom use what they may.
//! - **Pressure** is what the kernel says about now (PSI): how much of the last ten seconds was lost to waiting. Ending an idle
//!   session helps against want of memory only; whatever else is short has to pass.
//! - **Who gives way.** Members of warm pools, before any session and whatever `evict_after` says: they are nobody's. Then idle sessions that have been so for `evict_after`: frozen ones first, then the longest idle. Not more than
//!   the callers that wait need, counting those that are ending already. Never one that works, or that somebody holds frozen.

use crate::moment::Moment;
use std::time::Duration;

/// When a place or memory may be free again: sessions end at any time.
const PLACE_AGAIN: Duration = Duration::from_secs(5);

/// When pressure may be over: it is measured over ten seconds.
const CALM_AGAIN: Duration = Duration::from_secs(10);

/// Shares of time in which processes waited, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// All of them, for memory.
    pub memory: u32,
    /// Some of them, for a processor.
    pub cpu: u32,
    /// All of them, for a disk.
    pub io: u32,
}

/// What the operator says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Pressure from which new sessions wait; 0 is any.
    pub most_pressure: Pressure,
    /// The most commitment, as a multiple of the host's memory; 0 is any.
    pub memory_ratio: f64,
    /// Memory, in bytes, that is to stay available on the host.
    pub memory_reserve: u64,
    /// Idle time after which a session may be ended for another one; `None`: never.
    pub evict_after: Option<Duration>,
}

impl Policy {
    /// Where the operator says nothing. A processor that is waited for is the normal state of a machine that is used, and a disk's
    /// pressure says little without knowing the disk, so these two are for operators who know theirs.
    pub const BUILT_IN: Self = Self {
        most_pressure: Pressure {
            memory: 20,
            cpu: 0,
            io: 0,
        },
        memory_ratio: 16.0,
        memory_reserve: 128 << 20,
        evict_after: Some(Duration::from_secs(30)),
    };
}

/// What is there now. What is not known does not keep anybody out.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Readings {
    /// Places for sessions that nobody has.
    pub free_places: u32,
    /// Sum of what sessions may use (those that run) or hold (those that are frozen, and members of pools), bytes.
    pub committed: u64,
    /// Members of pools that can be ended.
    pub members: u32,
    /// Members of pools that are ending.
    pub members_leaving: u32,
    /// Sessions among them that are ending.
    pub leaving: u32,
    /// What their end, and that of members, gives back of the commitment.
    pub leaving_bytes: u64,
    /// Memory of the host, bytes.
    pub host_memory: Option<u64>,
    /// Memory that is available on it, bytes.
    pub available: Option<u64>,
    /// Where the kernel tells it.
    pub pressure: Option<Pressure>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What the session whose turn it is may use, bytes.
    pub memory: u64,
    /// How long its caller waits.
    pub until: Moment,
    /// Callers behind it.
    pub behind: u32,
    /// What their sessions may use, bytes.
    pub behind_memory: u64,
}

/// An idle session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// Since when.
    pub since: Moment,
    /// It is frozen for that.
    pub frozen: bool,
    /// What its end gives back of the commitment, bytes.
    pub committed: u64,
}

/// What can be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The daemon's places for sessions.
    Places,
    /// Memory that sessions may use.
    Commitment,
    /// Memory of the host.
    Available,
    /// Processes wait for memory.
    MemoryPressure,
    /// Processes wait for a processor.
    CpuPressure,
    /// Processes wait for a disk.
    IoPressure,
}

impl Limit {
    /// Whether the end of an idle session helps.
    #[must_use]
    pub fn eviction_helps(self) -> bool {
        match self {
            Self::Places | Self::Commitment | Self::Available | Self::MemoryPressure => true,
            Self::CpuPressure | Self::IoPressure => false,
        }
    }

    /// When it may be better.
    #[must_use]
    pub fn again(self) -> Duration {
        match self {
            Self::Places | Self::Commitment | Self::Available => PLACE_AGAIN,
            Self::MemoryPressure | Self::CpuPressure | Self::IoPressure => CALM_AGAIN,
        }
    }
}

/// What to do about a caller whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may begin.
    Admit,
    /// Ask again when something has changed.
    Wait(Limit),
    /// End members of pools that hold so many bytes, or all, and ask again.
    GiveWay(u64, Limit),
    /// End these (places in the list of idle ones), and ask again.
    Evict(Vec<usize>, Limit),
    /// Not now.
    Refuse {
        /// For want of this.
        limit: Limit,
        /// When to come again.
        again: Duration,
    },
}

/// Decides about the caller whose turn it is.
#[must_use]
pub fn decide(
    now: Moment,
    policy: &Policy,
    readings: &Readings,
    wanted: &Wanted,
    idle: &[Idle],
) -> Decision {
    let Some(limit) = short(policy, readings, wanted) else {
        return Decision::Admit;
    };
    let members = members_give_way(limit, policy, readings, wanted);
    if members > 0 {
        return Decision::GiveWay(members, limit);
    }
    let who = give_way(limit, now, policy, readings, wanted, idle);
    if !who.is_empty() {
        return Decision::Evict(who, limit);
    }
    if now < wanted.until && could_ever(limit, policy, readings, wanted) {
        return Decision::Wait(limit);
    }
    Decision::Refuse {
        limit,
        again: limit.again(),
    }
}

/// Whether a member of a pool, which takes no place, may begin that may be a session of so much memory: if one could begin now, and
/// nobody would have to give way.
#[must_use]
pub fn has_room_for_member(policy: &Policy, readings: &Readings, memory: u64) -> bool {
    let readings = Readings {
        free_places: 1,
        ..*readings
    };
    let wanted = Wanted {
        memory,
        until: Moment(0),
        behind: 0,
        behind_memory: 0,
    };
    short(policy, &readings, &wanted).is_none()
}

/// The first thing that is short for one more session.
fn short(policy: &Policy, readings: &Readings, wanted: &Wanted) -> Option<Limit> {
    let under = |now: fn(&Pressure) -> u32| {
        let most = now(&policy.most_pressure);
        most > 0
            && readings
                .pressure
                .is_some_and(|pressure| now(&pressure) >= most)
    };
    let committed = readings.committed.saturating_add(wanted.memory);
    let most = most_committed(policy, readings);
    if readings.free_places == 0 {
        Some(Limit::Places)
    } else if most.is_some_and(|most| committed > most) {
        Some(Limit::Commitment)
    } else if readings
        .available
        .is_some_and(|available| available < policy.memory_reserve)
    {
        Some(Limit::Available)
    } else if under(|pressure| pressure.memory) {
        Some(Limit::MemoryPressure)
    } else if under(|pressure| pressure.cpu) {
        Some(Limit::CpuPressure)
    } else if under(|pressure| pressure.io) {
        Some(Limit::IoPressure)
    } else {
        None
    }
}

fn most_committed(policy: &Policy, readings: &Readings) -> Option<u64> {
    let host = readings.host_memory.filter(|_| policy.memory_ratio > 0.0)?;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes of a host, to the nearest some"
    )]
    Some((host as f64 * policy.memory_ratio) as u64)
}

/// Whether waiting can help at all.
fn could_ever(limit: Limit, policy: &Policy, readings: &Readings, wanted: &Wanted) -> bool {
    match limit {
        Limit::Commitment => {
            most_committed(policy, readings).is_none_or(|most| wanted.memory <= most)
        }
        Limit::Places
        | Limit::Available
        | Limit::MemoryPressure
        | Limit::CpuPressure
        | Limit::IoPressure => true,
    }
}

/// How many bytes members of pools are to give back; 0 is none.
fn members_give_way(limit: Limit, policy: &Policy, readings: &Readings, wanted: &Wanted) -> u64 {
    if readings.members == 0 || !could_ever(limit, policy, readings, wanted) {
        return 0;
    }
    match limit {
        Limit::Commitment => lacking(policy, readings, wanted),
        Limit::Available | Limit::MemoryPressure => u64::MAX,
        // They hold no places, and wait for nothing.
        Limit::Places | Limit::CpuPressure | Limit::IoPressure => 0,
    }
}

/// What the commitment is too high by for all that wait, once those that are ending have ended.
fn lacking(policy: &Policy, readings: &Readings, wanted: &Wanted) -> u64 {
    let all = readings
        .committed
        .saturating_sub(readings.leaving_bytes)
        .saturating_add(wanted.memory)
        .saturating_add(wanted.behind_memory);
    let most = most_committed(policy, readings).unwrap_or(u64::MAX);
    all.saturating_sub(most)
}

/// Who is to be ended for those that wait.
fn give_way(
    limit: Limit,
    now: Moment,
    policy: &Policy,
    readings: &Readings,
    wanted: &Wanted,
    idle: &[Idle],
) -> Vec<usize> {
    let Some(after) = policy.evict_after else {
        return Vec::new();
    };
    if !limit.eviction_helps() || !could_ever(limit, policy, readings, wanted) {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..idle.len())
        .filter(|at| idle[*at].since + after <= now)
        .collect();
    order.sort_by_key(|at| (!idle[*at].frozen, idle[*at].since));
    let callers = u64::from(wanted.behind) + 1;
    match limit {
        Limit::Places => {
            let coming = u64::from(readings.free_places) + u64::from(readings.leaving);
            let lacking = callers.saturating_sub(coming);
            order.truncate(usize::try_from(lacking).unwrap_or(usize::MAX));
        }
        Limit::Commitment => {
            let lacking = lacking(policy, readings, wanted);
            let mut given = 0_u64;
            order.retain(|at| {
                let needed = given < lacking;
                if needed {
                    given = given.saturating_add(idle[*at].committed);
                }
                needed
            });
        }
        // Nobody can tell how much of it comes back with one, so it is one at a time.
        Limit::Available | Limit::MemoryPressure => {
            let leaving = readings.leaving + readings.members_leaving;
            order.truncate(usize::from(leaving == 0));
        }
        Limit::CpuPressure | Limit::IoPressure => order.clear(),
    }
    order
}
