//! Large bodies between roles of one process: handed over as they are, under a random number, instead of being copied through
//! frames. The number travels in the place of the body.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use crate::wire::body::Body;

static BODIES: Mutex<Option<FxHashMap<u64, Body>>> = Mutex::new(None);

fn bodies() -> MutexGuard<'static, Option<FxHashMap<u64, Body>>> {
    BODIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the body with that number.
pub(crate) fn take(key: u64) -> Option<Body> {
    bodies().as_mut()?.remove(&key)
}

/// What one end has handed over. What was not taken when it is dropped is forgotten.
#[derive(Debug, Default)]
pub(crate) struct HandedOver {
    keys: Vec<u64>,
}

/// After so many, those that were taken are forgotten.
const SWEEP: usize = 1024;

impl HandedOver {
    /// Puts a body; its number. `None` when there are no random numbers, and it must be copied.
    pub(crate) fn put(&mut self, body: Body) -> Option<u64> {
        // Random, so that nobody who is not of this process can name it.
        let key = getrandom::u64().ok()?;
        let mut bodies = bodies();
        let all = bodies.get_or_insert_default();
        all.insert(key, body);
        self.keys.push(key);
        if self.keys.len() >= SWEEP {
            self.keys.retain(|key| all.contains_key(key));
        }
        Some(key)
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        if let Some(all) = bodies().as_mut() {
            for key in &self.keys {
                all.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HandedOver, take};
    use crate::wire::body::Body;

    #[test]
    fn a_body_is_taken_once_and_forgotten_with_its_giver() {
        let mut giver = HandedOver::default();
        let key = giver.put(Body::from("a")).expect("random numbers");
        let left = giver.put(Body::from("b")).expect("random numbers");
        assert_eq!(take(key).map(|body| body.len()), Some(1));
        assert!(take(key).is_none());
        drop(giver);
        assert!(take(left).is_none());
    }
}
