//! What one session plants, no other finds, reads, signals or connects to; and a quota that one fills is not another's.
//! Tier: root.

use anyhow::{Context as _, ensure};
use e2e::canaries::peer;
use e2e::client::session_name;
use e2e::{Daemon, Options, Result, ground, probe};
use serde_json::{Value, json};

#[test]
fn no_session_finds_what_another_planted() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        probe::deploy(&client, "probe", json!({"resources": {"cpus": 2}}))?;
        // Sessions of one runtime, and one of another runtime with the same code.
        probe::deploy(&client, "stranger", json!({}))?;
        let mut sessions = Vec::new();
        for n in 0..4 {
            let runtime = if n == 3 { "stranger" } else { "probe" };
            let id = session_name(&format!("cross{n}"));
            let planted = probe::plant(&client, runtime, &id, &format!("cross{n}"))?;
            let refused = planted["refused"]
                .as_object()
                .map_or(0, serde_json::Map::len);
            ensure!(refused <= 3, "nothing was planted to be found: {planted}");
            sessions.push((runtime, id, planted));
        }
        // Who has planted has used up quotas of its own: the quota probes (Y09) are for the fresh ones.
        for (n, runtime) in ["probe", "stranger"].into_iter().enumerate() {
            sessions.push((runtime, session_name(&format!("fresh{n}")), Value::Null));
        }
        let (mut green, mut pairs) = (0, 0);
        for (runtime, hunter, own) in &sessions {
            for (owner, prey, planted) in &sessions {
                if hunter == prey || planted.is_null() {
                    continue;
                }
                let path = format!("/v1/sessions/{prey}?runtime={owner}");
                let told = peer(&client.get(&path)?, planted)?;
                let ids = if own.is_null() { "Y*" } else { "Y0[1-8]*" };
                let payload = json!({"run": [ids], "canaries": {"peer": told}});
                let verdicts = probe::run(&client, runtime, hunter, &payload)?;
                verdicts
                    .all_green(15)
                    .with_context(|| format!("{hunter} hunts {prey}"))?;
                green += verdicts.with("PASS").len();
                pairs += 1;
            }
        }
        println!("{green} hunts in {pairs} pairs, none succeeded");
        Ok(())
    })
}

#[test]
fn nothing_planted_survives_into_the_same_id_again() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        probe::deploy(&client, "probe", json!({}))?;
        let id = session_name("again");
        let planted = probe::plant(&client, "probe", &id, "again")?;
        let told = peer(&client.session(&id)?, &planted)?;
        client.stop(&id)?;
        // Its pid may be anybody's now; all else must be gone.
        probe::run(&client, "probe", &id, &json!({"hunt": {"peer": told}}))?.all_green(12)
    })
}
