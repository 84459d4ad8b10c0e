//! The command line of an agent: which interpreter, which file of the bundle, which arguments.

use super::faults::Faults;
use super::{BUNDLE, HostPolicy};
use proto::config::{Language, RuntimeConfig};

/// Most words of a command line (security-bar §4.1).
const MAX_WORDS: usize = 256;

/// Longest word, in bytes.
const MAX_WORD: usize = 4096;

/// Longest path within a bundle and its longest part: what an archive may hold (security-bar §4.2).
const MAX_PATH: usize = 1024;
const MAX_NAME: usize = 255;

/// A checked command line.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) language: Language,
    /// Relative to the bundle.
    pub(super) file: String,
    pub(super) argv: Vec<String>,
}

/// Makes the command line; `None` after a fault.
pub(super) fn resolve(
    config: &RuntimeConfig,
    policy: &HostPolicy,
    faults: &mut Faults,
) -> Option<Command> {
    let words = config.entrypoint.words();
    let Some((file, arguments)) = words.split_first() else {
        faults.add(
            "entrypoint",
            "must name a file of the bundle, such as my_agent.py",
        );
        return None;
    };
    let sound = check_words(arguments, words.len(), faults);
    let Some(file) = bundle_path(file) else {
        faults.add(
            "entrypoint",
            format!(
                "must be the relative path of a file in the bundle, without `.` or `..` in it and at most {MAX_PATH} bytes \
                 long, such as my_agent.py or src/main.js; is {}",
                shown(file)
            ),
        );
        return None;
    };
    let language = config.language.unwrap_or_else(|| by_extension(&file));
    let mut argv = interpreter(language, policy, faults)?;
    version(config, language, policy, faults);
    argv.push(format!("{BUNDLE}/{file}"));
    argv.extend(arguments.iter().cloned());
    sound.then_some(Command {
        language,
        file,
        argv,
    })
}

fn check_words(arguments: &[String], count: usize, faults: &mut Faults) -> bool {
    let mut sound = true;
    if count > MAX_WORDS {
        sound = false;
        faults.add(
            "entrypoint",
            format!("has {count} words; at most {MAX_WORDS}"),
        );
    }
    for (at, word) in arguments.iter().enumerate().take(MAX_WORDS) {
        if word.len() > MAX_WORD || word.contains('\0') {
            sound = false;
            faults.add(
                format!("entrypoint[{}]", at + 1),
                format!("must be at most {MAX_WORD} bytes long and hold no NUL"),
            );
        }
    }
    sound
}

/// A path that stays in the bundle whatever it is joined to. A leading `./` is what people type, so it is taken off.
fn bundle_path(text: &str) -> Option<String> {
    let path = text.strip_prefix("./").unwrap_or(text);
    let part_ok =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= MAX_NAME;
    let ok = path.len() <= MAX_PATH
        && path.split('/').all(part_ok)
        && !path.contains(|c: char| c.is_control() || c == '\\');
    ok.then(|| path.to_owned())
}

fn by_extension(file: &str) -> Language {
    match file.rsplit_once('.').map(|(_, extension)| extension) {
        Some("py" | "pyc") => Language::Python,
        Some("js" | "mjs" | "cjs") => Language::Node,
        Some(_) | None => Language::Binary,
    }
}

/// What stands before the file on the command line.
fn interpreter(
    language: Language,
    policy: &HostPolicy,
    faults: &mut Faults,
) -> Option<Vec<String>> {
    let (path, name) = match language {
        Language::Binary => return Some(Vec::new()),
        Language::Python => (&policy.interpreters.python, "Python 3"),
        Language::Node => (&policy.interpreters.node, "Node.js"),
    };
    if path.is_none() {
        faults.add(
            "language",
            format!(
                "is one that this host cannot run: its base for sessions holds no {name}; install it on the host and restart \
                 agentcored, or bring an executable of your own"
            ),
        );
    }
    path.clone().map(|path| vec![path])
}

/// Whether the base has the version that the agent needs, as far as it says.
fn version(config: &RuntimeConfig, language: Language, policy: &HostPolicy, faults: &mut Faults) {
    let Some(asked) = &config.language_version else {
        return;
    };
    let well_formed = asked.len() <= 32
        && asked
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    if !well_formed {
        faults.add(
            "language_version",
            format!(
                "must be numbers with dots between them, such as 3.11 or 22; is {}",
                shown(asked)
            ),
        );
        return;
    }
    let (name, there) = match language {
        Language::Binary => {
            faults.add(
                "language_version",
                "means nothing for language = \"binary\"",
            );
            return;
        }
        Language::Python => ("Python", &policy.interpreters.python_version),
        Language::Node => ("Node.js", &policy.interpreters.node_version),
    };
    let there = there.as_deref().unwrap_or("of an unknown version");
    let mut found = there.split('.');
    if !asked.split('.').all(|part| found.next() == Some(part)) {
        faults.add(
            "language_version",
            format!(
                "asks for {name} {asked}, which this host lacks: its base for sessions has {name} {there}. Use that, or \
                 give agentcored a base with {name} {asked} (key `base`)"
            ),
        );
    }
}

/// A user's text as it may appear in a message: bounded, no control characters.
pub(super) fn shown(text: &str) -> String {
    let cut: String = text.chars().take(100).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}
