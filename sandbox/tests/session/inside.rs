//! As PID 1 of the session: look around, write what is seen, line by line, to the exit record.

use sandbox::shim_entry;
use std::fs;
use std::io::Write;

pub(crate) fn main() {
    let mut record = shim_entry::claim_exit_record().expect("exit record");
    let mut boot = String::new();
    std::io::Read::read_to_string(&mut shim_entry::claim_boot().expect("boot"), &mut boot)
        .expect("read");
    shim_entry::claim_listener().expect("listener");
    shim_entry::harden("shim: test").expect("harden");
    let mut say = |key: &str, value: String| {
        writeln!(record, "{key}={}", value.replace('\n', "|")).expect("write record");
    };
    say("boot", boot);
    say("env", std::env::vars_os().count().to_string());
    say(
        "status",
        fs::read_to_string("/proc/self/status").expect("status"),
    );
    say(
        "mounts",
        fs::read_to_string("/proc/self/mountinfo").expect("mountinfo"),
    );
    say(
        "limits",
        fs::read_to_string("/proc/self/limits").expect("limits"),
    );
    let mut fds: Vec<String> = fs::read_dir("/proc/self/fd")
        .expect("fd")
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    fds.sort();
    say("fds", fds.join(","));
    say("root", format!("{:?}", list("/")));
    say("dev", format!("{:?}", list("/dev")));
    say("app", format!("{:?}", list("/app")));
    say("up", list("/..").join(","));
    say(
        "write_root",
        format!("{:?}", fs::write("/x", "").map_err(|e| e.raw_os_error())),
    );
    say(
        "write_app",
        format!(
            "{:?}",
            fs::write("/app/x", "").map_err(|e| e.raw_os_error())
        ),
    );
    say(
        "write_tmp",
        format!(
            "{:?}",
            fs::write("/tmp/x", "").map_err(|e| e.raw_os_error())
        ),
    );
}

fn list(path: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .map(|entries| {
            entries
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}
