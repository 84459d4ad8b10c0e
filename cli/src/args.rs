//! The command line: every verb and flag, as `--help` shows them.
//!
//! For: parsing, and nothing else; values that can be checked without the daemon are checked here (exit code 2).

use crate::endpoint::{self, Endpoint};
use crate::verb::Sort;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use clap_complete::Shell;
use proto::config::{Language, NetworkMode, Protocol};
use proto::ids::{ClientSessionId, RuntimeName};
use proto::units::{CpuMillis, MemoryBytes};
use std::path::PathBuf;

pub(crate) mod bench;
mod task;
pub(crate) use task::{Submission, TaskVerb};
pub(crate) mod usage;

/// Heading of the flags that every verb has.
const GLOBAL: &str = "Global options";

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not found, 4 conflict, 5 not permitted,
69 daemon unreachable, 75 try again later, 124 timed out; exec passes the command's own.";

/// Runs AI agents on this machine, every session in an isolated process tree of its own.
#[derive(Debug, Parser)]
#[command(name = "agentcore", version, after_help = EXIT_CODES, max_term_width = 100)]
#[command(arg_required_else_help = true)]
pub(crate) struct CommandLine {
    /// Where the daemon listens: unix:PATH or http://HOST:PORT
    #[arg(
        long,
        global = true,
        env = "AGENTCORE_ENDPOINT",
        hide_env_values = true
    )]
    #[arg(default_value = endpoint::DEFAULT, value_name = "ENDPOINT", help_heading = GLOBAL)]
    pub(crate) endpoint: Endpoint,
    /// Print JSON
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) json: bool,
    /// Print names and ids only, and no progress
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(crate) quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write or change agentcore.toml beside an agent
    Configure(Configure),
    /// Bundle this folder's agent, upload it, and make it a runtime's next version
    #[command(visible_alias = "deploy")]
    Launch(Launch),
    /// Send a payload to a runtime and print its answer
    Invoke(Invoke),
    /// Show a runtime, its version and sessions, and how to call it
    Status(Target),
    /// Show what agents wrote to standard output and standard error
    Logs(Logs),
    /// List, follow and cancel asynchronous tasks, and get their answers
    #[command(subcommand)]
    Task(TaskVerb),
    /// List, inspect, limit, freeze, thaw and stop sessions
    #[command(subcommand)]
    Session(SessionVerb),
    /// List, inspect, limit and delete runtimes
    #[command(subcommand)]
    Runtime(RuntimeVerb),
    /// Show what runtimes, sessions and users used, and what it costs; or verify the records
    Usage(usage::Usage),
    /// List budgets that are used up, and approve more
    #[command(subcommand)]
    Budget(usage::BudgetVerb),
    /// Make, list and revoke access keys for signed requests over TCP
    #[command(subcommand)]
    Keys(KeysVerb),
    /// Show live sessions and what they use, renewed every few seconds; stop and freeze them from there
    Top(Top),
    /// Run a command inside a session, beside its agent
    Exec(Exec),
    /// Delete a runtime with all its versions, and stop its sessions
    Destroy(Destroy),
    /// Check what this host offers, and test the isolation from inside a real session
    Doctor,
    /// Serve this folder's agent on localhost, in a real session, reloaded when files change
    Dev(Dev),
    /// Measure how long callers wait for a runtime: of new sessions, and of one that is ready
    Bench(bench::Bench),
    /// Copy the daemon's database to a file, while it is used
    Backup {
        /// The file to make; it must not be there
        file: PathBuf,
    },
    /// Print a completion script for a shell
    Completion {
        /// For which shell: bash, zsh or fish
        #[arg(value_parser = shell)]
        shell: Shell,
    },
    /// Write the manual pages of this command into a folder (for packages)
    #[command(hide = true)]
    Manual {
        /// The folder
        directory: PathBuf,
    },
    /// Print the versions of this command and of the daemon
    Version {
        /// Of this command only
        #[arg(long)]
        client: bool,
    },
}

/// Which runtime.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Runtime: name, id or ARN [default: the one of ./agentcore.toml, else the only one]
    #[arg(short = 'a', long = "agent", value_name = "NAME")]
    pub(crate) agent: Option<String>,
}

/// `configure`.
#[derive(Debug, Args)]
pub(crate) struct Configure {
    /// The agent: a Python or JavaScript file, or an executable
    #[arg(short, long, value_name = "FILE")]
    pub(crate) entrypoint: Option<PathBuf>,
    /// Name of the runtime [default: from the file's name]
    #[arg(short, long, value_parser = runtime_name)]
    pub(crate) name: Option<RuntimeName>,
    /// What the agent speaks
    #[arg(short, long, value_name = "PROTOCOL", ignore_case = true, value_enum)]
    pub(crate) protocol: Option<ProtocolName>,
    /// What runs the entrypoint [default: from the file's extension]
    #[arg(long, value_enum)]
    pub(crate) language: Option<LanguageName>,
    /// Memory of a session, for example 512M
    #[arg(long, value_name = "SIZE", value_parser = MemoryBytes::parse)]
    pub(crate) memory: Option<MemoryBytes>,
    /// CPUs of a session, for example 1 or 0.5
    #[arg(long, value_name = "NUMBER", value_parser = cpus)]
    pub(crate) cpus: Option<CpuMillis>,
    /// End a session that was idle for so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u32).range(60..=1_209_600))]
    pub(crate) idle_timeout: Option<u32>,
    /// End a session that is so many seconds old
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u32).range(60..=1_209_600))]
    pub(crate) max_lifetime: Option<u32>,
    /// Environment of every session (repeatable)
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = variable)]
    pub(crate) environment: Vec<(String, String)>,
    /// Python requirements that launch installs into the bundle [default: requirements.txt if it is there]
    #[arg(
        short,
        long = "requirements",
        alias = "requirements-file",
        value_name = "FILE"
    )]
    pub(crate) requirements: Option<String>,
    /// What sessions may reach
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) network: Option<NetworkName>,
}

/// `launch`.
#[derive(Debug, Args)]
pub(crate) struct Launch {
    /// The agentcore.toml, or the folder that holds it
    #[arg(short, long, value_name = "PATH", default_value = ".")]
    pub(crate) file: PathBuf,
    /// Set a variable for this version, over those of agentcore.toml (repeatable)
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = variable)]
    pub(crate) environment: Vec<(String, String)>,
    /// Install the requirements again, even if they are cached
    #[arg(long)]
    pub(crate) force_rebuild_deps: bool,
}

/// `invoke`.
#[derive(Debug, Args)]
pub(crate) struct Invoke {
    /// JSON text, @FILE, or - for standard input
    pub(crate) payload: String,
    /// Which runtime.
    #[command(flatten)]
    pub(crate) target: Target,
    /// Continue or begin this session (33 to 256 characters) [default: a new one]
    #[arg(short, long, value_name = "SESSION", value_parser = session_id)]
    pub(crate) session_id: Option<ClientSessionId>,
    /// On whose behalf
    #[arg(short, long, value_name = "USER")]
    pub(crate) user_id: Option<String>,
    /// Print the events of a streamed answer as they come, decoded
    #[arg(long)]
    pub(crate) stream: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<std::time::Duration>,
    /// Send the payload as it is, JSON or not
    #[arg(long)]
    pub(crate) raw: bool,
    /// Of `--async`.
    #[command(flatten)]
    pub(crate) submission: Submission,
}

/// `logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Which runtime.
    #[command(flatten)]
    pub(crate) target: Target,
    /// Only this session [default: all of the runtime]
    #[arg(short, long, value_name = "SESSION")]
    pub(crate) session: Option<String>,
    /// Go on until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines of each session [default: 1000]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) tail: Option<u32>,
}

/// `session …`.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionVerb {
    /// List sessions
    List {
        /// Only of this runtime
        #[arg(short = 'a', long = "agent", value_name = "NAME")]
        agent: Option<String>,
        /// Also those that have ended
        #[arg(long)]
        all: bool,
        /// Also those that wait in pools and are nobody's yet
        #[arg(long)]
        pool: bool,
    },
    /// Show everything about a session
    Inspect {
        /// Our id or the caller's
        session: String,
        /// If several runtimes know the session
        #[arg(short = 'a', long = "agent", value_name = "NAME")]
        agent: Option<String>,
    },
    /// Stop sessions and wait until they have ended
    Stop {
        /// Our ids or the callers'
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        sessions: Vec<String>,
        /// All sessions, or all of the runtime
        #[arg(long)]
        all: bool,
        /// Only of this runtime
        #[arg(short = 'a', long = "agent", value_name = "NAME")]
        agent: Option<String>,
    },
    /// Stop every process of sessions where it is: they keep their memory, use no CPU, and refuse calls
    Freeze {
        /// Our ids or the callers'
        #[arg(required = true)]
        sessions: Vec<String>,
        /// Told to whoever calls them meanwhile
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// If several runtimes know the session
        #[arg(short = 'a', long = "agent", value_name = "NAME")]
        agent: Option<String>,
    },
    /// Show a session's limits as the kernel has them, or change them while it runs
    Limits {
        /// Our id or the caller's
        session: String,
        /// What to change.
        #[command(flatten)]
        change: LimitFlags,
        /// If several runtimes know the session
        #[arg(short = 'a', long = "agent", value_name = "NAME")]
        agent: Option<String>,
    },
    /// Let frozen sessions go on where they were
    Thaw {
        /// Our ids or the callers'
        #[arg(required = true)]
        sessions: Vec<String>,
        /// If several runtimes know the session
        #[arg(short = 'a', long = "agent", value_name = "NAME")]
        agent: Option<String>,
    },
}

/// New limits of sessions that run.
#[derive(Debug, Args)]
pub(crate) struct LimitFlags {
    /// Memory, for example 1G
    #[arg(long, value_name = "SIZE", value_parser = MemoryBytes::parse)]
    pub(crate) memory: Option<MemoryBytes>,
    /// CPUs, for example 2 or 0.5
    #[arg(long, value_name = "NUMBER", value_parser = cpus)]
    pub(crate) cpus: Option<CpuMillis>,
    /// Processes and threads
    #[arg(long, value_name = "NUMBER")]
    pub(crate) pids: Option<u32>,
    /// Share of the processors where others want them too; 100 is what everybody has
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) cpu_weight: Option<u32>,
}

/// `runtime …`.
#[derive(Debug, Subcommand)]
pub(crate) enum RuntimeVerb {
    /// List runtimes
    List,
    /// Show everything about a runtime
    Inspect {
        /// Its name
        name: String,
    },
    /// List a runtime's versions
    Versions {
        /// Its name
        name: String,
    },
    /// Change resources of a runtime: its next version has them, and so have the sessions that live
    Limits {
        /// Its name
        name: String,
        /// What to change.
        #[command(flatten)]
        change: LimitFlags,
    },
    /// Make an earlier version the newest again: its code and configuration, as a version of its own
    Rollback {
        /// Its name
        name: String,
        /// Which version [default: the one before the newest]
        #[arg(long, value_name = "VERSION", value_parser = value_parser!(u32).range(1..))]
        to: Option<u32>,
    },
    /// Delete a runtime with all its versions, and stop its sessions
    Delete {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// `keys …`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysVerb {
    /// Make an access key and print its secret, this once; without limits it is an operator's
    Create {
        /// Whose it is, or what for
        name: String,
        /// Only for this runtime (repeatable)
        #[arg(short = 'a', long = "agent", value_name = "NAME", value_parser = runtime_name)]
        agents: Vec<RuntimeName>,
        /// Only for this action, such as InvokeAgentRuntime, Invoke* or s3:* (repeatable)
        #[arg(long = "action", value_name = "ACTION")]
        actions: Vec<String>,
        /// Only for these uploaded objects: BUCKET/KEY or BUCKET/PREFIX* (repeatable) [default: its own; with -a, none]
        #[arg(long = "object", value_name = "PATTERN")]
        objects: Vec<String>,
        /// End it after so many seconds, or 30m, 12h, 90d [default: never]
        #[arg(long, value_name = "TIME", value_parser = lifetime)]
        expires_in: Option<u64>,
    },
    /// List keys, without their secrets
    List {
        /// Also those that were revoked
        #[arg(long)]
        all: bool,
    },
    /// End keys at once
    Revoke {
        /// Their ids
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
}

/// `top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Which runtime's.
    #[command(flatten)]
    pub(crate) target: OnlyAgent,
    /// Between two looks, in seconds; at least 1.1
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub(crate) delay: std::time::Duration,
    /// Print so many tables and end [default: 1 where there is no terminal]
    #[arg(short, long, value_name = "NUMBER", value_parser = value_parser!(u32).range(1..))]
    pub(crate) number: Option<u32>,
    /// What comes first
    #[arg(long, value_enum, default_value = "cpu", value_name = "COLUMN")]
    pub(crate) sort: Sort,
}

/// Perhaps only one runtime's.
#[derive(Debug, Args)]
pub(crate) struct OnlyAgent {
    /// Only of this runtime
    #[arg(short = 'a', long = "agent", value_name = "NAME")]
    pub(crate) agent: Option<String>,
}

/// `exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Our id or the caller's
    #[arg(short, long, value_name = "SESSION")]
    pub(crate) session: String,
    /// If several runtimes know the session
    #[arg(short = 'a', long = "agent", value_name = "NAME")]
    pub(crate) agent: Option<String>,
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Add to the command's environment (repeatable)
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = variable)]
    pub(crate) environment: Vec<(String, String)>,
    /// Working directory [default: the agent's]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Program and arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<String>,
}

/// `destroy`.
#[derive(Debug, Args)]
pub(crate) struct Destroy {
    /// Which runtime.
    #[command(flatten)]
    pub(crate) target: Target,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `dev`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Port on 127.0.0.1 [default: 8080, or the next free one]
    #[arg(short, long)]
    pub(crate) port: Option<u16>,
    /// The agentcore.toml, or the folder that holds it
    #[arg(short, long, value_name = "PATH", default_value = ".")]
    pub(crate) file: PathBuf,
    /// Set a variable, over those of agentcore.toml (repeatable)
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = variable)]
    pub(crate) environment: Vec<(String, String)>,
}

/// Protocols as the command line spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum ProtocolName {
    /// Port 8080, POST /invocations
    Http,
    /// Port 8000, POST /mcp
    Mcp,
    /// Port 9000, POST /
    A2a,
    /// Port 8080, events
    Agui,
}

impl From<ProtocolName> for Protocol {
    fn from(name: ProtocolName) -> Self {
        match name {
            ProtocolName::Http => Self::Http,
            ProtocolName::Mcp => Self::Mcp,
            ProtocolName::A2a => Self::A2a,
            ProtocolName::Agui => Self::Agui,
        }
    }
}

/// Languages as the command line spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LanguageName {
    /// python3 FILE
    Python,
    /// node FILE
    Node,
    /// The file itself
    Binary,
}

impl From<LanguageName> for Language {
    fn from(name: LanguageName) -> Self {
        match name {
            LanguageName::Python => Self::Python,
            LanguageName::Node => Self::Node,
            LanguageName::Binary => Self::Binary,
        }
    }
}

/// Network modes as the command line spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkName {
    /// Through a proxy that refuses private addresses
    Outbound,
    /// Loopback only
    None,
}

impl From<NetworkName> for NetworkMode {
    fn from(name: NetworkName) -> Self {
        match name {
            NetworkName::Outbound => Self::Outbound,
            NetworkName::None => Self::None,
        }
    }
}

fn runtime_name(text: &str) -> Result<RuntimeName, String> {
    RuntimeName::parse(text).map_err(|error| error.to_string())
}

fn session_id(text: &str) -> Result<ClientSessionId, String> {
    ClientSessionId::parse(text).map_err(|error| {
        format!("{error}; a UUID is a good one, and without -s a new one is made and told")
    })
}

fn lifetime(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("write a number of seconds, or 30m, 12h, 90d".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "write a number of seconds, or 30m, 12h, 90d".to_owned())?;
    match number.checked_mul(unit) {
        Some(seconds) if seconds > 0 => Ok(seconds),
        Some(_) | None => Err("must be more than 0, and less than for ever".to_owned()),
    }
}

fn shell(text: &str) -> Result<Shell, String> {
    match text {
        "bash" => Ok(Shell::Bash),
        "zsh" => Ok(Shell::Zsh),
        "fish" => Ok(Shell::Fish),
        _ => Err("write bash, zsh or fish".to_owned()),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("write KEY=VALUE".to_owned()),
    }
}

fn cpus(text: &str) -> Result<CpuMillis, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| "write a number, for example 0.5".to_owned())?;
    CpuMillis::from_cpus(number).map_err(|error| error.to_string())
}

fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| "write a number of seconds".to_owned())?;
    if number <= 0.0 {
        return Err("must be more than 0".to_owned());
    }
    std::time::Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn lifetimes_have_units() {
        assert_eq!(lifetime("90"), Ok(90));
        assert_eq!(lifetime("12h"), Ok(43_200));
        assert_eq!(lifetime("2d"), Ok(172_800));
        for text in [
            "",
            "0",
            "0d",
            "d",
            "1w",
            "-1",
            "1.5h",
            "18446744073709551615d",
        ] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn exec_keeps_the_commands_own_flags() {
        let line = [
            "agentcore",
            "exec",
            "-s",
            "abcd",
            "-it",
            "--",
            "ls",
            "-la",
            "--json",
        ];
        let line = CommandLine::try_parse_from(line).expect("parsed");
        assert!(!line.json);
        let Verb::Exec(exec) = line.verb else {
            panic!("not exec: {:?}", line.verb)
        };
        assert!(exec.interactive && exec.tty);
        assert_eq!(exec.command, ["ls", "-la", "--json"]);
    }
}
