//! How a record is bound to the one before it, so that one that was changed, taken out, put in or moved shows.
//!
//! Each record carries HMAC-SHA256 over: which chain, its number, the mac of the record before it, and **every** field of it
//! and of its subject, each with its length or in eight bytes, so that no two records have the same bytes. The key is
//! `<state>/broker/ledger.key` (0600): whoever can change the database without it cannot make a record that holds. What the
//! chain alone cannot show, that its end was cut off, the checkpoints do ([`super::checkpoint`]).

use super::record::{Invocation, SavedMeter, SessionPart, Subject};
use crate::key_file::{self, KeyFileError};
use ring::hmac;
use session_core::meter::Totals;
use std::path::Path;

/// Bytes of a mac.
pub const MAC: usize = 32;

/// A record's mac.
pub type Mac = [u8; MAC];

/// The mac before the first record.
pub const BEGINNING: Mac = [0; MAC];

const PURPOSE: &str = "It proves the records of usage; restore it from a backup. Without it they cannot be verified: move it away to go on with a new one, and `agentcore usage verify` will say so";

/// Which records are bound to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chain {
    /// Parts of sessions.
    Sessions,
    /// Invocations.
    Invocations,
}

impl Chain {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sessions, Self::Invocations];

    /// Its name, which is part of every mac.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Invocations => "invocations",
        }
    }
}

/// What proves records.
#[derive(Debug)]
pub struct ChainKey(hmac::Key);

impl ChainKey {
    /// Opens the key file at `path`, or makes it.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = key_file::open(path, PURPOSE)?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// Of a part of a session.
    #[must_use]
    pub fn session(&self, seq: i64, before: &Mac, record: &SessionPart) -> Mac {
        let mut text = Text::of("session").link(Chain::Sessions, seq, before);
        text.subject(&record.subject);
        text.number(record.at.0.cast_unsigned());
        text.bytes(serde_json::to_string(&record.reason).unwrap_or_default());
        text.totals(&record.used);
        self.sign(&text)
    }

    /// Of an invocation.
    #[must_use]
    pub fn invocation(&self, seq: i64, before: &Mac, record: &Invocation) -> Mac {
        let mut text = Text::of("invocation").link(Chain::Invocations, seq, before);
        text.subject(&record.subject);
        text.number(record.at.0.cast_unsigned());
        text.number(u64::from(record.task.is_some()));
        text.bytes(record.task.as_deref().unwrap_or_default());
        for number in [
            record.count,
            record.wall_ms,
            record.bytes_in,
            record.bytes_out,
            record.cpu_us,
        ] {
            text.number(number);
        }
        self.sign(&text)
    }

    /// Of a live session's meter, as it is written down (`state`).
    #[must_use]
    pub fn meter(&self, saved: &SavedMeter, state: &str) -> Mac {
        let mut text = Text::of("meter");
        text.subject(&saved.subject);
        text.bytes(&saved.boot_id);
        text.number(saved.boot_ms);
        text.number(saved.saved_at.0.cast_unsigned());
        text.bytes(state);
        self.sign(&text)
    }

    /// Of a sum over many sessions.
    #[must_use]
    pub fn sum(
        &self,
        (dimension, key, day): (i64, &str, i64),
        sessions: u64,
        used: &Totals,
    ) -> Mac {
        let mut text = Text::of("sum");
        text.number(dimension.cast_unsigned());
        text.bytes(key);
        text.number(day.cast_unsigned());
        text.number(sessions);
        text.totals(used);
        self.sign(&text)
    }

    /// Of the place from which on a chain is kept.
    #[must_use]
    pub fn anchor(&self, chain: Chain, (seq, mac): (i64, &Mac), day: i64) -> Mac {
        let mut text = Text::of("anchor").link(chain, seq, mac);
        text.number(day.cast_unsigned());
        self.sign(&text)
    }

    /// Of something else; `what` tells it from all others.
    #[must_use]
    pub fn other(&self, what: &str, bytes: &[u8]) -> Mac {
        let mut text = Text::of(what);
        text.bytes(bytes);
        self.sign(&text)
    }

    fn sign(&self, text: &Text) -> Mac {
        let tag = hmac::sign(&self.0, &text.0);
        let mut mac = BEGINNING;
        // Both have 32 bytes.
        for (to, from) in mac.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        mac
    }
}

/// Bytes that can be read in one way only.
struct Text(Vec<u8>);

impl Text {
    fn of(what: &str) -> Self {
        let mut text = Self(Vec::with_capacity(512));
        text.bytes(what);
        text
    }

    fn link(mut self, chain: Chain, seq: i64, before: &Mac) -> Self {
        self.bytes(chain.name());
        self.number(seq.cast_unsigned());
        self.bytes(before);
        self
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.number(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(bytes);
    }

    fn subject(&mut self, subject: &Subject) {
        self.bytes(subject.session.as_str());
        self.bytes(subject.client.as_str());
        self.bytes(subject.runtime.as_str());
        self.bytes(subject.runtime_id.as_str());
        self.number(u64::from(subject.version.0));
        self.bytes(subject.endpoint.as_str());
        self.bytes(subject.owner.key());
        self.number(subject.created_at.0.cast_unsigned());
    }

    fn totals(&mut self, used: &Totals) {
        for number in columns::values(used) {
            self.number(number);
        }
    }
}

/// The sums of [`Totals`] in the one order in which they are proven and stored. A sum that is added later comes last.
pub mod columns {
    use session_core::meter::Totals;

    /// How many there are.
    pub const COUNT: usize = 16;

    /// Their names in the store.
    pub const NAMES: [&str; COUNT] = [
        "wall_ms",
        "active_ms",
        "frozen_ms",
        "cpu_us",
        "memory_kbs",
        "memory_peak_kbs",
        "memory_aws_kbs",
        "allocated_memory_kbs",
        "allocated_cpu_ms",
        "invocations",
        "bytes_in",
        "bytes_out",
        "egress_in",
        "egress_out",
        "peak_bytes",
        "tmp_bytes",
    ];

    /// Their values.
    #[must_use]
    pub fn values(of: &Totals) -> [u64; COUNT] {
        [
            of.wall_ms,
            of.active_ms,
            of.frozen_ms,
            of.cpu_us,
            of.memory_kbs,
            of.memory_peak_kbs,
            of.memory_aws_kbs,
            of.allocated_memory_kbs,
            of.allocated_cpu_ms,
            of.invocations,
            of.bytes_in,
            of.bytes_out,
            of.egress_in,
            of.egress_out,
            of.peak_bytes,
            of.tmp_bytes,
        ]
    }

    /// The sums of these values.
    #[must_use]
    pub fn totals(values: [u64; COUNT]) -> Totals {
        let [
            wall_ms,
            active_ms,
            frozen_ms,
            cpu_us,
            memory_kbs,
            memory_peak_kbs,
            memory_aws_kbs,
            allocated_memory_kbs,
            allocated_cpu_ms,
            invocations,
            bytes_in,
            bytes_out,
            egress_in,
            egress_out,
            peak_bytes,
            tmp_bytes,
        ] = values;
        Totals {
            wall_ms,
            active_ms,
            frozen_ms,
            cpu_us,
            memory_kbs,
            memory_peak_kbs,
            memory_aws_kbs,
            allocated_memory_kbs,
            allocated_cpu_ms,
            invocations,
            bytes_in,
            bytes_out,
            egress_in,
            egress_out,
            peak_bytes,
            tmp_bytes,
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn every_sum_comes_back_in_its_place() {
            let mut number = 0;
            let numbered = [0; COUNT].map(|_| {
                number += 1;
                number
            });
            assert_eq!(values(&totals(numbered)), numbered);
            let json = serde_json::to_value(totals(numbered)).expect("numbers");
            let fields = json.as_object().expect("an object");
            assert_eq!(fields.len(), COUNT);
            for (name, value) in NAMES.iter().zip(numbered) {
                assert_eq!(fields.get(*name), Some(&value.into()), "{name}");
            }
        }
    }
}
