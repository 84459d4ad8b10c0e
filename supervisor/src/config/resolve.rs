//! From what was typed to what the daemon runs with: defaults filled in, every rule checked, all faults collected.

mod admission;
mod entrance;
mod ledger;
mod limits;
mod outside;
mod settings;
mod slice;

use super::check::{account, plain_path, region, user_name};
use super::faults::Faults;
use super::given::Given;
use super::interval::Interval;
use super::{Base, Config, Log, LogFormat, Ping, Pools, Storage, StoreKeys, TaskBounds, Templates};
use crate::daemon_log::check_level;
use crate::store::{Keep, Retention};
use proto::config::Fork;
use proto::ids::RuntimeName;
use proto::units::{MemoryBytes, Seconds};
use serde::de::DeserializeOwned;
use session_core::pool;
use session_core::spec::{HostPolicy, StorageGrant};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Sessions of one runtime that wait where nobody says: one that is claimed, and one while that one is replaced.
const POOL_MAX: u32 = 2;

/// The reader of one configuration: looks keys up, checks, remembers faults.
struct Resolver<'a> {
    given: &'a Given,
    faults: &'a mut Faults,
}

/// Resolves; `None` or added faults if it cannot be.
pub(super) fn resolve(given: Given, faults: &mut Faults) -> Option<Config> {
    let mut r = Resolver {
        given: &given,
        faults,
    };
    let dev = r.or("dev", false);
    let state_dir = r.directory("state_dir", "/var/lib/agentcore");
    let runtime_dir = r.directory("runtime_dir", "/run/agentcore");
    let (socket, listen) = (r.socket(&runtime_dir), r.listen(dev));
    let auth = r.auth(dev, &listen);
    let all_sessions = r.all_sessions();
    let ceilings = r.ceilings(&all_sessions);
    let notes = given
        .strangers
        .iter()
        .map(|name| format!("environment variable {name} has our prefix but is not a key: ignored"))
        .collect();
    Some(Config {
        socket,
        auth,
        listen,
        dev,
        base: r.base(),
        broker_user: r.checked("broker_user", "agentcore".to_owned(), |text: &String| {
            user_name(text)
        }),
        cgroup_parent: r.cgroup_parent(),
        public_url: r.public_url(),
        region: r.checked("region", "us-local-1".to_owned(), |text: &String| {
            region(text)
        }),
        account: r.checked("account", "000000000000".to_owned(), |text: &String| {
            account(text)
        }),
        default_runtime: r.take::<RuntimeName>("default_runtime"),
        end_sessions_on_exit: r.or("end_sessions_on_exit", dev),
        log: Log {
            level: r.checked("log.level", "info".to_owned(), |text: &String| {
                check_level(text)
            }),
            format: r.take("log.format").or(dev.then_some(LogFormat::Text)),
            sessions: r.or("log.sessions", false),
        },
        defaults: r.defaults(&ceilings),
        ceilings,
        open_files: r.within("defaults.open_files", 4096, 64..=1_048_576),
        freeze_after: r.seconds(
            "defaults.freeze_after",
            HostPolicy::FREEZE_AFTER,
            0..=1_209_600,
        ),
        admission: r.admission(),
        limits: r.limits(all_sessions),
        network: r.network(),
        tokens: r.tokens(),
        callbacks: r.callbacks(),
        storage: r.storage(),
        pool: r.pool(),
        template: r.template(),
        store: r.store(),
        tasks: r.tasks(),
        metrics_public: r.take("metrics.public").unwrap_or(false),
        ledger: r.ledger(),
        prices: r.prices(),
        budgets: r.budgets(),
        ping: r.ping(),
        notes,
        state_dir,
        runtime_dir,
        given: given.clone(),
    })
}

impl Resolver<'_> {
    fn take<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        self.given.take(key, self.faults)
    }

    fn or<T: DeserializeOwned>(&mut self, key: &'static str, default: T) -> T {
        self.take(key).unwrap_or(default)
    }

    fn fault(&mut self, key: &str, message: impl Into<String>) {
        self.faults.add(self.given.origin(key), Some(key), message);
    }

    fn checked<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        default: T,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> T {
        let value = self.or(key, default);
        if let Err(message) = check(&value) {
            self.fault(key, message);
        }
        value
    }

    fn within<T: DeserializeOwned + PartialOrd + Display>(
        &mut self,
        key: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> T {
        self.checked(key, default, |value| {
            range
                .contains(value)
                .then_some(())
                .ok_or_else(|| format!("must be {} to {}, is {value}", range.start(), range.end()))
        })
    }

    fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Interval(value) = self.or(key, Interval(default));
        if !range.contains(&value) {
            self.fault(
                key,
                format!(
                    "must be {:?} to {:?}, is {value:?}",
                    range.start(),
                    range.end()
                ),
            );
        }
        value
    }

    fn seconds(
        &mut self,
        key: &'static str,
        default: Seconds,
        range: RangeInclusive<u32>,
    ) -> Seconds {
        let bounds = Duration::from_secs(u64::from(*range.start()))
            ..=Duration::from_secs(u64::from(*range.end()));
        let value = self.duration(key, default.duration(), bounds);
        if value.subsec_nanos() != 0 {
            self.fault(key, format!("must be whole seconds, is {value:?}"));
        }
        // Out of range only after a fault above, and then nobody sees the value.
        u32::try_from(value.as_secs()).map_or(default, Seconds)
    }

    fn directory(&mut self, key: &'static str, default: &str) -> PathBuf {
        self.checked(key, PathBuf::from(default), |path| plain_path(path))
    }

    fn base(&mut self) -> Base {
        let word: String = self.or("base", "host".to_owned());
        if word == "host" {
            return Base::Host;
        }
        let path = PathBuf::from(word);
        if let Err(message) = plain_path(&path) {
            self.fault(
                "base",
                format!("must be \"host\" or a directory: {message}"),
            );
        }
        Base::Directory(path)
    }

    fn cgroup_parent(&mut self) -> Option<String> {
        let parent: String = self.take("cgroup_parent")?;
        let plain = |part: &str| {
            !part.is_empty() && !part.starts_with('.') && !part.contains(char::is_control)
        };
        if !parent.trim_start_matches('/').split('/').all(plain) {
            self.fault(
                "cgroup_parent",
                "must be a path such as agentcore.slice/agentcore-sessions.service",
            );
        }
        Some(parent.trim_start_matches('/').to_owned())
    }

    fn store(&mut self) -> StoreKeys {
        let second = Duration::from_secs(1);
        let built_in = Retention::BUILT_IN;
        let kept = 60 * second..=315_360_000 * second;
        let most = 1..=10_000_000;
        StoreKeys {
            reserve: self.within(
                "store.reserve",
                MemoryBytes::mib(32),
                MemoryBytes::mib(1)..=MemoryBytes::mib(1 << 20),
            ),
            retention: Retention {
                sessions: Keep {
                    longest: self.duration(
                        "store.sessions_kept",
                        built_in.sessions.longest,
                        kept.clone(),
                    ),
                    most: self.within("store.sessions_most", built_in.sessions.most, most.clone()),
                },
                refusals: Keep {
                    longest: self.duration("store.refusals_kept", built_in.refusals.longest, kept),
                    most: self.within("store.refusals_most", built_in.refusals.most, most),
                },
            },
        }
    }

    fn storage(&mut self) -> Storage {
        let second = Duration::from_secs(1);
        let sizes = MemoryBytes::mib(16)..=MemoryBytes::mib(16 << 20);
        let max_size = self.within(
            "storage.max_size",
            StorageGrant::BUILT_IN_SIZE,
            sizes.clone(),
        );
        let total = self.within(
            "storage.total",
            MemoryBytes::mib(20 << 10).max(max_size),
            sizes.clone(),
        );
        let half = MemoryBytes(total.0 / 2).max(max_size);
        let per_caller = self.within("storage.per_caller", half, sizes);
        for (key, bytes) in [("storage.total", total), ("storage.per_caller", per_caller)] {
            if bytes < max_size {
                self.fault(key, "is below `storage.max_size`");
            }
        }
        Storage {
            max_size,
            total,
            per_caller,
            keep: self.duration(
                "storage.keep",
                1_209_600 * second,
                60 * second..=315_360_000 * second,
            ),
        }
    }

    fn pool(&mut self) -> Pools {
        let second = Duration::from_secs(1);
        let total = self.within("pool.total", 32, 0..=1000);
        let bounds = pool::Bounds {
            min: self.within("pool.min", 0, 0..=1000),
            max: self.within("pool.max", POOL_MAX.min(total), 0..=1000),
        };
        if bounds.min > bounds.max {
            self.fault("pool.min", "is above `pool.max`");
        }
        if bounds.max > total {
            self.fault("pool.max", "is above `pool.total`");
        }
        Pools {
            bounds,
            total,
            unused_after: self.duration(
                "pool.unused_after",
                600 * second,
                second..=1_209_600 * second,
            ),
            max_age: self.duration("pool.max_age", 3600 * second, second..=1_209_600 * second),
        }
    }

    fn template(&mut self) -> Templates {
        let second = Duration::from_secs(1);
        let times = second..=1_209_600 * second;
        Templates {
            fork: self.take("template.fork").unwrap_or(Fork::Auto),
            total: self.within("template.total", 32, 0..=1000),
            unused_after: self.duration("template.unused_after", 600 * second, times.clone()),
            max_age: self.duration("template.max_age", 3600 * second, times),
        }
    }

    fn tasks(&mut self) -> TaskBounds {
        let second = Duration::from_secs(1);
        let year = 366 * 86_400 * second;
        let max_deadline = self.duration("tasks.max_deadline", 1_209_600 * second, second..=year);
        let deadline = (28_800 * second).min(max_deadline);
        let deadline = self.duration("tasks.deadline", deadline, second..=year);
        if deadline > max_deadline {
            self.fault("tasks.deadline", "is above `tasks.max_deadline`");
        }
        TaskBounds {
            deadline,
            max_deadline,
            concurrency: self.within("tasks.concurrency", 256, 1..=10_000),
            concurrency_per_runtime: self.within("tasks.concurrency_per_runtime", 64, 1..=10_000),
            max_queued: self.within("tasks.max_queued", 100_000, 1..=10_000_000),
            max_result: self.within(
                "tasks.max_result",
                MemoryBytes(100_000_000),
                MemoryBytes(1024)..=MemoryBytes(1 << 40),
            ),
            max_stored: self.within(
                "tasks.max_stored",
                MemoryBytes::mib(8192),
                MemoryBytes::mib(1)..=MemoryBytes(1 << 50),
            ),
            keep: self.duration("tasks.keep", 86_400 * second, second..=year),
            keep_streams: self.duration("tasks.keep_streams", 3600 * second, second..=year),
        }
    }

    fn ping(&mut self) -> Ping {
        let millisecond = Duration::from_millis(1);
        let second = Duration::from_secs(1);
        Ping {
            interval: self.duration(
                "ping.interval",
                2 * second,
                100 * millisecond..=300 * second,
            ),
            timeout: self.duration("ping.timeout", 5 * second, 100 * millisecond..=300 * second),
            unhealthy_after: self.duration(
                "ping.unhealthy_after",
                30 * second,
                second..=3600 * second,
            ),
        }
    }
}
