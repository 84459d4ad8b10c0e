//! Rules of single values.

use std::path::Path;

/// Absolute, without `.` and `..`: what is checked is then what is used.
pub(super) fn plain_path(path: &Path) -> Result<(), String> {
    let text = path.to_string_lossy();
    let plain = path.is_absolute()
        && !text.contains('\0')
        && text.split('/').all(|part| part != "." && part != "..");
    plain
        .then_some(())
        .ok_or_else(|| format!("must be an absolute path without `.` and `..`, is {text:?}"))
}

/// A name that the host's user database could hold, and not root's.
pub(super) fn user_name(name: &str) -> Result<(), String> {
    let ok = (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        && !name.starts_with('-');
    if name == "root" {
        return Err("must not be root: it parses strangers' bytes".to_owned());
    }
    ok.then_some(())
        .ok_or_else(|| format!("{name:?} is not a user name"))
}

/// As ARNs have it.
pub(super) fn region(region: &str) -> Result<(), String> {
    let ok = (1..=32).contains(&region.len())
        && region
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    ok.then_some(())
        .ok_or_else(|| "must be 1 to 32 of a-z, 0-9 and -, such as us-local-1".to_owned())
}

/// As ARNs have it.
pub(super) fn account(account: &str) -> Result<(), String> {
    let ok = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    ok.then_some(())
        .ok_or_else(|| "must be twelve digits, in quotes".to_owned())
}

/// `http://` or `https://`, a host, maybe a port and a path.
pub(super) fn base_url(text: &str) -> Result<(), String> {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:[]%".contains(&b);
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(plain) => {
            Ok(())
        }
        Some(_) | None => Err(format!(
            "must look like https://agents.example.com, is `{text}`"
        )),
    }
}
