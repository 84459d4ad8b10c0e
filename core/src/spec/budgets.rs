//! Budgets of a runtime's own. They come on top of the operator's: whichever is used up first freezes.

use super::faults::Faults;
use proto::config::Budgets;

pub(super) fn check(asked: &Budgets, faults: &mut Faults) {
    let Budgets {
        session,
        user,
        runtime,
    } = asked;
    for (whose, budget) in [("session", session), ("user", user), ("runtime", runtime)] {
        for (name, message) in budget.faults(whose == "session") {
            faults.add(format!("budget.{whose}.{name}"), message);
        }
    }
}
