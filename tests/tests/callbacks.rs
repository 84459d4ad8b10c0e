//! Callbacks of tasks: real receivers on loopback, which `callbacks.allow_private` opens; what may not be called is seen by its
//! refusal and by a listener that nobody calls. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, expect_problem};
use e2e::http::Request;
use e2e::{Daemon, Options, Result, ground, places, puppet, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::{CallbackSecret, CallbackState, Task, TaskStatus};
use proto::ids::TaskId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// One call, as it was heard.
#[derive(Debug)]
struct Heard {
    line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// A receiver that answers its n-th call with the n-th of its answers, and the last one from then on.
struct Receiver {
    port: u16,
    heard: mpsc::Receiver<Heard>,
}

impl Receiver {
    fn start(answers: &[&str]) -> anyhow::Result<Self> {
        Self::listen(TcpListener::bind(("127.0.0.1", 0))?, answers)
    }

    fn listen(listener: TcpListener, answers: &[&str]) -> anyhow::Result<Self> {
        let port = listener.local_addr()?.port();
        let (hear, heard) = mpsc::channel();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        // Ends with the test's process: a thread that waits for a call holds nothing.
        std::thread::spawn(move || {
            for (calls, stream) in listener.incoming().flatten().enumerate() {
                let answer = answers.get(calls).or(answers.last());
                let Ok(call) = receive(stream, answer.map_or("", String::as_str)) else {
                    continue;
                };
                if hear.send(call).is_err() {
                    return;
                }
            }
        });
        Ok(Self { port, heard })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/done", self.port)
    }

    fn next(&self) -> anyhow::Result<Heard> {
        self.heard
            .recv_timeout(wait::seconds(60))
            .context("no call came")
    }
}

fn receive(stream: TcpStream, answer: &str) -> anyhow::Result<Heard> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").context("no length")?;
    let mut body = vec![0; length.parse()?];
    reader.read_exact(&mut body)?;
    (&stream).write_all(answer.as_bytes())?;
    Ok(Heard {
        line: line.trim_end().to_owned(),
        headers,
        body,
    })
}

const DONE: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n";
const GONE: &str = "HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n";

fn opened() -> Options {
    Options::quick().config("[callbacks]\nallow_private = [\"127.0.0.0/8\"]")
}

fn submission(callback: &str) -> Request {
    let path = format!(
        "/v1/runtimes/teller/tasks?callback={}",
        e2e::client::label(callback)
    );
    Request::post(path, puppet::payload("answer = 'told'").to_string())
        .header("content-type", "application/json")
}

fn submit(client: &Client, callback: &str) -> anyhow::Result<TaskId> {
    let task: Task = client.send(submission(callback))?.expect(202)?.json()?;
    Ok(task.task_id)
}

fn task(client: &Client, id: &TaskId) -> anyhow::Result<Task> {
    client.get(&format!("/v1/tasks/{id}"))
}

/// Waits until its callback is in this state.
fn told(client: &Client, id: &TaskId, state: CallbackState) -> anyhow::Result<Task> {
    wait::until(60, "the callback", || {
        let task = task(client, id)?;
        let callback = task.callback.as_ref().context("no callback")?;
        Ok((callback.state == state).then_some(task))
    })
}

fn with_teller(options: Options, test: impl FnOnce(&mut Daemon) -> Result) -> Result {
    Daemon::with(options, |daemon| {
        puppet::deploy(&daemon.client(), "teller", json!({}))?;
        test(daemon)
    })
}

#[test]
fn a_receiver_verifies_an_outcome_with_what_the_documentation_shows() -> Result {
    ground!(Daemon, Python);
    with_teller(opened(), |daemon| {
        let client = daemon.client();
        let receiver = Receiver::start(&[DONE])?;
        let id = submit(&client, &receiver.url())?;
        let heard = receiver.next()?;
        ensure!(heard.line == "POST /done HTTP/1.1", "{heard:?}");
        ensure!(heard.headers["webhook-id"] == id.as_str());
        let said: Task = serde_json::from_slice(&heard.body)?;
        ensure!(said.task_id == id && said.status == TaskStatus::Succeeded);
        let task = told(&client, &id, CallbackState::Delivered)?;
        let callback = task.callback.clone().context("no callback")?;
        ensure!((callback.attempts, callback.error) == (1, None), "{task:?}");
        // But for the callback itself, it is what the task shows.
        let same = Task {
            callback: said.callback.clone(),
            ..task
        };
        ensure!(said == same, "{said:?}");
        let secret = daemon
            .cli()
            .args(["task", "secret", "-a", "teller"])
            .output()?;
        let secret = String::from_utf8(secret.stdout)?.trim_end().to_owned();
        let shown: CallbackSecret = client.get("/v1/runtimes/teller/callback-secret")?;
        ensure!(shown.secret == secret && secret.starts_with("whsec_"));
        let text = String::from_utf8(heard.body.clone())?;
        ensure!(verifies(&secret, &heard.headers, &text)?);
        ensure!(!verifies(
            &secret,
            &heard.headers,
            &text.replace("SUCCEEDED", "FAILED")
        )?);
        puppet::deploy(&client, "other", json!({}))?;
        let other: CallbackSecret = client.get("/v1/runtimes/other/callback-secret")?;
        ensure!(!verifies(&other.secret, &heard.headers, &text)?);
        let unknown = client.send(Request::get("/v1/runtimes/nobody/callback-secret"))?;
        ensure!(unknown.status == 404);
        Ok(())
    })
}

/// Runs the program of docs/tasks.md.
fn verifies(secret: &str, headers: &BTreeMap<String, String>, body: &str) -> anyhow::Result<bool> {
    let document = std::fs::read_to_string(places::source().join("docs/tasks.md"))?;
    let program = document
        .split("```python\n")
        .filter_map(|rest| rest.split("```").next())
        .find(|code| code.contains("def verify("))
        .context("no program")?;
    let program = format!(
        "{program}\nimport json, sys\nsaid = json.load(sys.stdin)\n\
         verify(said['secret'], said['headers'], said['body'].encode())\n"
    );
    let mut child = Command::new("python3")
        .args(["-I", "-c", &program])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let said = json!({ "secret": secret, "headers": headers, "body": body });
    child
        .stdin
        .take()
        .context("stdin")?
        .write_all(said.to_string().as_bytes())?;
    let out = child.wait_with_output()?;
    let words = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.success() || words.contains("not the daemon's signature"),
        "{words}"
    );
    Ok(out.status.success())
}

#[test]
fn what_was_not_heard_is_told_again_and_also_by_the_next_daemon() -> Result {
    ground!(Daemon, Python);
    with_teller(opened(), |daemon| {
        let client = daemon.client();
        let receiver = Receiver::start(&[BROKEN, DONE])?;
        let id = submit(&client, &receiver.url())?;
        let [first, second] = [receiver.next()?, receiver.next()?];
        ensure!(first.headers["webhook-id"] == second.headers["webhook-id"]);
        let task = told(&client, &id, CallbackState::Delivered)?;
        ensure!(task.callback.is_some_and(|callback| callback.attempts == 2));

        // Nobody is there; then the daemon is not; then both are.
        let closed = TcpListener::bind(("127.0.0.1", 0))?;
        let address = closed.local_addr()?;
        drop(closed);
        let id = submit(&client, &format!("http://{address}/"))?;
        let due = wait::until(60, "a call that failed", || {
            let task = self::task(&client, &id)?;
            let failed = task
                .callback
                .as_ref()
                .is_some_and(|callback| callback.error.is_some());
            Ok(failed.then_some(task))
        })?;
        let callback = due.callback.context("no callback")?;
        ensure!(callback.state == CallbackState::Due, "{callback:?}");
        let error = callback.error.context("no error")?;
        ensure!(error.contains("could not be reached"), "{error}");
        daemon.kill()?;
        let receiver = Receiver::listen(TcpListener::bind(address)?, &[DONE])?;
        daemon.restart()?;
        ensure!(receiver.next()?.headers["webhook-id"] == id.as_str());
        let task = told(&daemon.client(), &id, CallbackState::Delivered)?;
        // The one that failed, and the one that was heard.
        ensure!(task.callback.is_some_and(|callback| callback.attempts >= 2));
        Ok(())
    })
}

#[test]
fn a_receiver_that_wants_to_hear_no_more_does_not_and_redirects_lead_nowhere() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[callbacks]\nallow_private = true\nretry_for = 0");
    with_teller(options, |daemon| {
        let client = daemon.client();
        let elsewhere = Receiver::start(&[DONE])?;
        let moved = format!(
            "HTTP/1.1 308 X\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
            elsewhere.url()
        );
        for (answer, words) in [(GONE, "410"), (moved.as_str(), "redirect")] {
            let receiver = Receiver::start(&[answer])?;
            let id = submit(&client, &receiver.url())?;
            let task = told(&client, &id, CallbackState::GivenUp)?;
            let callback = task.callback.context("no callback")?;
            ensure!(callback.attempts == 1, "{callback:?}");
            ensure!(callback.error.is_some_and(|error| error.contains(words)));
        }
        ensure!(elsewhere.heard.try_recv().is_err());
        Ok(())
    })
}

#[test]
fn a_receiver_that_is_silent_holds_up_nobody_else() -> Result {
    ground!(Daemon, Python);
    // Longer than this test waits for the other one.
    let options = Options::quick().config("[callbacks]\nallow_private = true\ntimeout = 60");
    with_teller(options, |daemon| {
        let client = daemon.client();
        // The kernel takes its connections, and nobody answers.
        let silent = TcpListener::bind(("127.0.0.1", 0))?;
        let url = format!("http://{}/", silent.local_addr()?);
        let mut waiting = Vec::new();
        for _ in 0..12 {
            waiting.push(submit(&client, &url)?);
        }
        for id in &waiting {
            told(&client, id, CallbackState::Due)?;
        }
        let began = std::time::Instant::now();
        let receiver = Receiver::start(&[DONE])?;
        let id = submit(&client, &receiver.url())?;
        told(&client, &id, CallbackState::Delivered)?;
        ensure!(
            began.elapsed() < Duration::from_secs(45),
            "it waited for another"
        );
        for id in &waiting {
            let callback = task(&client, id)?.callback.context("no callback")?;
            ensure!(
                callback.state == CallbackState::Due && callback.attempts == 0,
                "{callback:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn addresses_inside_are_not_called() -> Result {
    ground!(Daemon, Python);
    with_teller(
        Options::quick().config("[callbacks]\nretry_for = 0"),
        |daemon| {
            let client = daemon.client();
            for bad in [
                "https://127.0.0.1/",
                "https://10.1.2.3/x",
                "https://[::1]/",
                "https://[::ffff:192.168.0.1]/",
                "https://[64:ff9b::a00:1]/",
                "https://169.254.169.254/latest/meta-data",
                "https://0.0.0.0/",
                "https://2130706433/",
                "https://user@hooks.test/",
                "http://hooks.test/",
                "ftp://hooks.test/",
                "hooks.test",
                "",
            ] {
                let answer = client.send(submission(bad))?;
                let problem = expect_problem(answer, 400, "callback")?;
                ensure!(!problem.detail.is_empty(), "{bad}");
            }
            let all: proto::api::TaskPage = client.get("/v1/tasks")?;
            ensure!(all.items.is_empty(), "a refused submission left a task");
            // What a name is shows when it is called: then nobody is.
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            listener.set_nonblocking(true)?;
            let port = listener.local_addr()?.port();
            let id = submit(&client, &format!("https://localhost:{port}/"))?;
            let task = told(&client, &id, CallbackState::GivenUp)?;
            ensure!(task.status == TaskStatus::Succeeded);
            let error = task.callback.and_then(|callback| callback.error);
            let error = error.context("no error")?;
            ensure!(error.contains("is a loopback address"), "{error}");
            ensure!(error.contains("callbacks.allow_private"), "{error}");
            let nobody = listener.accept().expect_err("nobody called").kind();
            ensure!(nobody == std::io::ErrorKind::WouldBlock);
            Ok(())
        },
    )
}

/// A receiver with a certificate of its own authority.
struct Secure {
    child: Child,
    port: u16,
    authority: std::path::PathBuf,
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGKILL,
        );
        let _ = self.child.wait();
    }
}

impl Secure {
    fn start(folder: &std::path::Path) -> anyhow::Result<Self> {
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
            ])
            .args([
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
            ])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()?;
        ensure!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let program = "
import http.server, ssl, sys
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers['content-length']))
        self.send_response(200)
        self.send_header('content-length', '0')
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(('127.0.0.1', 0), Receiver)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
";
        let mut child = Command::new("python3")
            .args(["-I", "-c", program])
            .args([&cert, &key])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        Ok(Self {
            child,
            port: line.trim().parse()?,
            authority: cert,
        })
    }
}

#[test]
fn certificates_are_verified_by_this_hosts_authorities() -> Result {
    ground!(Daemon, Python);
    let folder = tempfile::tempdir()?;
    let secure = Secure::start(folder.path())?;
    let url = format!("https://localhost:{}/", secure.port);
    let options = Options::quick()
        .config("[callbacks]\nallow_private = true\nretry_for = 0")
        .env("SSL_CERT_FILE", &secure.authority.display().to_string());
    let unknown = Options {
        env: Vec::new(),
        ..options.clone()
    };
    with_teller(options, |daemon| {
        let id = submit(&daemon.client(), &url)?;
        told(&daemon.client(), &id, CallbackState::Delivered)?;
        daemon.terminate()?;
        daemon.restart_with(unknown)?;
        let client = daemon.client();
        let id = submit(&client, &url)?;
        let task = told(&client, &id, CallbackState::GivenUp)?;
        let error: Value = json!(task.callback.and_then(|callback| callback.error));
        ensure!(error.to_string().contains("TLS"), "{error}");
        Ok(())
    })
}
