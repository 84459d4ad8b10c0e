//! The framework itself: what would make every other suite lie if it were wrong.

use e2e::http::{Request, Response, Target};
use e2e::netns::{METADATA, PUBLIC, PUBLIC_V6, World};
use e2e::{Result, ground};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;

fn answering(bytes: &'static [u8]) -> Result<Target> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the test connects");
        let mut head = [0; 1024];
        let _ = stream.read(&mut head);
        let _ = stream.write_all(bytes);
    });
    Ok(Target::Tcp(address))
}

fn get(bytes: &'static [u8]) -> Result<Response> {
    answering(bytes)?.send(Request::get("/"))
}

#[test]
fn a_truncated_body_is_an_error_in_both_framings() -> Result {
    ground!(Files);
    let whole = get(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfour")?;
    assert_eq!(whole.bytes()?, b"four");
    let short = get(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfour")?;
    assert!(short.bytes().is_err());
    let whole =
        get(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n")?;
    assert_eq!(whole.bytes()?, b"four");
    for cut in [
        &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfo",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n",
    ] {
        assert!(
            get(cut)?.bytes().is_err(),
            "{:?}",
            String::from_utf8_lossy(cut)
        );
    }
    Ok(())
}

#[test]
fn the_world_of_its_own_serves_public_and_metadata_addresses_by_name() -> Result {
    ground!(Root, Command("ip"), Command("nsenter"));
    let world = World::new()?;
    let public = world.server(false, &format!("{PUBLIC}:4000"), "public\n")?;
    let metadata = world.server(false, &format!("{METADATA}:80"), "metadata\n")?;
    let six = world.server(false, &format!("[{PUBLIC_V6}]:4000"), "six\n")?;
    world.name("model.example.com", &[PUBLIC])?;
    world.name("six.example.com", &[PUBLIC_V6])?;
    let fetch = |host: &str, port: u16| -> Result<String> {
        let script = format!(
            "import socket; s = socket.create_connection(({host:?}, {port}), 5); print(s.recv(100).decode(), end='')"
        );
        let wrap = world.wrap();
        let out = Command::new(&wrap[0])
            .args(&wrap[1..])
            .args(["/usr/bin/python3", "-c", &script])
            .output()?;
        anyhow::ensure!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(String::from_utf8(out.stdout)?)
    };
    assert_eq!(fetch("model.example.com", 4000)?, "public\n");
    assert_eq!(fetch("six.example.com", 4000)?, "six\n");
    assert_eq!(fetch(METADATA, 80)?, "metadata\n");
    assert!(fetch("unknown.example.com", 4000).is_err());
    assert_eq!((public.met(), metadata.met(), six.met()), (1, 1, 1));
    Ok(())
}
