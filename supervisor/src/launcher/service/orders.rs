//! What each order does.

use super::{Launcher, Source, host_fault};
use crate::launcher::checks;
use crate::launcher::endpoint::Endpoint;
use crate::launcher::inspector;
use crate::launcher::message::{
    Counters, LaunchOrder, Limits, Lineage, Order, OrderFault, Ordered, Reply,
};
use crate::launcher::session::{Farewell, Phase, Session, Uids};
use crate::launcher::stager::{Stager, StagerOrder};
use nix::sys::epoll::EpollFlags;
use proto::ids::SessionId;
use sandbox::cgroup::{CgroupError, SessionCgroup, Support};
use sandbox::sys::errno_of;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

impl Launcher {
    pub(super) fn order(&mut self, ordered: Ordered, fds: Vec<OwnedFd>) {
        let Ordered { number, order } = ordered;
        let outcome = match order {
            Order::Prepare { session } => self.prepare(session).map(|()| Some(Reply::Done)),
            // Answers by itself, when the stager has reported.
            Order::Launch(order) => self.launch(number, &order, fds).map(|()| None),
            // Answers by itself, when the inspector has.
            Order::Inspect { session } => self.inspect(number, &session, fds).map(|()| None),
            Order::Adopt(order) => self
                .adopt(&order)
                .map(|frozen| Some(Reply::Adopted { frozen })),
            // Answers by itself, when everything stands still.
            Order::Freeze { session } => self.freeze(number, &session).map(|()| None),
            Order::Thaw { session } => self.thaw(&session).map(|()| Some(Reply::Done)),
            Order::Reclaim { session, bytes } => self.reclaim(&session, bytes).map(Some),
            Order::Limits { session } => self.limits(&session).map(Some),
            Order::SetLimits(order) => self.set_limits(&order).map(Some),
            Order::LimitAll(all) => self.limit_all(&all).map(Some),
            Order::Pressure { session } => self.pressure(&session).map(Some),
            Order::OwnPressure => self.own_pressure().map(Some),
            Order::Kill { session } => self.kill(&session).map(|()| Some(Reply::Done)),
            Order::Usage { session } => self.usage(&session).map(Some),
            Order::Meter { sessions, tmp } => self.meter(&sessions, tmp).map(Some),
            Order::Remove { session } => {
                if self.sessions.contains_key(&session) {
                    // Answers by itself, when the session is gone.
                    self.remove(&session, Farewell::Removed { order: number });
                    Ok(None)
                } else {
                    self.remove_files(&session).map(Some)
                }
            }
            Order::Forget { session } => self.forget(&session).map(|()| Some(Reply::Done)),
            Order::ForgetStorage { runtime } => {
                // Answers by itself, when it is done.
                self.forget_storage(number, runtime).map(|()| None)
            }
            Order::ClearOrphans => self.clear_orphans().map(Some),
            Order::Probe => Ok(Some(self.probe())),
            Order::Retire => {
                self.retiring = true;
                Ok(Some(Reply::Done))
            }
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(reply)) => self.reply(number, Ok(reply), None),
            Err(fault) => self.reply(number, Err(fault), None),
        }
    }

    fn prepare(&mut self, id: SessionId) -> Result<(), OrderFault> {
        let parked = |s: &&Session| matches!(s.phase, Phase::Parked { .. });
        if self.sessions.values().filter(parked).count() >= self.ground.max_prepared {
            return Err(OrderFault::Refused(
                "as many sessions are prepared as may be".to_owned(),
            ));
        }
        self.park(id, false)
    }

    /// Makes the cgroup and a stager in it; `below`: for a session below a template.
    fn park(&mut self, id: SessionId, below: bool) -> Result<(), OrderFault> {
        if self.sessions.contains_key(&id) {
            return Err(OrderFault::Refused(format!("{id} is there already")));
        }
        let cgroup = self
            .ground
            .cgroups
            .create(id.as_str())
            .map_err(|e| cgroup_fault(&e))?;
        let endpoint = Endpoint::of(&self.ground.sessions, id.as_str());
        let (phase, outcome) = match self.new_stager(&id, &cgroup, below) {
            Ok(stager) => {
                let fault = None;
                (Phase::Parked { stager, fault }, Ok(()))
            }
            Err(fault) => (Phase::Ended, Err(fault)),
        };
        self.sessions
            .insert(id.clone(), Session::new(cgroup, endpoint, phase));
        if outcome.is_err() {
            self.give_up(&id);
        }
        outcome
    }

    fn new_stager(
        &mut self,
        id: &SessionId,
        cgroup: &SessionCgroup,
        below: bool,
    ) -> Result<Stager, OrderFault> {
        let stager = Stager::park(&self.ground, cgroup, below)?;
        let source = Source::Stager(id.clone());
        self.watch(stager.socket.as_fd(), source, EpollFlags::EPOLLIN)
            .map_err(|error| {
                stager.kill();
                host_fault("cannot watch a stager", errno_of(&error))
            })?;
        Ok(stager)
    }

    fn launch(
        &mut self,
        number: u64,
        order: &LaunchOrder,
        fds: Vec<OwnedFd>,
    ) -> Result<(), OrderFault> {
        checks::launch(order, &self.ground)?;
        let (boot, bundle) = checks::launch_fds(fds, &self.ground)?;
        let id = &order.session;
        self.require_free(order.uid_base)?;
        self.require_room()?;
        if !self.sessions.contains_key(id) {
            let below = matches!(order.lineage, Lineage::Fork { .. });
            self.park(id.clone(), below)?;
        }
        // From here on there is something to clear away, so a fault answers by way of a removal.
        let begun = if order.storage.is_some() {
            self.open_storage(number, order, boot, bundle)
        } else {
            self.hand_over(number, order, &[&bundle, &boot])
        };
        self.begun(number, id, begun)
    }

    /// What a launch whose next part has begun, or has not, answers now.
    pub(super) fn begun(
        &mut self,
        number: u64,
        id: &SessionId,
        outcome: Result<(), Handover>,
    ) -> Result<(), OrderFault> {
        match outcome {
            Ok(()) => Ok(()),
            Err(Handover::NotParked(fault)) => Err(fault),
            Err(Handover::Failed(fault)) => {
                self.fail(id, number, fault);
                Ok(())
            }
        }
    }

    /// Refuses one session more than the operator allows. The broker counts too, and gives a place back no earlier than
    /// the session is removed; one that was taken over does not.
    fn require_room(&self) -> Result<(), OrderFault> {
        let parked = |s: &Session| matches!(s.phase, Phase::Parked { .. });
        let living = self.sessions.values().filter(|s| !parked(s)).count();
        if living >= self.ground.max_sessions {
            return Err(OrderFault::Refused(
                "there are as many sessions as may be".to_owned(),
            ));
        }
        Ok(())
    }

    /// The session that a launch is about, if it waits for one.
    pub(super) fn parked(&mut self, id: &SessionId) -> Result<&mut Session, Handover> {
        let not_parked =
            || Handover::NotParked(OrderFault::Refused("the session is not new".to_owned()));
        let session = self.sessions.get_mut(id).ok_or_else(not_parked)?;
        let parked = matches!(session.phase, Phase::Parked { .. });
        if !parked || session.removal.is_some() || session.opening.is_some() {
            return Err(not_parked());
        }
        Ok(session)
    }

    /// `given`: bundle, boot file, and the storage's mount if there is one.
    pub(super) fn hand_over(
        &mut self,
        number: u64,
        order: &LaunchOrder,
        given: &[&OwnedFd],
    ) -> Result<(), Handover> {
        let failed = |verb: &'static str| {
            move |error: io::Error| Handover::Failed(host_fault(verb, errno_of(&error)))
        };
        let limits = cgroup_limits(&order.limits, self.ground.io);
        let template = match &order.lineage {
            Lineage::Host | Lineage::Template => None,
            Lineage::Fork { template } => {
                Some(self.namespaces_of(template).map_err(Handover::Failed)?)
            }
        };
        let broker = self.ground.broker;
        let session = self.parked(&order.session)?;
        let stager = match &mut session.phase {
            Phase::Parked {
                fault: Some(fault), ..
            } => return Err(Handover::Failed(fault.clone())),
            Phase::Parked {
                stager,
                fault: None,
            } => stager,
            Phase::Launching { .. }
            | Phase::Running
            | Phase::Ended
            | Phase::Foreign
            | Phase::Adopted { .. } => {
                return Err(Handover::Failed(OrderFault::Unknown));
            }
        };
        session
            .cgroup
            .apply(&limits)
            .map_err(|error| Handover::Failed(cgroup_fault(&error)))?;
        if order.lineage == Lineage::Template {
            let spared = session.cgroup.spare();
            spared.map_err(|error| Handover::Failed(cgroup_fault(&error)))?;
        }
        let (listener, record) = session
            .endpoint
            .create(broker, (order.uid_base, order.uid_base))
            .map_err(failed("cannot make socket and exit record"))?;
        // Before anything runs that could be out of memory.
        let oom = session
            .cgroup
            .oom_event()
            .map_err(failed("cannot watch its memory (cgroup.oom_event)"))?;
        let stager_order = StagerOrder {
            uid_base: order.uid_base,
            limits: order.limits,
            storage: order.storage.is_some(),
            lineage: order.lineage.clone(),
        };
        let [bundle, boot, storage @ ..] = given else {
            return Err(failed("cannot give the order to the stager")(
                io::ErrorKind::InvalidInput.into(),
            ));
        };
        let mut fds = vec![
            bundle.as_fd(),
            boot.as_fd(),
            listener.as_fd(),
            record.as_fd(),
        ];
        fds.extend(storage.iter().map(|fd| fd.as_fd()));
        fds.extend(
            template
                .iter()
                .flat_map(|template| [template.user.as_fd(), template.pid.as_fd()]),
        );
        if let Err(error) = stager.order(&stager_order, &fds) {
            // It may have ended before the order came; then it has said why, and that is what there is to tell.
            let told = stager.last_words(&error);
            let untold = || host_fault("cannot give the order to the stager", errno_of(&error));
            return Err(Handover::Failed(told.unwrap_or_else(untold)));
        }
        if template.is_some()
            && let Err(error) = inspector::go_ahead(&session.cgroup)
        {
            // Its agent's move is only slower then.
            tracing::warn!(session_id = %order.session, error = %error, "no process goes ahead");
        }
        session.uids = Uids::From(order.uid_base);
        session.lineage = order.lineage.clone();
        if let Phase::Parked { stager, .. } = std::mem::replace(&mut session.phase, Phase::Ended) {
            session.phase = Phase::Launching {
                stager,
                order: number,
            };
        }
        self.watch_memory(&order.session, oom)
            .map_err(failed("cannot watch its memory"))
    }

    /// Hears from now on when a session is out of memory, by its event, where there is something to do about it.
    pub(super) fn watch_memory(&mut self, id: &SessionId, oom: Option<OwnedFd>) -> io::Result<()> {
        let Some(oom) = oom else {
            return Ok(());
        };
        let key = self.watch(oom.as_fd(), Source::Oom(id.clone()), EpollFlags::EPOLLIN)?;
        if let Some(session) = self.sessions.get_mut(id) {
            session.oom = Some((key, oom));
        }
        Ok(())
    }

    /// Of a session whose cgroup is gone: mostly a launch that failed and has cleared up after itself; or its daemon ended
    /// between the one and the other.
    fn remove_files(&self, id: &SessionId) -> Result<Reply, OrderFault> {
        let endpoint = Endpoint::of(&self.ground.sessions, id.as_str());
        let (usage, record) = endpoint
            .last()
            .unwrap_or_else(|| (Counters::default(), endpoint.record()));
        endpoint.remove().map_err(|error| {
            host_fault("cannot remove socket and exit record", errno_of(&error))
        })?;
        Ok(Reply::Removed { usage, record })
    }

    fn forget(&self, id: &SessionId) -> Result<(), OrderFault> {
        let forgotten = Endpoint::of(&self.ground.sessions, id.as_str()).forget();
        forgotten.map_err(|error| host_fault("cannot remove a last word", errno_of(&error)))
    }

    fn kill(&self, id: &SessionId) -> Result<(), OrderFault> {
        let session = self.sessions.get(id).ok_or(OrderFault::Unknown)?;
        session.cgroup.kill().map_err(|e| cgroup_fault(&e))
    }

    fn usage(&self, id: &SessionId) -> Result<Reply, OrderFault> {
        let session = self.sessions.get(id).ok_or(OrderFault::Unknown)?;
        let counters = session.cgroup.counters().map_err(|e| cgroup_fault(&e))?;
        Ok(Reply::Usage(own_counters(counters)))
    }

    fn probe(&self) -> Reply {
        let mut found = self.ground.cgroups.capabilities();
        found.extend(sandbox::host::capabilities());
        found.push(sandbox::storage::capability());
        found.push(self.all_sessions());
        let (state, detail) = self.reclaim_report();
        let reclaim = ("reclaim".to_owned(), state, detail);
        Reply::Probed(
            found
                .into_iter()
                .map(|c| {
                    let state = match c.support {
                        Support::On => 0,
                        Support::Degraded => 1,
                        Support::Off => 2,
                    };
                    (c.name.to_owned(), state, c.detail)
                })
                .chain([reclaim])
                .collect(),
        )
    }
}

/// Why a session's stager did not get the order.
pub(super) enum Handover {
    /// Nothing was touched.
    NotParked(OrderFault),
    /// There is something to clear away.
    Failed(OrderFault),
}

pub(super) fn cgroup_fault(error: &CgroupError) -> OrderFault {
    host_fault(error.to_string(), error.errno())
}

pub(super) fn own_counters(from: sandbox::cgroup::Counters) -> Counters {
    Counters {
        cpu_us: from.cpu_us,
        memory_bytes: from.memory_bytes,
        memory_peak_bytes: from.memory_peak_bytes,
        pids: from.pids,
        oom_kills: from.oom_kills,
    }
}

fn cgroup_limits(from: &Limits, io: Option<sandbox::cgroup::IoLimits>) -> sandbox::cgroup::Limits {
    sandbox::cgroup::Limits {
        memory_bytes: from.memory_bytes,
        cpu_millis: from.cpu_millis,
        pids: from.pids,
        cpu_weight: from.cpu_weight,
        io,
    }
}
