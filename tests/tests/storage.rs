//! Session storage: files that the next session of the same caller, runtime, endpoint and id finds, and nobody else; its
//! size is capped, its owner is the session's agent whatever uids that has, and nothing of it stays mounted or attached.
//! Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{expect_aws_error, session_name};
use e2e::{Client, Daemon, Options, Result, ground, host, leaks, puppet, storage, wait};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::{Duration, SystemTime};

const SMALL: u64 = 32 << 20;

fn deploy(client: &Client, name: &str) -> Result {
    let storage = json!({"storage": [{"mount": "/mnt/data", "size": SMALL}]});
    puppet::deploy(client, name, storage).map(drop)
}

fn write(client: &Client, runtime: &str, session: &str, text: &str) -> Result {
    let code = format!("open('/mnt/data/marker', 'w').write({text:?})");
    puppet::run(client, runtime, session, &code).map(drop)
}

/// What the session finds in its storage.
const LIST: &str = "import os; answer = {n: open('/mnt/data/' + n).read() for n in sorted(os.listdir('/mnt/data'))}";

fn found(client: &Client, runtime: &str, session: &str) -> anyhow::Result<Value> {
    puppet::run(client, runtime, session, LIST)
}

fn nothing_attached(daemon: &Daemon) -> Result {
    let dir = daemon.state_dir();
    wait::until_true(10, "no loop device of ours", || {
        Ok(storage::loop_devices(&dir).is_empty())
    })
}

#[test]
fn files_are_there_again_for_the_next_session_of_the_same_id() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        deploy(&client, "keeper")?;
        let id = session_name("storage");
        ensure!(
            found(&client, "keeper", &id)? == json!({}),
            "it begins empty"
        );
        write(&client, "keeper", &id, "first")?;
        let first = client.session(&id)?;
        client.stop(&id)?;
        // At once: the one before may still be on its way to the disk.
        ensure!(found(&client, "keeper", &id)? == json!({"marker": "first"}));
        let second = client.session(&id)?;
        ensure!(first.id != second.id, "another session");
        ensure!(first.uid_base != second.uid_base || first.pid != second.pid);

        // A session that is killed loses nothing that the kernel had.
        write(&client, "keeper", &id, "second")?;
        let pid = second.pid.context("pid")?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        wait::until_true(10, "its end", || {
            Ok(client.session(&id)?.ended_at.is_some())
        })?;
        ensure!(found(&client, "keeper", &id)? == json!({"marker": "second"}));

        // A daemon that ends, and one that is killed.
        daemon.terminate()?;
        ensure!(storage::loop_devices(&daemon.state_dir()).is_empty());
        daemon.restart()?;
        ensure!(found(&daemon.client(), "keeper", &id)? == json!({"marker": "second"}));
        daemon.kill()?;
        daemon.restart()?;
        ensure!(found(&daemon.client(), "keeper", &id)? == json!({"marker": "second"}));
        daemon.client().stop(&id)?;
        nothing_attached(daemon)
    })
}

#[test]
fn nobody_else_sees_them() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        deploy(&client, "keeper")?;
        deploy(&client, "other")?;
        let id = session_name("mine");
        write(&client, "keeper", &id, "mine")?;
        let stranger = session_name("theirs");
        ensure!(
            found(&client, "keeper", &stranger)? == json!({}),
            "another id"
        );
        ensure!(
            found(&client, "other", &id)? == json!({}),
            "another runtime"
        );
        let request = Client::invocation("keeper", &id, &puppet::payload(LIST))
            .header("X-Amzn-Bedrock-AgentCore-Runtime-User-Id", "alice");
        let answer: Value = client.send(request)?.expect(200)?.json()?;
        ensure!(answer == json!({}), "another user: {answer}");
        ensure!(found(&client, "keeper", &id)? == json!({"marker": "mine"}));
        ensure!(
            storage::images(daemon).len() == 4,
            "{:?}",
            storage::images(daemon)
        );
        // Nor does the unprivileged half of the daemon.
        let (uid, _, mode) = leaks::owner(&daemon.state_dir().join("storage"))?;
        ensure!((uid, mode) == (0, 0o700), "{uid} {mode:o}");
        for image in storage::images(daemon) {
            let (uid, _, mode) = leaks::owner(&image)?;
            ensure!((uid, mode) == (0, 0o600), "{uid} {mode:o}");
        }
        Ok(())
    })
}

#[test]
fn a_new_version_begins_with_nothing_and_a_deleted_runtime_leaves_nothing() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        deploy(&client, "keeper")?;
        let id = session_name("version");
        write(&client, "keeper", &id, "old")?;
        client.stop(&id)?;
        deploy(&client, "keeper")?;
        ensure!(found(&client, "keeper", &id)? == json!({}), "reset");
        ensure!(storage::images(daemon).len() == 1, "the old one is gone");
        client
            .send(e2e::http::Request::new(
                "DELETE",
                "/v1/runtimes/keeper?wait=true",
            ))?
            .expect(204)?;
        wait::until_true(10, "the storage of a deleted runtime to go", || {
            Ok(storage::images(daemon).is_empty())
        })?;
        nothing_attached(daemon)
    })
}

#[test]
fn its_size_and_its_number_of_files_are_capped_on_the_host_too() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        deploy(&client, "filler")?;
        let id = session_name("full");
        let fill = "
import errno, os
written = 0
with open('/mnt/data/filler', 'wb', buffering=0) as file:
    try:
        while True: written += file.write(b'\\1' * (1 << 20))
    except OSError as fault: answer = {'bytes': written, 'stopped': errno.errorcode[fault.errno]}
";
        let answer = puppet::run(&client, "filler", &id, fill)?;
        let bytes = answer["bytes"].as_u64().context("bytes")?;
        ensure!(answer["stopped"] == "ENOSPC", "{answer}");
        ensure!((SMALL / 2..SMALL).contains(&bytes), "{answer}");
        let files = "
import errno, os
os.unlink('/mnt/data/filler')
os.mkdir('/mnt/data/many')
made = 0
try:
    while made < 100000:
        os.close(os.open(f'/mnt/data/many/{made}', os.O_CREAT | os.O_WRONLY)); made += 1
except OSError as fault: answer = {'files': made, 'stopped': errno.errorcode[fault.errno]}
";
        let answer = puppet::run(&client, "filler", &id, files)?;
        let made = answer["files"].as_u64().context("files")?;
        ensure!(
            answer["stopped"] == "ENOSPC" && made < SMALL / 8192 + 64,
            "{answer}"
        );
        client.stop(&id)?;
        nothing_attached(daemon)?;
        let images = storage::images(daemon);
        let [image] = &images[..] else {
            anyhow::bail!("{images:?}");
        };
        // What was deleted is given back: there are the journal and the inodes.
        let taken = fs::metadata(image)?.blocks() * 512;
        ensure!(taken < SMALL / 2, "{taken} bytes on the host");
        Ok(())
    })
}

#[test]
fn what_a_session_deletes_is_the_hosts_again_when_it_ends() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        deploy(&client, "tidy")?;
        let id = session_name("tidy");
        let taken = || -> anyhow::Result<u64> {
            let images = storage::images(daemon);
            let [image] = &images[..] else {
                anyhow::bail!("{images:?}");
            };
            Ok(fs::metadata(image)?.blocks() * 512)
        };
        let fill = "
for n in range(20): open(f'/mnt/data/{n}', 'wb').write(b'1' * (1 << 20))
";
        puppet::run(&client, "tidy", &id, fill)?;
        client.stop(&id)?;
        nothing_attached(daemon)?;
        let filled = taken()?;
        ensure!(filled > 20 << 20, "{filled} bytes on the host");
        // Deleted at the last moment: nothing of it is committed yet.
        let delete = "
import os
for n in range(19): os.unlink(f'/mnt/data/{n}')
";
        puppet::run(&client, "tidy", &id, delete)?;
        client.stop(&id)?;
        nothing_attached(daemon)?;
        let left = taken()?;
        ensure!(
            left + (18 << 20) < filled,
            "{left} of {filled} bytes on the host"
        );
        let kept = "answer = len(open('/mnt/data/19', 'rb').read())";
        ensure!(puppet::run(&client, "tidy", &id, kept)? == json!(1 << 20));
        Ok(())
    })
}

/// Says what it finds in its storage, and leaves something there.
const FINDER: &str = r#"
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Finder(BaseHTTPRequestHandler):
    def answer(self, found):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())
    def do_GET(self):
        self.answer({"status": "Healthy"})
    def do_POST(self):
        found = sorted(os.listdir("/mnt/data"))
        open("/mnt/data" + self.path.replace("/", "/from-"), "wb").write(b"1" * (1 << 20))
        self.answer(found)

HTTPServer(("127.0.0.1", 8080), Finder).serve_forever()
"#;

#[test]
fn its_file_system_is_not_the_sessions_to_change() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        deploy(&client, "tinker")?;
        let id = session_name("tinker");
        // On files of its own, with arguments that the kernel would take.
        let code = r#"
import errno, fcntl, os, struct
one = open('/mnt/data/one', 'w+b'); one.write(b'1' * 65536); one.flush()
two = open('/mnt/data/two', 'w+b'); two.write(b'2' * 65536); two.flush()
def told(request, argument=b''):
    try: fcntl.ioctl(one, request, argument) if argument else fcntl.ioctl(one, request)
    except OSError as fault: return errno.errorcode[fault.errno]
    return 'done'
flags = struct.unpack('l', fcntl.ioctl(one, 0x80086601, bytes(8)))[0]
EXTENTS = 0x80000
closed = {
    'nodump': told(0x40086602, struct.pack('l', flags | 0x40)),
    'no extents': told(0x40086602, struct.pack('l', flags & ~EXTENTS)),
    'sync': told(0x40086602, struct.pack('l', flags | 0x8)),
    'project': told(0x401C5820, struct.pack('IIIII8x', 0, 0, 0, 7, 0)),
    'migrate': told(0x6609),
    'allocate': told(0x660C),
    'move': told(0xC028660F, struct.pack('IIQQQQ', 0, two.fileno(), 0, 0, 4, 0)),
    'boot': told(0x6611),
    'salt': told(0x40106614, bytes(16)),
    'verity': told(0x40806685, struct.pack('IIIIQIIQ88x', 1, 1, 4096, 0, 0, 0, 0, 0)),
    'version': told(0x40087602, struct.pack('l', 7)),
}
extents = fcntl.ioctl(one, 0xC020660B, struct.pack('QQIIII', 0, 2**64 - 1, 0, 0, 0, 0))
answer = {
    'closed': closed, 'extents': struct.unpack('QQIIII', extents)[3] > 0,
    'flags': flags == struct.unpack('l', fcntl.ioctl(one, 0x80086601, bytes(8)))[0] and flags & EXTENTS != 0,
    'one': one.seek(0) == 0 and one.read(1) == b'1',
}
"#;
        let seen = puppet::run(&client, "tinker", &id, code)?;
        let closed = seen["closed"].as_object().context("answers")?;
        ensure!(
            closed.len() == 11 && closed.values().all(|told| told == "EPERM"),
            "{seen:#}"
        );
        for what in ["extents", "flags", "one"] {
            ensure!(seen[what] == true, "{what}: {seen:#}");
        }
        Ok(())
    })
}

#[test]
fn a_warm_up_leaves_nothing() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let before = leaks::Snapshot::steady(daemon)?;
        let warm = json!({
            "storage": [{"mount": "/mnt/data", "size": SMALL}],
            "warmup": "/warm",
        });
        e2e::deploy::python(&client, "warmed", FINDER, warm)?;
        let ended = client.sessions("runtime=warmed")?;
        ensure!(ended.len() == 1 && ended[0].ended_at.is_some(), "{ended:?}");
        ensure!(
            storage::images(daemon).is_empty(),
            "{:?}",
            storage::images(daemon)
        );
        nothing_attached(daemon)?;
        before.settle(daemon)?;
        let id = session_name("cold");
        ensure!(client.invoke("warmed", &id, &json!({}))? == json!([]));
        ensure!(client.invoke("warmed", &id, &json!({}))? == json!(["from-invocations"]));
        client.stop(&id)?;
        nothing_attached(daemon)?;
        ensure!(storage::images(daemon).len() == 1);
        Ok(())
    })
}

#[test]
fn one_caller_has_a_share_of_the_room() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    let options = Options::quick().config("[storage]\nmax_size = \"32M\"\ntotal = \"128M\"\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        deploy(&client, "keeper")?;
        let ids: Vec<_> = (0..3).map(|n| session_name(&format!("share{n}"))).collect();
        for id in &ids[..2] {
            write(&client, "keeper", id, "here")?;
        }
        let refused = client.send(Client::invocation(
            "keeper",
            &ids[2],
            &puppet::payload(LIST),
        ))?;
        // Half of all, if nobody says.
        expect_aws_error(
            refused,
            507,
            "InternalServerException",
            "storage.per_caller (64 MiB)",
        )?;
        ensure!(storage::images(daemon).len() == 2);
        Ok(())
    })
}

#[test]
fn what_is_in_it_is_the_agents_and_no_way_out() -> Result {
    ground!(Daemon, Python, Command("mke2fs"), Command("debugfs"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        deploy(&client, "keeper")?;
        let (one, two) = (session_name("one"), session_name("two"));
        let look = "
import os
open('/mnt/data/mine', 'a').close()
def refused(act):
    try: act()
    except OSError as fault: return os.strerror(fault.errno)
    return 'done'
stat = os.stat('/mnt/data/mine')
flags = [line.split()[5].split(',') for line in open('/proc/self/mountinfo') if line.split()[4].startswith('/mnt')]
open('/mnt/data/run', 'w').write('#!/bin/sh\\necho ran\\n')
os.chmod('/mnt/data/run', 0o755)
import subprocess
answer = {
  'owner': [stat.st_uid, stat.st_gid], 'me': os.getuid(), 'flags': flags,
  'mknod': refused(lambda: os.mknod('/mnt/data/null', 0o20666, os.makedev(1, 3))),
  'beside': refused(lambda: os.mkdir('/mnt/beside')),
  'away': refused(lambda: os.rename('/mnt/data', '/mnt/away')),
  'ran': subprocess.run(['/mnt/data/run'], capture_output=True, text=True).stdout,
}
";
        let mut bases = Vec::new();
        for id in [&one, &two] {
            let seen = puppet::run(&client, "keeper", id, look)?;
            ensure!(
                seen["owner"] == json!([1000, 1000]) && seen["me"] == 1000,
                "{seen}"
            );
            let flags = seen["flags"].as_array().context("flags")?;
            ensure!(flags.len() == 1, "one mount: {seen}");
            for flag in ["nosuid", "nodev", "rw"] {
                ensure!(
                    flags[0]
                        .as_array()
                        .is_some_and(|all| all.contains(&json!(flag))),
                    "{seen}"
                );
            }
            ensure!(seen["mknod"] == "Operation not permitted", "{seen}");
            for act in ["beside", "away"] {
                ensure!(seen[act] == "Permission denied", "{act}: {seen}");
            }
            ensure!(seen["ran"] == "ran\n", "scripts may be run from it: {seen}");
            bases.push(client.session(id)?.uid_base.context("uid base")?);
        }
        ensure!(bases[0] != bases[1], "{bases:?}");
        // The session's own uids are in no image: the map of the mount is what makes them the agent's.
        for id in [&one, &two] {
            client.stop(id)?;
        }
        nothing_attached(daemon)?;
        for image in storage::images(daemon) {
            let out = Command::new("debugfs")
                .args(["-R", "stat data/mine"])
                .arg(&image)
                .output()?;
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let words: Vec<_> = text.split_whitespace().collect();
            let after = |key: &str| {
                let at = words.iter().position(|word| *word == key)?;
                words.get(at + 1).copied()
            };
            ensure!(
                after("User:") == Some("1000") && after("Group:") == Some("1000"),
                "{text}"
            );
        }
        // Sessions swap their ranges: whoever gets which, the files are the agent's.
        for id in [&two, &one] {
            let seen = puppet::run(&client, "keeper", id, look)?;
            ensure!(seen["owner"] == json!([1000, 1000]), "{seen}");
        }
        let pid = client.session(&one)?.pid.context("pid")?;
        let host_sees = host::mountinfo(std::process::id().cast_signed());
        ensure!(
            !host_sees.iter().any(|line| line.contains("/dev/loop")),
            "{host_sees:?}"
        );
        ensure!(
            host::mountinfo(pid)
                .iter()
                .any(|line| line.contains("/dev/loop"))
        );
        Ok(())
    })
}

#[test]
fn what_might_not_fit_is_refused_with_507_and_leaves_nothing() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    let options = Options::quick()
        .config("[storage]\nmax_size = \"32M\"\ntotal = \"65M\"\nper_caller = \"1G\"\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        deploy(&client, "keeper")?;
        let ids: Vec<_> = (0..3).map(|n| session_name(&format!("room{n}"))).collect();
        for id in &ids[..2] {
            write(&client, "keeper", id, "here")?;
        }
        let before = leaks::Snapshot::steady(daemon)?;
        let refused = client.send(Client::invocation(
            "keeper",
            &ids[2],
            &puppet::payload(LIST),
        ))?;
        expect_aws_error(refused, 507, "InternalServerException", "storage.total")?;
        before.settle(daemon)?;
        ensure!(storage::images(daemon).len() == 2);
        // One that is idle takes what it takes.
        client.stop(&ids[0])?;
        nothing_more_than(daemon, 1)?;
        ensure!(found(&client, "keeper", &ids[2])? == json!({}));

        let large = json!({"storage": [{"mount": "/mnt/data", "size": "64M"}]});
        let refused = puppet::deploy(&client, "large", large);
        let told = format!("{:#}", refused.err().context("deployed")?);
        ensure!(
            told.contains("storage[0].size") && told.contains("at most 32M"),
            "{told}"
        );
        Ok(())
    })
}

fn nothing_more_than(daemon: &Daemon, devices: usize) -> Result {
    let dir = daemon.state_dir();
    wait::until_true(10, "a storage to be let go", || {
        Ok(storage::loop_devices(&dir).len() == devices)
    })
}

#[test]
fn what_nobody_has_used_for_long_is_swept_and_nothing_else() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    Daemon::with(
        Options::quick().config("[storage]\nkeep = 3600\n"),
        |daemon| {
            let client = daemon.client();
            deploy(&client, "keeper")?;
            let (old, young) = (session_name("old"), session_name("young"));
            write(&client, "keeper", &old, "old")?;
            client.stop(&old)?;
            nothing_attached(daemon)?;
            let first = storage::images(daemon);
            write(&client, "keeper", &young, "young")?;
            client.stop(&young)?;
            daemon.terminate()?;
            let image = first.first().context("an image")?;
            let then = SystemTime::now() - Duration::from_secs(3700);
            File::options()
                .write(true)
                .open(image)?
                .set_modified(then)?;
            daemon.restart()?;
            wait::until_true(10, "the sweep", || Ok(!image.exists()))?;
            let client = daemon.client();
            ensure!(found(&client, "keeper", &young)? == json!({"marker": "young"}));
            ensure!(found(&client, "keeper", &old)? == json!({}));
            Ok(())
        },
    )
}

#[test]
fn many_quick_sessions_of_one_id_never_meet_the_one_before() -> Result {
    ground!(Daemon, Python, Command("mke2fs"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        deploy(&client, "keeper")?;
        let id = session_name("quick");
        let count = "
path = '/mnt/data/count'
try: number = int(open(path).read())
except FileNotFoundError: number = 0
open(path, 'w').write(str(number + 1))
answer = number
";
        let before = leaks::Snapshot::steady(daemon)?;
        for round in 0..8 {
            ensure!(puppet::run(&client, "keeper", &id, count)? == round);
            // Dirty pages on the way out.
            puppet::run(
                &client,
                "keeper",
                &id,
                "open('/mnt/data/dirt', 'wb').write(b'1' * (8 << 20))",
            )?;
            client.stop(&id)?;
        }
        nothing_attached(daemon)?;
        ensure!(storage::images(daemon).len() == 1);
        fs::remove_dir_all(
            daemon
                .state_dir()
                .join("storage")
                .read_dir()?
                .next()
                .context("dir")??
                .path(),
        )?;
        before.settle(daemon)
    })
}
