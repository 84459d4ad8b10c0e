//! What two tests of kept invocations share, the shim's and the broker's: an agent whose every byte is known, sizes that hit its
//! buffers' edges, and a runner whose seed is told (`KEPT_SEED` repeats it).

use crate::fake_agent::FakeAgent;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::io::Read as _;

/// The byte at this place of a pattern.
pub(crate) fn byte(at: u64) -> u8 {
    (at % 251).to_le_bytes()[0]
}

/// So many bytes of it.
pub(crate) fn pattern(size: u64) -> Vec<u8> {
    (0..size).map(byte).collect()
}

/// One that is told nothing but how long: its answer begins with a digest of the request. It is in chunks where the path says so.
pub(crate) fn agent() -> FakeAgent {
    FakeAgent::start(|asked| {
        let Ok(body) = asked.body() else { return false };
        let size = asked.header("x-size").expect("x-size");
        let answer = answer_to(&body, size.parse().expect("a number"));
        if asked.line.contains("chunked") {
            asked.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            for piece in answer.chunks(30_000) {
                asked.say(format!("{:x}\r\n", piece.len()));
                asked.say(piece);
                asked.say("\r\n");
            }
            asked.say("0\r\n\r\n");
        } else {
            asked.answer(&answer);
        }
        true
    })
}

/// What it answers.
pub(crate) fn answer_to(request: &[u8], size: u64) -> Vec<u8> {
    let digest = request.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| {
        (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
    });
    [digest.to_le_bytes().to_vec(), pattern(size)].concat()
}

/// Sizes of bodies: next to nothing, around one piece, and over the window.
pub(crate) fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![0_usize..50, 0..70_000_usize, 0..1_000_000_usize]
}

/// Runs so many cases, of a seed that it prints.
pub(crate) fn runner(cases: u32) -> TestRunner {
    let seed: [u8; 32] = match std::env::var("KEPT_SEED") {
        Ok(hex) => std::array::from_fn(|at| {
            u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("64 hex digits")
        }),
        Err(_) => {
            let mut seed = [0; 32];
            let mut random = std::fs::File::open("/dev/urandom").expect("urandom");
            random.read_exact(&mut seed).expect("random");
            seed
        }
    };
    let hex: String = seed.iter().map(|b| format!("{b:02x}")).collect();
    eprintln!("KEPT_SEED={hex}");
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 50,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
}
