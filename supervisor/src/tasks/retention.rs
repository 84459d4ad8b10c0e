//! What is forgotten: tasks whose time is over, with their files, and files that belong to no task.

use super::stored::OVERHEAD;
use super::{Tasks, principal};
use crate::broker::Broker;
use crate::store::Timestamp;
use proto::ids::TaskId;
use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks, if there was little to do.
const PAUSE: Duration = Duration::from_secs(10);

/// Forgotten in one transaction, so that nobody waits long behind it.
const AT_ONCE: u32 = 200;

/// Forgets tasks in time, until this daemon stops.
pub async fn keep_swept(broker: Arc<Broker>) {
    loop {
        let swept = sweep(&broker).await;
        let pause = if swept < AT_ONCE {
            PAUSE
        } else {
            Duration::from_millis(20)
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = broker.stopping() => return,
        }
    }
}

/// How many were forgotten.
async fn sweep(broker: &Arc<Broker>) -> u32 {
    let expired = match broker.store.forget_tasks(Timestamp::now(), AT_ONCE).await {
        Ok(expired) => expired,
        Err(error) => {
            tracing::error!(error = %crate::fault::chain(&error), "old tasks not forgotten");
            return 0;
        }
    };
    for task in &expired {
        // Its row is gone already: a file that stays behind belongs to none, and the next start finds it.
        if task.filed {
            Tasks::remove(broker.tasks.result_path(&task.id)).await;
        }
        broker
            .tasks
            .stored
            .give(&principal(&task.owner), task.bytes + OVERHEAD);
    }
    u32::try_from(expired.len()).unwrap_or(u32::MAX)
}

/// Makes the directory, and removes files in it that are of no task in `known`.
pub(super) fn sweep_strays(directory: &Path, known: &HashSet<String>) -> io::Result<()> {
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    made?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((id, kind)) = name.to_str().and_then(|name| name.split_once('.')) else {
            continue;
        };
        let ours = matches!(kind, "payload" | "result") && TaskId::parse(id).is_ok();
        if ours && !known.contains(id) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_no_task_are_removed_and_nothing_else() {
        let ground = tempfile::tempdir().expect("directory");
        let directory = ground.path().join("tasks");
        sweep_strays(&directory, &HashSet::new()).expect("made");
        let id = |digit: &str| format!("t{}", digit.repeat(25));
        let files = [
            format!("{}.result", id("1")),
            format!("{}.payload", id("2")),
            format!("{}.result", id("3")),
            "README".to_owned(),
        ];
        for file in &files {
            fs::write(directory.join(file), "x").expect("written");
        }
        sweep_strays(&directory, &HashSet::from([id("1")])).expect("swept");
        let there: Vec<bool> = files
            .iter()
            .map(|file| directory.join(file).exists())
            .collect();
        assert_eq!(there, [true, false, false, true]);
    }
}
