//! The daemon's configuration file: every fault with its place, or a configuration that keeps the rules which no typing
//! error may break.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::config::NetworkMode;
use std::fs;
use supervisor::config::{Args, TcpAuth, load_from};

fuzz_target!(|text: &[u8]| {
    let etc = fuzz::scratch();
    fs::write(etc.path().join("agentcored.toml"), text).expect("written");
    match load_from(&Args::default(), [], etc.path()) {
        Err(faults) => assert!(!faults.is_empty() && !faults.to_string().is_empty()),
        Ok(config) => {
            assert!(config.listen.is_empty() || config.auth == TcpAuth::None);
            assert!(config.listen.iter().all(|address| address.ip().is_loopback()));
            assert!(config.state_dir.is_absolute() && config.runtime_dir.is_absolute());
            assert!(config.broker_user != "root" && config.account.len() == 12);
            let (defaults, ceilings) = (config.defaults, config.ceilings);
            assert!(defaults.memory <= ceilings.memory && defaults.pids <= ceilings.pids);
            assert!(defaults.idle_timeout <= defaults.max_lifetime);
            assert!(config.network.allow_private.inexact().is_empty());
            let grant = &config.network.grant;
            assert!(grant.ceiling == NetworkMode::Outbound || grant.mode == NetworkMode::None);
        }
    }
});
