//! The one table of keys: name, default, whether a reload takes it, and what it means. `docs/agentcored.toml` is held to
//! it by a test.

/// A key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Path in the file, `section.key`; the environment variable is `AGENTCORED_` and this in upper case, `.` as `_`.
    pub path: &'static str,
    /// The default in TOML, or in words in angle brackets where it is not one value.
    pub default: &'static str,
    /// Whether SIGHUP puts a new value in force.
    pub reload: bool,
    /// One sentence.
    pub meaning: &'static str,
}

const fn fixed(path: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key {
        path,
        default,
        reload: false,
        meaning,
    }
}

const fn live(path: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key {
        path,
        default,
        reload: true,
        meaning,
    }
}

/// All keys, in the order of the example file.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    fixed("state_dir", "\"/var/lib/agentcore\"", "Database, artifacts, session storage."),
    fixed("runtime_dir", "\"/run/agentcore\"", "Sockets, live session directories; a short path, because socket paths are bounded."),
    fixed("socket", "<api.sock in runtime_dir>", "HTTP over a Unix socket; callers are root, the daemon's user and members of its group."),
    fixed("listen", "[]", "HTTP over TCP; in developer mode 127.0.0.1:8080 if there is none."),
    fixed("dev", "false", "Developer mode: no authentication on loopback, text logs, sessions end with the daemon."),
    fixed("auth", "<\"none\" in developer mode, otherwise none may listen on TCP>", "How TCP callers are identified: \"sigv4\" (access keys), \"jwt\" (tokens, at runtimes with an authorizer) or both in a list; \"none\" is accepted on loopback addresses only."),
    fixed("base", "\"host\"", "Where sessions' root file system comes from: this host's packages, or an absolute path to a directory prepared as one."),
    fixed("broker_user", "\"agentcore\"", "User that the unprivileged half becomes; where it does not exist, a uid of the daemon's own block."),
    fixed("cgroup_parent", "<found out at start>", "cgroup below which sessions live, relative to the hierarchies' root. Where a unit of systemd's is in it and the host has cgroup v1, they live beside systemd's units: in a directory of the root that has the unit's name."),
    fixed("public_url", "<the first TCP address>", "Where callers reach this daemon, such as \"https://agents.example.com\": what agents and their clients are told (AGENTCORE_RUNTIME_URL of A2A agents)."),
    fixed("region", "\"us-local-1\"", "Region in ARNs, and AWS_REGION of sessions that do not set their own."),
    fixed("account", "\"000000000000\"", "Account in ARNs, twelve digits."),
    live("default_runtime", "<the only one>", "Runtime that /invocations, /ping and /ws speak to when there are several."),
    live("end_sessions_on_exit", "<true in developer mode, otherwise false>", "Whether a stopping daemon ends its sessions; otherwise they live on and the next daemon finds them."),
    live("log.level", "\"info\"", "error, warn, info, debug, trace, or directives such as \"info,supervisor::egress=debug\"."),
    fixed("log.format", "<\"text\" in developer mode, \"journal\" where standard error is systemd's journal, otherwise \"json\">", "Form of the log: lines of text or json, or fields of the journal (AGENTCORE_SESSION_ID and the like)."),
    fixed("log.sessions", "false", "Whether what agents write is copied to systemd's journal, line by line, with AGENTCORE_SESSION_ID and AGENTCORE_RUNTIME (journalctl -t agentcore-session); the journal drops what exceeds its own rate (LogRateLimitBurst)."),
    live("defaults.memory", "\"512M\"", "Memory of a session, its tmpfs included, where the runtime does not say."),
    live("defaults.cpus", "1", "CPUs of a session."),
    live("defaults.pids", "256", "Processes and threads of a session, the shim included."),
    live("defaults.cpu_weight", "100", "Share of the processors of a session where others want them too, 1 to 10000; 100 is what everybody has."),
    live("defaults.tmp_size", "\"64M\"", "Size of /tmp and of the home directory, each."),
    live("defaults.idle_timeout", "900", "A session idle for this long ends."),
    live("defaults.max_lifetime", "28800", "A session this old ends."),
    live("defaults.start_timeout", "120", "A session not healthy after this long has failed."),
    live("defaults.stop_grace", "15", "From TERM to KILL."),
    live("defaults.invocation_timeout", "900", "How long one synchronous invocation may take."),
    live("defaults.open_files", "4096", "Open files of one process of a session; no runtime can change it."),
    live("defaults.freeze_after", "30", "A session idle for this long, and using less than a hundredth of a CPU meanwhile, is frozen until its next call; 0 is never."),
    fixed("ceilings.memory", "\"16G\"", "The most memory that a runtime may ask for."),
    fixed("ceilings.cpus", "<16, or limits.sessions_cpus if that is less>", "The most CPUs that a runtime may ask for."),
    fixed("ceilings.pids", "4096", "The most processes that a runtime may ask for."),
    fixed("ceilings.cpu_weight", "100", "The largest share of the processors that a runtime may ask for."),
    fixed("ceilings.tmp_size", "\"4G\"", "The largest /tmp that a runtime may ask for."),
    live("ceilings.idle_timeout", "1209600", "The longest idle timeout that a runtime may ask for."),
    live("ceilings.max_lifetime", "1209600", "The longest lifetime that a runtime may ask for."),
    live("ceilings.start_timeout", "900", "The longest start that a runtime may ask for."),
    live("ceilings.stop_grace", "300", "The longest grace that a runtime may ask for."),
    live("ceilings.invocation_timeout", "28800", "The longest invocation that a runtime may ask for."),
    live("admission.memory_ratio", "16", "Memory that running sessions may use together by their limits, and that frozen ones hold, as a multiple of the host's; 0 is any."),
    live("admission.memory_reserve", "\"128M\"", "New sessions wait while less memory than this is available on the host."),
    live("admission.memory_pressure", "20", "New sessions wait while all that runs in sessions waits for memory for this share of ten seconds, in percent (PSI); 0 is any."),
    live("admission.cpu_pressure", "0", "The same for a processor, that some of it waits for; 0 is any."),
    live("admission.io_pressure", "0", "The same for a disk, that all of it waits for; 0 is any."),
    live("admission.evict_after", "30", "A session idle for this long ends if a new one cannot have its place or memory otherwise, frozen ones first, then the oldest; 0 is never."),
    fixed("limits.max_sessions", "1000", "Live sessions on this daemon."),
    live("limits.sessions_memory", "<any>", "Memory of all sessions together, such as \"24G\"; where they want more, the kernel ends one of them. Less than they use now is refused, and the old configuration stays."),
    live("limits.sessions_cpus", "<any>", "CPUs of all sessions together, such as 6, no less than ceilings.cpus; on cgroup v1 no session that runs may have more."),
    live("limits.sessions_pids", "<any>", "Processes and threads of all sessions together."),
    live("limits.sessions_cpu_weight", "100", "Share of the processors that all sessions together have where others of this host want them too, 1 to 10000; 100 is what every service has."),
    fixed("limits.max_sessions_per_runtime", "0", "Live sessions of one runtime; 0 is any number."),
    fixed("limits.max_sessions_per_caller", "0", "Live sessions of one caller, whatever runtimes they are of; 0 is any number. Those of shared runtimes count for nobody."),
    live("limits.new_session_rate", "200", "New sessions a second, on average; 0 is any number."),
    live("limits.new_session_burst", "1000", "New sessions at once, beyond the rate."),
    fixed("limits.max_starting_sessions", "<32 for each processor>", "New sessions that start at once, half of them of one runtime, half of the rest of the next, beside one of each runtime: more would only slow each other down."),
    live("limits.data_plane_rate", "10000", "Calls of one caller a second on the data plane of the AWS wire and on the local-dev wire, as many at once; 0 is any number."),
    live("limits.control_mutation_rate", "500", "Calls of one caller a second that change something on the control plane of the AWS wire; 0 is any number."),
    live("limits.control_get_rate", "1500", "Calls of one caller a second that read one thing there; 0 is any number."),
    live("limits.control_list_rate", "250", "Calls of one caller a second that list things there; 0 is any number."),
    live("limits.admission_wait", "10", "How long a caller waits for what a call needs and others have (places, turns), before it is refused."),
    fixed("limits.prepared_launches", "6", "Launches prepared ahead, each a small parked process; a burst beyond them pays for its own."),
    live("limits.max_body", "100000000", "Largest body of an invocation, each way, in bytes."),
    live("limits.max_control_body", "\"1M\"", "Largest JSON body of a control request."),
    live("limits.max_runtimes", "1000", "Runtimes on this daemon."),
    live("limits.max_versions", "1000", "Versions of one runtime; old ones can be deleted."),
    live("limits.max_endpoints", "10", "Endpoints of one runtime beside DEFAULT."),
    live("limits.objects", "\"4G\"", "Bytes of all objects of the S3 subset, those included that are being uploaded."),
    live("limits.objects_per_caller", "<half of limits.objects>", "Bytes of the objects of one caller: of those that it put."),
    fixed("limits.max_head", "\"64K\"", "Largest head of a request."),
    fixed("limits.max_headers", "100", "Most headers of a request."),
    fixed("limits.spool", "\"1G\"", "Bodies above 64 KiB wait on disk until their signature is checked and their agent has read them; all of them together. One caller gets half of it at most, the next half of what is left, and so on."),
    fixed("limits.body_memory", "\"64M\"", "Memory for bodies of 64 KiB and less on their way to agents, shared as limits.spool is; and as much again for those whose signature is not checked yet. Larger ones pass piece by piece."),
    live("limits.head_timeout", "30", "How long a request's head may take to arrive, the idle time before it included; a connection unused for so long is closed."),
    fixed("limits.max_connections", "4096", "Open connections; TCP gets at most three quarters of them."),
    live("limits.max_connections_per_user", "256", "Open connections of one user on the Unix socket."),
    live("limits.max_invocations_per_session", "64", "Invocations in flight in one session, WebSockets included; of sessions that begin from then on."),
    live("limits.max_queue_per_session", "32", "Invocations that wait for their turn in one session, where its runtime wants one after another; each waits at most as long as it may take."),
    live("limits.retry_window", "120", "How long the answer of an SDK's call is kept for another attempt of the same call, which gets it instead of running the agent again; 0 keeps none."),
    live("limits.retry_linger", "25", "How long an SDK's call goes on whose client has gone, for its next attempt to join it; then its agent is told. SDKs wait up to 20 s, and 5 s longer where an answer asked them to."),
    live("limits.retry_answer", "\"1M\"", "Largest answer that is kept for another attempt; of a larger one that is still coming, as much as this."),
    live("limits.retry_memory", "\"32M\"", "Memory for all answers that are kept; the oldest go first."),
    live("limits.stream_duration", "3600", "How long an answer that is an event stream may go on, whatever the runtime's invocation_timeout; then it is cut off, which is no end that looks complete."),
    live("limits.websocket_frame", "\"64K\"", "Largest frame of a WebSocket, each way."),
    live("limits.websocket_frame_rate", "250", "Frames per second of a WebSocket, each way; a caller over it is refused (1008), an agent slowed down."),
    live("limits.websocket_duration", "3600", "How long a WebSocket may stay open."),
    live("limits.shells_per_runtime", "10", "Interactive shells of one runtime at once."),
    live("limits.shell_duration", "3600", "How long a connection to a shell may stay open; its client connects again and finds the shell as it was."),
    live("limits.shell_idle", "900", "How long a connection to a shell may be silent, and a shell may be without one."),
    live("limits.log_rate", "\"1M\"", "Output of one session passed on per second; what exceeds it is dropped and counted."),
    live("limits.log_burst", "\"1M\"", "Burst allowance of log_rate."),
    live("limits.session_logs", "\"1G\"", "Logs of all sessions that are over; beyond it the oldest are removed."),
    fixed("limits.session_read_rate", "0", "Bytes per second that each session may read from the base's disk; 0 is no limit."),
    live("limits.orphan_timeout", "3600", "A session that no daemon attends for this long ends."),
    live("pool.min", "0", "Sessions of each runtime that does not say, which wait started for whoever comes even when nobody has for long."),
    live("pool.max", "2", "How many of them wait at most, however many are wanted; 0 is no pool."),
    fixed("pool.total", "32", "Sessions of all runtimes that wait; also the most that one runtime may ask for. They use places that sessions leave of limits.max_sessions, and give way to them."),
    live("pool.unused_after", "600", "A runtime of which no session has been wanted for this long keeps its floor only."),
    live("pool.max_age", "3600", "A session that has waited this long is replaced."),
    live("template.fork", "\"auto\"", "Whether sessions of runtimes that do not say are forked from a template that has loaded their agent once: auto (where it can be done) or off."),
    fixed("template.total", "32", "Templates of all runtimes, each of which carries 128 sessions at most; 0 is none, whatever runtimes ask for."),
    live("template.unused_after", "600", "A template from which nothing was forked for this long ends, once no fork of it lives."),
    live("template.max_age", "3600", "A template that is this old is replaced."),
    live("network.mode", "\"outbound\"", "Policy of runtimes that do not say: outbound or none."),
    live("network.allow", "<any public target>", "Allow-list of runtimes that say neither mode nor list, such as [\"api.example.com:443\", \"*.example.org\"]."),
    live("network.ceiling", "\"outbound\"", "The widest mode that a runtime may have."),
    live("network.ceiling_allow", "<any public target>", "The widest allow-list that a runtime may have."),
    live("network.allow_private", "[]", "Private targets that may be reached all the same, each with its port, such as [\"127.0.0.1:8999\", \"models.lan:443\"]; an entry for 127.0.0.1 or localhost means the host's, and takes that name out of NO_PROXY."),
    live("network.dial_timeout", "10", "How long an outbound dial may take, name resolution included."),
    live("network.max_connections", "128", "Open outbound connections of one session."),
    live("tokens.issuers", "<any public host>", "Only hosts where runtimes' token issuers may be, such as [\"id.example.com:443\", \"*.example.org\"]; their keys' hosts too."),
    live("tokens.allow_private", "[]", "Issuers that may be at private addresses and without TLS all the same, each with its port, such as [\"127.0.0.1:8999\", \"id.lan:443\"]."),
    live("callbacks.allow_private", "false", "Who may be told of tasks' outcomes beside public addresses over https: true for every address but metadata services, or a list of hosts with their ports and of networks, such as [\"hooks.lan:8080\", \"10.0.0.0/8\"]; these may be without TLS too."),
    live("callbacks.retry_for", "86400", "For how long an outcome is tried to be told: after 2 s, 6 s, 18 s, … and then every hour."),
    live("callbacks.timeout", "10", "How long one attempt to tell it may take, name resolution included."),
    fixed("storage.max_size", "\"1G\"", "The largest session storage that a runtime may ask for, and what it gets if it does not say."),
    fixed("storage.total", "\"20G\"", "All session storage together, what sessions may still write included; beyond it a session that needs one is refused."),
    fixed("storage.per_caller", "<half of storage.total, and no less than storage.max_size>", "Session storage of one caller, counted in the same way; that of shared runtimes counts as one caller's."),
    fixed("storage.keep", "1209600", "Session storage that no session has used for this long is removed."),
    fixed("store.reserve", "\"32M\"", "While less than this is free on the state directory's disk, new work is refused (507) and what runs goes on."),
    live("store.sessions_kept", "604800", "How long a session that is over is listed."),
    live("store.sessions_most", "10000", "Sessions that are over and listed at most; beyond it the oldest go."),
    live("store.refusals_kept", "7776000", "How long a refusal is listed (`GET /v1/audit`)."),
    live("store.refusals_most", "10000", "Refusals listed at most; beyond it the oldest go."),
    live("tasks.deadline", "28800", "How long an asynchronous task may take from its submission, its time in the queue included, if its submitter does not say."),
    live("tasks.max_deadline", "1209600", "The longest time that a task's submitter may ask for."),
    live("tasks.concurrency", "256", "Tasks that have a session or are getting one, at once; the others wait in the queue."),
    live("tasks.concurrency_per_runtime", "64", "Of those, tasks of one runtime."),
    live("tasks.max_queued", "100000", "Tasks without an outcome; beyond it new ones are refused (429)."),
    live("tasks.max_result", "100000000", "Largest answer of a task, in bytes; an agent that says more fails its task."),
    live("tasks.max_stored", "\"8G\"", "Bytes of all tasks' payloads and answers, and 2 KiB for each task; beyond it new ones are refused (507). One caller gets half of it at most, the next half of what is left, and so on."),
    live("tasks.keep", "86400", "How long a task, its answer and its events are kept after its outcome, and its Idempotency-Key with it."),
    live("tasks.keep_streams", "3600", "The same for a resumable stream: how long its client may come back after its end."),
    live("metrics.public", "false", "Whether anybody who can connect may read /metrics; otherwise operators only."),
    live("ledger.keep", "\"366d\"", "Records of what sessions used are kept for so long; the sums by day, runtime and user stay."),
    live("ledger.keep_invocations", "\"30d\"", "Records of single invocations are kept for so long."),
    live("ledger.max_invocations", "1000000", "The newest records of invocations, at most."),
    live("budgets.session", "<none>", "What each session may use before it freezes until somebody approves the same again: { cpu_seconds, gb_seconds, wall_seconds, cost }, each a number. A runtime may have budgets of its own beside these (agentcore.toml)."),
    live("budgets.user", "<none>", "The same for all sessions of a caller and its user together; with per = \"day\" or \"month\" (UTC) the amounts are there anew with each."),
    live("budgets.runtime", "<none>", "The same for all sessions of a runtime together."),
    live("prices.currency", "\"USD\"", "Currency of the prices, for people."),
    live("prices.cpu_hour", "0.0895", "Price of a CPU that a session may use, for an hour in which it is active (an invocation in flight, or HealthyBusy); idle and frozen time costs nothing."),
    live("prices.memory_gb_hour", "0.00945", "Price of a GB (10^9 bytes) of memory that a session may use, for an hour in which it is active."),
    live("prices.million_invocations", "0.2", "Price of a million invocations."),
    live("prices.aws_cpu_hour", "0.0895", "AWS's price of an hour of CPU time that was used, for the column of what it would have cost there."),
    live("prices.aws_memory_gb_hour", "0.00945", "AWS's price of a GB for an hour: of the highest memory so far, 128 MB at least, idle or not."),
    live("ping.interval", "2", "Period of health checks once a session is healthy."),
    live("ping.timeout", "5", "How long one health check may take."),
    live("ping.unhealthy_after", "30", "A session whose health checks fail for this long ends."),
];

/// The key of this path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Names directly below a section (`""` is the top), for telling a person what would have been known.
pub(super) fn below(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&str> = KEYS
        .iter()
        .filter_map(|key| match section {
            "" => Some(key.path),
            _ => key.path.strip_prefix(section)?.strip_prefix('.'),
        })
        .filter_map(|rest| rest.split('.').next())
        .collect();
    names.dedup();
    names
}

/// Whether a path is a section.
pub(super) fn is_section(path: &str) -> bool {
    !below(path).is_empty() && find(path).is_none()
}
