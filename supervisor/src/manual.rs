//! agentcored(8): the options from the definition that parses the command line, and what a service does beside parsing it.
//!
//! Not for the keys of the configuration: agentcored.toml(5) is made of `docs/agentcored.toml` when the package is.

use crate::config::Args;
use clap::CommandFactory as _;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::io::{self, Write};

/// Sections, each a list of terms and what they mean.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "SIGNALS",
        &[
            (
                "SIGTERM, SIGINT",
                "Drain and end: no new work is taken, /readyz says 503 (a caller of a socket of the service manager's waits there \
                 for the next daemon), synchronous calls in flight may finish (30 s). Sessions \
                 live on, and the next daemon takes them over, unless end_sessions_on_exit says otherwise. A second signal \
                 waits for nothing.",
            ),
            (
                "SIGHUP",
                "Read the configuration anew. One with a fault changes nothing, and is told in the log.",
            ),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "It was told to end."),
            ("1", "It failed; standard error or the journal says why."),
            ("2", "Usage, or a fault in the configuration."),
            ("75", "Another daemon holds the directories."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[(
            "AGENTCORED_*",
            "Keys of the configuration, over those of the files: AGENTCORED_LIMITS_MAX_SESSIONS is limits.max_sessions.",
        )],
    ),
    (
        "FILES",
        &[
            (
                "/etc/agentcore/agentcored.toml, /etc/agentcore/conf.d/*.toml",
                "The configuration, see agentcored.toml(5).",
            ),
            (
                "/var/lib/agentcore",
                "State: the database, artifacts, session storage, the root file system of sessions.",
            ),
            (
                "/run/agentcore/api.sock",
                "The API's socket, for root and members of the group agentcore.",
            ),
        ],
    ),
    (
        "JOURNAL",
        &[(
            "AGENTCORE_SESSION_ID=, AGENTCORE_RUNTIME=, …",
            "Fields of its messages where its standard error is the journal's, for example: journalctl AGENTCORE_SESSION_ID=…",
        )],
    ),
];

/// Writes the page.
pub fn print(to: &mut dyn Write) -> io::Result<()> {
    let page = Man::new(Args::command()).section("8");
    page.render_title(to)?;
    page.render_name_section(to)?;
    page.render_synopsis_section(to)?;
    page.render_description_section(to)?;
    page.render_options_section(to)?;
    let mut more = Roff::new();
    for (title, terms) in SECTIONS {
        more.control("SH", [*title]);
        for (term, meaning) in *terms {
            more.control("TP", []);
            more.text([bold(*term)]);
            more.text([roman(*meaning)]);
        }
    }
    more.control("SH", ["SEE ALSO"]);
    more.text([roman(
        "agentcore(1), agentcored.toml(5), agentcore.toml(5), journalctl(1)",
    )]);
    more.to_writer(to)
}
