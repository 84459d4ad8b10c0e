//! Which runtime a verb means when the user did not say: the one of `agentcore.toml` here, else the only one there is.

use crate::daemon::{Daemon, encode};
use crate::failure::{Exit, Failure};
use crate::project::Project;
use proto::api::{Runtime, Session};

/// `named` (a name, id or ARN), else the project's name, else the only runtime.
pub(crate) async fn runtime(daemon: &Daemon, named: Option<&str>) -> Result<String, Failure> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    if let Some(project) = Project::here()? {
        return Ok(project.config.name.to_string());
    }
    let all: Vec<Runtime> = daemon.list("/v1/runtimes").await?;
    match all.as_slice() {
        [only] => Ok(only.name.to_string()),
        [] => Err(
            Failure::new(Exit::NotFound, "the daemon has no runtime yet").advice(
                "deploy one: `agentcore configure -e my_agent.py`, then `agentcore launch`",
            ),
        ),
        several => {
            let names: Vec<&str> = several.iter().map(|each| each.name.as_str()).collect();
            Err(
                Failure::usage("which runtime? There are several, and no agentcore.toml here")
                    .advice(format!("say -a NAME with one of: {}", names.join(", "))),
            )
        }
    }
}

/// The plain name in `runtime`, which may also be an id (`name-AbCdEf1234`) or an ARN: `/v1` knows names.
pub(crate) fn plain_name(runtime: &str) -> &str {
    let id = runtime
        .rsplit_once(":runtime/")
        .map_or(runtime, |(_, id)| id);
    let id = id.split_once('/').map_or(id, |(id, _)| id);
    id.rsplit_once('-').map_or(id, |(name, _)| name)
}

/// `/v1/sessions/{id}{tail}`, with `?runtime=` where it narrows the search.
pub(crate) fn session_path(id: &str, tail: &str, runtime: Option<&str>) -> String {
    let query = match runtime {
        Some(name) => format!("?runtime={}", encode(plain_name(name))),
        None => String::new(),
    };
    format!("/v1/sessions/{}{tail}{query}", encode(id))
}

/// The daemon's sessions, of one runtime or all.
pub(crate) async fn sessions(
    daemon: &Daemon,
    runtime: Option<&str>,
) -> Result<Vec<Session>, Failure> {
    let query = match runtime {
        Some(name) => format!("?runtime={}", encode(plain_name(name))),
        None => String::new(),
    };
    Ok(daemon.list(&format!("/v1/sessions{query}")).await?)
}

/// The same, and what waits in pools.
pub(crate) async fn sessions_and_pools(
    daemon: &Daemon,
    runtime: Option<&str>,
) -> Result<Vec<Session>, Failure> {
    let of = runtime.map(|name| format!("&runtime={}", encode(plain_name(name))));
    let of = of.unwrap_or_default();
    Ok(daemon.list(&format!("/v1/sessions?pool=true{of}")).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_of_ids_and_arns() {
        let arn = "arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/my_agent-AbCdEf1234";
        for text in [
            "my_agent",
            "my_agent-AbCdEf1234",
            arn,
            &format!("{arn}/runtime-endpoint/DEFAULT"),
        ] {
            assert_eq!(plain_name(text), "my_agent", "{text}");
        }
    }
}
