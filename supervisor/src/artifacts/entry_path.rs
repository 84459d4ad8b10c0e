//! The path of an entry and the target of a link, as an archive gives them: plain, relative, inside, bounded.

use super::Refusal;

/// Longest path and link target, in bytes.
const MAX_PATH: usize = 1024;
/// Most parts of a path.
const MAX_PARTS: usize = 64;
/// Longest part.
const MAX_NAME: usize = 255;

/// A relative path whose parts are all plain names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryPath(String);

impl EntryPath {
    /// Reads an entry's path. A leading `./` and, for directories, a trailing `/` are what tools write; `None` is the root
    /// itself (`./`).
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        let text = plain_text(bytes).map_err(Refusal::Path)?;
        if text.is_empty() {
            return Err(Refusal::Path("is empty"));
        }
        if text.starts_with('/') {
            return Err(Refusal::Path("is absolute"));
        }
        let text = text.strip_prefix("./").unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        if matches!(text, "" | ".") {
            return Ok(None);
        }
        let mut parts = 0;
        for part in text.split('/') {
            parts += 1;
            check_part(part).map_err(Refusal::Path)?;
        }
        if parts > MAX_PARTS {
            return Err(Refusal::Path("has more than 64 parts"));
        }
        Ok(Some(Self(text.to_owned())))
    }

    /// The path.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that it is in (empty: the root) and its own name.
    pub(super) fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }
}

/// Checks the target of a symbolic link that lies at `link`: relative, and never above the root on its way. That it does
/// not lead out through *other* links is checked on the finished tree.
pub(super) fn check_target(link: &EntryPath, target: &[u8]) -> Result<String, Refusal> {
    let text = plain_text(target).map_err(Refusal::Target)?;
    if text.is_empty() {
        return Err(Refusal::Target("is empty"));
    }
    if text.starts_with('/') {
        return Err(Refusal::Target("is absolute"));
    }
    let mut depth = link.as_str().matches('/').count();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                depth = depth
                    .checked_sub(1)
                    .ok_or(Refusal::Target("leads out of the bundle"))?;
            }
            name if name.len() > MAX_NAME => {
                return Err(Refusal::Target("has a part of more than 255 bytes"));
            }
            _ => depth += 1,
        }
    }
    Ok(text.to_owned())
}

fn plain_text(bytes: &[u8]) -> Result<&str, &'static str> {
    if bytes.len() > MAX_PATH {
        return Err("has more than 1024 bytes");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
    if text.contains('\\') {
        return Err("has a backslash");
    }
    // NUL would end it early, a newline or an escape would forge what people read in a log.
    if text.contains(char::is_control) {
        return Err("has a control character");
    }
    Ok(text)
}

fn check_part(part: &str) -> Result<(), &'static str> {
    match part {
        "" => Err("has an empty part"),
        "." => Err("has a part `.`"),
        ".." => Err("has a part `..`"),
        _ if part.len() > MAX_NAME => Err("has a part of more than 255 bytes"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Result<Option<String>, Refusal> {
        EntryPath::parse(text.as_bytes()).map(|path| path.map(|p| p.0))
    }

    #[test]
    fn plain_paths_are_taken_as_they_are() {
        for (text, expected) in [
            ("a.py", "a.py"),
            ("./a/b.py", "a/b.py"),
            ("a/b/", "a/b"),
            ("...", "..."),
            ("a/..b/c", "a/..b/c"),
            ("ä/ö", "ä/ö"),
        ] {
            assert_eq!(path(text), Ok(Some(expected.to_owned())), "{text}");
        }
        assert_eq!(path("./"), Ok(None));
        assert_eq!(path("."), Ok(None));
        assert!(path(&vec!["a"; 64].join("/")).is_ok());
        assert!(path(&"x".repeat(255)).is_ok());
        assert_eq!(
            path(&format!(
                "{}/{}",
                vec!["x".repeat(254); 4].join("/"),
                "y".repeat(4)
            ))
            .map(|p| p.map(|p| p.len())),
            Ok(Some(1024))
        );
    }

    #[test]
    fn links_stay_inside_on_their_way() {
        let check = |link: &str, target: &str| {
            let link = EntryPath::parse(link.as_bytes())
                .expect("plain")
                .expect("not the root");
            check_target(&link, target.as_bytes()).is_ok()
        };
        for (link, target, ok) in [
            ("a", "b", true),
            ("d/a", "../b", true),
            ("d/a", "../d/../b", true),
            ("d/e/a", "../..", true),
            ("a", ".", true),
            ("a", "b/../c", true),
            ("a", "..", false),
            ("a", "../b", false),
            ("d/a", "../../d/b", false),
            ("d/a", "x/../../../d", false),
            ("a", "/etc/passwd", false),
            ("a", "//etc", false),
            ("a", "", false),
            ("a", "b\\c", false),
            ("a", "b\0", false),
        ] {
            assert_eq!(check(link, target), ok, "{link} -> {target}");
        }
        assert!(check("a", &"x/".repeat(512)));
        assert!(!check("a", &format!("{}y", "x/".repeat(512))));
    }
}
