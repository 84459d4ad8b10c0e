//! A session's output with progress records in it, and the URLs of callbacks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::api::{MAX_CHECKPOINT, MAX_PROGRESS};
use proto::shim::{LogLine, LogStream};
use supervisor::callback::{CallbackPolicy, CallbackUrl};
use supervisor::progress::Scanner;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(url) = CallbackUrl::parse(&text) {
        assert_eq!(CallbackUrl::parse(url.as_str()).as_ref(), Ok(&url));
        assert!(url.target().port != 0 && !url.target().host.is_empty());
        // Without an operator's word nothing that is written as an address inside is ever taken.
        if CallbackPolicy::default().may_submit(&url).is_ok() {
            assert!(url.as_str().get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://")));
        }
    }
    let lines: Vec<LogLine> = text
        .split('\n')
        .enumerate()
        .map(|(at, line)| LogLine {
            stream: if line.len() % 2 == 0 { LogStream::Stdout } else { LogStream::Stderr },
            at_ms: at as u64,
            text: line.to_owned(),
        })
        .collect();
    let mut scanner = Scanner::default();
    for batch in lines.chunks(3) {
        let found = scanner.scan(batch);
        assert!(found.len() <= batch.len());
        for reported in found {
            assert!(!reported.record.contains_key("task"));
            let length = serde_json::to_vec(&reported.record).expect("JSON").len();
            assert!(length <= MAX_PROGRESS + MAX_CHECKPOINT + 32, "{length}");
        }
    }
});
