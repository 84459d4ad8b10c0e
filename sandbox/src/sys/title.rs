//! What `ps` shows: the process's name ([prctl(2)](https://man7.org/linux/man-pages/man2/PR_SET_NAME.2const.html), 15
//! bytes) and its command line ([proc_pid_cmdline(5)](https://man7.org/linux/man-pages/man5/proc_pid_cmdline.5.html)).

use nix::errno::Errno;
use nix::sys::prctl;
use procfs::process::Process;
use std::ffi::CString;
use std::io;

/// Sets both, the command line as far as the original one leaves room. For a process with one thread that has read its
/// arguments: they are overwritten.
pub fn set(title: &str) -> io::Result<()> {
    prctl::set_name(&CString::new(title).map_err(|_| Errno::EINVAL)?)?;
    let stat = Process::myself()
        .and_then(|me| me.stat())
        .map_err(io::Error::other)?;
    // Another thread could be reading them.
    if stat.num_threads != 1 {
        return Err(Errno::EDEADLK.into());
    }
    let (Some(start), Some(end)) = (stat.arg_start, stat.arg_end) else {
        return Ok(());
    };
    let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else {
        return Ok(());
    };
    // The last byte stays null: otherwise the kernel takes the environment behind it for a part of the title.
    let Some(room) = end.checked_sub(start).and_then(|len| len.checked_sub(1)) else {
        return Ok(());
    };
    let shown = title.len().min(room);
    let memory = std::ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel put the argument strings into [start, end) of our own stack, writable, when it started this
    // program; nobody else reads or writes them meanwhile, because there is one thread (checked above). `title` is elsewhere.
    unsafe {
        std::ptr::write_bytes(memory, 0, room);
        std::ptr::copy_nonoverlapping(title.as_ptr(), memory, shown);
    }
    Ok(())
}
