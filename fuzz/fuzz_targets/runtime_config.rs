//! A runtime's configuration, as TOML and as JSON: refused with faults, or a spec that is safe to launch.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::config::RuntimeConfig;
use session_core::spec::{BUNDLE, HOME, HostPolicy, Interpreters, NetworkGrant, PoolGrant, RuntimeSpec, Settings, StorageGrant};

fn policy() -> HostPolicy {
    HostPolicy {
        defaults: Settings::BUILT_IN,
        ceilings: Settings::BUILT_IN_CEILINGS,
        network: NetworkGrant::default(),
        storage: StorageGrant {
            max_size: StorageGrant::BUILT_IN_SIZE,
            unavailable: None,
        },
        pool: PoolGrant::default(),
        fork: proto::config::Fork::Auto,
        interpreters: Interpreters {
            python: Some("/usr/bin/python3".to_owned()),
            node: Some("/usr/bin/node".to_owned()),
            python_version: Some("3.11.2".to_owned()),
            node_version: Some("22.14.0".to_owned()),
        },
        url: None,
        region: "us-local-1".to_owned(),
        agent_uid: 1,
        agent_gid: 1,
        open_files: 4096,
        freeze_after: HostPolicy::FREEZE_AFTER,
    }
}

fn check(config: &RuntimeConfig) {
    // What the store writes is what it reads.
    let written = serde_json::to_string(config).expect("writable");
    let read: RuntimeConfig = serde_json::from_str(&written).expect("readable");
    assert_eq!(*config, read);
    let policy = policy();
    let spec = match RuntimeSpec::resolve(config, &policy) {
        Ok(spec) => spec,
        Err(faults) => {
            assert!(!faults.is_empty() && faults.len() <= 64);
            assert!(faults.iter().all(|f| !f.name.is_empty() && f.message.len() < 2000));
            return;
        }
    };
    if let Some(storage) = &spec.storage {
        assert!(!storage.name.contains(['/', '\0']) && !["", ".", ".."].contains(&storage.name.as_str()));
    }
    let parts: Vec<&str> = spec.entry_file.split('/').collect();
    assert!(parts.iter().all(|part| !["", ".", ".."].contains(part)));
    assert!(!spec.entry_file.contains(['\0', '\\', '\n']));
    let path = format!("{BUNDLE}/{}", spec.entry_file);
    let program = &spec.agent.argv[0];
    assert!(["/usr/bin/python3", "/usr/bin/node"].contains(&program.as_str()) || *program == path);
    assert!(spec.agent.argv.contains(&path));
    assert!(spec.agent.argv.iter().all(|word| !word.contains('\0')));
    assert!(spec.agent.uid != 0 && spec.agent.gid != 0);
    assert_eq!((spec.agent.cwd.as_str(), spec.agent.env["HOME"].as_str()), (BUNDLE, HOME));
    for (name, value) in &spec.agent.env {
        assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
    }
    let (limits, top, times) = (spec.limits, policy.ceilings, spec.timeouts);
    assert!(limits.memory <= top.memory && limits.cpus <= top.cpus && limits.pids <= top.pids);
    assert!(limits.tmp_size <= top.tmp_size && limits.memory.0 > 0 && limits.pids > 0);
    assert!(times.idle <= times.max_lifetime && times.max_lifetime <= top.max_lifetime.duration());
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = toml::from_str::<RuntimeConfig>(text) {
        check(&config);
    }
    if let Ok(config) = serde_json::from_str::<RuntimeConfig>(text) {
        check(&config);
    }
});
