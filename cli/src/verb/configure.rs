//! `agentcore configure`: writes or changes `agentcore.toml` beside the agent.

use super::Desk;
use crate::args::Configure;
use crate::failure::{Exit, Failure};
use crate::project::edit::Draft;
use crate::project::{FILE, language_of};
use proto::config::{Language, NetworkMode, Protocol};
use proto::ids::RuntimeName;
use serde_json::json;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Writes the keys that were given, and on the first time those that can be guessed.
pub(super) fn run(desk: &Desk, args: &Configure) -> Result<(), Failure> {
    let agent = args.entrypoint.as_deref().map(Agent::at).transpose()?;
    let folder = agent
        .as_ref()
        .map_or(Path::new("."), |agent| agent.folder.as_path());
    let mut draft = Draft::open(folder)?;
    if agent.is_none() && !draft.existed() {
        return Err(
            Failure::usage(format!("which agent? There is no {FILE} here yet"))
                .advice("name its file: `agentcore configure -e my_agent.py`"),
        );
    }
    if let Some(agent) = &agent {
        describe(&mut draft, agent, args)?;
    }
    apply(&mut draft, args, folder)?;
    let existed = draft.existed();
    let config = draft.check().map_err(|error| {
        let failure = Failure::from(error);
        match &agent {
            Some(_) => failure,
            None => failure.advice("name the agent's file too: -e FILE"),
        }
    })?;
    let file = draft.save()?;
    let file = file.strip_prefix(".").unwrap_or(&file);
    if desk.screen.json {
        return desk
            .screen
            .document(&json!({ "file": file, "config": config }));
    }
    if desk.screen.quiet {
        return desk.screen.line(file.display().to_string());
    }
    let verb = if existed { "Changed" } else { "Wrote" };
    desk.screen.line(format!(
        "{verb} {} for the runtime {}",
        file.display(),
        config.name
    ))?;
    let there = if folder == Path::new(".") {
        String::new()
    } else {
        format!(" -f {}", folder.display())
    };
    desk.screen
        .note(format!("Deploy it with: agentcore launch{there}"));
    Ok(())
}

/// The agent's file, and the folder that becomes the bundle.
#[derive(Debug)]
struct Agent {
    folder: PathBuf,
    file: String,
}

impl Agent {
    fn at(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        if !path.is_file() {
            let what = if path.is_dir() {
                "is a folder"
            } else {
                "is not there"
            };
            return Err(Failure::usage(format!("{shown} {what}"))
                .advice("name the agent's file: `agentcore configure -e my_agent.py`"));
        }
        let file = path.file_name().and_then(|name| name.to_str());
        let file =
            file.ok_or_else(|| Failure::usage(format!("the name of {shown} is not UTF-8")))?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            Some(_) | None => PathBuf::from("."),
        };
        Ok(Self {
            folder,
            file: file.to_owned(),
        })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.file)
    }
}

/// Keys that follow from the agent's file.
fn describe(draft: &mut Draft, agent: &Agent, args: &Configure) -> Result<(), Failure> {
    if args.name.is_none() && !draft.has("", "name") {
        draft.set("", "name", guess_name(&agent.file).to_string());
    }
    draft.set("", "entrypoint", agent.file.clone());
    if args.language.is_none() {
        let language = guess_language(&agent.path())?;
        draft.set("", "language", language_word(language));
    }
    Ok(())
}

/// Keys that were given, and the requirements file where there is one.
fn apply(draft: &mut Draft, args: &Configure, folder: &Path) -> Result<(), Failure> {
    if let Some(name) = &args.name {
        draft.set("", "name", name.to_string());
    }
    if let Some(protocol) = args.protocol {
        draft.set("", "protocol", protocol_word(protocol.into()));
    }
    if let Some(language) = args.language {
        draft.set("", "language", language_word(language.into()));
    }
    match &args.requirements {
        Some(file) if folder.join(file).is_file() => draft.set("", "requirements", file.clone()),
        Some(file) => {
            return Err(
                Failure::usage(format!("{} is not there", folder.join(file).display()))
                    .advice("-r takes a path relative to the agent's folder"),
            );
        }
        None if !draft.has("", "requirements") && folder.join("requirements.txt").is_file() => {
            draft.set("", "requirements", "requirements.txt");
        }
        None => {}
    }
    if let Some(memory) = args.memory {
        draft.set("resources", "memory", memory.to_string());
    }
    if let Some(cpus) = args.cpus {
        draft.set("resources", "cpus", cpus.cpus());
    }
    if let Some(timeout) = args.idle_timeout {
        draft.set("lifecycle", "idle_timeout", i64::from(timeout));
    }
    if let Some(lifetime) = args.max_lifetime {
        draft.set("lifecycle", "max_lifetime", i64::from(lifetime));
    }
    if let Some(network) = args.network {
        let word = match network.into() {
            NetworkMode::Outbound => "outbound",
            NetworkMode::None => "none",
        };
        draft.set("network", "mode", word);
    }
    for (key, value) in &args.environment {
        draft.set("environment", key, value.clone());
    }
    Ok(())
}

/// `my-agent.py` ▸ `my_agent`.
fn guess_name(file: &str) -> RuntimeName {
    let stem = file
        .split('.')
        .find(|part| !part.is_empty())
        .unwrap_or("agent");
    let mut name: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        name.insert_str(0, "agent_");
    }
    name.truncate(48);
    RuntimeName::parse(name).expect("made of allowed characters, at most 48, a letter first")
}

/// From the extension; without one, an executable (by mode, ELF or `#!`) is run as it is.
fn guess_language(file: &Path) -> Result<Language, Failure> {
    if let Some(language) = language_of(file) {
        return Ok(language);
    }
    let failed = |error: std::io::Error| {
        Failure::new(
            Exit::Failed,
            format!("cannot read {}: {error}", file.display()),
        )
    };
    let mut open = std::fs::File::open(file).map_err(failed)?;
    let mode = open.metadata().map_err(failed)?.permissions().mode();
    let mut head = Vec::new();
    open.by_ref()
        .take(4)
        .read_to_end(&mut head)
        .map_err(failed)?;
    if mode & 0o111 != 0 || head == *b"\x7fELF" || head.starts_with(b"#!") {
        return Ok(Language::Binary);
    }
    Err(Failure::usage(format!(
        "what runs {}? Its name does not say",
        file.display()
    ))
    .advice("say --language python, node or binary (a binary needs `chmod +x`)"))
}

const fn language_word(language: Language) -> &'static str {
    match language {
        Language::Python => "python",
        Language::Node => "node",
        Language::Binary => "binary",
    }
}

const fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "HTTP",
        Protocol::Mcp => "MCP",
        Protocol::A2a => "A2A",
        Protocol::Agui => "AGUI",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_from_file_names() {
        for (file, name) in [
            ("my_agent.py", "my_agent"),
            ("my-agent.test.py", "my_agent"),
            ("2fast.js", "agent_2fast"),
            (".hidden", "hidden"),
            ("größe", "gr__e"),
            ("...", "agent"),
        ] {
            assert_eq!(guess_name(file).as_str(), name, "{file}");
        }
        assert_eq!(guess_name(&"x".repeat(99)).as_str().len(), 48);
        assert_eq!(guess_name(&"9".repeat(99)).as_str().len(), 48);
    }
}
