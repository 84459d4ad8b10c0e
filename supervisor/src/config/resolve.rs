//! From what was typed to what the daemon runs with: defaults filled in, every rule checked, all faults collected.

mod admission;
mod ledger;
mod slice;

use super::check::{self, account, plain_path, region, user_name};
use super::faults::Faults;
use super::given::Given;
use super::interval::Interval;
use super::{
    AuthMethods, Base, Config, Limits, Log, LogFormat, Network, Ping, Pools, Storage, StoreKeys,
    TaskBounds, TcpAuth,
};
use crate::api::shell;
use crate::callback::{CallbackPolicy, Callbacks};
use crate::daemon_log::check_level;
use crate::launcher::message::Slice;
use crate::rates::PerCaller;
use crate::store::{Keep, Quotas, Retention};
use crate::tokens::IssuerPolicy;
use crate::websocket::tunnel::Bounds;
use proto::config::NetworkMode;
use proto::ids::RuntimeName;
use proto::units::{MemoryBytes, Seconds};
use serde::de::DeserializeOwned;
use session_core::egress::AllowList;
use session_core::pool;
use session_core::spec::{HostPolicy, NetworkGrant, Settings, StorageGrant};
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the developer mode listens if nobody says.
const DEV_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Longest path of a Unix socket (`sun_path`, unix(7)), its NUL apart.
const MAX_SOCKET_PATH: usize = 107;

/// What the launcher puts below the runtime directory: `/sessions/`, a session's name of at most 26 bytes, `.sock`.
const SESSION_SOCKET_ROOM: usize = "/sessions/".len() + 26 + ".sock".len();

#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum AuthWord {
    None,
    Sigv4,
    Jwt,
}

#[derive(serde::Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"none\", \"sigv4\", \"jwt\" or a list of the last two"
)]
enum AuthWords {
    One(AuthWord),
    Several(Vec<AuthWord>),
}

/// `callbacks.allow_private` as typed.
#[derive(serde::Deserialize)]
#[serde(
    untagged,
    expecting = "expected true, false or a list such as [\"hooks.lan:8080\", \"10.0.0.0/8\"]"
)]
enum Opened {
    All(bool),
    These(Vec<String>),
}

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

    fn socket(&mut self, runtime_dir: &Path) -> PathBuf {
        let room = MAX_SOCKET_PATH - SESSION_SOCKET_ROOM;
        let length = runtime_dir.as_os_str().len();
        if length > room {
            self.fault(
                "runtime_dir",
                format!("must be at most {room} bytes long, because socket paths below it are bounded; is {length}"),
            );
        }
        self.checked("socket", runtime_dir.join("api.sock"), |path| {
            plain_path(path)?;
            match path.as_os_str().len() {
                0..=MAX_SOCKET_PATH => Ok(()),
                found => Err(format!(
                    "must be at most {MAX_SOCKET_PATH} bytes long, is {found}"
                )),
            }
        })
    }

    fn listen(&mut self, dev: bool) -> Vec<SocketAddr> {
        match self.take::<Vec<SocketAddr>>("listen") {
            Some(listen) => listen,
            None if dev => vec![DEV_LISTEN],
            None => Vec::new(),
        }
    }

    fn auth(&mut self, dev: bool, listen: &[SocketAddr]) -> TcpAuth {
        let words = match self.take::<AuthWords>("auth") {
            None => Vec::new(),
            Some(AuthWords::One(word)) => vec![word],
            Some(AuthWords::Several(words)) => {
                if words.is_empty() || (words.contains(&AuthWord::None) && words.len() > 1) {
                    self.fault(
                        "auth",
                        "must be \"none\", \"sigv4\", \"jwt\" or [\"sigv4\", \"jwt\"]",
                    );
                }
                words
            }
        };
        let methods = AuthMethods {
            sigv4: words.contains(&AuthWord::Sigv4),
            jwt: words.contains(&AuthWord::Jwt),
        };
        match (words.first(), listen) {
            (_, []) => TcpAuth::NoListener,
            _ if methods.sigv4 || methods.jwt => TcpAuth::Checked(methods),
            (None, [first, ..]) if !dev => {
                self.fault("listen", format!("offers TCP on {first}, but nothing says how callers are identified: set `auth`, or use the Unix socket only"));
                TcpAuth::NoListener
            }
            (_, _) => {
                for open in listen.iter().filter(|address| !address.ip().is_loopback()) {
                    self.fault("listen", format!("offers {open} to other machines without authentication; only loopback addresses may go without"));
                }
                TcpAuth::None
            }
        }
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

    fn public_url(&mut self) -> Option<String> {
        let url: String = self.take("public_url")?;
        if let Err(message) = check::base_url(&url) {
            self.fault("public_url", message);
        }
        Some(url.trim_end_matches('/').to_owned())
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

    fn ceilings(&mut self, all: &Slice) -> Settings {
        let built_in = Settings::BUILT_IN_CEILINGS;
        Settings {
            memory: self.memory("ceilings.memory", built_in.memory),
            cpus: self.ceiling_of_cpus(all, built_in.cpus),
            pids: self.within("ceilings.pids", built_in.pids, 8..=4_194_304),
            cpu_weight: self.within("ceilings.cpu_weight", built_in.cpu_weight, 1..=10_000),
            tmp_size: self.memory("ceilings.tmp_size", built_in.tmp_size),
            idle_timeout: self.seconds(
                "ceilings.idle_timeout",
                built_in.idle_timeout,
                60..=1_209_600,
            ),
            max_lifetime: self.seconds(
                "ceilings.max_lifetime",
                built_in.max_lifetime,
                60..=1_209_600,
            ),
            start_timeout: self.seconds(
                "ceilings.start_timeout",
                built_in.start_timeout,
                1..=86_400,
            ),
            stop_grace: self.seconds("ceilings.stop_grace", built_in.stop_grace, 0..=3600),
            invocation_timeout: self.seconds(
                "ceilings.invocation_timeout",
                built_in.invocation_timeout,
                1..=1_209_600,
            ),
        }
    }

    /// Sessions need a little to live at all; below these they could not even start an interpreter.
    fn memory(&mut self, key: &'static str, default: MemoryBytes) -> MemoryBytes {
        self.within(key, default, MemoryBytes::mib(1)..=MemoryBytes(1 << 46))
    }

    /// A default above its ceiling is a contradiction if both were typed; a ceiling typed below our own default pulls the
    /// default down with it.
    fn defaults(&mut self, ceilings: &Settings) -> Settings {
        let built_in = Settings::BUILT_IN;
        let found = Settings {
            memory: self.memory("defaults.memory", built_in.memory.min(ceilings.memory)),
            cpus: self.or("defaults.cpus", built_in.cpus.min(ceilings.cpus)),
            pids: self.within(
                "defaults.pids",
                built_in.pids.min(ceilings.pids),
                8..=4_194_304,
            ),
            cpu_weight: self.within(
                "defaults.cpu_weight",
                built_in.cpu_weight.min(ceilings.cpu_weight),
                1..=10_000,
            ),
            tmp_size: self.memory(
                "defaults.tmp_size",
                built_in.tmp_size.min(ceilings.tmp_size),
            ),
            // The contract's minute binds what runtimes ask for, not what an operator gives to those that do not ask.
            idle_timeout: self.seconds(
                "defaults.idle_timeout",
                built_in.idle_timeout.min(ceilings.idle_timeout),
                1..=1_209_600,
            ),
            max_lifetime: self.seconds(
                "defaults.max_lifetime",
                built_in.max_lifetime.min(ceilings.max_lifetime),
                1..=1_209_600,
            ),
            start_timeout: self.seconds(
                "defaults.start_timeout",
                built_in.start_timeout.min(ceilings.start_timeout),
                1..=86_400,
            ),
            stop_grace: self.seconds(
                "defaults.stop_grace",
                built_in.stop_grace.min(ceilings.stop_grace),
                0..=3600,
            ),
            invocation_timeout: self.seconds(
                "defaults.invocation_timeout",
                built_in.invocation_timeout.min(ceilings.invocation_timeout),
                1..=1_209_600,
            ),
        };
        let over = [
            ("defaults.memory", found.memory > ceilings.memory),
            ("defaults.cpus", found.cpus > ceilings.cpus),
            ("defaults.pids", found.pids > ceilings.pids),
            (
                "defaults.cpu_weight",
                found.cpu_weight > ceilings.cpu_weight,
            ),
            ("defaults.tmp_size", found.tmp_size > ceilings.tmp_size),
            (
                "defaults.idle_timeout",
                found.idle_timeout > ceilings.idle_timeout,
            ),
            (
                "defaults.max_lifetime",
                found.max_lifetime > ceilings.max_lifetime,
            ),
            (
                "defaults.start_timeout",
                found.start_timeout > ceilings.start_timeout,
            ),
            (
                "defaults.stop_grace",
                found.stop_grace > ceilings.stop_grace,
            ),
            (
                "defaults.invocation_timeout",
                found.invocation_timeout > ceilings.invocation_timeout,
            ),
        ];
        for (key, _) in over.into_iter().filter(|(_, over)| *over) {
            self.fault(
                key,
                format!("is above `{}`", key.replace("defaults", "ceilings")),
            );
        }
        if found.idle_timeout > found.max_lifetime {
            self.fault(
                "defaults.idle_timeout",
                "must be less than or equal to `defaults.max_lifetime`",
            );
        }
        found
    }

    fn limits(&mut self, all_sessions: Slice) -> Limits {
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
            admission_wait: self.duration(
                "limits.admission_wait",
                10 * second,
                Duration::ZERO..=600 * second,
            ),
            prepared_launches: self.within("limits.prepared_launches", 6, 0..=super::MAX_PREPARED),
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

    fn network(&mut self) -> Network {
        let second = Duration::from_secs(1);
        let ceiling = self.or("network.ceiling", NetworkMode::Outbound);
        let typed = self.take::<NetworkMode>("network.mode");
        let grant = NetworkGrant {
            // A ceiling of `none` pulls the default down with it.
            mode: typed.unwrap_or(ceiling),
            allow: self.allow_list("network.allow"),
            ceiling,
            ceiling_allow: self.allow_list("network.ceiling_allow"),
        };
        if (typed, ceiling) == (Some(NetworkMode::Outbound), NetworkMode::None) {
            self.fault("network.mode", "is above `network.ceiling`");
        }
        if let (Some(allow), Some(widest)) = (&grant.allow, &grant.ceiling_allow) {
            for entry in allow.beyond(widest) {
                self.fault(
                    "network.allow",
                    format!("holds {entry}, which `network.ceiling_allow` does not"),
                );
            }
        }
        let allow_private = self.allow_list("network.allow_private").unwrap_or_default();
        for entry in allow_private.inexact() {
            self.fault(
                "network.allow_private",
                format!("must name exactly one host and one port in each entry; {entry} does not"),
            );
        }
        Network {
            grant,
            allow_private,
            dial_timeout: self.duration("network.dial_timeout", 10 * second, second..=300 * second),
            max_connections: self.within("network.max_connections", 128, 1..=4096),
        }
    }

    fn tokens(&mut self) -> IssuerPolicy {
        let issuers = self.allow_list("tokens.issuers");
        let allow_private = self.allow_list("tokens.allow_private").unwrap_or_default();
        for entry in allow_private.inexact() {
            self.fault(
                "tokens.allow_private",
                format!("must name exactly one host and one port in each entry; {entry} does not"),
            );
        }
        IssuerPolicy {
            issuers,
            allow_private,
        }
    }

    fn callbacks(&mut self) -> Callbacks {
        let key = "callbacks.allow_private";
        let policy = match self.take::<Opened>(key) {
            None | Some(Opened::All(false)) => CallbackPolicy::PublicOnly,
            Some(Opened::All(true)) => CallbackPolicy::All,
            Some(Opened::These(entries)) => {
                CallbackPolicy::listed(&entries).unwrap_or_else(|(entry, error)| {
                    self.fault(key, format!("holds {entry:?}: {error}"));
                    CallbackPolicy::PublicOnly
                })
            }
        };
        let second = Duration::from_secs(1);
        let day = 86_400 * second;
        Callbacks {
            policy,
            retry_for: self.duration("callbacks.retry_for", day, Duration::ZERO..=30 * day),
            timeout: self.duration("callbacks.timeout", 10 * second, second..=60 * second),
        }
    }

    fn allow_list(&mut self, key: &'static str) -> Option<AllowList> {
        let entries: Vec<String> = self.take(key)?;
        for entry in &entries {
            if let Err(error) = AllowList::parse([entry.as_str()]) {
                self.fault(key, format!("holds {entry:?}: {error}"));
            }
        }
        AllowList::parse(entries.iter().map(String::as_str)).ok()
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
            max: self.within("pool.max", 0, 0..=1000),
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
