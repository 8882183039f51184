//! Dropping beside the async workers.
//!
//! Who holds a view of the engine last unmaps what it alone has kept, which takes milliseconds
//! where that is much. No async worker has them, so what may be the last holder is dropped on a
//! blocking thread of the runtime.

use tokio::runtime::Handle;

/// Something that is dropped on a blocking thread unless it is taken out before.
pub(crate) struct Aside<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Aside<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Takes it out: it is dropped where the caller drops it.
    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("it is taken out once")
    }
}

impl<T: Send + 'static> Drop for Aside<T> {
    fn drop(&mut self) {
        let Some(value) = self.0.take() else { return };
        // Without a runtime there are no workers that it could hold up.
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
            Err(_) => drop(value),
        }
    }
}
