//! Work that must not stop in the middle: what the store has written must be put in force, and what was begun finished, also
//! when the caller goes away meanwhile (which drops whatever its request awaits).

use super::reply::ApiError;

/// Does it in a task of its own, and waits for that.
pub(super) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(ApiError::internal(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn it_goes_on_without_its_caller() {
        let (go, gone) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let mut work = Box::pin(to_the_end(async move {
            let _ = gone.await;
            let _ = tell.send("done");
            Ok(())
        }));
        assert!((&mut work).now_or_never().is_none());
        drop(work);
        go.send(()).expect("it waits");
        assert_eq!(told.await, Ok("done"));
    }
}
