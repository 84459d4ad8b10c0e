//! Tier 2: files in a temporary directory; the environment is handed in, never set.

use super::*;
use clap::Parser;
use proto::config::NetworkMode;
use proto::units::Seconds;
use std::fmt::Write;

/// A directory like `/etc/agentcore`, and the environment and flags of one start.
struct Ground {
    etc: tempfile::TempDir,
    environment: Vec<(OsString, OsString)>,
    args: Args,
}

impl Ground {
    fn new() -> Self {
        Self {
            etc: tempfile::tempdir().expect("temporary directory"),
            environment: Vec::new(),
            args: Args::default(),
        }
    }

    fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.etc.path().join(name);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("directory");
        std::fs::write(path, text).expect("file");
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn flags(mut self, flags: &[&str]) -> Self {
        self.args = Args::parse_from(["agentcored"].iter().chain(flags));
        self
    }

    fn load(&self) -> Result<Config, Faults> {
        load_from(&self.args, self.environment.clone(), self.etc.path())
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|faults| panic!("{faults}"))
    }

    /// The faults, one a line, with the directory's name taken out.
    fn faults(&self) -> String {
        let faults = self.load().expect_err("must be refused");
        faults
            .to_string()
            .replace(&format!("{}/", self.etc.path().display()), "")
    }

    fn reload(&self, old: &Config) -> Result<Reloaded, Faults> {
        old.reload_from(&self.args, self.environment.clone(), self.etc.path())
    }
}

#[test]
fn nothing_given_gives_the_documented_defaults() {
    let config = Ground::new().config();
    assert_eq!(config.state_dir, Path::new("/var/lib/agentcore"));
    assert_eq!(config.socket, Path::new("/run/agentcore/api.sock"));
    assert!(config.listen.is_empty());
    assert_eq!(config.auth, TcpAuth::NoListener);
    assert_eq!(config.defaults, Settings::BUILT_IN);
    assert_eq!(config.ceilings, Settings::BUILT_IN_CEILINGS);
    assert_eq!(config.limits.max_body, MemoryBytes(100_000_000));
    assert_eq!(config.log.format, None);
    assert!(!config.end_sessions_on_exit);
}

#[test]
fn developer_mode_listens_on_loopback_and_ends_its_sessions() {
    let config = Ground::new().flags(&["--dev"]).config();
    assert_eq!(config.listen, ["127.0.0.1:8080".parse().expect("address")]);
    assert_eq!(config.auth, TcpAuth::None);
    let auth = |text: &str| {
        let file = format!("listen = ['0.0.0.0:80']\nauth = {text}");
        Ground::new().file("agentcored.toml", file).config().auth
    };
    let checked = |sigv4, jwt| TcpAuth::Checked(AuthMethods { sigv4, jwt });
    assert_eq!(auth("'sigv4'"), checked(true, false));
    assert_eq!(auth("'jwt'"), checked(false, true));
    assert_eq!(auth("['jwt', 'sigv4']"), checked(true, true));
    assert_eq!(config.log.format, Some(LogFormat::Text));
    assert!(config.end_sessions_on_exit);
    let elsewhere = Ground::new()
        .flags(&["--dev", "--listen", "[::1]:9999"])
        .config();
    assert_eq!(elsewhere.listen, ["[::1]:9999".parse().expect("address")]);
}

#[test]
fn a_flag_beats_the_environment_beats_later_files_beat_earlier_ones_beat_the_default() {
    let mut ground = Ground::new();
    let dir = |ground: &Ground| ground.config().state_dir.display().to_string();
    assert_eq!(dir(&ground), "/var/lib/agentcore");
    ground = ground.file("agentcored.toml", "state_dir = '/main'");
    assert_eq!(dir(&ground), "/main");
    ground = ground.file("conf.d/10-a.toml", "state_dir = '/a'");
    ground = ground.file("conf.d/20-b.toml", "state_dir = '/b'");
    ground = ground.file("conf.d/30-not-toml.conf", "state_dir = '/c'");
    assert_eq!(dir(&ground), "/b");
    ground = ground.env("AGENTCORED_STATE_DIR", "/environment");
    assert_eq!(dir(&ground), "/environment");
    ground = ground.flags(&["--state-dir", "/flag"]);
    assert_eq!(dir(&ground), "/flag");
}

#[test]
fn files_merge_key_by_key() {
    let config = Ground::new()
        .file("agentcored.toml", "[defaults]\nmemory = '256M'\ncpus = 2\n")
        .file("conf.d/x.toml", "[defaults]\ncpus = 0.5\n")
        .config();
    assert_eq!(config.defaults.memory, MemoryBytes::mib(256));
    assert_eq!(config.defaults.cpus.0, 500);
}

#[test]
fn a_named_file_replaces_the_default_ones_and_must_exist() {
    let ground = Ground::new()
        .file("agentcored.toml", "region = 'from-etc'")
        .file("mine.toml", "account = '123456789012'");
    let mine = ground.etc.path().join("mine.toml").display().to_string();
    let ground = ground.flags(&["--config", &mine]);
    assert_eq!(ground.config().account, "123456789012");
    assert_eq!(ground.config().region, "us-local-1");
    let ground = ground.flags(&["--config", "/nonexistent/x.toml"]);
    assert!(
        ground
            .faults()
            .starts_with("/nonexistent/x.toml: cannot be opened: ")
    );
}

#[test]
fn the_environment_takes_strings_numbers_and_lists() {
    let config = Ground::new()
        .env("AGENTCORED_ACCOUNT", "123456789012")
        .env("AGENTCORED_DEV", "true")
        .env("AGENTCORED_LISTEN", "127.0.0.1:1, 127.0.0.1:2")
        .env("AGENTCORED_DEFAULTS_MEMORY", "64M")
        .env("AGENTCORED_DEFAULTS_IDLE_TIMEOUT", "120")
        .env("AGENTCORED_PING_TIMEOUT", "1500ms")
        .env("AGENTCORED_NETWORK_ALLOW", "[\"a.example\"]")
        .env("AGENTCORED_PORT", "tcp://10.0.0.1:80")
        .env("HOME", "/root")
        .config();
    assert_eq!(config.account, "123456789012");
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.defaults.memory, MemoryBytes::mib(64));
    assert_eq!(config.defaults.idle_timeout, Seconds(120));
    assert_eq!(config.ping.timeout, Duration::from_millis(1500));
    assert_eq!(
        config.network.grant.allow,
        Some(AllowList::parse(["a.example"]).expect("list"))
    );
    assert_eq!(config.notes.len(), 1, "{:?}", config.notes);
    assert!(config.notes[0].contains("AGENTCORED_PORT"));
}

#[test]
fn every_fault_is_told_at_once_with_its_line() {
    let faults = Ground::new()
        .file(
            "agentcored.toml",
            "state_dir = 'relative'\nsokcet = '/x'\n\n[limits]\nmax_sessions = 0\nmax_body = 'lots'\n\n[defaults]\nmemory = true\n",
        )
        .file("conf.d/a.toml", "\n[limitz]\n[ping]\ninterval = '3 weeks'\n")
        .env("AGENTCORED_REGION", "Nowhere!")
        .faults();
    for (line, expected) in faults.lines().zip([
        "agentcored.toml:2: `sokcet` is not a key; known here: state_dir, ",
        "conf.d/a.toml:2: `limitz` is not a key; known here: state_dir, ",
        "agentcored.toml:1: `state_dir` must be an absolute path",
        "agentcored.toml:9: `defaults.memory` invalid type: boolean `true`, expected an amount of memory",
        "AGENTCORED_REGION: `region` must be 1 to 32 of a-z",
        "agentcored.toml:6: `limits.max_body` `lots` is not an amount of memory",
        "agentcored.toml:5: `limits.max_sessions` must be 1 to 10000, is 0",
        "conf.d/a.toml:4: `ping.interval` invalid value: string \"3 weeks\", expected a number of seconds",
    ]) {
        assert!(faults.contains(expected), "no {expected:?} in:\n{faults}\n(line {line})");
    }
    assert_eq!(faults.lines().count(), 8, "{faults}");
}

#[test]
fn broken_toml_is_told_with_every_broken_line() {
    let faults = Ground::new()
        .file(
            "agentcored.toml",
            "dev = \n\nregion = 'x'\naccount = 'y\n[limits]\nmax_sessions = 2\nmax_sessions = 3\n",
        )
        .faults();
    for expected in [
        "agentcored.toml:1: ",
        "agentcored.toml:4: ",
        "agentcored.toml:7: ",
    ] {
        assert!(faults.contains(expected), "no {expected:?} in:\n{faults}");
    }
}

#[test]
fn oversized_and_undecodable_files_are_refused() {
    let large = format!("# {}\n", "x".repeat(256 * 1024));
    let faults = Ground::new().file("agentcored.toml", large).faults();
    assert_eq!(faults, "agentcored.toml: is larger than 262144 bytes");
    let faults = Ground::new()
        .file("agentcored.toml", b"dev = true\n# \xff\n")
        .faults();
    assert_eq!(faults, "agentcored.toml: is not UTF-8 in line 2");
}

#[test]
fn a_broken_value_is_a_fault_even_where_it_is_overridden() {
    let faults = Ground::new()
        .file("agentcored.toml", "dev = 'maybe'")
        .flags(&["--dev"])
        .faults();
    assert!(
        faults.starts_with("agentcored.toml:1: `dev` invalid type"),
        "{faults}"
    );
}

#[test]
fn tcp_without_authentication_stays_on_loopback() {
    for (text, expected) in [
        (
            "listen = ['127.0.0.1:80']",
            "nothing says how callers are identified",
        ),
        (
            "listen = ['0.0.0.0:80']\nauth = 'none'",
            "only loopback addresses may go without",
        ),
        (
            "listen = ['127.0.0.1:1', '[::]:80']\ndev = true",
            "offers [::]:80 to other machines",
        ),
        (
            "auth = 'password'",
            "expected \"none\", \"sigv4\", \"jwt\" or a list",
        ),
        ("auth = []", "must be \"none\", \"sigv4\""),
        ("auth = ['none', 'sigv4']", "must be \"none\", \"sigv4\""),
    ] {
        let faults = Ground::new().file("agentcored.toml", text).faults();
        assert!(faults.contains(expected), "{text}:\n{faults}");
    }
    let config = Ground::new()
        .file(
            "agentcored.toml",
            "listen = ['127.0.0.2:80', '[::1]:80']\nauth = 'none'",
        )
        .config();
    assert_eq!(config.auth, TcpAuth::None);
}

#[test]
fn contradictions_between_keys_are_faults() {
    for (text, expected) in [
        (
            "[defaults]\nmemory = '2G'\n[ceilings]\nmemory = '1G'",
            "`defaults.memory` is above `ceilings.memory`",
        ),
        (
            "[defaults]\nidle_timeout = 3600\nmax_lifetime = 1800",
            "less than or equal to `defaults.max_lifetime`",
        ),
        (
            "[network]\nmode = 'outbound'\nceiling = 'none'",
            "`network.mode` is above `network.ceiling`",
        ),
        (
            "[network]\nallow = ['a.example', 'b.example']\nceiling_allow = ['a.example:*']",
            "holds b.example:443",
        ),
        (
            "[network]\nallow_private = ['*.lan:443']",
            "exactly one host and one port",
        ),
        (
            "[network]\nallow_private = ['models.lan:*']",
            "exactly one host and one port",
        ),
        (
            "[callbacks]\nallow_private = ['hooks.lan', '10.0.0.0/40']",
            "holds \"10.0.0.0/40\"",
        ),
        (
            "[callbacks]\nallow_private = 'yes'",
            "true, false or a list",
        ),
        (
            "[network]\nallow = ['http://a.example']",
            "holds \"http://a.example\"",
        ),
        (
            "runtime_dir = '/a/very/long/directory/name/that/leaves/no/room/for/the/sockets/below'",
            "at most 66 bytes long",
        ),
        ("state_dir = '/a/../b'", "without `.` and `..`"),
        ("broker_user = 'root'", "must not be root"),
        ("account = '12'", "twelve digits"),
        ("log = { level = 'info,=,' }", "`log.level`"),
        ("[defaults]\nstop_grace = '500ms'", "whole seconds"),
        ("limits = 3", "`limits` is a section"),
    ] {
        let faults = Ground::new().file("agentcored.toml", text).faults();
        assert!(faults.contains(expected), "{text}:\n{faults}");
    }
}

#[test]
fn a_low_ceiling_pulls_untyped_defaults_down() {
    let config = Ground::new()
        .file(
            "agentcored.toml",
            "[ceilings]\nmemory = '128M'\n[network]\nceiling = 'none'",
        )
        .config();
    assert_eq!(config.defaults.memory, MemoryBytes::mib(128));
    assert_eq!(config.network.grant.mode, NetworkMode::None);
}

#[test]
fn reload_takes_live_keys_and_names_those_that_wait() {
    let ground = Ground::new().file("agentcored.toml", "region = 'a'\n[log]\nlevel = 'info'");
    let old = ground.config();
    let ground = ground.file(
        "agentcored.toml",
        "region = 'b'\nstate_dir = '/new'\n[log]\nlevel = 'debug'\n[ping]\ninterval = 9",
    );
    let Reloaded {
        config,
        changed,
        needs_restart,
    } = ground.reload(&old).expect("sound");
    assert_eq!(changed, ["log.level", "ping.interval"]);
    assert_eq!(needs_restart, ["state_dir", "region"]);
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.ping.interval, Duration::from_secs(9));
    assert_eq!(config.region, "a");
    assert_eq!(config.state_dir, Path::new("/var/lib/agentcore"));
    // A second reload still names what waits, and forgets it once it is taken back.
    let ground = ground.file("agentcored.toml", "region = 'a'\n[log]\nlevel = 'debug'");
    let again = ground.reload(&config).expect("sound");
    assert_eq!(
        (again.changed, again.needs_restart),
        (vec!["ping.interval"], vec![])
    );
}

#[test]
fn one_session_gets_no_more_cpu_than_all_together() {
    let with = |text: &str| Ground::new().file("agentcored.toml", text);
    // A ceiling that nobody typed comes down, and with it the default.
    let config = with("[limits]\nsessions_cpus = 0.5").config();
    assert_eq!(config.limits.all_sessions.cpu_millis, Some(500));
    assert_eq!((config.ceilings.cpus.0, config.defaults.cpus.0), (500, 500));
    let config = with("[limits]\nsessions_cpus = 64\nsessions_memory = '8G'").config();
    assert_eq!(config.ceilings.cpus.0, 16_000);
    assert_eq!(config.limits.all_sessions.memory_bytes, Some(8 << 30));
    assert_eq!(config.limits.all_sessions.pids, None);
    // One that was typed is a contradiction, which names both.
    let faults = with("[ceilings]\ncpus = 4\n[limits]\nsessions_cpus = 2").faults();
    assert!(
        faults.starts_with(
            "agentcored.toml:4: `limits.sessions_cpus` must be at least `ceilings.cpus`, which is 4"
        ),
        "{faults}"
    );
    let faults = with("[limits]\nsessions_memory = '1M'\nsessions_cpu_weight = 0").faults();
    assert!(
        faults.contains("`limits.sessions_memory` must be 64M to")
            && faults.contains("`limits.sessions_cpu_weight` must be 1 to 10000"),
        "{faults}"
    );
}

#[test]
fn reload_refuses_a_broken_file() {
    let ground = Ground::new();
    let old = ground.config();
    let ground = ground.file("agentcored.toml", "[log]\nlevel = 'debug'\nfromat = 'text'");
    assert!(ground.reload(&old).is_err());
}

/// The example file as it must be: every key with its meaning, commented out, at its default.
fn example() -> String {
    let mut text = String::from(
        "# /etc/agentcore/agentcored.toml: configuration of the daemon.\n\
         #\n\
         # Every key there is, commented out. `agentcored --check-config` tells every fault at once. Files in\n\
         # /etc/agentcore/conf.d/*.toml are read after this one, in the order of their names, and override it key by key;\n\
         # AGENTCORED_* variables (AGENTCORED_LIMITS_MAX_SESSIONS) override both, flags override all.\n\
         # Durations are seconds, or text such as \"500ms\", \"15m\", \"8h\". Sizes are bytes, or text such as \"512M\", \"1.5G\".\n\
         # `systemctl reload agentcored` takes the keys marked (reload); the others need a restart.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (in_section, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if in_section != section {
            section = in_section;
            write!(text, "\n[{section}]\n").expect("to a string");
        }
        let mark = if key.reload { " (reload)" } else { "" };
        write!(text, "\n# {}{mark}\n", key.meaning).expect("to a string");
        let value = match key.path {
            "socket" => "\"/run/agentcore/api.sock\"",
            "auth" => "\"none\"",
            "cgroup_parent" => "\"agentcore.slice/agentcore-sessions.service\"",
            "public_url" => "\"https://agents.example.com\"",
            "default_runtime" => "\"my_agent\"",
            "end_sessions_on_exit" => "false",
            "log.format" => "\"json\"",
            "tokens.issuers" => "[\"id.example.com:443\", \"*.example.org\"]",
            "network.allow" | "network.ceiling_allow" => {
                "[\"api.example.com:443\", \"*.example.org\"]"
            }
            "ceilings.cpus" => "16",
            "limits.sessions_memory" => "\"24G\"",
            "limits.sessions_cpus" => "16",
            "limits.sessions_pids" => "20000",
            "limits.max_starting_sessions" => "64",
            "limits.objects_per_caller" => "\"2G\"",
            "storage.per_caller" => "\"10G\"",
            "budgets.session" => "{ cpu_seconds = 3600, cost = 5 }",
            "budgets.user" => "{ cost = 100, per = \"month\" }",
            "budgets.runtime" => "{ gb_seconds = 1000000 }",
            path => {
                assert!(
                    !key.default.starts_with('<'),
                    "{path} needs an example value"
                );
                key.default
            }
        };
        if key.default.starts_with('<') {
            writeln!(text, "# Default: {}", key.default.trim_matches(['<', '>']))
                .expect("to a string");
        }
        writeln!(text, "#{name} = {value}").expect("to a string");
    }
    text
}

#[test]
fn the_example_file_holds_every_key_at_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/agentcored.toml");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, example()).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == example(),
        "docs/agentcored.toml differs from the table of keys; run this test with BLESS=1 and look at the difference"
    );
}

#[test]
fn the_example_file_means_the_defaults() {
    let uncommented: String = example()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') && setting.contains('=') => setting,
            _ => line,
        })
        // These have no default that a file could hold.
        .filter(|line| {
            ![
                "cgroup_parent",
                "public_url",
                "default_runtime",
                "allow =",
                "ceiling_allow",
                "sessions_memory",
                "sessions_cpus",
                "sessions_pids",
                "max_starting_sessions",
                "issuers =",
                "format =",
                "session =",
                "user =",
                "runtime =",
            ]
            .iter()
            .any(|k| line.starts_with(k))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let typed = Ground::new().file("agentcored.toml", uncommented).config();
    let mut plain = Ground::new().config();
    plain.given = typed.given.clone();
    assert_eq!(format!("{typed:?}"), format!("{plain:?}"));
    // As it is shipped, all commented out, it changes nothing.
    let shipped = Ground::new().file("agentcored.toml", example()).config();
    assert_eq!(shipped.defaults, plain.defaults);
}

#[test]
fn every_key_of_the_table_is_read() {
    // A value that no key can take: each key must complain, so none is in the table and ignored.
    for key in KEYS {
        let (section, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        let header = if section.is_empty() {
            String::new()
        } else {
            format!("[{section}]\n")
        };
        let faults = Ground::new()
            .file("agentcored.toml", format!("{header}{name} = [[1.5]]\n"))
            .faults();
        assert!(
            faults.contains(&format!("`{}` ", key.path)),
            "{}:\n{faults}",
            key.path
        );
    }
}

#[test]
fn the_reference_of_agentcore_toml_has_every_key_with_its_default() {
    let text = include_str!("../../../docs/agentcore.toml");
    let config: proto::config::RuntimeConfig = toml::from_str(text).expect("sound");
    // Without `..`: a new key that the reference lacks does not compile here.
    let proto::config::RuntimeConfig {
        name: _,
        entrypoint: _,
        description,
        protocol,
        port,
        path,
        warmup,
        request_headers,
        allowed_ports,
        language,
        language_version,
        requirements,
        environment,
        lifecycle,
        resources,
        network,
        authorizer,
        concurrency,
        shared,
        storage,
        budget,
        pool,
        fork,
    } = config;
    let proto::config::Budgets {
        session,
        user,
        runtime,
    } = budget;
    assert!(
        [session, user, runtime]
            .iter()
            .all(|budget| !budget.is_empty())
    );
    assert_eq!(concurrency, proto::config::Concurrency::default());
    assert!(
        !shared
            && authorizer.is_some_and(|authorizer| {
                let lists = [
                    authorizer.allowed_audience,
                    authorizer.allowed_clients,
                    authorizer.allowed_scopes,
                ];
                lists.iter().all(Option::is_some) && authorizer.custom_claims.is_some()
            })
    );
    assert!(description.is_some() && language.is_some() && requirements.is_some());
    assert!(language_version.is_some());
    assert!(!environment.is_empty());
    assert_eq!(protocol, proto::config::Protocol::default());
    assert_eq!(port, Some(protocol.port()));
    assert_eq!(path.as_deref(), Some(protocol.path()));
    assert!(warmup.is_some() && !request_headers.is_empty() && !allowed_ports.is_empty());
    let built_in = session_core::spec::Settings::BUILT_IN;
    let proto::config::Lifecycle {
        idle_timeout,
        max_lifetime,
        start_timeout,
        stop_grace,
        invocation_timeout,
        freeze_after,
    } = lifecycle;
    assert_eq!(idle_timeout, Some(built_in.idle_timeout));
    assert_eq!(max_lifetime, Some(built_in.max_lifetime));
    assert_eq!(start_timeout, Some(built_in.start_timeout));
    assert_eq!(stop_grace, Some(built_in.stop_grace));
    assert_eq!(invocation_timeout, Some(built_in.invocation_timeout));
    assert_eq!(
        freeze_after,
        Some(session_core::spec::HostPolicy::FREEZE_AFTER)
    );
    let proto::config::Resources {
        memory,
        cpus,
        pids,
        cpu_weight,
        tmp_size,
    } = resources;
    assert_eq!(memory, Some(built_in.memory));
    assert_eq!(cpus, Some(built_in.cpus));
    assert_eq!(pids, Some(built_in.pids));
    assert_eq!(cpu_weight, Some(built_in.cpu_weight));
    assert_eq!(tmp_size, Some(built_in.tmp_size));
    let proto::config::Network { mode, allow } = network;
    assert_eq!(mode, Some(NetworkMode::Outbound));
    assert!(allow.is_some());
    assert!(pool.min.is_some() && pool.max.is_some());
    assert!(fork.is_some());
    let [proto::config::StorageMount { mount, size }] = &storage[..] else {
        panic!("one storage");
    };
    assert_eq!(mount, "/mnt/data");
    assert_eq!(*size, Some(session_core::spec::StorageGrant::BUILT_IN_SIZE));
}
