//! A list of system call numbers as a binary search.
//!
//! The usual form of a filter compares number after number. The kernel runs a new filter once for every number there is
//! (to know which it may answer from its bitmap) and compiles it; for a list of three hundred numbers that was 0.6 ms of
//! every session's start. A search visits eight instructions instead of hundreds.

use seccompiler::{BpfProgram, sock_filter};

/// One instruction, or a place that is left when the number is not on the list.
enum Line {
    Is(sock_filter),
    Miss,
}

/// A program that ends with `verdict` if the number (which is in the accumulator) is one of `calls`, and otherwise runs off
/// its end, to what is put there.
pub(super) fn search(calls: impl IntoIterator<Item = libc::c_long>, verdict: u32) -> BpfProgram {
    let mut lines = Vec::new();
    emit(&runs(calls), verdict, &mut lines);
    let end = lines.len();
    lines
        .into_iter()
        .enumerate()
        .map(|(at, line)| match line {
            Line::Is(filter) => filter,
            Line::Miss => jump(end - at - 1),
        })
        .collect()
}

/// Where listed and unlisted numbers take turns: from this number on, is it listed? Covers all numbers.
fn runs(calls: impl IntoIterator<Item = libc::c_long>) -> Vec<(u32, bool)> {
    let mut calls: Vec<u32> = calls
        .into_iter()
        .filter_map(|call| u32::try_from(call).ok())
        .collect();
    calls.sort_unstable();
    let mut runs = vec![(0, false)];
    for call in calls {
        match runs.last_mut() {
            // Goes on where the list left off.
            Some(last) if *last == (call, false) => last.1 = true,
            Some(_) | None => runs.push((call, true)),
        }
        if let Some(next) = call.checked_add(1) {
            runs.push((next, false));
        }
    }
    runs
}

fn emit(runs: &[(u32, bool)], verdict: u32, lines: &mut Vec<Line>) {
    match runs {
        [] => lines.push(Line::Miss),
        [(_, true)] => lines.push(Line::Is(filter(libc::BPF_RET | libc::BPF_K, 0, 0, verdict))),
        [(_, false)] => lines.push(Line::Miss),
        _ => {
            let (low, high) = runs.split_at(runs.len() / 2);
            let from = high.first().map_or(0, |run| run.0);
            let code = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
            let mut below = Vec::new();
            emit(low, verdict, &mut below);
            // The conditional jump reaches 255 instructions only, the other one any number.
            match u8::try_from(below.len()) {
                Ok(over) => lines.push(Line::Is(filter(code, over, 0, from))),
                Err(_) => lines.extend([
                    Line::Is(filter(code, 0, 1, from)),
                    Line::Is(jump(below.len())),
                ]),
            }
            lines.append(&mut below);
            emit(high, verdict, lines);
        }
    }
}

fn jump(over: usize) -> sock_filter {
    // A program has at most 4096 instructions; one that is longer is refused by the kernel whatever it says.
    let over = u32::try_from(over).unwrap_or(u32::MAX);
    filter(libc::BPF_JMP | libc::BPF_JA, 0, 0, over)
}

pub(super) fn filter(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const HIT: u32 = 7;

    /// What the program says to a number: its verdict, or `None` off its end; and how many instructions that took.
    fn run(program: &[sock_filter], number: u32) -> (Option<u32>, usize) {
        let (mut at, mut steps) = (0, 0);
        while let Some(line) = program.get(at) {
            steps += 1;
            at += 1;
            match u32::from(line.code) {
                code if code == libc::BPF_RET | libc::BPF_K => return (Some(line.k), steps),
                code if code == libc::BPF_JMP | libc::BPF_JA => {
                    at += usize::try_from(line.k).expect("fits");
                }
                code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => {
                    at += usize::from(if number >= line.k { line.jt } else { line.jf });
                }
                code => panic!("unexpected instruction {code:#x}"),
            }
        }
        assert_eq!(at, program.len(), "jumps to the end, not past it");
        (None, steps)
    }

    proptest! {
        #[test]
        fn exactly_the_listed_numbers_hit(calls in proptest::collection::btree_set(0_i64..600, 0..400)) {
            let program = search(calls.clone(), HIT);
            for number in 0..601 {
                let listed = calls.contains(&i64::from(number));
                prop_assert_eq!(run(&program, number).0, listed.then_some(HIT), "{}", number);
            }
            prop_assert_eq!(run(&program, u32::MAX).0, None);
        }
    }

    #[test]
    fn a_search_is_short() {
        let every_second: BTreeSet<_> = (0..600).step_by(2).collect();
        let program = search(every_second, HIT);
        let longest = (0..600).map(|number| run(&program, number).1).max();
        assert!(longest <= Some(24), "{longest:?}");
    }
}
