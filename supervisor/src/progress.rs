//! Progress records in a session's output: lines that begin with [`PROGRESS_LINE`], then a JSON object (docs/tasks.md).
//!
//! Pure: lines in, records out. What a record means, whether its task is one of the session's, and how often one is kept is
//! the tasks' affair. Everything here is an agent's bytes: a line that is none of the form is a line of the log and nothing
//! else, which all of them are in any case.
//!
//! **Where a record begins.** At the mark, wherever it stands in its line: models' tokens and progress bars leave output
//! without a line end, which the record's line then begins with. That gives away nothing: who can have an agent print a mark
//! can have it print a line end before.
//!
//! **Where it ends.** At the end of its object. The shim splits lines at [`proto::shim::MAX_LOG_LINE`] and passes unfinished
//! ones on after a second, so an object that is cut off goes on in the next line of the same stream, [`PIECES`] of them at
//! most: what is held is read anew with each.

use proto::api::{MAX_CHECKPOINT, MAX_PROGRESS, PROGRESS_LINE};
use proto::ids::TaskId;
use proto::shim::{LogLine, LogStream};
use serde_json::{Map, Value};

/// A record's member that names its task.
const TASK: &str = "task";

/// A record's member that says where a later attempt can go on.
const CHECKPOINT: &str = "checkpoint";

/// Lines that one record is put together from at most: two for the longest record, one more for what stands before it, one
/// for a pause.
const PIECES: u32 = 4;

/// Room for white space between members, which is no part of a record.
const MOST_TEXT: usize = 2 * MAX_PROGRESS;

/// Tasks that one batch of lines can speak of: as many as can run in one session by default.
const TASKS: usize = 64;

/// A progress record.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// Of which task; the only one of the session if it does not say.
    pub task: Option<TaskId>,
    /// The object without its `task`, at most [`MAX_PROGRESS`] bytes of JSON.
    pub record: Map<String, Value>,
}

/// Finds records in one session's output. See the module.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Of standard output, and of standard error.
    begun: [Option<Begun>; 2],
}

/// An object without its end.
#[derive(Debug)]
struct Begun {
    text: String,
    pieces: u32,
}

impl Scanner {
    /// The newest record of each task in a batch of lines, in the order in which the tasks appear. One that has no checkpoint
    /// has that of the record before.
    pub fn scan(&mut self, lines: &[LogLine]) -> Vec<Reported> {
        let mut found: Vec<Reported> = Vec::new();
        for line in lines {
            let Some(mut reported) = self.line(line) else {
                continue;
            };
            let older = found.iter_mut().find(|each| each.task == reported.task);
            if let Some(older) = older {
                carry_checkpoint(&older.record, &mut reported.record);
                *older = reported;
            } else if found.len() < TASKS {
                found.push(reported);
            }
        }
        found
    }

    fn line(&mut self, line: &LogLine) -> Option<Reported> {
        let [stdout, stderr] = &mut self.begun;
        let begun = match line.stream {
            LogStream::Stdout => stdout,
            LogStream::Stderr => stderr,
        };
        let (text, pieces) = match line.text.split_once(PROGRESS_LINE) {
            Some((_before, after)) => (after.trim_start().to_owned(), 1),
            None => {
                let Begun { mut text, pieces } = begun.take()?;
                text.push_str(&line.text);
                (text, pieces + 1)
            }
        };
        *begun = None;
        // Nothing but an object is worth holding on to.
        if text.len() > MOST_TEXT || !text.is_empty() && !text.starts_with('{') {
            return None;
        }
        match serde_json::from_str(&text) {
            Ok(record) => reported(record),
            Err(error) if error.is_eof() && pieces < PIECES => {
                *begun = Some(Begun { text, pieces });
                None
            }
            Err(_) => None,
        }
    }
}

fn reported(mut record: Map<String, Value>) -> Option<Reported> {
    let task = match record.remove(TASK) {
        None => None,
        Some(Value::String(id)) => Some(TaskId::parse(&id).ok()?),
        Some(_) => return None,
    };
    // As it is written: `1e9` is four times as long then.
    let fits = json_len(&record)? <= MAX_PROGRESS;
    fits.then_some(Reported { task, record })
}

/// Gives a record without a checkpoint that of the record before it: a checkpoint stays until there is another one. (One that
/// is longer than what a later attempt can be told is not worth keeping.)
pub fn carry_checkpoint(older: &Map<String, Value>, newer: &mut Map<String, Value>) {
    if newer.contains_key(CHECKPOINT) {
        return;
    }
    if let Some(checkpoint) = older.get(CHECKPOINT)
        && json_len(checkpoint).is_some_and(|length| length <= MAX_CHECKPOINT)
    {
        newer.insert(CHECKPOINT.to_owned(), checkpoint.clone());
    }
}

fn json_len(value: &impl serde::Serialize) -> Option<usize> {
    serde_json::to_vec(value).ok().map(|bytes| bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn line(stream: LogStream, text: &str) -> LogLine {
        LogLine {
            stream,
            at_ms: 0,
            text: text.to_owned(),
        }
    }

    fn lines(texts: &[&str]) -> Vec<LogLine> {
        texts
            .iter()
            .map(|text| line(LogStream::Stdout, text))
            .collect()
    }

    fn found(texts: &[&str]) -> Vec<Value> {
        let reported = Scanner::default().scan(&lines(texts));
        reported
            .into_iter()
            .map(|each| Value::Object(each.record))
            .collect()
    }

    fn task_id(number: u32) -> String {
        format!("t{number:025}")
    }

    #[test]
    fn a_line_of_the_form_is_a_record() {
        let one = json!({ "fraction": 0.5 });
        for text in [
            "::agentcore-progress:: {\"fraction\": 0.5}",
            "::agentcore-progress::{\"fraction\":0.5}  ",
            "\r 40%|####|::agentcore-progress:: {\"fraction\":0.5}",
        ] {
            assert_eq!(
                found(&[text]).as_slice(),
                std::slice::from_ref(&one),
                "{text}"
            );
        }
        for text in [
            "{\"fraction\":0.5}",
            "::agentcore-progress: {\"fraction\":0.5}",
            "::agentcore-progress:: 0.5",
            "::agentcore-progress:: [1]",
            "::agentcore-progress:: {\"fraction\":0.5} and more",
            "::agentcore-progress:: {\"task\":7}",
            "::agentcore-progress:: {\"task\":\"../../x\"}",
            "{\"message\":\"::agentcore-progress:: {\\\"fraction\\\":0.5}\"}",
        ] {
            assert_eq!(found(&[text]), [] as [Value; 0], "{text}");
        }
    }

    #[test]
    fn a_record_names_its_task() {
        let id = task_id(1);
        let text = format!("::agentcore-progress:: {{\"task\":\"{id}\",\"message\":\"hi\"}}");
        let reported = Scanner::default().scan(&lines(&[&text]));
        assert_eq!(reported.len(), 1);
        assert_eq!(reported[0].task, TaskId::parse(&id).ok());
        assert_eq!(
            Value::Object(reported[0].record.clone()),
            json!({ "message": "hi" })
        );
    }

    #[test]
    fn the_newest_record_counts_and_its_checkpoint_stays() {
        assert_eq!(
            found(&[
                "::agentcore-progress:: {\"message\":\"one\",\"checkpoint\":{\"page\":1}}",
                "::agentcore-progress:: {\"message\":\"two\",\"checkpoint\":{\"page\":2}}",
                "::agentcore-progress:: {\"message\":\"three\"}",
            ]),
            [json!({ "message": "three", "checkpoint": { "page": 2 } })]
        );
        let mut newer = Map::new();
        let long = json!({ "checkpoint": "x".repeat(MAX_CHECKPOINT) });
        carry_checkpoint(long.as_object().expect("an object"), &mut newer);
        assert!(newer.is_empty());
    }

    #[test]
    fn an_object_that_is_cut_goes_on_in_the_next_lines_of_its_stream() {
        let mark = "::agentcore-progress:: ";
        let cut = [&format!("{mark}{{\"a\":"), "[1,", "2]", "}"];
        assert_eq!(found(&cut), [json!({ "a": [1, 2] })]);
        // One piece too many; a new mark; and the other stream between.
        assert!(found(&[&format!("{mark}{{\"a\":"), "[1,", "2", "]", "}"]).is_empty());
        let anew = [
            &format!("{mark}{{\"a\":"),
            &format!("{mark}{{\"b\":1}}")[..],
        ];
        assert_eq!(found(&anew), [json!({ "b": 1 })]);
        let mut between = lines(&[&format!("{mark}{{\"a\":"), "1}"]);
        between.insert(1, line(LogStream::Stderr, "Traceback"));
        let reported = Scanner::default().scan(&between);
        assert_eq!(reported[0].record.get("a"), Some(&json!(1)));
    }

    #[test]
    fn records_are_bounded_as_they_are_written() {
        let mark = PROGRESS_LINE;
        let room = MAX_PROGRESS - "{\"m\":\"\"}".len();
        assert_eq!(
            found(&[&format!("{mark}{{\"m\":\"{}\"}}", "x".repeat(room))]).len(),
            1
        );
        assert!(found(&[&format!("{mark}{{\"m\":\"{}\"}}", "x".repeat(room + 1))]).is_empty());
        let numbers = vec!["1e9"; MAX_PROGRESS / 8].join(",");
        assert!(found(&[&format!("{mark}{{\"m\":[{numbers}]}}")]).is_empty());
        assert!(found(&[&format!("{mark}{{\"m\":{}", "[".repeat(10_000))]).is_empty());
        let many: Vec<String> = (0..1000)
            .map(|n| format!("{mark}{{\"task\":\"{}\"}}", task_id(n)))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(found(&many).len(), TASKS);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut scanner = Scanner::default();
        let begin = format!("{PROGRESS_LINE}{{\"m\":\"");
        scanner.scan(&lines(&[&begin]));
        let piece = "x".repeat(proto::shim::MAX_LOG_LINE);
        for _ in 0..3 {
            scanner.scan(&lines(&[&piece]));
            let held = scanner.begun[0]
                .as_ref()
                .map_or(0, |begun| begun.text.len());
            assert!(held <= MOST_TEXT, "{held}");
        }
        assert!(scanner.begun[0].is_none());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(message in "\\PC{0,200}", cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..3)) {
            let object = json!({ "message": message }).to_string();
            // Whole characters, as the shim cuts them, and not before the first.
            let mut places: Vec<usize> = cuts
                .iter()
                .map(|cut| 1 + cut.index(object.len()))
                .filter(|at| object.is_char_boundary(*at) && *at < object.len())
                .collect();
            places.sort_unstable();
            places.dedup();
            let mut pieces = Vec::new();
            let mut from = 0;
            for place in places.into_iter().chain([object.len()]) {
                pieces.push(object[from..place].to_owned());
                from = place;
            }
            pieces[0].insert_str(0, PROGRESS_LINE);
            // A message can hold the mark itself: then it is a record of another beginning, or none.
            prop_assume!(!message.contains(PROGRESS_LINE));
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(found(&pieces), [json!({ "message": message })]);
        }

        #[test]
        fn no_output_does_harm(texts in prop::collection::vec("(::agentcore-progress::)?[ {}\\[\\]\":,a-c0-9\\\\\\PC]{0,40}", 0..40)) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            for record in found(&texts) {
                prop_assert!(record.to_string().len() <= MAX_PROGRESS + MAX_CHECKPOINT + 32);
            }
        }
    }
}
