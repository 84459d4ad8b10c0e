//! The daemon's command line.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Runs AI-agent sessions, each isolated in a process tree of its own.
#[derive(Debug, Clone, Default, clap::Parser)]
#[command(name = "agentcored", version)]
pub struct Args {
    /// Configuration file [default: /etc/agentcore/agentcored.toml and /etc/agentcore/conf.d/*.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Database, artifacts, session storage [default: /var/lib/agentcore]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Sockets, live session directories [default: /run/agentcore]
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,

    /// HTTP over a Unix socket [default: <runtime-dir>/api.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// HTTP over TCP; may be given more than once
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,

    /// Developer mode: 127.0.0.1:8080 unless --listen, no authentication on loopback, text logs, sessions end with the daemon
    #[arg(long)]
    pub dev: bool,

    /// Validate the configuration, print every fault, exit (2 if there is one)
    #[arg(long)]
    pub check_config: bool,

    /// Print the manual page of this program and exit (for packages)
    #[arg(long, hide = true)]
    pub print_manual: bool,

    /// Print the sandbox's plan of steps and exit
    #[arg(long, hide = true)]
    pub print_plan: bool,
}
