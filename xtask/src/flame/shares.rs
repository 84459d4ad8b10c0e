//! Shares of a caller's time: who, and in which system call or code of its own.

use super::stacks::{Folded, KERNEL, as_f64};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Lines below this, in percent, are summed up.
const LEAST: f64 = 0.8;

/// A line per process and a line per activity of it, largest first.
pub(super) fn table(folded: &Folded) -> String {
    let mut parts: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
    for (stack, count) in folded.iter() {
        let [part, frames @ ..] = stack else { continue };
        *parts
            .entry(part)
            .or_default()
            .entry(activity(frames))
            .or_default() += count;
    }
    let percent = |count: u64| as_f64(count) / as_f64(folded.total()) * 100.0;
    let mut parts: Vec<(&str, u64, BTreeMap<String, u64>)> = parts
        .into_iter()
        .map(|(part, activities)| (part, activities.values().sum(), activities))
        .collect();
    parts.sort_by_key(|(_, sum, _)| std::cmp::Reverse(*sum));
    let mut text = String::new();
    for (part, sum, activities) in parts {
        let _ = writeln!(text, "{part:<16} {:>5.1} %", percent(sum));
        let mut activities: Vec<_> = activities.into_iter().collect();
        activities.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut rest = 0;
        for (activity, count) in activities {
            if activity.is_empty() {
                continue;
            }
            if percent(count) < LEAST {
                rest += count;
                continue;
            }
            let _ = writeln!(text, "{:>25.1} %  {activity}", percent(count));
        }
        if rest > 0 {
            let _ = writeln!(text, "{:>25.1} %  less than that each", percent(rest));
        }
    }
    text
}

/// The system call, else what else brought it into the kernel, else its own code.
fn activity(frames: &[String]) -> String {
    let mut kernel = frames.iter().filter_map(|frame| frame.strip_suffix(KERNEL));
    let Some(first) = kernel.next() else {
        return match frames {
            [] => String::new(),
            _ => "own code".to_owned(),
        };
    };
    if first.starts_with("entry_SYSCALL") {
        // Some calls are known by the function that does them only, their entry being a part of `do_syscall_64`.
        return match kernel.find(|name| *name != "do_syscall_64") {
            None => "entering and leaving the kernel".to_owned(),
            Some(name) if name.starts_with("exit_to_user_mode") => "giving way".to_owned(),
            Some(name) => [
                "__x64_sys_",
                "__do_sys_",
                "__se_sys_",
                "__sys_",
                "ksys_",
                "do_",
            ]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))
            .unwrap_or(name)
            .to_owned(),
        };
    }
    match first {
        "asm_exc_page_fault" => "page faults".to_owned(),
        name if name.starts_with("ret_from_fork") => "beginning to run".to_owned(),
        name if name.starts_with("asm_sysvec") || name.starts_with("asm_common") => {
            "interrupts".to_owned()
        }
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::activity;

    #[test]
    fn a_sample_is_in_its_system_call() {
        let of = |names: &[&str]| {
            let frames: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            activity(&frames)
        };
        const ENTRY: &str = "entry_SYSCALL_64_after_hwframe_[k]";
        const CALL: &str = "do_syscall_64_[k]";
        assert_eq!(
            of(&["main", ENTRY, CALL, "__x64_sys_clone3_[k]", "x_[k]"]),
            "clone3"
        );
        assert_eq!(of(&["main", ENTRY, CALL, "do_writev_[k]"]), "writev");
        assert_eq!(
            of(&["main", ENTRY, CALL]),
            "entering and leaving the kernel"
        );
        assert_eq!(of(&["main", "asm_exc_page_fault_[k]"]), "page faults");
        assert_eq!(of(&["main"]), "own code");
    }
}
