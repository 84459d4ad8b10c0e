//! Devices that a session may open. Nobody makes nodes: the launcher binds checked ones.
//!
//! v1 has a controller for this and takes rules as text; v2 asks a BPF program, which is compiled here from the same list.

use crate::sys::device_filter;
use std::io;
use std::os::fd::BorrowedFd;

/// A character device: major and minor number; no minor stands for all.
type Device = (u32, Option<u32>);

/// null, zero, full, random, urandom, tty, ptmx, and pseudo-terminals.
const ALLOWED: [Device; 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// Lines for `devices.allow` on v1: reading and writing, not mknod.
pub(super) fn v1_rules() -> impl Iterator<Item = String> {
    ALLOWED.into_iter().map(|(major, minor)| match minor {
        Some(minor) => format!("c {major}:{minor} rw"),
        None => format!("c {major}:* rw"),
    })
}

/// Sets the list on a v2 cgroup and all below it.
pub(super) fn set(cgroup: BorrowedFd<'_>) -> io::Result<()> {
    device_filter::set(cgroup, &program(&ALLOWED))
}

/// `struct bpf_cgroup_dev_ctx { access << 16 | type, major, minor }` is in register 1; 1 in register 0 allows.
fn program(allowed: &[Device]) -> Vec<u64> {
    const CHARACTER: u32 = 2;
    const MKNOD: u32 = 1;
    let allow = [set_number(0, 1), exit()];
    let deny = [set_number(0, 0), exit()];
    let mut program = vec![
        load(2, 0),
        copy(5, 2),
        and(2, 0xffff),
        // Not a character device: over the refusal that follows.
        skip_if_equal(2, CHARACTER, 2),
    ];
    program.extend(deny);
    program.extend([shift_right(5, 16), and(5, MKNOD), skip_if_equal(5, 0, 2)]);
    program.extend(deny);
    program.extend([load(3, 4), load(4, 8)]);
    for (major, minor) in allowed {
        match minor {
            Some(minor) => program.extend([
                skip_unless_equal(3, *major, 3),
                skip_unless_equal(4, *minor, 2),
            ]),
            None => program.push(skip_unless_equal(3, *major, 2)),
        }
        program.extend(allow);
    }
    program.extend(deny);
    program
}

/// One instruction: operation, registers, jump or memory offset, number.
/// <https://docs.kernel.org/bpf/standardization/instruction-set.html>
fn instruction(operation: u8, to: u8, from: u8, offset: u16, number: u32) -> u64 {
    u64::from(operation)
        | u64::from(from << 4 | to) << 8
        | u64::from(offset) << 16
        | u64::from(number) << 32
}

fn load(to: u8, offset: u16) -> u64 {
    instruction(0x61, to, 1, offset, 0)
}

fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbf, to, from, 0, 0)
}

fn set_number(to: u8, number: u32) -> u64 {
    instruction(0xb7, to, 0, 0, number)
}

fn and(register: u8, number: u32) -> u64 {
    instruction(0x57, register, 0, 0, number)
}

fn shift_right(register: u8, bits: u32) -> u64 {
    instruction(0x77, register, 0, 0, bits)
}

fn skip_if_equal(register: u8, number: u32, skipped: u16) -> u64 {
    instruction(0x15, register, 0, skipped, number)
}

fn skip_unless_equal(register: u8, number: u32, skipped: u16) -> u64 {
    instruction(0x55, register, 0, skipped, number)
}

fn exit() -> u64 {
    instruction(0x95, 0, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_rules_grant_neither_mknod_nor_block_devices() {
        let rules: Vec<String> = v1_rules().collect();
        assert_eq!(rules.len(), 8);
        assert!(
            rules
                .iter()
                .all(|rule| rule.starts_with("c ") && rule.ends_with(" rw")),
            "{rules:?}"
        );
        assert!(rules.contains(&"c 136:* rw".to_owned()));
    }

    /// Runs the program as the kernel would, so far as these instructions go.
    fn allows(program: &[u64], context: [u32; 3]) -> bool {
        let mut registers = [0u64; 10];
        let mut at = 0;
        loop {
            let word = program[at].to_le_bytes();
            let (to, from) = (usize::from(word[1] & 15), usize::from(word[1] >> 4));
            let offset = usize::from(u16::from_le_bytes([word[2], word[3]]));
            let number = u64::from(u32::from_le_bytes([word[4], word[5], word[6], word[7]]));
            at += 1;
            match word[0] {
                0x61 => registers[to] = u64::from(context[offset / 4]),
                0xbf => registers[to] = registers[from],
                0xb7 => registers[to] = number,
                0x57 => registers[to] &= number,
                0x77 => registers[to] >>= number,
                0x15 if registers[to] == number => at += offset,
                0x55 if registers[to] != number => at += offset,
                0x15 | 0x55 => {}
                0x95 => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_grants_what_the_list_says() {
        let program = program(&ALLOWED);
        let (read, write, mknod) = (2, 4, 1);
        let ask = |kind: u32, access: u32, major, minor| {
            allows(&program, [access << 16 | kind, major, minor])
        };
        for (major, minor) in ALLOWED {
            let minor = minor.unwrap_or(77);
            assert!(ask(2, read | write, major, minor), "c {major}:{minor}");
            assert!(!ask(1, read, major, minor), "b {major}:{minor}");
            assert!(!ask(2, mknod, major, minor), "mknod c {major}:{minor}");
        }
        for (major, minor) in [
            (1, 1),
            (1, 11),
            (5, 1),
            (8, 0),
            (10, 232),
            (137, 0),
            (254, 0),
        ] {
            assert!(!ask(2, read, major, minor), "c {major}:{minor}");
        }
    }
}
