//! What a progress record says to a person. Records are an agent's words: of whatever form, and for a terminal only through
//! the screen.

use proto::api::{Task, TaskStatus};
use serde_json::Value;

/// How much is done, from 0 to 1, if the record says so.
pub(super) fn fraction(record: &Value) -> Option<f64> {
    let fraction = record.get("fraction")?.as_f64()?;
    (0.0..=1.0).contains(&fraction).then_some(fraction)
}

/// Its message, or what else there is but its checkpoint, which is for machines.
pub(super) fn words(record: &Value) -> String {
    if let Some(message) = record.get("message").and_then(Value::as_str) {
        return message.to_owned();
    }
    let Some(members) = record.as_object() else {
        return String::new();
    };
    let others = members
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "fraction" | "message" | "checkpoint"));
    let others: Vec<String> = others
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        })
        .collect();
    others.join(" ")
}

/// One cell of a table: how far a task is, or why it ended.
pub(super) fn brief(task: &Task) -> String {
    /// A cell's characters.
    const WIDTH: usize = 60;
    let text = match (&task.progress, &task.reason) {
        (_, Some(reason)) if task.status != TaskStatus::Succeeded => reason.clone(),
        (Some(record), _) => {
            let percent = fraction(record).map(|part| format!("{:.0}%", 100.0 * part));
            let words = words(record);
            [percent.unwrap_or_default(), words]
                .join(" ")
                .trim()
                .to_owned()
        }
        (None, _) => String::new(),
    };
    let line = text.replace(['\n', '\r', '\t'], " ");
    match line.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn records_of_any_form_say_something_or_nothing() {
        for (record, part, said) in [
            (json!({ "fraction": 0.5, "message": "a" }), Some(0.5), "a"),
            (
                json!({ "fraction": 7, "page": 2, "of": "5" }),
                None,
                "of=5 page=2",
            ),
            (json!({ "fraction": "x", "message": 1 }), None, ""),
            (json!({ "checkpoint": { "a": 1 } }), None, ""),
            (json!([1]), None, ""),
        ] {
            assert_eq!(fraction(&record), part, "{record}");
            assert_eq!(words(&record), said, "{record}");
        }
    }
}
