//! The verbs, one file each: `run` gets the parsed arguments and a [`Desk`] and gives an exit code or a failure.

use crate::args::{CommandLine, Verb};
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::signer::Signer;
use std::process::ExitCode;

mod backup;
mod bench;
mod budget;
mod completion;
mod configure;
mod destroy;
mod dev;
mod doctor;
mod exec;
mod invoke;
mod keys;
mod launch;
mod logs;
mod manual;
mod runtime;
mod session;
mod status;
mod task;
mod top;
mod usage;
mod version;

pub(crate) use top::Sort;

/// What every verb works with.
#[derive(Debug, Clone)]
struct Desk {
    screen: Screen,
    daemon: Daemon,
}

/// Does what the command line says.
pub(crate) async fn run(screen: Screen, line: CommandLine) -> Result<ExitCode, Failure> {
    let desk = Desk {
        screen,
        daemon: Daemon::at(
            line.endpoint,
            Signer::from_environment(|name| std::env::var(name).ok()),
        ),
    };
    let done = match line.verb {
        Verb::Configure(args) => configure::run(&desk, &args),
        Verb::Launch(args) => launch::run(&desk, &args).await,
        Verb::Invoke(args) => invoke::run(&desk, args).await,
        Verb::Status(args) => status::run(&desk, &args).await,
        Verb::Logs(args) => logs::run(&desk, &args).await,
        Verb::Task(args) => task::run(&desk, &args).await,
        Verb::Session(args) => session::run(&desk, &args).await,
        Verb::Runtime(args) => runtime::run(&desk, &args).await,
        Verb::Usage(args) => usage::run(&desk, &args).await,
        Verb::Budget(args) => budget::run(&desk, &args).await,
        Verb::Keys(args) => keys::run(&desk, &args).await,
        Verb::Top(args) => top::run(&desk, &args).await,
        Verb::Exec(args) => return exec::run(&desk, args).await,
        Verb::Destroy(args) => destroy::run(&desk, &args).await,
        Verb::Doctor => return doctor::run(&desk).await,
        Verb::Dev(args) => dev::run(&desk, &args).await,
        Verb::Bench(args) => bench::run(&desk, &args).await,
        Verb::Backup { file } => backup::run(&desk, &file).await,
        Verb::Completion { shell } => completion::run(&desk, shell),
        Verb::Manual { directory } => manual::run(&directory),
        Verb::Version { client } => version::run(&desk, client).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
