//! PID 1's duties: reaping everyone, and ending everyone.

use super::{Shim, Source, is_pid_1};
use crate::invocation::Failure;
use crate::shutdown::Act;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use sandbox::sys::reap;
use std::time::{Duration, Instant};

/// How long the last packets may take to leave.
const LAST_WORDS: Duration = Duration::from_millis(250);

impl Shim {
    /// SIGCHLD or SIGTERM.
    pub(super) fn take_signals(&mut self, now: Instant) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo == Signal::SIGTERM as u32
                && let Some(act) = self.ending.terminated(now)
            {
                self.perform(act);
            }
        }
        self.reap(now);
    }

    /// Collects everyone who has ended: the agent, execs, and orphans that nobody else waits for.
    pub(super) fn reap(&mut self, now: Instant) {
        for (pid, status) in reap::reap_all() {
            if self.agent.note_reaped(pid, status) {
                self.agent_ended(now);
            } else {
                self.execs.note_reaped(pid, status);
            }
        }
        if self.ending.waits_for_processes()
            && self.nobody_left()
            && let Some(act) = self.ending.all_gone()
        {
            self.perform(act);
        }
    }

    pub(super) fn agent_ended(&mut self, now: Instant) {
        self.logs.take_last(&mut self.scratch, now);
        if self.agent.died() {
            self.invocations.agent_died(&mut self.link);
        }
        match &mut self.source {
            Source::Started | Source::Fork(_) => self.ending.agent_ended(now),
            // Agents of other sessions are below this process, and live as long as it does.
            Source::Template(template) => {
                template.ended();
                self.tell_source();
            }
        }
    }

    /// No process of the session is left, not even one that has ended without being reaped, by us or, a fork, by another.
    pub(super) fn nobody_left(&self) -> bool {
        let alive = match &self.source {
            Source::Started | Source::Template(_) => false,
            Source::Fork(arrival) => arrival.is_alive(),
        };
        !alive && no_child_left()
    }

    pub(super) fn perform(&mut self, act: Act) {
        match act {
            Act::Terminate => {
                self.signal_everyone(Signal::SIGTERM);
                // A stopped process takes its TERM only when it runs again.
                self.signal_everyone(Signal::SIGCONT);
                if self.nobody_left()
                    && let Some(act) = self.ending.all_gone()
                {
                    self.perform(act);
                }
            }
            Act::Kill => self.signal_everyone(Signal::SIGKILL),
            Act::Exit(cause) => self.over = Some(cause),
        }
    }

    /// Every process of the session but this one. `kill(-1)` means just that for PID 1 of a pid namespace, and the whole
    /// machine for anyone else: then only the groups that we have started are meant.
    fn signal_everyone(&self, signal: Signal) {
        // Whoever is gone already needs no signal.
        if is_pid_1() {
            let _ = kill(Pid::from_raw(-1), signal);
            return;
        }
        for group in self.agent.pid().into_iter().chain(self.execs.groups()) {
            let _ = kill(Pid::from_raw(-group.as_raw()), signal);
        }
    }

    /// Passes on what is left to say, as far as the broker takes it.
    pub(super) fn last_words(&mut self) {
        let until = Instant::now() + LAST_WORDS;
        let failure = Failure::closed("the session has ended");
        self.invocations.fail_all(&failure, &mut self.link);
        self.logs.take_last(&mut self.scratch, Instant::now());
        while self.link.is_attached() && self.link.broken().is_none() {
            let now = Instant::now();
            // What is left of an answer that is kept, and its end.
            self.with_io(|invocations, io| invocations.link_flushed(io, now));
            self.next_log = now;
            let due = self.send_logs(now);
            self.link.flush(&self.poller);
            if self.link.is_idle() && due.is_none() {
                return;
            }
            let left = until.saturating_duration_since(now);
            // Only the link matters now, but whatever wakes us does no harm: the time is bounded.
            if left.is_zero()
                || self
                    .poller
                    .wait(Some(left.min(Duration::from_millis(5))))
                    .is_err()
            {
                return;
            }
        }
    }
}

fn no_child_left() -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, look) == Err(Errno::ECHILD)
}
