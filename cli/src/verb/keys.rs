//! `agentcore keys create|list|revoke`.

use super::Desk;
use crate::args::KeysVerb;
use crate::daemon::encode;
use crate::failure::Failure;
use crate::table::{Table, age};
use proto::api::{AccessKey, Info, NewAccessKey, NewAccessKeyRequest};
use serde_json::json;
use std::time::SystemTime;

/// Does what the verb says.
pub(super) async fn run(desk: &Desk, verb: &KeysVerb) -> Result<(), Failure> {
    match verb {
        KeysVerb::Create {
            name,
            agents,
            actions,
            objects,
            expires_in,
        } => {
            let request = NewAccessKeyRequest {
                name: name.clone(),
                runtimes: (!agents.is_empty()).then(|| agents.clone()),
                actions: (!actions.is_empty()).then(|| actions.clone()),
                objects: (!objects.is_empty()).then(|| objects.clone()),
                expires_in: *expires_in,
            };
            create(desk, &request).await
        }
        KeysVerb::List { all } => list(desk, *all).await,
        KeysVerb::Revoke { keys } => revoke(desk, keys).await,
    }
}

/// As the lines of an environment file, so that it can go where AWS's tools look.
async fn create(desk: &Desk, request: &NewAccessKeyRequest) -> Result<(), Failure> {
    let screen = &desk.screen;
    let made: NewAccessKey = desk.daemon.post("/v1/keys", request).await?;
    if screen.json {
        return screen.document(&made);
    }
    let info: Info = desk.daemon.get("/v1/info").await?;
    screen.line(format!("AWS_ACCESS_KEY_ID={}", made.key.access_key_id))?;
    screen.line(format!("AWS_SECRET_ACCESS_KEY={}", made.secret_access_key))?;
    // AWS's newer tools read the one, boto3 the other.
    for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        screen.line(format!("{name}={}", info.region))?;
    }
    screen.note("the secret is shown this once; the daemon cannot tell it again");
    Ok(())
}

async fn list(desk: &Desk, all: bool) -> Result<(), Failure> {
    let screen = &desk.screen;
    let mut keys: Vec<AccessKey> = desk.daemon.list("/v1/keys").await?;
    keys.retain(|key| all || key.revoked_at.is_none());
    if screen.json {
        return screen.document(&keys);
    }
    if screen.quiet {
        return keys
            .iter()
            .try_for_each(|key| screen.line(&key.access_key_id));
    }
    let now = SystemTime::now();
    let mut table = Table::new([
        "KEY", "NAME", "RUNTIMES", "ACTIONS", "OBJECTS", "AGE", "ENDS",
    ]);
    for key in &keys {
        let runtimes = key.runtimes.as_ref().map(|names| {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            names.join(", ")
        });
        let ends = match (&key.revoked_at, &key.expires_at) {
            (Some(at), _) => format!("revoked {at}"),
            (None, Some(at)) => at.clone(),
            (None, None) => "never".to_owned(),
        };
        let any = || "any".to_owned();
        table.row([
            key.access_key_id.clone(),
            screen.foreign(&key.name).into_owned(),
            runtimes.unwrap_or_else(any),
            key.actions.as_ref().map_or_else(any, |all| all.join(", ")),
            objects(key),
            age(&key.created_at, now),
            ends,
        ]);
    }
    screen.line(table.text())
}

async fn revoke(desk: &Desk, keys: &[String]) -> Result<(), Failure> {
    let screen = &desk.screen;
    for key in keys {
        desk.daemon
            .delete(&format!("/v1/keys/{}", encode(key)))
            .await?;
        if !screen.json {
            screen.line(if screen.quiet {
                key.clone()
            } else {
                format!("Revoked {key}")
            })?;
        }
    }
    if screen.json {
        return screen.document(&json!({ "revoked": keys }));
    }
    Ok(())
}

/// Which objects a key may act on, as [`AccessKey`] means it.
fn objects(key: &AccessKey) -> String {
    match (&key.objects, &key.runtimes, &key.actions) {
        (Some(patterns), ..) => patterns.join(", "),
        (None, Some(_), _) => "none".to_owned(),
        (None, None, Some(_)) => "its own".to_owned(),
        (None, None, None) => "any".to_owned(),
    }
}
