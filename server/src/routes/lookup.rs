//! Looking up one key, with the memory of its value reserved before it is read.
//!
//! What memory holds is had at once, where there is room for it; else it is asked for again once
//! there is. What would have to be copied tells its length before it is, so that a request which is
//! refused costs no copy. What lies on the drive tells its length first; a read goes through a
//! buffer and needs twice that. A read that has begun goes on when its client
//! leaves, and keeps its reservation until the end.

use crate::api::problem::Problem;
use crate::budget::{Share, UNCOUNTED_BYTES, counted};
use crate::engine::{Ask, Lookup};
use crate::routes::aside::Aside;
use crate::state::Shared;
use kvs::Entry;
use tokio::sync::oneshot;

/// The entry of a key; its value returns its share of the budget when the last of it is dropped.
pub(crate) async fn entry(
    shared: &Shared,
    (kvs, key): (&str, &[u8]),
) -> Result<Option<Entry>, Problem> {
    let mut share = Share::default();
    let mut lookup = ask(shared, (kvs, key), &mut share)?;
    loop {
        lookup = match lookup {
            Lookup::Ready(None) => return Ok(None),
            Lookup::Ready(Some(entry)) => {
                let len = entry.value.len();
                if has_room(shared, &mut share, len) {
                    return Ok(Some(reserved(entry, share)));
                }
                Lookup::NoRoom { value_len: len }
            }
            Lookup::NoRoom { value_len } => {
                drop(share);
                share = shared.responses.share(value_len, shared.limits.room_wait_max()).await?;
                ask(shared, (kvs, key), &mut share)?
            }
            Lookup::ColdIndex(ask) => cold(shared, Aside::new(ask), Share::default()).await?.0,
            Lookup::ColdValue { value_len, ask } => {
                // It holds a view, and who waits may give up.
                let ask = Aside::new(ask);
                drop(share);
                let bytes = 2 * value_len;
                share = shared.responses.share(bytes, shared.limits.room_wait_max()).await?;
                let (found, kept) = cold(shared, ask, share).await?;
                return Ok(found.map(|entry| reserved(entry, kept)));
            }
        };
    }
}

/// What the engine has at once; a copy that it makes has room in `share`.
fn ask(shared: &Shared, (kvs, key): (&str, &[u8]), share: &mut Share) -> Result<Lookup, Problem> {
    Ok(shared.engine()?.try_get(kvs, key, &mut |len| has_room(shared, share, len))?)
}

fn has_room(shared: &Shared, share: &mut Share, len: usize) -> bool {
    len <= UNCOUNTED_BYTES || shared.responses.try_grow(share, len).is_ok()
}

/// Ties a value to as much of a share as it needs.
fn reserved(entry: Entry, mut share: Share) -> Entry {
    share.shrink_to(entry.value.len());
    Entry { value: counted(entry.value, share), ..entry }
}

/// Asks the drive. Permit and share are held until it has answered, whoever still listens.
async fn cold<T: Send + 'static>(
    shared: &Shared,
    ask: Aside<Ask<T>>,
    share: Share,
) -> Result<(T, Share), Problem> {
    let permit = shared.answered(shared.cold_reads.clone().acquire_owned(), "nothing was changed");
    let permit = permit.await?.expect("it is never closed");
    let (done, answer) = oneshot::channel();
    ask.into_inner()(Box::new(move |outcome| {
        drop(permit);
        // Nobody listens any more if the client went away.
        drop(done.send((outcome, share)));
    }));
    // The engine drops the callback uncalled only when it goes down.
    let answered = shared.answered(answer, "nothing was changed").await?;
    let (outcome, share) = answered.map_err(|_dropped| kvs::Error::Closed)?;
    Ok((outcome?, share))
}
