//! Builds a base under a temporary name, and gives it its name when it is whole, works and is on disk.

use super::package::Packages;
use super::record::{self, Record};
use super::{
    BUILTIN_PYTHON, BaseError, MOUNT_POINTS, Result, builtin, command, content, etc, io_at,
    library, versions,
};
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Builds the base `key` in `bases`, which the caller has locked.
pub(super) fn build(packages: &Packages, key: &str, bases: &Path) -> Result<()> {
    clear_unfinished(bases)?;
    let mut tree = Tree::plant(bases.join(format!("{UNFINISHED}{key}")))?;
    for path in packages.paths()? {
        if let Some(place) = content::place(&path) {
            tree.copy(Path::new(&path), &place)?;
        }
    }
    for (path, content) in etc::from_host()? {
        tree.write(path.strip_prefix("/").unwrap_or(&path), &content)?;
    }
    for (path, content) in etc::FILES {
        tree.write(Path::new(path), content.as_bytes())?;
    }
    let short_names = [
        ("usr/bin/python", "python3"),
        ("usr/bin/which", "which.debianutils"),
    ];
    for (name, target) in etc::LINKS.into_iter().chain(short_names) {
        tree.link(Path::new(name), Path::new(target))?;
    }
    let mut notes: Vec<String> = library::complete(&mut tree)?
        .into_iter()
        .map(|missing| format!("the host lacks {missing}; programs of sessions that use it fail"))
        .collect();
    let builtin = Path::new(BUILTIN_PYTHON)
        .strip_prefix("/")
        .unwrap_or(Path::new(BUILTIN_PYTHON));
    for (path, content) in builtin::FILES {
        tree.write(&builtin.join(path), content)?;
    }
    let root = tree.root.to_string_lossy().into_owned();
    command::run("ldconfig", &["-r", &root])?;
    tree.remove("var/cache")?;
    notes.extend(tree.compile_python()?);

    settle(&tree.root)?;

    let versions = versions(&tree.root);
    for (package, program) in [
        ("bash", "bash"),
        ("python3-minimal", "python3"),
        ("nodejs", "node"),
    ] {
        let has = packages
            .versions
            .keys()
            .any(|name| name.split(':').next() == Some(package));
        if has && !versions.contains_key(program) {
            return Err(BaseError::Broken {
                detail: format!(
                    "{program} does not run in the base made of this host's packages ({root})"
                ),
            });
        }
    }
    let record = Record {
        versions,
        notes,
        packages: packages.versions.clone(),
    };
    tree.write(Path::new(record::PATH), record.text()?.as_bytes())?;
    tree.finish(&bases.join(key))
}

/// Begins the name of what is being built.
const UNFINISHED: &str = ".new-";

/// Removes what builders left that did not get to an end. The caller's lock says that none is at work.
fn clear_unfinished(bases: &Path) -> Result<()> {
    for entry in fs::read_dir(bases).map_err(io_at("list", bases))? {
        let entry = entry.map_err(io_at("list", bases))?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(UNFINISHED.as_bytes())
        {
            fs::remove_dir_all(entry.path()).map_err(io_at("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// A root file system in the making. Removed when dropped before it is finished.
///
/// Every write goes beneath directories that were checked to be real ones: packages ship symbolic links, and one followed
/// here would lead to the host's files.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// Programs and libraries copied so far.
    objects: Vec<PathBuf>,
    /// Names of all files and links copied so far.
    names: Vec<String>,
    finished: bool,
}

impl Tree {
    pub(super) fn plant(root: PathBuf) -> Result<Self> {
        fs::create_dir(&root).map_err(io_at("create", &root))?;
        let tree = Self {
            root,
            objects: Vec::new(),
            names: Vec::new(),
            finished: false,
        };
        allow(&tree.root, 0o755)?;
        for folder in ["usr/bin", "usr/sbin", "usr/lib", "var"]
            .into_iter()
            .chain(MOUNT_POINTS)
        {
            tree.folder(Path::new(folder))?;
        }
        for name in content::MERGED {
            let real = format!("usr/{name}");
            if Path::new("/").join(name).exists() {
                tree.folder(Path::new(&real))?;
                tree.make_link(Path::new(name), Path::new(&real))?;
            }
        }
        Ok(tree)
    }

    /// Makes a directory and those above it. False if something else than a directory is in the way.
    fn folder(&self, inside: &Path) -> Result<bool> {
        let mut path = self.root.clone();
        for component in inside.components() {
            let Component::Normal(name) = component else {
                return Ok(false);
            };
            path.push(name);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir(&path).map_err(io_at("create", &path))?;
                    allow(&path, 0o755)?;
                }
                Err(error) => return Err(io_at("look at", &path)(error)),
            }
        }
        Ok(true)
    }

    /// The path of a new entry, its folder made; `None` if its place is taken or behind a link.
    fn vacancy(&self, inside: &Path) -> Result<Option<PathBuf>> {
        let folder = inside.parent().unwrap_or(Path::new(""));
        let path = self.root.join(inside);
        let free = self.folder(folder)? && fs::symlink_metadata(&path).is_err();
        Ok(free.then_some(path))
    }

    /// Copies what a package lists at `source`. What is absent on this host (dpkg can be told to leave files out), or not
    /// for everybody to read, is left out.
    pub(super) fn copy(&mut self, source: &Path, inside: &Path) -> Result<()> {
        let found = match fs::symlink_metadata(source) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_at("look at", source)(error)),
        };
        if found.is_dir() {
            self.folder(inside)?;
        } else if found.is_file() {
            self.copy_file(source, &found, inside)?;
            self.copy_compiled(source, inside)?;
        } else if found.is_symlink() {
            let target = fs::read_link(source).map_err(io_at("read", source))?;
            if target.starts_with("/etc/alternatives") {
                // The choice of this host's administrator is not in the base; what was chosen is.
                if let Ok(found) = fs::metadata(source)
                    && found.is_file()
                {
                    self.copy_file(source, &found, inside)?;
                }
            } else {
                self.make_link(inside, &target)?;
                self.note(inside);
            }
        }
        Ok(())
    }

    fn copy_file(&mut self, source: &Path, found: &Metadata, inside: &Path) -> Result<()> {
        let mode = found.permissions().mode();
        let Some(path) = self.vacancy(inside)? else {
            return Ok(());
        };
        if mode & 0o004 == 0 {
            return Ok(());
        }
        fs::copy(source, &path).map_err(io_at("copy", source))?;
        // Extended attributes, capabilities among them, are not copied.
        allow(&path, final_mode(mode))?;
        // Compiled Python is valid for a source of this time.
        if let Ok(modified) = found.modified() {
            set_time(&path, modified)?;
        }
        let name = inside.file_name().unwrap_or_default().as_encoded_bytes();
        if mode & 0o111 != 0 || contains(name, b".so") || name.ends_with(b".node") {
            self.objects.push(path);
        }
        self.note(inside);
        Ok(())
    }

    /// The compiled form of a Python module, which no package lists: installation makes it.
    fn copy_compiled(&mut self, source: &Path, inside: &Path) -> Result<()> {
        let (Some(folder), Some(stem)) = (source.parent(), source.file_stem()) else {
            return Ok(());
        };
        let version = inside
            .iter()
            .filter_map(OsStr::to_str)
            .find_map(|part| part.strip_prefix("python3."));
        let Some(version) = version.filter(|_| source.extension().is_some_and(|e| e == "py"))
        else {
            return Ok(());
        };
        let name = format!(
            "__pycache__/{}.cpython-3{version}.pyc",
            stem.to_string_lossy()
        );
        let compiled = folder.join(&name);
        match fs::symlink_metadata(&compiled) {
            Ok(found) if found.is_file() => {
                self.copy_file(&compiled, &found, &inside.with_file_name(&name))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn make_link(&self, inside: &Path, target: &Path) -> Result<()> {
        match self.vacancy(inside)? {
            Some(path) => symlink(target, &path).map_err(io_at("link", &path)),
            None => Ok(()),
        }
    }

    /// Makes a link if what it points to is there (or will be mounted).
    fn link(&self, inside: &Path, target: &Path) -> Result<()> {
        let leads_to = match target.strip_prefix("/") {
            Ok(absolute) => self.root.join(absolute),
            Err(_) => self.root.join(inside).with_file_name("").join(target),
        };
        let mounted = target.starts_with("../proc");
        if mounted || leads_to.exists() {
            self.make_link(inside, target)?;
        }
        Ok(())
    }

    /// Writes a file of ours.
    pub(super) fn write(&mut self, inside: &Path, content: &[u8]) -> Result<()> {
        let Some(path) = self.vacancy(inside)? else {
            return Err(BaseError::Broken {
                detail: format!(
                    "{} is in the way in the new base",
                    self.root.join(inside).display()
                ),
            });
        };
        fs::write(&path, content).map_err(io_at("write", &path))?;
        allow(&path, 0o644)?;
        // The same bytes have the same time on every host.
        set_time(
            &path,
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800),
        )
    }

    /// Copies a library of the host that is not in any of the packages.
    pub(super) fn add_library(&mut self, name: &str, source: &Path) -> Result<PathBuf> {
        let inside = source
            .to_str()
            .and_then(content::place)
            .unwrap_or_else(|| Path::new("usr/lib").join(name));
        let found = fs::metadata(source).map_err(io_at("look at", source))?;
        self.copy_file(source, &found, &inside)?;
        Ok(self.root.join(inside))
    }

    /// Compiles the modules that the host had not compiled, and ours, with the base's own Python: a base is read-only, so
    /// every session would compile them again. Returns what did not work.
    fn compile_python(&self) -> Result<Option<String>> {
        if !self.root.join("usr/bin/python3").exists() {
            return Ok(None);
        }
        let lib = self.root.join("usr/lib");
        let mut folders = Vec::new();
        for entry in fs::read_dir(&lib).map_err(io_at("list", &lib))? {
            let name = entry.map_err(io_at("list", &lib))?.file_name();
            if let Some(name) = name.to_str().filter(|name| name.starts_with("python3.")) {
                folders.push(format!("/usr/lib/{name}"));
            }
        }
        let compile = |folders: &[&str]| {
            // -I -S: nothing but the standard library runs. Quiet but for errors.
            let mut args = vec!["-I", "-S", "-m", "compileall", "-q"];
            args.extend(folders);
            command::run_inside(&self.root, "/usr/bin/python3", &args)
        };
        compile(&[BUILTIN_PYTHON])?;
        let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
        // Some modules of the standard library are meant not to compile.
        Ok(compile(&folders)
            .err()
            .map(|fault| format!("part of Python's library is not compiled: {fault}")))
    }

    /// Programs and libraries, to be looked into.
    pub(super) fn objects(&self) -> Vec<PathBuf> {
        self.objects.clone()
    }

    /// Names of everything copied.
    pub(super) fn file_names(&self) -> impl Iterator<Item = String> {
        self.names.iter().cloned()
    }

    /// A path as sessions will see it.
    pub(super) fn inside(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path.strip_prefix(&self.root).unwrap_or(path))
    }

    fn note(&mut self, inside: &Path) {
        let name = inside.file_name().unwrap_or_default();
        self.names.push(name.to_string_lossy().into_owned());
    }

    fn remove(&self, inside: &str) -> Result<()> {
        let path = self.root.join(inside);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("remove", &path)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// To disk, all of it; then its name.
    fn finish(mut self, name: &Path) -> Result<()> {
        let open = |path: &Path| File::open(path).map_err(io_at("open", path));
        nix::unistd::syncfs(&open(&self.root)?)
            .map_err(|errno| io_at("sync", &self.root)(errno.into()))?;
        fs::rename(&self.root, name).map_err(io_at("rename", &self.root))?;
        self.finished = true;
        let bases = name.parent().unwrap_or(Path::new("/"));
        open(bases)?.sync_all().map_err(io_at("sync", bases))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.finished {
            // The next builder removes what this cannot.
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// Gives everything below its final mode: what ldconfig and Python wrote passed through our umask.
fn settle(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(io_at("list", folder))? {
        let path = entry.map_err(io_at("list", folder))?.path();
        let found = fs::symlink_metadata(&path).map_err(io_at("look at", &path))?;
        if found.is_symlink() {
            continue;
        }
        let mode = found.permissions().mode() & 0o7777;
        let wanted = final_mode(mode);
        if mode != wanted {
            allow(&path, wanted)?;
        }
        if found.is_dir() {
            settle(&path)?;
        }
    }
    Ok(())
}

/// For everybody to read and, where its owner may, to run or enter; writable by nobody but root, never set-uid or set-gid.
fn final_mode(mode: u32) -> u32 {
    if mode & 0o111 != 0 { 0o755 } else { 0o644 }
}

fn allow(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io_at("set the mode of", path))
}

fn set_time(path: &Path, time: SystemTime) -> Result<()> {
    let times = FileTimes::new().set_modified(time).set_accessed(time);
    File::open(path)
        .and_then(|file| file.set_times(times))
        .map_err(io_at("set the time of", path))
}

fn contains(name: &[u8], part: &[u8]) -> bool {
    name.windows(part.len()).any(|window| window == part)
}
