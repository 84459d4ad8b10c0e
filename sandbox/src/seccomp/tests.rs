//! The tables, and each filter tried in a throw-away child.

use super::*;

#[test]
fn both_filters_compile_and_fit() {
    let filters = filters().expect("filters");
    // The kernel takes at most 4096 instructions.
    assert!(filters.allowed.len() < 4096 && filters.forbidden.len() < 4096);
}

#[test]
fn no_call_is_on_both_lists_and_none_twice() {
    let mut seen = BTreeMap::new();
    for group in allowed::GROUPS.iter().chain(forbidden::GROUPS) {
        for call in group.calls {
            assert_eq!(seen.insert(*call, group.reason), None, "call {call}");
        }
    }
    for (call, reason) in argument_refusals() {
        assert!(why_allowed(call).is_some(), "{reason}: refused twice");
    }
}
