//! The agent inside: a plain HTTP server that gives bodies back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

pub(crate) fn serve() {
    println!("agent: uid {}", nix::unistd::getuid());
    let listener = TcpListener::bind("0.0.0.0:8080").expect("bind");
    for connection in listener.incoming().map_while(Result::ok) {
        std::thread::spawn(move || converse(connection));
    }
}

fn converse(connection: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(connection);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let ping = line.starts_with("GET /ping ");
        let mut length = 0;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).ok()? == 0 {
                return None;
            }
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.trim().parse().ok()?;
            }
            if header.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        if ping {
            body = br#"{"status":"Healthy"}"#.to_vec();
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let answer = [head.as_bytes(), &body].concat();
        reader.get_mut().write_all(&answer).ok()?;
    }
}
