//! What one session plants, no other finds, reads, signals or connects to; and a quota that one fills is not another's.
//! Tier: root.

use anyhow::{Context as _, ensure};
use e2e::canaries::peer;
use e2e::client::session_name;
use e2e::{Daemon, Options, Result, ground, host, probe};
use proto::api::Session;
use serde_json::{Value, json};

#[test]
fn no_session_finds_what_another_planted() -> Result {
    hunts(&json!({"fork": "off", "pool": {"max": 0}}), false)
}

/// What they have in common with their template is nobody's to take from the others.
#[test]
fn no_session_finds_what_another_of_its_template_planted() -> Result {
    hunts(&json!({"fork": "auto", "pool": {"max": 0}}), true)
}

fn hunts(origin: &Value, forked: bool) -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let mut config = json!({"resources": {"cpus": 2}});
        e2e::chaos::merge(&mut config, origin.clone());
        probe::deploy(&client, "probe", config)?;
        // Sessions of one runtime, and one of another runtime with the same code.
        probe::deploy(&client, "stranger", origin.clone())?;
        if forked {
            probe::warm(&client, "probe", &json!({"list": true}))?;
        }
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
            let id = session_name(&format!("fresh{n}"));
            client.start(runtime, &id, &json!({"list": true}))?;
            sessions.push((runtime, id, Value::Null));
        }
        let session = |runtime: &str, id: &str| -> anyhow::Result<Session> {
            client.get(&format!("/v1/sessions/{id}?runtime={runtime}"))
        };
        let (mut green, mut pairs) = (0, 0);
        for (runtime, hunter, own) in &sessions {
            let shim = session(runtime, hunter)?.pid.context("pid")?;
            if *runtime == "probe" {
                ensure!(host::is_forked(shim)? == forked, "{hunter}");
            }
            for (owner, prey, planted) in &sessions {
                if hunter == prey || planted.is_null() {
                    continue;
                }
                let told = peer(&session(owner, prey)?, planted)?;
                let ids = if own.is_null() { "Y*" } else { "Y0[1-8]*" };
                let promised = host::inotify_promised(shim)?;
                let limits = json!({"inotify": promised.instances, "watches": promised.watches});
                let payload = json!({"run": [ids], "canaries": {"peer": told}, "limits": limits});
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
        let again = client.start("probe", &id, &json!({"list": true}))?;
        let promised = host::inotify_promised(again.pid.context("pid")?)?;
        let limits = json!({"inotify": promised.instances, "watches": promised.watches});
        let payload = json!({"hunt": {"peer": told}, "limits": limits});
        probe::run(&client, "probe", &id, &payload)?.all_green(12)
    })
}
