//! Tier 1: pure.

use super::*;
use proptest::prelude::*;
use proto::config::NetworkMode;
use proto::units::Seconds;
use serde_json::{Value, json};

fn policy() -> HostPolicy {
    HostPolicy {
        defaults: Settings::BUILT_IN,
        ceilings: Settings::BUILT_IN_CEILINGS,
        network: NetworkGrant::default(),
        storage: StorageGrant {
            max_size: StorageGrant::BUILT_IN_SIZE,
            unavailable: None,
        },
        pool: PoolGrant {
            bounds: Bounds { min: 0, max: 4 },
            ceiling: 16,
        },
        interpreters: Interpreters {
            python: Some("/usr/bin/python3".to_owned()),
            node: Some("/usr/bin/node".to_owned()),
            python_version: Some("3.11.2".to_owned()),
            node_version: Some("22.14.0".to_owned()),
        },
        region: "us-local-1".to_owned(),
        url: Some("http://127.0.0.1:8080".to_owned()),
        agent_uid: 1,
        agent_gid: 1,
        open_files: 4096,
        freeze_after: HostPolicy::FREEZE_AFTER,
    }
}

/// A configuration with these keys beside its name; the entrypoint is `my_agent.py` unless given.
fn config(keys: Value) -> RuntimeConfig {
    let mut all = json!({ "name": "agent", "entrypoint": "my_agent.py" });
    for (key, value) in keys.as_object().expect("an object") {
        all[key] = value.clone();
    }
    serde_json::from_value(all).expect("typed")
}

fn spec(keys: Value) -> RuntimeSpec {
    RuntimeSpec::resolve(&config(keys.clone()), &policy())
        .unwrap_or_else(|faults| panic!("{keys}: {faults:#?}"))
}

fn faults_under(keys: Value, policy: &HostPolicy) -> Vec<String> {
    let faults = RuntimeSpec::resolve(&config(keys.clone()), policy);
    let faults = faults.expect_err(&format!("{keys} must be refused"));
    faults
        .into_iter()
        .map(|f| format!("{}: {}", f.name, f.message))
        .collect()
}

fn faults(keys: Value) -> Vec<String> {
    faults_under(keys, &policy())
}

#[test]
fn a_pool_is_what_was_asked_for_within_the_operators_ceiling() {
    let bounds = |keys: Value| spec(keys).pool;
    assert_eq!(bounds(json!({})), Bounds { min: 0, max: 4 });
    let pool = |pool: Value| json!({ "pool": pool });
    assert_eq!(bounds(pool(json!({ "max": 0 }))), Bounds::default());
    assert_eq!(bounds(pool(json!({ "min": 6 }))), Bounds { min: 6, max: 6 });
    assert_eq!(
        bounds(pool(json!({ "min": 2, "max": 16 }))),
        Bounds { min: 2, max: 16 }
    );
    for (asked, told) in [
        (json!({ "max": 17 }), "pool.max: must be at most 16"),
        (json!({ "min": 17 }), "pool.min: must be at most 16"),
        (
            json!({ "min": 3, "max": 2 }),
            "pool.min: must be at most `pool.max`, which is 2",
        ),
    ] {
        let faults = faults(pool(asked.clone()));
        assert!(
            faults.iter().any(|fault| fault.starts_with(told)),
            "{asked}: {faults:?}"
        );
    }
    // Of sessions with storage none can wait: the default says nothing then, and a wish is refused.
    let mut keys = json!({ "storage": [{ "mount": "/mnt/data" }] });
    assert_eq!(bounds(keys.clone()), Bounds::default());
    keys["pool"] = json!({ "max": 1 });
    let faults = faults(keys);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("pool.max: "), "{faults:?}");
}

#[test]
fn storage_is_one_named_directory_within_the_ceiling() {
    assert_eq!(spec(json!({})).storage, None);
    let one = |mount: &str| spec(json!({ "storage": [{ "mount": mount }] })).storage;
    let data = Some(SessionStorage {
        name: "data".to_owned(),
        size: MemoryBytes::mib(1024),
    });
    assert_eq!(one("/mnt/data"), data);
    assert_eq!(one("/mnt/data/"), data, "as the contract has it");
    let sized = spec(json!({ "storage": [{ "mount": "/mnt/.a-b_C", "size": "64M" }] })).storage;
    assert_eq!(sized.expect("storage").size, MemoryBytes::mib(64));

    let long = format!("/mnt/{}", "x".repeat(196));
    for bad in [
        "/mnt/",
        "/mnt//",
        "/mnt/.",
        "/mnt/..",
        "/mnt/../",
        "/mnt/a/b",
        "/data",
        "mnt/data",
        "/mnt/a b",
        "/mnt/\u{e9}t\u{e9}",
        "/mnt/lost+found",
        &long,
    ] {
        let told = faults(json!({ "storage": [{ "mount": bad }] }));
        assert!(
            told.len() == 1 && told[0].starts_with("storage[0].mount: must be /mnt/<name>"),
            "{bad}: {told:?}"
        );
    }
    for (size, says) in [("1M", "at least 16M"), ("2G", "at most 1G")] {
        let told = faults(json!({ "storage": [{ "mount": "/mnt/data", "size": size }] }));
        assert!(
            told.len() == 1 && told[0].starts_with("storage[0].size") && told[0].contains(says),
            "{told:?}"
        );
    }
    let two = json!({ "storage": [{ "mount": "/mnt/a" }, { "mount": "/mnt/b" }] });
    assert!(faults(two)[0].starts_with("storage: has 2 entries"));
    let without = HostPolicy {
        storage: StorageGrant {
            unavailable: Some("mke2fs is not installed".to_owned()),
            ..policy().storage
        },
        ..policy()
    };
    let told = faults_under(json!({ "storage": [{ "mount": "/mnt/data" }] }), &without);
    assert!(told[0].contains("mke2fs is not installed"), "{told:?}");
    RuntimeSpec::resolve(&config(json!({})), &without).expect("who asks for none is not concerned");
}

#[test]
fn nothing_asked_gives_the_defaults() {
    let spec = spec(json!({}));
    assert_eq!(spec.agent.argv, ["/usr/bin/python3", "/app/my_agent.py"]);
    assert_eq!((spec.agent.cwd.as_str(), spec.agent.uid), ("/app", 1));
    assert_eq!(
        spec.wire,
        AgentWire {
            port: 8080,
            ping_path: Some("/ping".to_owned()),
            ports: Vec::new(),
        }
    );
    assert_eq!(spec.limits.memory, MemoryBytes::mib(512));
    assert_eq!(spec.timeouts.idle, Duration::from_secs(900));
    assert_eq!(
        spec.network,
        NetworkPolicy::Outbound {
            allow: None,
            ceiling: None
        }
    );
    let env: Vec<_> = spec
        .agent
        .env
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(
        env,
        [
            "AGENTCORE_RUNTIME_NAME=agent",
            "AWS_DEFAULT_REGION=us-local-1",
            "AWS_REGION=us-local-1",
            "DOCKER_CONTAINER=1",
            "HOME=/home/agent",
            "LANG=C.UTF-8",
            "LOGNAME=agent",
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "PORT=8080",
            "PYTHONDONTWRITEBYTECODE=1",
            "PYTHONPATH=/opt/agentcore/python",
            "PYTHONUNBUFFERED=1",
            "USER=agent",
        ]
    );
}

#[test]
fn the_language_follows_from_the_file_unless_it_is_said() {
    for (entrypoint, language, argv) in [
        (
            json!("./a.py"),
            Value::Null,
            json!(["/usr/bin/python3", "/app/a.py"]),
        ),
        (
            json!(["src/a.mjs", "--x", ""]),
            Value::Null,
            json!(["/usr/bin/node", "/app/src/a.mjs", "--x", ""]),
        ),
        (json!("agent"), Value::Null, json!(["/app/agent"])),
        (
            json!("agent"),
            json!("python"),
            json!(["/usr/bin/python3", "/app/agent"]),
        ),
        (json!(["run.py"]), json!("binary"), json!(["/app/run.py"])),
    ] {
        let mut keys = json!({ "entrypoint": entrypoint });
        if !language.is_null() {
            keys["language"] = language;
        }
        assert_eq!(json!(spec(keys).agent.argv), argv);
    }
    let node = spec(json!({ "entrypoint": "a.js" }));
    assert!(!node.agent.env.contains_key("PYTHONPATH"));
    let mut bare = policy();
    bare.interpreters = Interpreters::default();
    let refused = faults_under(json!({ "entrypoint": "a.js" }), &bare);
    assert!(
        refused[0].starts_with("language: ") && refused[0].contains("Node.js"),
        "{refused:?}"
    );
}

#[test]
fn entrypoints_stay_in_the_bundle() {
    for bad in [
        "",
        "/bin/sh",
        "../x.py",
        "a/../../x.py",
        "a//b.py",
        "a/./b.py",
        ".",
        "..",
        "./",
        "a/",
        "a\0b",
        "a\\b.py",
        "a\nb.py",
        &"x".repeat(256),
        &"abc/".repeat(300),
    ] {
        let refused = faults(json!({ "entrypoint": bad }));
        assert!(
            refused[0].starts_with("entrypoint: "),
            "{bad:?}: {refused:?}"
        );
        assert!(
            refused[0].len() < 500 && !refused[0].contains(['\0', '\n']),
            "{refused:?}"
        );
    }
    assert!(faults(json!({ "entrypoint": [] }))[0].starts_with("entrypoint: must name"));
    assert!(faults(json!({ "entrypoint": ["a.py", "x\0"] }))[0].starts_with("entrypoint[1]: "));
    let long = vec!["a.py"; 257];
    assert!(faults(json!({ "entrypoint": long }))[0].contains("257 words"));
    spec(json!({ "entrypoint": vec!["a.py"; 256] }));
}

#[test]
fn protocols_decide_port_and_health_check() {
    let mcp = spec(json!({ "protocol": "MCP" }));
    assert_eq!(
        mcp.wire,
        AgentWire {
            port: 8000,
            ping_path: None,
            ports: Vec::new(),
        }
    );
    assert_eq!(mcp.agent.env["PORT"], "8000");
    assert_eq!(spec(json!({ "protocol": "A2A" })).wire.port, 9000);
}

#[test]
fn the_users_environment_is_taken_and_completed() {
    let env = spec(json!({ "environment": {
        "KEY": "value", "PYTHONPATH": "/app/lib", "PATH": "/app/bin:/usr/bin", "AWS_REGION": "eu-west-1", "LANG": "de_DE.UTF-8",
    }}))
    .agent
    .env;
    for (name, value) in [
        ("KEY", "value"),
        ("PYTHONPATH", "/app/lib:/opt/agentcore/python"),
        ("PATH", "/app/bin:/usr/bin"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_DEFAULT_REGION", "eu-west-1"),
        ("LANG", "de_DE.UTF-8"),
    ] {
        assert_eq!(env[name], value, "{name}");
    }
}

#[test]
fn environments_are_bounded_and_some_names_reserved() {
    for (name, reason) in RESERVED {
        let refused = faults(json!({ "environment": { *name: "x" } }));
        assert_eq!(
            refused,
            [format!(
                "environment.{name}: is set by the runtime: it {reason}"
            )]
        );
    }
    for bad in ["", "1A", "A=B", "A B", "Ä", "A\0", &"A".repeat(101)] {
        let refused = faults(json!({ "environment": { bad: "x" } }));
        assert!(refused[0].contains("is not a name"), "{bad:?}: {refused:?}");
    }
    spec(json!({ "environment": { "A".repeat(100): "x".repeat(16 * 1024) } }));
    assert!(
        faults(json!({ "environment": { "A": "x".repeat(16 * 1024 + 1) } }))[0]
            .contains("16385 bytes")
    );
    assert!(faults(json!({ "environment": { "A": "x\0" } }))[0].contains("NUL"));
    let many = |n: usize, size: usize| {
        let pairs = (0..n).map(|i| (format!("K{i:03}"), json!("x".repeat(size))));
        json!({ "environment": pairs.collect::<serde_json::Map<_, _>>() })
    };
    spec(many(128, 100));
    assert!(faults(many(129, 1))[0].contains("129 variables"));
    // 4 + 250 + 2 bytes each.
    spec(many(128, 250));
    assert!(faults(many(128, 251))[0].contains("32896 bytes in all; at most 32768"));
}

#[test]
fn limits_keep_between_their_least_and_the_ceiling() {
    for (keys, expected) in [
        (
            json!({ "memory": "17G" }),
            "resources.memory: must be at most 16G, which is this host's ceiling, is 17G",
        ),
        (
            json!({ "memory": "1M" }),
            "resources.memory: must be at least 16M, is 1M",
        ),
        (
            json!({ "cpus": 17 }),
            "resources.cpus: must be at most 16, which is this host's ceiling, is 17",
        ),
        (
            json!({ "pids": 4097 }),
            "resources.pids: must be at most 4096, which is this host's ceiling, is 4097",
        ),
        (
            json!({ "pids": 7 }),
            "resources.pids: must be at least 8, is 7",
        ),
        (
            json!({ "tmp_size": "5G" }),
            "resources.tmp_size: must be at most 4G, which is this host's ceiling, is 5G",
        ),
        (
            json!({ "tmp_size": 1 }),
            "resources.tmp_size: must be at least 1M, is 1",
        ),
    ] {
        assert_eq!(faults(json!({ "resources": keys })), [expected]);
    }
    let limits = spec(
        json!({ "resources": { "memory": "16G", "cpus": 0.01, "pids": 8, "tmp_size": "1M" } }),
    )
    .limits;
    assert_eq!(
        (limits.memory, limits.cpus.0, limits.pids),
        (MemoryBytes::mib(16 * 1024), 10, 8)
    );
}

#[test]
fn lifetimes_follow_the_contract() {
    let times = |keys: Value| {
        let timeouts = spec(json!({ "lifecycle": keys })).timeouts;
        (timeouts.idle.as_secs(), timeouts.max_lifetime.as_secs())
    };
    assert_eq!(times(json!({})), (900, 28_800));
    assert_eq!(times(json!({ "max_lifetime": 300 })), (300, 300));
    assert_eq!(times(json!({ "max_lifetime": 10_000 })), (900, 10_000));
    assert_eq!(times(json!({ "idle_timeout": 60 })), (60, 28_800));
    assert_eq!(
        times(json!({ "idle_timeout": 1_209_600, "max_lifetime": 1_209_600 })),
        (1_209_600, 1_209_600)
    );
    let freezes = |keys: Value| spec(json!({ "lifecycle": keys })).timeouts.freeze_after;
    let secs = |n| Some(std::time::Duration::from_secs(n));
    assert_eq!(freezes(json!({})), secs(30));
    assert_eq!(freezes(json!({ "freeze_after": 1 })), secs(1));
    assert_eq!(freezes(json!({ "freeze_after": 0 })), None);
    for (keys, expected) in [
        (
            json!({ "freeze_after": 1_209_601 }),
            "lifecycle.freeze_after: must be at most 1209600 s, which is this host's ceiling, is 1209601 s",
        ),
        (
            json!({ "idle_timeout": 59 }),
            "lifecycle.idle_timeout: must be at least 60 s, is 59 s",
        ),
        (
            json!({ "idle_timeout": 28_801 }),
            "lifecycle.idle_timeout: must be less than or equal to max_lifetime (28800 s), is 28801 s",
        ),
        (
            json!({ "max_lifetime": 1_209_601 }),
            "lifecycle.max_lifetime: must be at most 1209600 s, which is this host's ceiling, is 1209601 s",
        ),
        (
            json!({ "start_timeout": 0 }),
            "lifecycle.start_timeout: must be at least 1 s, is 0 s",
        ),
        (
            json!({ "stop_grace": 301 }),
            "lifecycle.stop_grace: must be at most 300 s, which is this host's ceiling, is 301 s",
        ),
        (
            json!({ "invocation_timeout": 28_801 }),
            "lifecycle.invocation_timeout: must be at most 28800 s, which is this host's ceiling, is 28801 s",
        ),
    ] {
        assert_eq!(faults(json!({ "lifecycle": keys })), [expected]);
    }
}

#[test]
fn the_network_keeps_within_the_grant() {
    let list = |entries: &[&str]| AllowList::parse(entries.iter().copied()).expect("list");
    let mut narrow = policy();
    narrow.network = NetworkGrant {
        mode: NetworkMode::None,
        allow: Some(list(&["default.example"])),
        ceiling: NetworkMode::Outbound,
        ceiling_allow: Some(list(&["*.example:443"])),
    };
    let under = |keys: Value| {
        RuntimeSpec::resolve(&config(json!({ "network": keys })), &narrow).map(|s| s.network)
    };
    assert_eq!(under(json!({})), Ok(NetworkPolicy::None));
    assert_eq!(
        under(json!({ "allow": ["a.example"] })),
        Ok(NetworkPolicy::Outbound {
            allow: Some(list(&["a.example"])),
            ceiling: narrow.network.ceiling_allow.clone()
        })
    );
    let open = under(json!({ "mode": "outbound" })).expect("granted");
    let target = |text| Target::parse(text, 443).expect("target");
    assert!(open.permits(&target("b.example")));
    assert!(
        !open.permits(&target("b.example:80")),
        "the ceiling holds without a list too"
    );
    let refused = faults_under(
        json!({ "network": { "allow": ["a.example", "evil.test", "a.example:80"] } }),
        &narrow,
    );
    assert_eq!(
        refused,
        [
            "network.allow: holds evil.test:443, which this host grants to no runtime",
            "network.allow: holds a.example:80, which this host grants to no runtime"
        ]
    );
    narrow.network.mode = NetworkMode::Outbound;
    let by_default = RuntimeSpec::resolve(&config(json!({})), &narrow)
        .expect("granted")
        .network;
    assert!(
        by_default.permits(&target("default.example")) && !by_default.permits(&target("b.example"))
    );
    narrow.network.ceiling = NetworkMode::None;
    for keys in [
        json!({ "mode": "outbound" }),
        json!({ "allow": ["a.example"] }),
    ] {
        let refused = faults_under(json!({ "network": keys }), &narrow);
        assert!(
            refused[0].contains("grants to no runtime; use mode"),
            "{refused:?}"
        );
    }
    assert!(
        faults(json!({ "network": { "mode": "none", "allow": ["a.example"] } }))[0]
            .contains("no effect")
    );
    assert!(!NetworkPolicy::None.permits(&target("a.example")));
    let refused = faults(json!({ "network": { "allow": ["ok.example", "http://x", "a:b"] } }));
    assert!(
        refused[0].starts_with("network.allow[1]: is not a target: \"http://x\""),
        "{refused:?}"
    );
    assert_eq!(refused.len(), 2);
    assert!(
        faults(json!({ "network": { "allow": vec!["a.example"; 257] } }))[0]
            .contains("257 entries")
    );
}

#[test]
fn all_faults_come_at_once_in_the_order_of_the_fields() {
    let found = faults(json!({
        "entrypoint": "/bin/sh",
        "description": "",
        "environment": { "HOME": "/", "B=": "x" },
        "lifecycle": { "idle_timeout": 1 },
        "resources": { "memory": "1T", "pids": 1 },
        "network": { "allow": ["!"] },
    }));
    let names: Vec<_> = found.iter().filter_map(|f| f.split(':').next()).collect();
    assert_eq!(
        names,
        [
            "entrypoint",
            "description",
            "environment.B=",
            "environment.HOME",
            "lifecycle.idle_timeout",
            "resources.memory",
            "resources.pids",
            "network.allow[0]"
        ]
    );
}

#[test]
fn no_policy_makes_agents_root() {
    for (uid, gid) in [(0, 1), (1, 0)] {
        let root = HostPolicy {
            agent_uid: uid,
            agent_gid: gid,
            ..policy()
        };
        assert!(faults_under(json!({}), &root)[0].contains("as root"));
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}\\.(py|js|mjs|sh)",
        "(\\.?\\.?/){0,3}[a-z./\\\\]{0,20}",
        "\\PC{0,40}",
        Just("/etc/passwd".to_owned()),
        Just("a/../b.py".to_owned()),
    ]
}

prop_compose! {
    fn any_config()(
        words in prop::collection::vec(any_text(), 0..4),
        environment in prop::collection::btree_map("[A-Z_=]{0,6}|PORT|HOME|PATH", any_text(), 0..5),
        language in prop::option::of(prop::sample::select(vec![Language::Python, Language::Node, Language::Binary])),
        times in prop::collection::vec(prop::option::of(prop_oneof![0..100_u32, 0..2_000_000_u32]), 6),
        memory in prop::option::of(prop_oneof![0..1_u64 << 36, any::<u64>()]),
        tmp_size in prop::option::of(any::<u64>()),
        cpus in prop::option::of(0..40_000_u32),
        pids in prop::option::of(0..10_000_u32),
        mode in prop::option::of(prop::sample::select(vec![NetworkMode::Outbound, NetworkMode::None])),
        allow in prop::option::of(prop::collection::vec(prop_oneof![any_text(), Just("a.example".to_owned())], 0..3)),
    ) -> RuntimeConfig {
        let mut config = config(json!({}));
        config.entrypoint = proto::config::Entrypoint::Argv(words);
        config.environment = environment;
        config.language = language;
        config.lifecycle.idle_timeout = times[0].map(Seconds);
        config.lifecycle.max_lifetime = times[1].map(Seconds);
        config.lifecycle.start_timeout = times[2].map(Seconds);
        config.lifecycle.stop_grace = times[3].map(Seconds);
        config.lifecycle.invocation_timeout = times[4].map(Seconds);
        config.lifecycle.freeze_after = times[5].map(Seconds);
        config.resources.memory = memory.map(MemoryBytes);
        config.resources.tmp_size = tmp_size.map(MemoryBytes);
        config.resources.cpus = cpus.map(CpuMillis);
        config.resources.pids = pids;
        config.network.mode = mode;
        config.network.allow = allow;
        config
    }
}

/// A configuration that is mostly sound, so that the property below sees specs too.
fn mostly_sound() -> impl Strategy<Value = RuntimeConfig> {
    (any_config(), any::<[bool; 5]>()).prop_map(|(mut config, wild)| {
        let sound = self::config(json!({}));
        let parts: [fn(&mut RuntimeConfig, &RuntimeConfig); 5] = [
            |c, s| c.entrypoint = s.entrypoint.clone(),
            |c, s| c.environment = s.environment.clone(),
            |c, s| c.lifecycle = s.lifecycle.clone(),
            |c, s| c.resources = s.resources.clone(),
            |c, s| c.network = s.network.clone(),
        ];
        for (part, wild) in parts.iter().zip(wild) {
            if !wild {
                part(&mut config, &sound);
            }
        }
        config
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_resolved_spec_is_always_safe_to_launch(config in mostly_sound()) {
        let policy = policy();
        match RuntimeSpec::resolve(&config, &policy) {
            Err(faults) => prop_assert!(!faults.is_empty()),
            Ok(spec) => {
                let file = &spec.entry_file;
                prop_assert!(!file.starts_with('/') && !file.is_empty());
                prop_assert!(file.split('/').all(|part| !["", ".", ".."].contains(&part)));
                let path = format!("/app/{file}");
                prop_assert!(spec.agent.argv.contains(&path));
                let first = spec.agent.argv[0].as_str();
                prop_assert!(["/usr/bin/python3", "/usr/bin/node"].contains(&first) || first.starts_with("/app/"));
                prop_assert!(spec.agent.uid != 0 && spec.agent.gid != 0);
                prop_assert_eq!(spec.agent.cwd.as_str(), "/app");
                prop_assert!(spec.agent.argv.iter().all(|word| !word.contains('\0')));
                for (name, value) in &spec.agent.env {
                    prop_assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
                }
                prop_assert_eq!(spec.agent.env["HOME"].as_str(), "/home/agent");
                let (limits, top) = (spec.limits, policy.ceilings);
                prop_assert!(limits.memory <= top.memory && limits.memory.0 > 0);
                prop_assert!(limits.cpus <= top.cpus && limits.cpus.0 > 0);
                prop_assert!(limits.pids <= top.pids && limits.pids > 0);
                prop_assert!(limits.tmp_size <= top.tmp_size);
                let times = spec.timeouts;
                prop_assert!(times.idle <= times.max_lifetime);
                prop_assert!(times.max_lifetime <= top.max_lifetime.duration());
                prop_assert!(times.start <= top.start_timeout.duration() && !times.start.is_zero());
                prop_assert!(times.stop_grace <= top.stop_grace.duration());
                prop_assert!(times.invocation <= top.invocation_timeout.duration());
            }
        }
    }
}

#[test]
fn port_and_path_are_the_runtimes_own_or_the_protocols() {
    let own = spec(json!({ "port": 9001, "path": "/v1/run" }));
    assert_eq!((own.wire.port, own.path.as_str()), (9001, "/v1/run"));
    assert_eq!(own.agent.env["PORT"], "9001");
    let mcp = spec(json!({ "protocol": "MCP" }));
    assert_eq!((mcp.wire.port, mcp.path.as_str()), (8000, "/mcp"));
    for port in [80, 7999, 8443, 12_001] {
        assert_eq!(faults(json!({ "port": port })).len(), 1, "{port}");
    }
    for path in ["", "run", "/a b", "/a?b", "/\r\n"] {
        let told = faults(json!({ "path": path }));
        assert!(told[0].starts_with("path: "), "{path:?} {told:?}");
    }
}

#[test]
fn a_warm_up_does_not_take_a_path_that_means_something_else() {
    assert_eq!(
        spec(json!({ "warmup": "/warm" })).warmup.as_deref(),
        Some("/warm")
    );
    let long = format!("/{}", "a".repeat(32));
    for path in ["/ping", "/invocations", "/mine", "warm", long.as_str()] {
        let told = faults(json!({ "warmup": path, "path": "/mine" }));
        assert!(told[0].starts_with("warmup: "), "{path} {told:?}");
    }
}

#[test]
fn allowed_headers_are_lower_case_and_never_the_runtimes_own() {
    let spec = spec(json!({
        "request_headers": ["X-Tenant", "x-tenant", "Authorization"],
        "authorizer": {
            "discovery_url": "https://id.test/.well-known/openid-configuration",
            "allowed_audience": ["a"],
        },
    }));
    assert_eq!(spec.request_headers, ["x-tenant", "authorization"]);
    for name in [
        "",
        "1x",
        "a b",
        "Host",
        "Proxy-Authorization",
        "X-Amz-Date",
        "Authorization",
        "X-Amzn-RequestId",
        "WorkloadAccessToken",
        "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id",
    ] {
        let told = faults(json!({ "request_headers": ["x-ok", name] }));
        assert!(
            told[0].starts_with("request_headers[1]: "),
            "{name} {told:?}"
        );
    }
    let many: Vec<String> = (0..21).map(|n| format!("x-{n}")).collect();
    assert_eq!(faults(json!({ "request_headers": many })).len(), 1);
}

#[test]
fn allowed_ports_keep_to_the_contract() {
    let asked = json!({ "allowed_ports": [8000, "8001", "8080-8442", "8444-12000"] });
    let wire = spec(asked).wire;
    for (port, offered) in [
        (8000, true),
        (8001, true),
        (8002, false),
        (8442, true),
        (8443, false),
        (12_000, true),
        (12_001, false),
    ] {
        assert_eq!(wire.offers(port), offered, "{port}");
    }
    assert!(
        !spec(json!({})).wire.offers(8080),
        "the agent's own is not offered by itself"
    );
    for (entry, why) in [
        (json!(7999), "8000 to 12000"),
        (json!(12_001), "8000 to 12000"),
        (json!("80-9000"), "8000 to 12000"),
        (json!("9000-65535"), "8000 to 12000"),
        (json!(8443), "8443"),
        (json!("8440-8450"), "8443"),
        (json!("9001-9000"), "backwards"),
        (json!(8100), "overlap"),
        (json!("8050-8150"), "overlap"),
        (json!("8000-8200"), "overlap"),
    ] {
        let told = faults(json!({ "allowed_ports": ["8100-8110", entry] }));
        assert!(
            told.len() == 1 && told[0].starts_with("allowed_ports[1]: ") && told[0].contains(why),
            "{entry} {told:?}"
        );
    }
    let many = json!({ "allowed_ports": [8000, 8001, 8002, 8003, 8004, 8005] });
    assert!(faults(many)[0].starts_with("allowed_ports: has 6 entries"));
}

#[test]
fn a_language_version_that_the_base_lacks_is_refused_with_what_is_there() {
    for version in ["3", "3.11", "3.11.2"] {
        spec(json!({ "language_version": version }));
    }
    spec(json!({ "entrypoint": "a.js", "language_version": "22" }));
    for version in ["3.1", "3.12", "3.11.2.1", "2"] {
        let told = faults(json!({ "language_version": version }));
        assert!(told[0].starts_with("language_version: "), "{told:?}");
        assert!(told[0].contains("has Python 3.11.2"), "{told:?}");
    }
    for version in ["", "3.", "three", "3..1"] {
        assert_eq!(
            faults(json!({ "language_version": version })).len(),
            1,
            "{version}"
        );
    }
    assert_eq!(
        faults(json!({ "entrypoint": "a", "language_version": "1" })).len(),
        1
    );
}

#[test]
fn an_authorizer_keeps_to_the_contract() {
    let url = "https://id.test/.well-known/openid-configuration";
    let claim =
        |claim: Value| json!({ "authorizer": { "discovery_url": url, "custom_claims": [claim] } });
    spec(
        json!({ "authorizer": { "discovery_url": url, "allowed_audience": ["a"], "allowed_scopes": ["x:y"] } }),
    );
    spec(claim(
        json!({ "name": "g", "value_type": "STRING_ARRAY", "operator": "CONTAINS_ANY", "value": ["a"] }),
    ));
    for (authorizer, field) in [
        (json!({ "discovery_url": url }), "authorizer: must say"),
        (
            json!({ "discovery_url": url, "allowed_audience": [] }),
            "authorizer.allowed_audience: must have 1 to",
        ),
        (
            json!({ "discovery_url": url, "allowed_clients": [""] }),
            "authorizer.allowed_clients[0]: must be 1 to",
        ),
        (
            json!({ "discovery_url": url, "allowed_scopes": ["a b"] }),
            "authorizer.allowed_scopes[0]: has characters",
        ),
    ] {
        let found = faults(json!({ "authorizer": authorizer }));
        assert!(found[0].starts_with(field) && found.len() == 1, "{found:?}");
    }
    for bad in [
        "https://id.test/",
        "ftp://id.test/.well-known/openid-configuration",
        "https://id.test/.well-known/openid-configuration?a",
        "https://id.test/.well-known/openid-configuration#a",
        "https://id.test/.well-known/openid-configurations",
        "https:///.well-known/openid-configuration",
        "https://a@id.test/.well-known/openid-configuration",
        "https://id.test/.well-known/jwks.json",
    ] {
        let asked = json!({ "authorizer": { "discovery_url": bad, "allowed_audience": ["a"] } });
        assert!(
            faults(asked)[0].starts_with("authorizer.discovery_url: must be"),
            "{bad}"
        );
    }
    for (kind, operator, value) in [
        ("STRING", "CONTAINS", json!("a")),
        ("STRING", "EQUALS", json!(["a"])),
        ("STRING_ARRAY", "EQUALS", json!("a")),
        ("STRING_ARRAY", "CONTAINS_ANY", json!("a")),
    ] {
        let asked =
            claim(json!({ "name": "g", "value_type": kind, "operator": operator, "value": value }));
        assert!(
            faults(asked)[0].starts_with("authorizer.custom_claims[0].operator: must be"),
            "{kind} {operator}"
        );
    }
}
