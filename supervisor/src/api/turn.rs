//! A call's turn at the rate of its caller ([`crate::rates`]), before anything is done for it.

use super::identify::Caller;
use super::reply::ApiError;
use crate::broker::Broker;
use crate::rates::Kind;
use proto::code::ErrorCode;

/// Waits for it, or says when to come again.
pub(super) async fn turn(broker: &Broker, kind: Kind, caller: &Caller) -> Result<(), ApiError> {
    // Nobody does anything for a stranger.
    let Some(principal) = caller.principal(broker) else {
        return Ok(());
    };
    let limits = &broker.config().limits;
    let turn = broker.rates.turn(kind, principal, limits, broker.clock);
    turn.await.map_err(|again| {
        let text = format!(
            "you call faster than this daemon takes calls of one caller ({}); try again later",
            kind.key()
        );
        ApiError::new(ErrorCode::Throttled, text).retry_after(again)
    })
}
