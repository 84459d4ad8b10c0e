//! Keys of what callers and the daemon itself may use at most.

use super::Resolver;
use crate::api::shell;
use crate::config::{Limits, MAX_PREPARED};
use crate::launcher::message::Slice;
use crate::rates::PerCaller;
use crate::store::Quotas;
use crate::websocket::tunnel::Bounds;
use proto::units::MemoryBytes;
use std::thread::available_parallelism;
use std::time::Duration;

/// New sessions that start at once: an interpreter that loads what agents load is busy for a second or so, and one runtime has half.
const STARTS_PER_PROCESSOR: u32 = 32;

fn processors() -> u32 {
    let known = available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(known).unwrap_or(1).clamp(1, 1024)
}

impl Resolver<'_> {
    pub(super) fn limits(&mut self, all_sessions: Slice) -> Limits {
        let second = Duration::from_secs(1);
        let bytes = MemoryBytes(0)..=MemoryBytes(1 << 50);
        let objects = self.within("limits.objects", MemoryBytes::mib(4096), bytes.clone());
        Limits {
            max_sessions: self.within("limits.max_sessions", 1000, 1..=10_000),
            all_sessions,
            max_sessions_per_runtime: self.within("limits.max_sessions_per_runtime", 0, 0..=10_000),
            max_sessions_per_caller: self.within("limits.max_sessions_per_caller", 0, 0..=10_000),
            rates: PerCaller {
                data_plane: self.within("limits.data_plane_rate", 10_000, 0..=1_000_000),
                control_mutation: self.within("limits.control_mutation_rate", 500, 0..=1_000_000),
                control_get: self.within("limits.control_get_rate", 1500, 0..=1_000_000),
                control_list: self.within("limits.control_list_rate", 250, 0..=1_000_000),
            },
            new_session_rate: self.within("limits.new_session_rate", 200, 0..=100_000),
            new_session_burst: self.within("limits.new_session_burst", 1000, 1..=100_000),
            max_starting_sessions: self.within(
                "limits.max_starting_sessions",
                STARTS_PER_PROCESSOR * processors(),
                2..=100_000,
            ),
            admission_wait: self.duration(
                "limits.admission_wait",
                10 * second,
                Duration::ZERO..=600 * second,
            ),
            prepared_launches: self.within("limits.prepared_launches", 6, 0..=MAX_PREPARED),
            max_body: self.within(
                "limits.max_body",
                MemoryBytes(100_000_000),
                MemoryBytes(1024)..=MemoryBytes(1 << 40),
            ),
            max_control_body: self.within(
                "limits.max_control_body",
                MemoryBytes::mib(1),
                MemoryBytes(16 << 10)..=MemoryBytes::mib(64),
            ),
            quotas: Quotas {
                runtimes: self.within(
                    "limits.max_runtimes",
                    Quotas::BUILT_IN.runtimes,
                    1..=100_000,
                ),
                versions: self.within("limits.max_versions", Quotas::BUILT_IN.versions, 1..=99_999),
                endpoints: self.within(
                    "limits.max_endpoints",
                    Quotas::BUILT_IN.endpoints,
                    0..=1000,
                ),
            },
            objects,
            objects_per_caller: self.within(
                "limits.objects_per_caller",
                MemoryBytes(objects.0 / 2),
                bytes,
            ),
            max_head: self.within(
                "limits.max_head",
                MemoryBytes(64 << 10),
                MemoryBytes(8 << 10)..=MemoryBytes::mib(1),
            ),
            spool: self.within(
                "limits.spool",
                MemoryBytes::mib(1024),
                MemoryBytes::mib(1)..=MemoryBytes::mib(1 << 20),
            ),
            body_memory: self.within(
                "limits.body_memory",
                MemoryBytes::mib(64),
                MemoryBytes::mib(1)..=MemoryBytes::mib(1 << 20),
            ),
            max_headers: self.within("limits.max_headers", 100, 16..=1000),
            head_timeout: self.duration("limits.head_timeout", 30 * second, second..=600 * second),
            max_connections: self.within("limits.max_connections", 4096, 1..=1_000_000),
            max_connections_per_user: self.within(
                "limits.max_connections_per_user",
                256,
                1..=1_000_000,
            ),
            max_invocations_per_session: self.within(
                "limits.max_invocations_per_session",
                64,
                1..=1024,
            ),
            max_queue_per_session: self.within("limits.max_queue_per_session", 32, 0..=1024),
            retry_window: self.duration(
                "limits.retry_window",
                120 * second,
                Duration::ZERO..=3600 * second,
            ),
            retry_linger: self.duration(
                "limits.retry_linger",
                25 * second,
                Duration::ZERO..=600 * second,
            ),
            retry_answer: self.within(
                "limits.retry_answer",
                MemoryBytes::mib(1),
                MemoryBytes(64 << 10)..=MemoryBytes::mib(1024),
            ),
            retry_memory: self.within(
                "limits.retry_memory",
                MemoryBytes::mib(32),
                MemoryBytes(0)..=MemoryBytes(1 << 40),
            ),
            stream_duration: self.duration(
                "limits.stream_duration",
                3600 * second,
                second..=1_209_600 * second,
            ),
            websocket: Bounds {
                max_frame: self
                    .within(
                        "limits.websocket_frame",
                        MemoryBytes(64 << 10),
                        MemoryBytes(1 << 10)..=MemoryBytes::mib(64),
                    )
                    .0,
                frames_per_second: self.within("limits.websocket_frame_rate", 250, 1..=1_000_000),
                duration: self.duration(
                    "limits.websocket_duration",
                    3600 * second,
                    second..=1_209_600 * second,
                ),
            },
            shell: shell::Bounds {
                per_runtime: self.within("limits.shells_per_runtime", 10, 1..=1000),
                duration: self.duration(
                    "limits.shell_duration",
                    3600 * second,
                    second..=1_209_600 * second,
                ),
                idle: self.duration(
                    "limits.shell_idle",
                    900 * second,
                    second..=1_209_600 * second,
                ),
            },
            log_rate: self.within(
                "limits.log_rate",
                MemoryBytes::mib(1),
                MemoryBytes(1 << 10)..=MemoryBytes::mib(1024),
            ),
            log_burst: self.within(
                "limits.log_burst",
                MemoryBytes::mib(1),
                MemoryBytes(16 << 10)..=MemoryBytes::mib(64),
            ),
            session_logs: self.within(
                "limits.session_logs",
                MemoryBytes::mib(1024),
                MemoryBytes(0)..=MemoryBytes::mib(1 << 20),
            ),
            session_read_rate: Some(self.within(
                "limits.session_read_rate",
                MemoryBytes(0),
                MemoryBytes(0)..=MemoryBytes::mib(1 << 20),
            ))
            .filter(|rate| rate.0 > 0),
            orphan_timeout: self.duration(
                "limits.orphan_timeout",
                3600 * second,
                second..=1_209_600 * second,
            ),
        }
    }
}
