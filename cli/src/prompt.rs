//! Asking before something is lost.

use crate::failure::Failure;
use crate::screen::Screen;
use std::io::{IsTerminal, Write};

/// Asks `question` on a terminal; elsewhere `--yes` must have been said.
pub(crate) fn confirm(screen: &Screen, yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !(std::io::stdin().is_terminal() && screen.err_terminal) {
        return Err(
            Failure::usage(format!("{question} Nobody is here to answer"))
                .advice("say --yes if you mean it"),
        );
    }
    let mut err = std::io::stderr().lock();
    // If the question cannot be shown, the answer read below is not "yes".
    let _ = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Failure::new(
            crate::failure::Exit::Failed,
            "nothing was changed",
        )),
    }
}
