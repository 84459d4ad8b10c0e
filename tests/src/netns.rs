//! A small internet of the test's own: two network namespaces and a cable, so that "public", private and metadata
//! addresses can really be served, and a daemon that dials one of them reaches it, without a packet on the host's network.
//!
//! ```text
//!  inside (the daemon's)            outside (servers)
//!  v0 10.200.0.1/24  ────────────── v1 10.200.0.2/24, default route back
//!  default via 10.200.0.2           lo: 93.184.215.14 1.0.0.9 (public) 169.254.169.254 10.77.0.5 192.168.7.7 …
//! ```
//!
//! The inside has a mount namespace too, with `/etc/hosts` and `/etc/resolv.conf` of its own; its name server is a thread
//! of the test. Unix sockets do not care for network namespaces, so the test calls the daemon as ever.

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Names that the world's name server knows.
pub type Names = Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>;

/// The two namespaces; they go when it is dropped.
pub struct World {
    inside: Child,
    outside: Child,
    names: Names,
}

/// Addresses that the outside answers on beside 10.200.0.2.
pub const PUBLIC: &str = "93.184.215.14";
/// Another public address.
pub const PUBLIC_TOO: &str = "1.0.0.9";
/// A public IPv6 address.
pub const PUBLIC_V6: &str = "2606:2800:21f::14";
/// Where clouds serve credentials.
pub const METADATA: &str = "169.254.169.254";
/// An address of a private network.
pub const PRIVATE: &str = "10.77.0.5";
/// Another.
pub const PRIVATE_TOO: &str = "192.168.7.7";
/// A unique-local IPv6 address.
pub const PRIVATE_V6: &str = "fd12:3456::5";

fn namespace(flags: &[&str], script: &str) -> anyhow::Result<Child> {
    let mut child = Command::new("unshare")
        .args(flags)
        .args(["sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("unshare")?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("stdout")?;
    BufReader::new(stdout).read_line(&mut line)?;
    if line.trim() != "ready" {
        let _ = child.kill();
        let _ = child.wait();
        anyhow::bail!("a namespace could not be made: {script}");
    }
    Ok(child)
}

impl World {
    /// Makes both, the cable, and the name server.
    pub fn new() -> anyhow::Result<Self> {
        // `read` ends when the test's end of the pipe does, however the test ends.
        let outside = namespace(&["--net"], "ip link set lo up && echo ready && read _")?;
        let resolv = "nameserver 10.200.0.2\noptions timeout:1 attempts:2\n";
        let inside = namespace(
            &["--net", "--mount", "--propagation", "private"],
            &format!(
                "set -e; ip link set lo up; d=$(mktemp -d); \
                 printf '127.0.0.1 localhost\\n::1 localhost\\n' >$d/hosts; printf '{resolv}' >$d/resolv.conf; \
                 printf 'hosts: files dns\\n' >$d/nsswitch.conf; \
                 for f in hosts resolv.conf nsswitch.conf; do mount --bind $d/$f /etc/$f; done; \
                 rm -r $d; echo ready; read _"
            ),
        )?;
        let world = Self {
            inside,
            outside,
            names: Names::default(),
        };
        let (i, o) = (world.inside.id(), world.outside.id());
        world.run(
            i,
            &format!("ip link add v0 type veth peer name v1 netns {o}"),
        )?;
        world.run(i, "ip addr add 10.200.0.1/24 dev v0 && ip -6 addr add fd99::1/64 dev v0 nodad && ip link set v0 up")?;
        world.run(o, "ip addr add 10.200.0.2/24 dev v1 && ip -6 addr add fd99::2/64 dev v1 nodad && ip link set v1 up")?;
        for address in [
            PUBLIC,
            PUBLIC_TOO,
            METADATA,
            PRIVATE,
            PRIVATE_TOO,
            "100.64.0.9",
            "198.18.0.9",
        ] {
            world.run(o, &format!("ip addr add {address}/32 dev lo"))?;
        }
        for address in [PUBLIC_V6, PRIVATE_V6] {
            world.run(o, &format!("ip -6 addr add {address}/128 dev lo nodad"))?;
        }
        world.run(
            i,
            "ip route add default via 10.200.0.2 && ip -6 route add default via fd99::2",
        )?;
        world.serve_names()?;
        Ok(world)
    }

    fn run(&self, pid: u32, script: &str) -> anyhow::Result<()> {
        let status = Command::new("nsenter")
            .args(["--net", "--target", &pid.to_string(), "sh", "-c", script])
            .status()?;
        ensure!(status.success(), "in a test's network namespace: {script}");
        Ok(())
    }

    /// Put before a command, it runs inside.
    #[must_use]
    pub fn wrap(&self) -> Vec<String> {
        let target = self.inside.id().to_string();
        ["nsenter", "--net", "--mount", "--target", &target, "--"]
            .map(str::to_owned)
            .to_vec()
    }

    /// Gives the inside one more address, which is the daemon's host's own from then on.
    pub fn add_inside(&self, address: &str) -> anyhow::Result<()> {
        self.run(
            self.inside.id(),
            &format!("ip addr add {address}/32 dev lo"),
        )
    }

    /// Lets the name server know a name.
    pub fn name(&self, name: &str, addresses: &[&str]) -> anyhow::Result<()> {
        let addresses = addresses
            .iter()
            .map(|a| a.parse().with_context(|| format!("address {a}")))
            .collect::<anyhow::Result<_>>()?;
        let mut names = self.names.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
        names.insert(name.to_owned(), addresses);
        Ok(())
    }

    fn there<T: Send>(
        &self,
        inside: bool,
        make: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let pid = if inside {
            self.inside.id()
        } else {
            self.outside.id()
        };
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        // setns moves one thread; a socket stays in the namespace that it was made in.
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(&namespace, CloneFlags::CLONE_NEWNET).context("setns")?;
                    make()
                })
                .join()
                .map_err(|_| anyhow::anyhow!("the namespace's thread panicked"))?
        })
    }

    /// A TCP server that answers every connection with `banner` and then echoes what it hears. Counts connections.
    pub fn server(
        &self,
        inside: bool,
        address: &str,
        banner: &'static str,
    ) -> anyhow::Result<Server> {
        let address: SocketAddr = address.parse()?;
        let listener = self.there(inside, || {
            TcpListener::bind(address).with_context(|| format!("bind {address}"))
        })?;
        let address = listener.local_addr()?;
        let met = Arc::new(Mutex::new(0));
        let count = Arc::clone(&met);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                if let Ok(mut n) = count.lock() {
                    *n += 1;
                }
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    if stream.write_all(banner.as_bytes()).is_err() {
                        return;
                    }
                    while let Ok(n @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..n]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Ok(Server { address, met })
    }

    fn serve_names(&self) -> anyhow::Result<()> {
        let socket = self.there(false, || {
            UdpSocket::bind("10.200.0.2:53").context("bind the name server")
        })?;
        let names = Arc::clone(&self.names);
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((n, from)) = socket.recv_from(&mut packet) {
                let answer = names
                    .lock()
                    .ok()
                    .and_then(|names| resolve(&packet[..n], &names));
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.inside, &mut self.outside] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A server of the world.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    met: Arc<Mutex<usize>>,
}

impl Server {
    /// Connections so far.
    #[must_use]
    pub fn met(&self) -> usize {
        self.met.lock().map(|n| *n).unwrap_or_default()
    }
}

/// Answers one DNS query (RFC 1035) for A or AAAA from a table; NXDOMAIN for unknown names.
fn resolve(query: &[u8], names: &BTreeMap<String, Vec<IpAddr>>) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut name = String::new();
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(query.get(at + 1..at + 1 + length)?).ok()?);
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let question = query.get(12..at + 5)?;
    let known = names.get(&name.to_ascii_lowercase());
    let found: Vec<_> = known
        .into_iter()
        .flatten()
        .filter(|a| (kind == 1 && a.is_ipv4()) || (kind == 28 && a.is_ipv6()))
        .collect();
    let code: u8 = if known.is_some() { 0 } else { 3 };
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([
        0x81,
        0x80 | code,
        0,
        1,
        0,
        u8::try_from(found.len()).ok()?,
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question);
    for address in found {
        // A pointer to the question's name, type, class IN, no time to live.
        answer.extend([0xC0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 0]);
        match address {
            IpAddr::V4(a) => {
                answer.extend([0, 4]);
                answer.extend(a.octets());
            }
            IpAddr::V6(a) => {
                answer.extend([0, 16]);
                answer.extend(a.octets());
            }
        }
    }
    Some(answer)
}
