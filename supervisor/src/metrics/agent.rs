//! The figures of one runtime's sessions, looked up once: what an invocation counts is an atomic each.

use super::labels::{Agent, Invocation};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub struct OfAgent {
    pub(super) agent: Agent,
    pub(super) in_flight: Gauge,
    pub(super) duration: Histogram,
    pub(super) first_byte: Histogram,
    pub(super) request_bytes: Counter,
    pub(super) response_bytes: Counter,
    pub(super) invocations: Family<Invocation, Counter>,
    pub(super) streams: Gauge,
}

/// A stream of events that is open to its reader; it is closed when this is dropped.
#[derive(Debug)]
pub struct OpenStream(Gauge);

impl OpenStream {
    pub(super) fn of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// An invocation that is in flight; it ends when this is dropped.
#[derive(Debug)]
pub struct InFlight {
    of: Arc<OfAgent>,
    began: Instant,
}

impl OfAgent {
    /// An invocation begins.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.inc();
        InFlight {
            of: Arc::clone(self),
            began: Instant::now(),
        }
    }

    /// The head of an answer is there, or its error.
    pub fn answered(&self, streamed: bool, status: u16, took: Duration) {
        let one = Invocation {
            agent: self.agent.agent.clone(),
            mode: if streamed { "stream" } else { "sync" },
            code: status,
        };
        self.invocations.get_or_create(&one).inc();
        self.first_byte.observe(took.as_secs_f64());
    }

    /// An answer that is a stream of events is open.
    #[must_use]
    pub fn stream(&self) -> OpenStream {
        OpenStream::of(&self.streams)
    }

    /// So many bytes go to the agent.
    pub fn taken(&self, bytes: u64) {
        self.request_bytes.inc_by(bytes);
    }

    /// So many bytes came from the agent.
    pub fn given(&self, bytes: u64) {
        self.response_bytes.inc_by(bytes);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.of.in_flight.dec();
        self.of.duration.observe(self.began.elapsed().as_secs_f64());
    }
}
