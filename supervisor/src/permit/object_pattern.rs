//! Objects of the S3 subset by name, as S3's users write resources in a policy.

use crate::objects::{MAX_KEY, is_bucket};
use std::fmt;

/// What an ARN of S3 begins with.
const ARN: &str = "arn:aws:s3:::";

/// One object, or all of a bucket whose keys begin alike: `builds/ci/app.zip`, `builds/ci/*`, `builds/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPattern {
    bucket: String,
    /// The key, or what keys begin with.
    key: String,
    /// Any rest of it.
    open: bool,
}

impl ObjectPattern {
    /// Reads `BUCKET/KEY`, with a `*` at its end or none; `arn:aws:s3:::` before it says nothing more.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix(ARN).unwrap_or(text);
        let named = rest.split_once('/').filter(|(_, key)| !key.is_empty());
        let Some((bucket, key)) = named else {
            return Err("must be BUCKET/KEY, BUCKET/PREFIX* or BUCKET/*".to_owned());
        };
        if !is_bucket(bucket) {
            return Err(format!("`{bucket}` is no bucket's name"));
        }
        let (key, open) = match key.strip_suffix('*') {
            Some(begin) => (begin, true),
            None => (key, false),
        };
        if key.contains(['*', '?']) {
            return Err("may have one `*`, at its end, and no `?`".to_owned());
        }
        if key.len() > MAX_KEY || key.contains(char::is_control) {
            return Err(format!(
                "must name a key of at most {MAX_KEY} bytes, without control characters"
            ));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            open,
        })
    }

    /// Whether an object is one of them.
    pub(super) fn covers(&self, bucket: &str, key: &str) -> bool {
        self.bucket == bucket
            && if self.open {
                key.starts_with(&self.key)
            } else {
                key == self.key
            }
    }

    /// Whether every object is one of them whose key begins so.
    pub(super) fn covers_below(&self, bucket: &str, prefix: &str) -> bool {
        self.open && self.covers(bucket, prefix)
    }

    /// Whether some of a bucket's objects are.
    pub(super) fn is_in(&self, bucket: &str) -> bool {
        self.bucket == bucket
    }
}

impl fmt::Display for ObjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = if self.open { "*" } else { "" };
        write!(f, "{}/{}{rest}", self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_a_bucket_and_a_key_or_the_beginning_of_one() {
        for text in [
            "",
            "builds",
            "builds/",
            "*",
            "*/a",
            "buil*/a",
            "Builds/a",
            "builds/a*b",
            "builds/a**",
            "builds/?",
            "arn:aws:s3:::builds",
            "builds/a\nb",
        ] {
            assert!(ObjectPattern::parse(text).is_err(), "{text}");
        }
        for (text, told) in [
            ("builds/*", "builds/*"),
            ("builds/ci/*", "builds/ci/*"),
            ("builds/ci/app.zip", "builds/ci/app.zip"),
            ("arn:aws:s3:::builds/ci-*", "builds/ci-*"),
        ] {
            let pattern = ObjectPattern::parse(text).expect(text);
            assert_eq!(pattern.to_string(), told);
            assert_eq!(ObjectPattern::parse(told), Ok(pattern));
        }
    }

    #[test]
    fn a_prefix_is_what_it_says_and_nothing_beside_it() {
        let ci = ObjectPattern::parse("builds/ci/*").expect("pattern");
        assert!(ci.covers("builds", "ci/app.zip") && ci.covers("builds", "ci/"));
        assert!(!ci.covers("builds", "ci") && !ci.covers("builds", "cicd/app.zip"));
        assert!(!ci.covers("build", "ci/app.zip") && !ci.covers("builds-ci", "ci/app.zip"));
        // Keys are bytes, not paths: there is nothing to climb.
        assert!(ci.covers("builds", "ci/../prod/app.zip"));
        assert!(ci.covers_below("builds", "ci/") && ci.covers_below("builds", "ci/a"));
        assert!(!ci.covers_below("builds", "c") && !ci.covers_below("builds", ""));
        let one = ObjectPattern::parse("builds/app.zip").expect("pattern");
        assert!(one.covers("builds", "app.zip") && !one.covers("builds", "app.zip2"));
        // Asked for so, `app.zip2` would be listed as well.
        assert!(!one.covers_below("builds", "app.zip"));
    }
}
