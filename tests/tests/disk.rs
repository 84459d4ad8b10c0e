//! What a session may read from the host's disk, where the operator bounds it. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::{Daemon, Options, Result, cgroup, chaos, ground};
use serde_json::json;
use std::fs;

#[test]
fn the_operators_read_rate_reaches_the_kernel_of_every_session() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[limits]\nsession_read_rate = \"50M\"\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "reader", "sdk", json!({}))?;
        let id = session_name("disk");
        client.invoke("reader", &id, &json!({"do": "echo"}))?;
        let session = client.session(&id)?;
        let limits: Vec<String> = cgroup::named(session.id.as_str())
            .iter()
            .flat_map(|dir| ["io.max", "blkio.throttle.read_bps_device"].map(|file| dir.join(file)))
            .filter_map(|file| fs::read_to_string(file).ok())
            .filter(|text| !text.trim().is_empty())
            .collect();
        let limit = limits
            .first()
            .context("no cgroup of the session has a disk limit")?;
        ensure!(limit.contains("52428800"), "{limits:?}");
        Ok(())
    })
}
