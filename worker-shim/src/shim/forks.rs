//! A template's orders, and the arrival of a fork.

use super::{Shim, Source};
use crate::arrival::News;
use proto::shim::Forked;
use proto::shim::template::TemplateState;
use std::os::fd::OwnedFd;
use std::time::Instant;

impl Shim {
    /// Whether there is an agent that can be asked how it is.
    pub(super) fn has_agent(&self) -> bool {
        match &self.source {
            Source::Started => true,
            Source::Template(_) => false,
            Source::Fork(_) => self.agent.pid().is_some(),
        }
    }

    /// `fork`.
    pub(super) fn fork(&mut self, channel: OwnedFd) -> Result<(), String> {
        if !self.ending.is_running() {
            return Err("the session is ending".to_owned());
        }
        match &mut self.source {
            Source::Started => Err("this session's agent is no fork".to_owned()),
            Source::Template(template) => template.fork(&channel).map_err(str::to_owned),
            Source::Fork(arrival) => {
                let identity = self.agent.identity();
                let ids = (identity.uid, identity.gid);
                let stdio = self.agent.stdio().ok_or("it has its fork already")?;
                arrival
                    .ask(channel, stdio, ids, &self.poller)
                    .map_err(|error| format!("cannot ask for the fork: {error}"))?;
                self.agent.hand_over_stdio();
                Ok(())
            }
        }
    }

    /// The interpreter of a template speaks, or is gone.
    pub(super) fn template_ready(&mut self) {
        if let Source::Template(template) = &mut self.source
            && template.ready()
        {
            self.tell_source();
        }
    }

    /// The fork of this session speaks, or is gone.
    pub(super) fn channel_ready(&mut self, now: Instant) {
        if let Source::Fork(arrival) = &mut self.source {
            let news = arrival.channel_ready(&self.poller);
            self.take_news(news, now);
        }
    }

    /// The fork of this session has ended.
    pub(super) fn life_ready(&mut self, now: Instant) {
        if let Source::Fork(arrival) = &mut self.source {
            let news = arrival.life_ready();
            self.take_news(news, now);
        }
    }

    fn take_news(&mut self, news: News, now: Instant) {
        match news {
            News::Nothing => {}
            News::Here => self.tell_source(),
            News::Ended(exited) => {
                self.agent.departed(exited);
                self.agent_ended(now);
                // What it started is ours to reap now; if there is nothing, that may have been waited for.
                self.reap(now);
            }
        }
    }

    /// `go`. One that comes late, when the fork has ended, is for nobody.
    pub(super) fn go(&mut self, now: Instant) {
        let Source::Fork(arrival) = &mut self.source else {
            return;
        };
        let identity = self.agent.identity();
        if let Ok((pid, life)) = arrival.go(&identity.env, &identity.cwd) {
            self.agent.arrived(pid, life);
            self.ping.begin(now);
        }
    }

    /// Tells what a template has become, or that a fork waits. To be said on every link.
    pub(super) fn tell_source(&mut self) {
        match &self.source {
            Source::Started => {}
            Source::Template(template) => {
                if let Some(state) = template.state() {
                    let state: &TemplateState = state;
                    self.link.notify("template", state);
                }
            }
            Source::Fork(arrival) => {
                if let Some((pid, Ok(life))) = arrival.here() {
                    let forked = Forked { pid: pid.as_raw() };
                    self.link.notify_with("forked", &forked, life);
                }
            }
        }
    }
}
