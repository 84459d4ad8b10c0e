//! The door to `unsafe`: one small file per system call family, each with its man page.

pub mod scm;
