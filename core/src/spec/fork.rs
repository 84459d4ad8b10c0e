//! Whether a runtime's sessions may be forks of a template, and how that is started.

use super::command::Command;
use proto::config::{Fork, Language, RuntimeConfig};

/// What loads the agent's program and stops where that would serve (`python/agentcore_template`).
const BOOTSTRAP: &str = "agentcore_template";

/// Where the agents of new sessions may come from, beside their own start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Forking {
    /// From nowhere: it was not asked for.
    #[default]
    Off,
    /// From nowhere, though it was: why.
    Unfit(&'static str),
    /// From a template that is started like this.
    From(Vec<String>),
}

/// `default`: of runtimes that do not say.
pub(super) fn resolve(
    config: &RuntimeConfig,
    default: Fork,
    command: Option<&Command>,
    warmup: Option<&str>,
) -> Forking {
    let Some(command) = command else {
        return Forking::Off;
    };
    match (config.fork.unwrap_or(default), command.language) {
        (Fork::Off, _) => Forking::Off,
        (Fork::Auto, Language::Node | Language::Binary) => {
            Forking::Unfit("only agents in Python can be forked")
        }
        (Fork::Auto, Language::Python) => {
            let mut argv = command.argv.clone();
            let warmup = warmup.map(|path| ["--warmup", path]);
            let bootstrap = ["-m", BOOTSTRAP]
                .into_iter()
                .chain(warmup.into_iter().flatten());
            argv.splice(1..1, bootstrap.map(str::to_owned));
            Forking::From(argv)
        }
    }
}
