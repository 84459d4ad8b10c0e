//! The programs that we are compared with: bubblewrap, runc, systemd-nspawn, HAProxy, nginx. Their newest Debian versions, their
//! usual options.

use super::direct::{Running, free_port, reach};
use anyhow::{Context as _, ensure};
use e2e::http::Target;
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// From fork to the end of a command that must succeed.
fn run(command: &mut Command) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("start")?;
    let took = began.elapsed();
    ensure!(status.success(), "{:?}: {status}", command.get_program());
    Ok(took)
}

/// `true` in namespaces of its own with `/proc`, `/dev` and a scratch `/tmp`: no cgroups, no seccomp, no network setup
/// beyond loopback.
pub(crate) fn bwrap() -> anyhow::Result<Duration> {
    run(Command::new("bwrap").args([
        "--unshare-all",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "true",
    ]))
}

/// What `true` needs of a root directory.
fn root_with_true(rootfs: &Path) -> anyhow::Result<()> {
    for file in std::iter::once("/bin/true".to_owned()).chain(libraries("/bin/true")?) {
        let to = rootfs.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("parent")?)?;
        fs::copy(&file, &to).with_context(|| format!("copy {file}"))?;
    }
    Ok(())
}

/// `systemd-nspawn` on a directory with `true` in it, in this process's cgroup: where no systemd runs it has no other.
pub(crate) struct Nspawn {
    root: PathBuf,
    left: Vec<PathBuf>,
}

impl Nspawn {
    pub(crate) fn prepare(directory: &Path) -> anyhow::Result<Self> {
        let root = directory.join("nspawn");
        root_with_true(&root)?;
        // It wants to know what it starts.
        fs::create_dir_all(root.join("etc"))?;
        fs::write(root.join("etc/os-release"), "ID=true\n")?;
        fs::create_dir_all(root.join("usr"))?;
        let groups = ["unified", "systemd"]
            .into_iter()
            .flat_map(|hierarchy| ["payload", "supervisor"].map(|name| (hierarchy, name)))
            .map(|(hierarchy, name)| Path::new("/sys/fs/cgroup").join(hierarchy).join(name));
        Ok(Self {
            root,
            left: groups.filter(|group| !group.exists()).collect(),
        })
    }

    pub(crate) fn run(&self) -> anyhow::Result<Duration> {
        run(Command::new("systemd-nspawn")
            .args(["--quiet", "--register=no", "--keep-unit"])
            .args(["--private-network", "--directory"])
            .arg(&self.root)
            .arg("/bin/true")
            .stderr(Stdio::null()))
    }
}

impl Drop for Nspawn {
    fn drop(&mut self) {
        // The cgroups that it makes beside this process's and leaves behind; what was there before is another's.
        for group in self.left.iter().filter(|group| group.exists()) {
            if let Err(error) = fs::remove_dir(group) {
                eprintln!("xtask: {}: {error}", group.display());
            }
        }
    }
}

/// A bundle with `true` in it.
pub(crate) struct Runc {
    bundle: PathBuf,
    state: PathBuf,
    next: u32,
}

impl Runc {
    /// `runc spec`, its own default configuration, with another command.
    pub(crate) fn prepare(directory: &Path) -> anyhow::Result<Self> {
        let bundle = directory.join("runc");
        let rootfs = bundle.join("rootfs");
        root_with_true(&rootfs)?;
        let made = Command::new("runc")
            .arg("spec")
            .current_dir(&bundle)
            .status()
            .context("start runc")?;
        ensure!(made.success(), "runc spec: {made}");
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["args"] = json!(["/bin/true"]);
        config["process"]["terminal"] = json!(false);
        fs::write(&path, serde_json::to_vec(&config)?)?;
        Ok(Self {
            bundle,
            state: directory.join("runc-state"),
            next: 0,
        })
    }

    pub(crate) fn run(&mut self) -> anyhow::Result<Duration> {
        self.next += 1;
        run(Command::new("runc")
            .arg("--root")
            .arg(&self.state)
            .args(["run", "--bundle"])
            .arg(&self.bundle)
            .arg(format!("bench-{}-{}", std::process::id(), self.next)))
    }
}

/// Absolute paths of what a program links.
fn libraries(program: &str) -> anyhow::Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(str::to_owned)
        .collect())
}

/// A one-hop proxy with one thread, kept connections on both sides, and no log.
pub(crate) struct Haproxy {
    pub(crate) target: Target,
    _process: Running,
}

impl Haproxy {
    pub(crate) fn start(directory: &Path, to: &Target) -> anyhow::Result<Self> {
        let Target::Tcp(to) = to else {
            anyhow::bail!("HAProxy's server is not a TCP address");
        };
        let port = free_port()?;
        let text = format!(
            "global\n  nbthread 1\n  maxconn 64\ndefaults\n  mode http\n  http-reuse always\n  timeout connect 5s\n  \
             timeout client 60s\n  timeout server 60s\nfrontend front\n  bind 127.0.0.1:{port}\n  default_backend back\n\
             backend back\n  server agent {to}\n"
        );
        let file = directory.join("haproxy.cfg");
        fs::write(&file, text)?;
        let process = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .spawn()
            .context("start haproxy")?;
        let process = Running(process);
        reach(port)?;
        Ok(Self {
            target: Target::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            _process: process,
        })
    }
}

/// As [`Haproxy`]: one process, kept connections on both sides, no log.
pub(crate) struct Nginx {
    pub(crate) target: Target,
    _process: Running,
}

impl Nginx {
    pub(crate) fn start(directory: &Path, to: &Target) -> anyhow::Result<Self> {
        let Target::Tcp(to) = to else {
            anyhow::bail!("nginx's server is not a TCP address");
        };
        let port = free_port()?;
        let own = directory.join("nginx");
        fs::create_dir_all(&own)?;
        let place = own.display();
        let text = format!(
            "daemon off;\nmaster_process off;\nworker_processes 1;\npid {place}/pid;\nerror_log {place}/error.log;\n\
             events {{ worker_connections 256; }}\nhttp {{\n  access_log off;\n  client_body_temp_path {place}/body;\n  \
             proxy_temp_path {place}/proxy;\n  fastcgi_temp_path {place}/fastcgi;\n  uwsgi_temp_path {place}/uwsgi;\n  \
             scgi_temp_path {place}/scgi;\n  keepalive_requests 100000000;\n  \
             upstream agent {{ server {to}; keepalive 64; keepalive_requests 100000000; }}\n  \
             server {{\n    listen 127.0.0.1:{port};\n    location / {{\n      proxy_pass http://agent;\n      \
             proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n    }}\n  }}\n}}\n"
        );
        let file = own.join("nginx.conf");
        fs::write(&file, text)?;
        let process = Command::new("nginx")
            .arg("-e")
            .arg(own.join("error.log"))
            .arg("-c")
            .arg(&file)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .spawn()
            .context("start nginx")?;
        let process = Running(process);
        reach(port)?;
        Ok(Self {
            target: Target::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            _process: process,
        })
    }
}
