//! Pages of a list: keyset pagination, so that a page is right whatever is added or removed meanwhile.

use super::StoreError;
use proto::api::Page;

/// Which page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    max_results: u16,
    after: Option<String>,
}

/// Items of a page if the caller does not say.
const DEFAULT_RESULTS: u16 = 100;

/// Longest `nextToken` that we take. Most are a number or a name (48) and a mark; that of usage by user is an owner, which an
/// issuer of tokens may have named at length.
const MAX_TOKEN: usize = 16 * 1024;

impl Default for PageRequest {
    fn default() -> Self {
        Self {
            max_results: DEFAULT_RESULTS,
            after: None,
        }
    }
}

impl PageRequest {
    /// Checks `maxResults` (1–1,000) and `nextToken` as a caller gave them.
    pub fn parse(max_results: Option<u32>, next_token: Option<&str>) -> Result<Self, StoreError> {
        let max_results = match max_results {
            None => DEFAULT_RESULTS,
            Some(n) => u16::try_from(n)
                .ok()
                .filter(|n| (1..=1000).contains(n))
                .ok_or_else(|| StoreError::Invalid {
                    field: "maxResults",
                    message: format!("must be 1 to 1000, is {n}"),
                })?,
        };
        let after = match next_token {
            None => None,
            Some(token) => Some(
                token
                    .strip_prefix("n.")
                    .filter(|_| token.len() <= MAX_TOKEN)
                    .ok_or_else(bad_token)?
                    .to_owned(),
            ),
        };
        Ok(Self { max_results, after })
    }

    /// The key after which the page begins, if not at the first.
    pub(super) fn after<K: std::str::FromStr>(&self) -> Result<Option<K>, StoreError> {
        match &self.after {
            None => Ok(None),
            Some(key) => key.parse().map(Some).map_err(|_| bad_token()),
        }
    }

    /// How many rows to ask for: one more than the page holds tells whether there is another.
    pub(super) fn limit(&self) -> i64 {
        i64::from(self.max_results) + 1
    }

    /// Makes the page of the rows found for [`Self::limit`].
    pub(super) fn page<T>(&self, mut items: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
        let full = items.len() > usize::from(self.max_results);
        items.truncate(usize::from(self.max_results));
        let next_token = items
            .last()
            .filter(|_| full)
            .map(|last| format!("n.{}", key(last)));
        Page { items, next_token }
    }
}

fn bad_token() -> StoreError {
    StoreError::Invalid {
        field: "nextToken",
        message: "is not one that this list gave out; begin again without it".to_owned(),
    }
}
