//! What the broker's meters ask for every second: the counters of many sessions in one answer, from descriptors that stay
//! open as long as there are enough of them.

use super::Launcher;
use crate::launcher::message::{MAX_METERED, Metered, OrderFault, Reply};
use crate::launcher::session::{Phase, Session};
use nix::sys::resource::{Resource, getrlimit};
use proto::ids::SessionId;
use sandbox::cgroup::{GAUGE_FILES, Sample};

/// How many sessions may have their counters held open: a quarter of our descriptors is for that. Of the others they are
/// opened for each reading.
pub(super) fn most_gauges() -> usize {
    let (soft, _hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    usize::try_from(soft / 4).unwrap_or(0) / GAUGE_FILES
}

impl Launcher {
    pub(super) fn meter(&mut self, sessions: &[SessionId], tmp: bool) -> Result<Reply, OrderFault> {
        if sessions.len() > MAX_METERED {
            return Err(OrderFault::Refused(format!(
                "at most {MAX_METERED} sessions are read at once"
            )));
        }
        let held = self.sessions.values().filter(|s| s.gauge.is_some()).count();
        let mut room = self.most_gauges.saturating_sub(held);
        let found = sessions.iter().map(|id| {
            let session = self.sessions.get_mut(id)?;
            let runs = match session.phase {
                Phase::Running | Phase::Adopted { .. } => session.removal.is_none(),
                Phase::Parked { .. } | Phase::Launching { .. } | Phase::Ended | Phase::Foreign => {
                    false
                }
            };
            if !runs {
                return None;
            }
            let sample = sample(session, &mut room)?;
            Some(Metered {
                cpu_us: sample.cpu_us,
                memory_bytes: sample.memory_bytes,
                peak_bytes: sample.peak_bytes,
                // One without it is a reading all the same.
                tmp_bytes: tmp.then(|| session.cgroup.tmp_bytes().ok()).flatten(),
            })
        });
        Ok(Reply::Metered(found.collect()))
    }
}

fn sample(session: &mut Session, room: &mut usize) -> Option<Sample> {
    let read = match &session.gauge {
        Some(gauge) => gauge.read(),
        None => {
            let gauge = session.cgroup.gauge().ok()?;
            let read = gauge.read();
            if *room > 0 {
                *room -= 1;
                session.gauge = Some(gauge);
            }
            read
        }
    };
    // Not to be read is to be gone, mostly; its end is noticed elsewhere.
    read.ok()
}
