//! A plan as text, one line per step: what `agentcored --print-plan` prints and what the golden test compares.

use super::{
    AheadAct, Attr, ChildAct, FsOption, MapAct, OrderAct, PlaceAct, Plan, StorageAct, UsherAct,
};
use std::ffi::CStr;
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.ahead {
            line(f, "ahead", step.name, &step.act)?;
        }
        for step in &self.place {
            line(f, "place", step.name, &step.act)?;
        }
        for step in &self.storage {
            line(f, "store", step.name, &step.act)?;
        }
        for step in &self.order {
            line(f, "order", step.name, &step.act)?;
        }
        for step in &self.usher {
            line(f, "usher", step.name, &step.act)?;
        }
        for step in &self.namespaces {
            line(f, "clone", step.name, &format_args!("{:#x}", step.act))?;
        }
        for step in &self.maps {
            line(f, "map", step.name, &step.act)?;
        }
        for step in &self.child {
            line(f, "child", step.name, &step.act)?;
        }
        Ok(())
    }
}

fn line(
    f: &mut fmt::Formatter<'_>,
    place: &str,
    name: &str,
    act: &dyn fmt::Display,
) -> fmt::Result {
    let text = format!("{place:<6}{name:<20} {act}");
    writeln!(f, "{}", text.trim_end())
}

fn text(c: &CStr) -> std::borrow::Cow<'_, str> {
    c.to_string_lossy()
}

fn options(f: &mut fmt::Formatter<'_>, options: &[FsOption]) -> fmt::Result {
    options.iter().try_for_each(|option| match &option.value {
        Some(value) => write!(f, " {}={}", text(&option.key), text(value)),
        None => write!(f, " {}", text(&option.key)),
    })
}

fn attrs(f: &mut fmt::Formatter<'_>, attrs: &[Attr]) -> fmt::Result {
    // The part of the name behind the dot says what it is: tmp.nosuid, tmp.nodev.
    attrs.iter().try_for_each(|attr| {
        write!(
            f,
            " +{}",
            attr.name
                .rsplit_once('.')
                .map_or(attr.name, |(_, what)| what)
        )
    })
}

impl fmt::Display for AheadAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CloneBase(list) => {
                f.write_str("base")?;
                attrs(f, list)
            }
            Self::MakeDev {
                options: opts,
                nodes,
                attrs: list,
            } => {
                write!(f, "tmpfs, {} nodes", nodes.len())?;
                options(f, opts)?;
                attrs(f, list)
            }
            #[cfg(feature = "fault-injection")]
            Self::BindHostDev(_) => f.write_str("the host's"),
        }
    }
}

impl fmt::Display for PlaceAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network => f.write_str("of its own"),
            Self::Loopback => Ok(()),
        }
    }
}

impl fmt::Display for StorageAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image => f.write_str("found or made"),
            Self::Device => f.write_str("loop device, autoclear"),
            Self::Mount {
                options: opts,
                attrs: list,
            } => {
                f.write_str("ext4")?;
                options(f, opts)?;
                attrs(f, list)
            }
            Self::Directory { owner } => write!(f, "of {owner}"),
        }
    }
}

impl fmt::Display for OrderAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OomScore(score) => write!(f, "{score}"),
            Self::CloneBundle(list) => {
                f.write_str("bundle")?;
                attrs(f, list)
            }
            Self::Own(uid) => write!(f, "euid {uid}"),
        }
    }
}

impl fmt::Display for UsherAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JoinUser | Self::JoinPid => f.write_str("the template's"),
            Self::Become(id) => write!(f, "uid {id}, gid {id}"),
        }
    }
}

impl fmt::Display for MapAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { file, content } => {
                write!(f, "{file}: {}", content.trim_end().replace('\n', ", "))
            }
            Self::MapBaseOwners => f.write_str("base"),
            Self::MapStorageOwners => f.write_str("storage"),
        }
    }
}

impl fmt::Display for ChildAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnShare { file, limit } => write!(f, "{limit} in {}", text(file)),
            Self::NonDumpable
            | Self::Setsid
            | Self::ResetSignals
            | Self::PrivateMounts
            | Self::PivotRoot
            | Self::DetachOldRoot
            | Self::Loopback
            | Self::NewKeyring
            | Self::NoNewPrivs
            | Self::EmptyBounding => Ok(()),
            Self::AttachBase { staging } => write!(f, "on {}", text(staging)),
            Self::BecomeShim => f.write_str("uid 0, gid 0"),
            Self::Mount(mount) => {
                write!(f, "{} on {}", text(&mount.fstype), text(&mount.target))?;
                options(f, &mount.options)?;
                attrs(f, &mount.attrs)
            }
            Self::AttachDev(at) | Self::AttachBundle(at) | Self::AttachStorage(at) => {
                write!(f, "on {}", text(at))
            }
            Self::RequireEmpty(path) | Self::Chdir(path) => f.write_str(&text(path)),
            Self::Hostname(name) => f.write_str(&text(name)),
            Self::Rlimit { limit, .. } => write!(f, "{limit}"),
            Self::LimitCaps { keep } | Self::RaiseAmbient { keep } | Self::FinalCaps { keep } => {
                write!(f, "{:#x}", keep.0)
            }
            Self::Securebits(bits) => write!(f, "{bits:#x}"),
            Self::Umask(mask) => write!(f, "{mask:04o}"),
            Self::OwnDescriptors { null: Some(null) } => {
                write!(f, "{} 0 1 2, then 3 4 5", text(null))
            }
            Self::OwnDescriptors { null: None } => f.write_str("3 4 5"),
            #[cfg(feature = "fault-injection")]
            Self::BindHost { source, target } => {
                write!(f, "{} on {}", text(source), text(target))
            }
            #[cfg(feature = "fault-injection")]
            Self::Chroot => f.write_str("chroot"),
            Self::CloseRange { first } => write!(f, "from {first}"),
            Self::Seccomp(_) => f.write_str("filter"),
            Self::Exec { argv, env } => {
                write!(f, "{} arguments, {} variables", argv.len(), env.len())
            }
        }
    }
}
