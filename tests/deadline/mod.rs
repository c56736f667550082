//! Ends a test program whose threads wait for each other for ever. Threads cannot be ended, so the whole program is.

use std::sync::Once;
use std::time::Duration;

/// Far more than all the tests of one file take.
const ALL: Duration = Duration::from_secs(240);

/// To be called by every test, first of all.
pub fn deadline() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            std::thread::sleep(ALL);
            eprintln!(
                "after {ALL:?} some test has not ended: the one that is not in the list above"
            );
            std::process::abort();
        });
    });
}
