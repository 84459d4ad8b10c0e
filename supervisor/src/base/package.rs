//! Which packages a base is made of: a short list, and what they depend on, as far as it is installed.
//!
//! The closure of Depends rather than of ELF references alone, because much is loaded by name at run time: Debian's Node
//! reads modules of other packages, OpenSSL its providers, the C library its converters. What no dependency names is
//! found afterwards by [`super::library`].

use super::command::{exists, run};
use super::{BaseError, Result};
use std::collections::{BTreeMap, HashMap};

/// What a base is for, and whether it can be without.
const WANTED: [(&str, bool); 21] = [
    ("libc6", true),
    ("libc-bin", true),
    // Loaded by name when a thread ends.
    ("libgcc-s1", true),
    ("libstdc++6", false),
    ("bash", true),
    ("dash", true),
    ("coreutils", true),
    ("findutils", true),
    ("grep", true),
    ("sed", true),
    ("gzip", false),
    ("tar", false),
    ("ca-certificates", false),
    ("tzdata", false),
    // /etc/protocols, /etc/services
    ("netbase", false),
    // /etc/mime.types
    ("media-types", false),
    ("ncurses-base", false),
    ("python3", false),
    ("python3-minimal", false),
    ("python3-distutils", false),
    ("nodejs", false),
];

/// Packages that others depend on for their installation only, with all that they bring.
const UNWANTED: [&str; 9] = [
    "adduser",
    "base-files",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "install-info",
    "openssl",
    "passwd",
    "perl-base",
];

/// The packages of a base.
#[derive(Debug)]
pub(super) struct Packages {
    /// Name as dpkg wants it (`libc6:amd64`) and version, sorted.
    pub(super) versions: BTreeMap<String, String>,
}

/// What dpkg says of one package.
#[derive(Debug)]
struct Installed {
    /// With the architecture where several can be installed.
    name: String,
    version: String,
    depends: String,
}

impl Packages {
    /// Asks dpkg.
    pub(super) fn of_host() -> Result<Self> {
        if !exists("dpkg-query") {
            return Err(BaseError::NoDpkg);
        }
        let architecture = run("dpkg", &["--print-architecture"])?;
        const FORMAT: &str = "--showformat=${db:Status-Abbrev}\\t${Package}\\t${binary:Package}\\t${Architecture}\\t\
             ${Version}\\t${Provides}\\t${Pre-Depends}, ${Depends}\\n";
        let table = run("dpkg-query", &["--show", FORMAT])?;
        Self::closure(&table, architecture.trim())
    }

    fn closure(table: &str, architecture: &str) -> Result<Self> {
        let (installed, provided) = parse(table, architecture);
        let mut versions = BTreeMap::new();
        let mut open: Vec<&str> = Vec::new();
        for (package, required) in WANTED {
            if installed.contains_key(package) {
                open.push(package);
            } else if required {
                return Err(BaseError::NoPackage { package });
            }
        }
        while let Some(name) = open.pop() {
            let Some(found) = installed.get(name) else {
                continue;
            };
            if UNWANTED.contains(&name) || versions.contains_key(&found.name) {
                continue;
            }
            versions.insert(found.name.clone(), found.version.clone());
            open.extend(dependencies(&found.depends, &installed, &provided));
        }
        Ok(Self { versions })
    }

    /// Every path that the packages list, sorted, without directories' trailing dots.
    pub(super) fn paths(&self) -> Result<Vec<String>> {
        let mut args = vec!["--listfiles"];
        args.extend(self.versions.keys().map(String::as_str));
        let listed = run("dpkg-query", &args)?;
        let mut paths: Vec<String> = listed
            .lines()
            // Between the paths it speaks of diversions.
            .filter(|line| line.starts_with('/') && *line != "/.")
            .map(str::to_owned)
            .collect();
        paths.sort();
        paths.dedup();
        Ok(paths)
    }
}

type Table<'a> = HashMap<&'a str, Installed>;
type Provided<'a> = HashMap<&'a str, &'a str>;

/// Reads dpkg's table: what is installed, and which name is provided by which of it.
fn parse<'a>(table: &'a str, architecture: &str) -> (Table<'a>, Provided<'a>) {
    let mut installed = HashMap::new();
    let mut provided = HashMap::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.splitn(7, '\t').collect();
        let [status, package, name, arch, version, provides, depends] = fields[..] else {
            continue;
        };
        // Second letter: unpacked and configured.
        if status.as_bytes().get(1) != Some(&b'i') || (arch != architecture && arch != "all") {
            continue;
        }
        for provision in provides.split(',').map(bare).filter(|p| !p.is_empty()) {
            provided.entry(provision).or_insert(package);
        }
        let found = Installed {
            name: name.to_owned(),
            version: version.to_owned(),
            depends: depends.to_owned(),
        };
        installed.insert(package, found);
    }
    (installed, provided)
}

/// The installed packages that satisfy `a (>= 1), b | c:any`.
fn dependencies<'a>(depends: &str, installed: &Table<'a>, provided: &Provided<'a>) -> Vec<&'a str> {
    let satisfy = |alternatives: &str| {
        alternatives.split('|').map(bare).find_map(|name| {
            let real = installed.get_key_value(name).map(|(name, _)| *name);
            real.or_else(|| provided.get(name).copied())
        })
    };
    depends.split(',').filter_map(satisfy).collect()
}

/// A dependency's package name, without version and architecture.
fn bare(dependency: &str) -> &str {
    dependency
        .trim()
        .split([' ', '(', ':'])
        .next()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, package, architecture, version, provides, depends.
    fn table(rows: &[[&str; 6]]) -> String {
        let line = |[status, package, arch, version, provides, depends]: &[&str; 6]| {
            format!(
                "{status}\t{package}\t{package}:{arch}\t{arch}\t{version}\t{provides}\t{depends}\n"
            )
        };
        let mut rows: Vec<String> = rows.iter().map(line).collect();
        for (package, required) in WANTED {
            if required {
                rows.push(line(&["ii ", package, "amd64", "1", "", ", "]));
            }
        }
        rows.concat()
    }

    #[test]
    fn the_closure_takes_what_is_installed_and_leaves_installers_out() {
        let table = table(&[
            [
                "ii ",
                "python3",
                "amd64",
                "3.11",
                "",
                ", libssl3 (>= 3.0), missing | virtual-mime:any, debconf",
            ],
            ["ii ", "libssl3", "amd64", "3.0.1", "", "libc6, "],
            ["ii ", "libssl3", "i386", "2.9", "", ", i386-only"],
            ["ii ", "i386-only", "i386", "1", "", ", "],
            ["ii ", "media", "all", "10", "virtual-mime (= 1)", ", "],
            ["ii ", "debconf", "all", "1", "", ", perl-base"],
            ["rc ", "nodejs", "amd64", "18", "", ", "],
            ["ii ", "unrelated", "amd64", "1", "", ", "],
        ]);
        let found = Packages::closure(&table, "amd64").expect("closes").versions;
        let get = |name: &str| found.get(name).map(String::as_str);
        assert_eq!(get("python3:amd64"), Some("3.11"));
        assert_eq!(get("libssl3:amd64"), Some("3.0.1"));
        assert_eq!(get("media:all"), Some("10"));
        for absent in [
            "debconf:all",
            "nodejs:amd64",
            "unrelated:amd64",
            "i386-only:i386",
            "libssl3:i386",
        ] {
            assert_eq!(get(absent), None, "{absent}");
        }
    }

    #[test]
    fn a_missing_necessity_is_named() {
        let fault = Packages::closure("", "amd64").expect_err("nothing is installed");
        assert!(
            fault.to_string().contains("apt-get install libc6"),
            "{fault}"
        );
    }
}
