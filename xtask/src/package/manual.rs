//! Manual pages of the two configuration files, made of the examples in `docs/`, which tests hold to the code.

use roff::{Inline, Roff, bold, roman};

/// agentcored.toml(5): each key of the commented example with what it means and its default.
///
/// The example is made of four kinds of lines: `[section]`, `# words`, `#key = default` and empty ones; words are those of the
/// key that comes next, and before the first empty line those of the file.
pub(super) fn of_keys(example: &str) -> String {
    let mut page = head(
        "agentcored.toml",
        "configuration of the daemon agentcored(8)",
    );
    let (mut words, mut section) = (Vec::new(), String::new());
    let mut in_head = true;
    for line in example.lines() {
        if line.is_empty() {
            if in_head {
                // The first line is the file's name and a title.
                for sentence in words.split_first().map_or(&[][..], |(_, rest)| rest) {
                    page.text([roman(*sentence)]);
                }
                page.control("SH", ["KEYS"]);
                in_head = false;
            }
            words.clear();
        } else if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some(sentence) = line
            .strip_prefix("# ")
            .or(line.strip_prefix("#").filter(|rest| rest.is_empty()))
        {
            words.push(sentence);
        } else if let Some((key, default)) = line.trim_start_matches('#').split_once(" = ") {
            page.control("TP", []);
            page.text(term(&section, key, default, &words));
            for sentence in words.iter().filter(|s| !s.is_empty()) {
                page.text([roman(*sentence)]);
            }
            words.clear();
        }
    }
    foot(page, "agentcored(8), agentcore(1)")
}

/// The key and its default; where the words tell that one, the value is an example.
fn term(section: &str, key: &str, default: &str, words: &[&str]) -> Vec<Inline> {
    let mut term = vec![bold(format!("{section}{key}"))];
    if !words
        .iter()
        .any(|sentence| sentence.starts_with("Default: "))
    {
        term.push(roman(format!(" = {default}")));
    }
    term
}

/// agentcore.toml(5): the example as it stands.
pub(super) fn of_example(example: &str) -> String {
    let mut page = head(
        "agentcore.toml",
        "configuration of an agent, for agentcore(1)",
    );
    page.text([roman(
        "A TOML file beside the agent. This is every key there is, with what it means:",
    )]);
    page.control("PP", []);
    page.control("nf", []);
    for line in example.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    foot(
        page,
        "agentcore(1), agentcore-configure(1), agentcore-launch(1)",
    )
}

fn head(name: &str, what: &str) -> Roff {
    let mut page = Roff::new();
    page.control("TH", [name, "5", "", "agentcore", "File Formats"]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{name} - {what}"))]);
    page.control("SH", ["DESCRIPTION"]);
    page
}

fn foot(mut page: Roff, also: &str) -> String {
    page.control("SH", ["SEE ALSO"]);
    page.text([roman(also)]);
    page.to_roff()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_example_is_in_the_page_with_its_words_and_default() {
        let example = include_str!("../../../docs/agentcored.toml");
        let page = of_keys(example);
        let keys = page.matches("\n.TP\n").count();
        let lines = example.lines();
        let typed = lines.filter(|l| !l.starts_with("# ") && l.contains(" = "));
        assert_eq!(keys, typed.count());
        assert!(page.contains("\\fBlimits.max_sessions\\fR = 1000\nLive sessions on this daemon."));
        assert!(
            page.contains("\\fBcgroup_parent\\fR\n"),
            "its value is an example"
        );
        assert!(page.contains("Durations are seconds"));
    }

    #[test]
    fn an_agents_example_stands_as_it_is() {
        let page = of_example("[[storage]]\nmount = \"/mnt/data\"  # 'quoted' .and\n.dotted = 1\n");
        assert!(page.contains(".nf\n[[storage]]\n"), "{page}");
        // A line that begins with a dot would be a command.
        assert!(page.contains("\\&.dotted = 1"), "{page}");
    }
}
