//! The chaos agent of `tests/agents/chaos`: does on purpose what bad agents do.

use crate::client::Client;
use proto::api::Runtime;
use serde_json::{Value, json};

/// Deploys it under `name`, starting in `mode` (`sdk`, `no_listen`, …: `starting.py`); `more` is merged into its configuration.
pub fn deploy(client: &Client, name: &str, mode: &str, more: Value) -> anyhow::Result<Runtime> {
    let mut all = json!({"environment": {"AGENT_MODE": mode}});
    merge(&mut all, more);
    crate::deploy::agent(client, "chaos", name, "main.py", all)
}

/// Deep merge of objects; `more` wins.
pub fn merge(all: &mut Value, more: Value) {
    match (all, more) {
        (Value::Object(all), Value::Object(more)) => {
            for (key, value) in more {
                merge(all.entry(key).or_insert(Value::Null), value);
            }
        }
        (all, more) => *all = more,
    }
}

/// What it prints before every end of its own making.
pub const LAST_WORDS: &str = "chaos: last words before the end";
