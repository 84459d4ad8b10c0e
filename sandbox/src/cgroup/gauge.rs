//! A session's counters held open, for who reads them every second: one `pread` each, where [`SessionCgroup::counters`] opens
//! and closes five files.

use super::dir::{Dir, keyed};
use super::session::SessionCgroup;
use super::{Backend, CgroupError, Result, v1};
use nix::fcntl::OFlag;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Descriptors that a gauge holds.
pub const GAUGE_FILES: usize = 3;

/// Longer than what is looked for: a number, or the first line of `cpu.stat`.
const ENOUGH: usize = 128;

/// The counters that a meter needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Memory now, bytes.
    pub memory_bytes: u64,
    /// Highest memory, bytes.
    pub peak_bytes: u64,
}

/// See the module. It does not keep the cgroup from being removed; reading it fails then.
#[derive(Debug)]
pub struct Gauge {
    cpu: File,
    form: Form,
    memory: File,
    peak: File,
}

/// How the file of CPU time says it.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// `cpuacct.usage`.
    Nanos,
    /// `cpu.stat`.
    Stat,
}

impl Gauge {
    /// Reads all three.
    pub fn read(&self) -> io::Result<Sample> {
        let mut buffer = [0; ENOUGH];
        let cpu = text(&self.cpu, &mut buffer)?;
        let cpu_us = match self.form {
            Form::Nanos => number(cpu)? / 1000,
            // Its first line, by the kernel's own order since Linux 4.15; later ones may be cut here.
            Form::Stat => keyed(cpu, "usage_usec").ok_or(io::ErrorKind::InvalidData)?,
        };
        Ok(Sample {
            cpu_us,
            memory_bytes: number(text(&self.memory, &mut buffer)?)?,
            peak_bytes: number(text(&self.peak, &mut buffer)?)?,
        })
    }
}

fn text<'a>(file: &File, buffer: &'a mut [u8; ENOUGH]) -> io::Result<&'a str> {
    let read = file.read_at(buffer, 0)?;
    let bytes = buffer.get(..read).unwrap_or_default();
    std::str::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn number(text: &str) -> io::Result<u64> {
    let number = text.trim().parse();
    number.map_err(|_| io::ErrorKind::InvalidData.into())
}

impl SessionCgroup {
    /// Opens the counters that a meter needs; it holds [`GAUGE_FILES`] descriptors.
    pub fn gauge(&self) -> Result<Gauge> {
        let open = |dir: &Dir, file: &str| {
            let fd = dir.open_file(&self.file(file), OFlag::O_RDONLY)?;
            Ok::<_, CgroupError>(File::from(fd))
        };
        match &self.tree.backend {
            Backend::V2(branch) => Ok(Gauge {
                cpu: open(&branch.dir, "cpu.stat")?,
                form: Form::Stat,
                memory: open(&branch.dir, "memory.current")?,
                peak: open(&branch.dir, "memory.peak")?,
            }),
            Backend::V1 {
                hierarchies,
                unified,
            } => {
                let memory = &v1::of(hierarchies, "memory")?.branch.dir;
                let (cpu, form) = match (v1::find(hierarchies, "cpuacct"), unified) {
                    (Some(cpuacct), _) => {
                        (open(&cpuacct.branch.dir, "cpuacct.usage")?, Form::Nanos)
                    }
                    (None, Some(branch)) => (open(&branch.dir, "cpu.stat")?, Form::Stat),
                    (None, None) => {
                        return Err(CgroupError::MissingController {
                            controller: "cpuacct".to_owned(),
                            detail: "no hierarchy counts CPU time".to_owned(),
                        });
                    }
                };
                Ok(Gauge {
                    cpu,
                    form,
                    memory: open(memory, "memory.usage_in_bytes")?,
                    peak: open(memory, "memory.max_usage_in_bytes")?,
                })
            }
        }
    }

    /// Files in its tmpfs mounts, and shared memory, bytes. Both backends have the counter by the same name. It is one of many
    /// in its file, so it is for who asks rarely.
    pub fn tmp_bytes(&self) -> Result<u64> {
        let dir = match &self.tree.backend {
            Backend::V2(branch) => &branch.dir,
            Backend::V1 { hierarchies, .. } => &v1::of(hierarchies, "memory")?.branch.dir,
        };
        dir.keyed(&self.file("memory.stat"), "shmem")
    }
}
