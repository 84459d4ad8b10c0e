//! What one session plants, no other finds, reads, signals or connects to; and a quota that one fills is not another's.
//! Tier: root.

use anyhow::ensure;
use e2e::canaries::peer;
use e2e::client::session_name;
use e2e::{Daemon, Options, Result, ground, probe};
use serde_json::json;

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
        let mut green = 0;
        for (runtime, hunter, _) in &sessions {
            for (_, prey, planted) in sessions.iter().filter(|(_, id, _)| id != hunter) {
                let told = peer(&client.session(prey)?, planted)?;
                let verdicts =
                    probe::run(&client, runtime, hunter, &json!({"hunt": {"peer": told}}))?;
                verdicts.all_green(15)?;
                green += verdicts.with("PASS").len();
            }
        }
        println!("{green} hunts in 12 pairs, none succeeded");
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
