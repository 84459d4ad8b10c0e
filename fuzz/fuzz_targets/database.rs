//! A database file of any bytes: refused and left as it is, or opened and readable (security-bar Z13).
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use supervisor::store::{Names, PageRequest, SessionFilter, Store};

fuzz_target!(|bytes: &[u8]| {
    let directory = fuzz::scratch();
    let path = directory.path().join("agentcore.db");
    fs::write(&path, bytes).expect("written");
    let names = Names { region: "us-local-1".into(), account: "000000000000".into() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    match Store::open(&path, names) {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(fs::read(&path).expect("still there"), bytes, "a refused file was changed");
        }
        Ok(store) => runtime.block_on(async {
            let all = || PageRequest::parse(Some(1000), None).expect("valid");
            // Any of them may fail on a damaged row; none may panic.
            let _ = store.runtimes(all()).await;
            let _ = store.artifacts(all()).await;
            let _ = store.sessions(all(), SessionFilter::default()).await;
            let _ = store.live_sessions().await;
            let _ = store.next_epoch().await;
            store.close().await;
        }),
    }
});
