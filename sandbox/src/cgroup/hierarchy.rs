//! Which cgroup hierarchies this host has, and where: read from `/proc/self/mountinfo`, once, at start.

use super::{CgroupError, Result};
use procfs::process::MountInfo;
use std::fs;
use std::path::{Path, PathBuf};

/// Controllers without which no session is started.
const REQUIRED: [&str; 3] = ["memory", "cpu", "pids"];

/// One v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V1Mount {
    /// Its controllers (`cpu` and `cpuacct` often share one), or `name=systemd`.
    pub(super) controllers: Vec<String>,
    /// Where it is mounted.
    pub(super) path: PathBuf,
}

/// All that is mounted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    pub(super) v1: Vec<V1Mount>,
    pub(super) unified: Option<PathBuf>,
}

/// Which backend serves, over which hierarchies.
#[derive(Debug)]
pub(super) enum Layout<'a> {
    V2(&'a Path),
    V1 {
        mounts: &'a [V1Mount],
        unified: Option<&'a Path>,
    },
}

/// Reads this process's mount table.
pub(super) fn find() -> Result<Hierarchies> {
    let path = PathBuf::from("/proc/self/mountinfo");
    let table = fs::read_to_string(&path).map_err(|source| CgroupError::Io {
        verb: "read",
        path,
        source,
    })?;
    Ok(parse(&table))
}

/// Words that appear among a v1 mount's options but name no controller.
const NOT_CONTROLLERS: [&str; 8] = [
    "rw",
    "ro",
    "none",
    "noprefix",
    "clone_children",
    "xattr",
    "cpuset_v2_mode",
    "release_agent",
];

fn parse(table: &str) -> Hierarchies {
    let mut found = Hierarchies::default();
    let mounts = table
        .lines()
        .filter_map(|line| MountInfo::from_line(line).ok());
    for mount in mounts {
        match mount.fs_type.as_str() {
            "cgroup2" if found.unified.is_none() => found.unified = Some(mount.mount_point),
            "cgroup" => {
                let mut controllers: Vec<String> = mount
                    .super_options
                    .into_iter()
                    .filter(|(key, _)| !NOT_CONTROLLERS.contains(&key.as_str()))
                    .map(|(key, value)| match value {
                        Some(value) => format!("{key}={value}"),
                        None => key,
                    })
                    .collect();
                controllers.sort();
                // The same hierarchy may be mounted twice; the first mount serves.
                if !found
                    .v1
                    .iter()
                    .any(|known| known.controllers == controllers)
                {
                    found.v1.push(V1Mount {
                        controllers,
                        path: mount.mount_point,
                    });
                }
            }
            _ => {}
        }
    }
    found
}

impl Hierarchies {
    /// v2 if it has every controller that is needed; else v1 if that has; else an error naming what is missing.
    pub(super) fn layout(&self) -> Result<Layout<'_>> {
        let on_v2 = match &self.unified {
            Some(path) => controllers_of(path)?,
            None => Vec::new(),
        };
        let on_v1 = |wanted: &str| {
            self.v1
                .iter()
                .any(|mount| mount.controllers.iter().any(|c| c == wanted))
        };
        if let Some(path) = &self.unified
            && REQUIRED
                .iter()
                .all(|wanted| on_v2.iter().any(|c| c == wanted))
        {
            return Ok(Layout::V2(path));
        }
        if let Some(missing) = REQUIRED.iter().find(|wanted| !on_v1(wanted)) {
            return Err(self.missing(missing, on_v2.iter().any(|c| c == missing)));
        }
        if self.unified.is_none() && !on_v1("freezer") {
            return Err(self.missing("freezer", false));
        }
        Ok(Layout::V1 {
            mounts: &self.v1,
            unified: self.unified.as_deref(),
        })
    }

    fn missing(&self, controller: &str, elsewhere: bool) -> CgroupError {
        let detail = if self.v1.is_empty() && self.unified.is_none() {
            "no cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup".to_owned()
        } else if elsewhere {
            "it is on cgroup v2 while others are on v1; boot with systemd.unified_cgroup_hierarchy=1 \
             (all on v2), or keep all on v1"
                .to_owned()
        } else {
            "neither a v1 hierarchy nor cgroup.controllers of the v2 hierarchy has it; \
             see cgroup_enable= and cgroup_disable= in /proc/cmdline, and /proc/cgroups"
                .to_owned()
        };
        CgroupError::MissingController {
            controller: controller.to_owned(),
            detail,
        }
    }
}

fn controllers_of(unified: &Path) -> Result<Vec<String>> {
    let path = unified.join("cgroup.controllers");
    let text = fs::read_to_string(&path).map_err(|source| CgroupError::Io {
        verb: "read",
        path,
        source,
    })?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /mnt/again rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn a_hybrid_mount_table_gives_every_hierarchy_once() {
        let found = parse(HYBRID);
        assert_eq!(found.unified, Some("/sys/fs/cgroup/unified".into()));
        let names: Vec<String> = found.v1.iter().map(|m| m.controllers.join(",")).collect();
        assert_eq!(names, ["cpu,cpuacct", "memory", "pids", "name=systemd"]);
        assert_eq!(found.v1[1].path, Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn a_missing_controller_is_named() {
        let mut found = parse(HYBRID);
        found.unified = None;
        let fault = found.layout().expect_err("no freezer");
        assert!(fault.to_string().contains("`freezer`"), "{fault}");
        found.v1.retain(|m| m.controllers != ["pids"]);
        let fault = found.layout().expect_err("no pids");
        assert!(fault.to_string().contains("`pids`"), "{fault}");
        let fault = Hierarchies::default().layout().expect_err("nothing");
        assert!(fault.to_string().contains("no cgroup hierarchy"), "{fault}");
    }
}
