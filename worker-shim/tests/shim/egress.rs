//! The session's way out.

use crate::harness::{Session, boot, free_port, shell};
use nix::sys::socket::{SockaddrIn, getsockname};
use proto::shim::Egress;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

#[test]
fn connections_to_the_proxy_port_are_handed_over() {
    let mut boot = boot(free_port());
    boot.egress = true;
    shell(
        &mut boot,
        r#"echo $HTTP_PROXY $HTTPS_PROXY $http_proxy $https_proxy; echo $NO_PROXY
exec /usr/bin/python3 -c '
import os, socket, time
port = int(os.environ["HTTP_PROXY"].rsplit(":", 1)[1])
for n in range(3):
    s = socket.create_connection(("127.0.0.1", port)); s.sendall(b"ask%d" % n)
    print(s.recv(100).decode(), flush=True)
time.sleep(1000)'"#,
    );
    let session = Session::start(&boot);
    let mut broker = session.attach();
    for n in 0..3 {
        let mut heard = broker.notification("egress");
        let egress: Egress = serde_json::from_value(heard.params).expect("egress");
        assert_eq!(egress.connection, n + 1);
        assert_eq!(heard.fds.len(), 1);
        let mut connection = TcpStream::from(heard.fds.remove(0));
        let own: SockaddrIn = getsockname(connection.as_raw_fd()).expect("a TCP socket");
        assert_eq!(own.ip(), std::net::Ipv4Addr::LOCALHOST);
        connection.set_nonblocking(false).expect("blocking");
        let mut ask = [0; 4];
        connection.read_exact(&mut ask).expect("read");
        assert_eq!(ask, format!("ask{n}").as_bytes());
        connection
            .write_all(format!("told {n}").as_bytes())
            .expect("write");
    }
    let mut lines = Vec::new();
    while lines.len() < 5 {
        lines.extend(broker.log().lines.into_iter().map(|line| line.text));
    }
    let urls: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!(urls.len(), 4);
    assert!(
        urls.iter()
            .all(|url| *url == urls[0] && url.starts_with("http://127.0.0.1:"))
    );
    assert_eq!(lines[1], "localhost,127.0.0.1,::1");
    assert_eq!(lines[2..], ["told 0", "told 1", "told 2"]);
}

#[test]
fn without_egress_there_is_no_proxy() {
    let mut boot = boot(free_port());
    shell(&mut boot, "echo \"[$HTTP_PROXY]\"; exec sleep 1000");
    let session = Session::start(&boot);
    assert_eq!(session.attach().log().lines[0].text, "[]");
}

#[test]
fn a_flood_of_connections_waits_for_the_broker() {
    let mut boot = boot(free_port());
    boot.egress = true;
    boot.limits.max_egress_backlog = 4;
    shell(
        &mut boot,
        r#"exec /usr/bin/python3 -c '
import os, socket, time
port = int(os.environ["HTTP_PROXY"].rsplit(":", 1)[1])
all = []
for n in range(200):
    s = socket.socket(); s.setblocking(False); s.connect_ex(("127.0.0.1", port)); all.append(s)
print("done", flush=True)
time.sleep(1000)'"#,
    );
    let session = Session::start(&boot);
    let before = session.descriptors();
    let mut broker = session.attach();
    let mut said = Vec::new();
    while !said.iter().any(|line| line == "done") {
        said.extend(broker.log().lines.into_iter().map(|line| line.text));
    }
    assert!(
        session.descriptors() <= before + 8,
        "the shim keeps none of them"
    );
    let mut numbers = Vec::new();
    for _ in 0..4 {
        let heard = broker.notification("egress");
        let egress: Egress = serde_json::from_value(heard.params).expect("egress");
        numbers.push(egress.connection);
    }
    assert_eq!(numbers, [1, 2, 3, 4]);
}
