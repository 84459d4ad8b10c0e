//! What a caller may do: named as AWS names actions, limited to runtimes and objects where the caller is.
//!
//! Every wire asks here, with the action of its operation and the runtime or object that it concerns. Not for: who is asking
//! (`api::identify`), and whose a session is ([`crate::owner`]).

mod action;
mod object_pattern;

pub use action::{Action, Pattern, Service};
pub use object_pattern::ObjectPattern;

use proto::ids::RuntimeName;

/// What somebody may do: some actions, on some runtimes and objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// On these runtimes, which need not exist yet; `None` is any, and what concerns no runtime.
    pub runtimes: Option<Vec<RuntimeName>>,
    /// These actions; `None` is any.
    pub actions: Option<Vec<Pattern>>,
    /// On these objects, whoever made them. `None` is the caller's own where runtimes are not limited, and none where they are.
    pub objects: Option<Vec<ObjectPattern>>,
}

/// Which objects an action reaches at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// None.
    None,
    /// Those that the caller made, and names that are free.
    Own,
    /// Whatever is there.
    All,
}

impl Grant {
    /// Whether there is no limit: an operator's.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.runtimes.is_none() && self.actions.is_none() && self.objects.is_none()
    }

    /// Whether it has an action at all.
    #[must_use]
    pub fn acts(&self, action: Action) -> bool {
        match &self.actions {
            None => true,
            Some(patterns) => patterns.iter().any(|pattern| pattern.fits(action)),
        }
    }

    /// Whether it covers an action on a runtime, or on none in particular.
    #[must_use]
    pub fn covers(&self, action: Action, runtime: Option<&RuntimeName>) -> bool {
        let reaches = match (&self.runtimes, runtime) {
            (None, _) => true,
            (Some(names), Some(name)) => names.contains(name),
            (Some(_), None) => false,
        };
        // A key that was given objects, and nothing else, is for objects.
        let only_objects =
            self.objects.is_some() && self.runtimes.is_none() && self.actions.is_none();
        self.acts(action) && reaches && !(only_objects && action.service() != Service::S3)
    }

    /// Whether what it covers tells that there is such a runtime.
    #[must_use]
    pub fn knows(&self, runtime: &RuntimeName) -> bool {
        let mut actions = Action::ALL.iter().copied();
        actions.any(|action| {
            action.service() == Service::AgentCore && self.covers(action, Some(runtime))
        })
    }

    /// What an action on an object reaches.
    #[must_use]
    pub fn reach(&self, action: Action, bucket: &str, key: &str) -> Reach {
        self.reach_of(action, |pattern| pattern.covers(bucket, key))
    }

    /// What an action reaches on all objects of a bucket whose keys begin so.
    #[must_use]
    pub fn reach_below(&self, action: Action, bucket: &str, prefix: &str) -> Reach {
        self.reach_of(action, |pattern| pattern.covers_below(bucket, prefix))
    }

    /// Whether an action reaches some object of a bucket, or of any.
    #[must_use]
    pub fn reaches_some(&self, action: Action, bucket: Option<&str>) -> bool {
        let covers = |pattern: &ObjectPattern| bucket.is_none_or(|bucket| pattern.is_in(bucket));
        self.reach_of(action, covers) != Reach::None
    }

    fn reach_of(&self, action: Action, covers: impl Fn(&ObjectPattern) -> bool) -> Reach {
        match &self.objects {
            _ if !self.acts(action) => Reach::None,
            Some(patterns) if patterns.iter().any(covers) => Reach::All,
            Some(_) => Reach::None,
            None if self.is_unlimited() => Reach::All,
            None if self.runtimes.is_none() => Reach::Own,
            None => Reach::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RuntimeName {
        RuntimeName::parse(text).expect("name")
    }

    fn grant(runtimes: Option<&[&str]>, actions: Option<&[&str]>) -> Grant {
        Grant {
            runtimes: runtimes.map(|names| names.iter().map(|text| name(text)).collect()),
            actions: actions.map(|texts| {
                let parse = |text: &&str| Pattern::parse(text).expect("pattern");
                texts.iter().map(parse).collect()
            }),
            objects: None,
        }
    }

    #[test]
    fn a_grant_covers_what_it_names_and_nothing_else() {
        let (a, b) = (name("a"), name("b"));
        let limited = grant(
            Some(&["a"]),
            Some(&["bedrock-agentcore:InvokeAgentRuntime", "Stop*"]),
        );
        assert!(limited.covers(Action::INVOKE, Some(&a)));
        assert!(limited.covers(Action::STOP, Some(&a)));
        assert!(!limited.covers(Action::INVOKE, Some(&b)));
        assert!(!limited.covers(Action::INVOKE, None));
        // A name that begins like another is another.
        assert!(!limited.covers(Action::INVOKE_FOR_USER, Some(&a)));
        assert!(!limited.covers(Action::COMMAND, Some(&a)));
        let wild = grant(None, Some(&["bedrock-agentcore:Invoke*"]));
        assert!(wild.covers(Action::COMMAND_SHELL, Some(&b)));
        assert!(!wild.covers(Action::STOP, Some(&b)) && !wild.is_unlimited());
        let nothing = grant(Some(&[]), None);
        assert!(!nothing.covers(Action::INVOKE, Some(&a)) && !nothing.is_unlimited());
        assert!(Grant::default().is_unlimited());
    }

    #[test]
    fn who_may_do_something_with_a_runtime_may_know_of_it() {
        let (a, b) = (name("a"), name("b"));
        let limited = grant(Some(&["a"]), Some(&["StopRuntimeSession"]));
        assert!(limited.knows(&a) && !limited.knows(&b));
        assert!(grant(None, Some(&["ListAgentRuntimes"])).knows(&a));
        assert!(!grant(None, Some(&["PutObject", "GetObject"])).knows(&a));
        assert!(Grant::default().knows(&a));
    }

    fn reach(grant: &Grant, action: Action, bucket: &str, key: &str) -> Reach {
        grant.reach(action, bucket, key)
    }

    #[test]
    fn objects_are_their_makers_but_for_those_that_a_grant_names() {
        let put = Action::PUT_OBJECT;
        assert_eq!(reach(&Grant::default(), put, "b-1", "k"), Reach::All);
        // Limited in something else: it has its own.
        let acts = grant(None, Some(&["s3:*", "CreateAgentRuntime"]));
        assert_eq!(reach(&acts, put, "b-1", "k"), Reach::Own);
        assert_eq!(acts.reach_below(Action::LIST_BUCKET, "b-1", ""), Reach::Own);
        let reads = grant(None, Some(&["s3:GetObject"]));
        assert_eq!(reach(&reads, put, "b-1", "k"), Reach::None);
        assert_eq!(reach(&reads, Action::GET_OBJECT, "b-1", "k"), Reach::Own);
        // Limited to runtimes: objects are none.
        let runs = grant(Some(&["a"]), None);
        assert_eq!(reach(&runs, put, "b-1", "k"), Reach::None);
        assert!(!runs.reaches_some(put, Some("b-1")) && !runs.reaches_some(put, None));
        // Limited to objects: those, whoever made them.
        let ci = Grant {
            objects: Some(vec![ObjectPattern::parse("b-1/ci/*").expect("pattern")]),
            ..grant(Some(&["a"]), None)
        };
        assert_eq!(reach(&ci, put, "b-1", "ci/k"), Reach::All);
        assert_eq!(reach(&ci, put, "b-1", "k"), Reach::None);
        assert_eq!(
            ci.reach_below(Action::LIST_BUCKET, "b-1", "ci/"),
            Reach::All
        );
        assert_eq!(ci.reach_below(Action::LIST_BUCKET, "b-1", ""), Reach::None);
        assert!(ci.reaches_some(put, Some("b-1")) && !ci.reaches_some(put, Some("b-2")));
        assert!(ci.covers(Action::UPDATE_RUNTIME, Some(&name("a"))) && !ci.is_unlimited());
        assert!(!ci.covers(Action::UPDATE_RUNTIME, Some(&name("b"))));
        let only = Grant {
            objects: ci.objects.clone(),
            ..Grant::default()
        };
        assert!(!only.is_unlimited());
        assert_eq!(reach(&only, put, "b-1", "k"), Reach::None);
        assert_eq!(reach(&only, put, "b-1", "ci/k"), Reach::All);
        assert!(!only.covers(Action::UPDATE_RUNTIME, Some(&name("a"))));
        assert!(!grant(None, Some(&["Invoke*"])).reaches_some(put, None));
        assert!(reads.reaches_some(Action::GET_OBJECT, None) && !reads.reaches_some(put, None));
    }
}
