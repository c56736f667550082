//! How much others may ask of a host, and who has broken the protocol. **Pure**: the time is an argument.

use std::collections::HashSet;
use std::time::Duration;

/// How much others may ask of a ventilator or a queue's host. What is beyond is turned away, with a reason, and counted; those who are
/// there notice nothing.
///
/// ```
/// use procession::pipeline::{Limits, Ventilator};
/// let limits = Limits { peers: 2, ..Limits::default() };
/// let ventilator: Ventilator<u64> = Ventilator::<()>::builder("inproc://few").limits(limits).start()?;
/// # ventilator.finish()?;
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Workers, sink and members at a time (10,000). Each has a lane, of about five descriptors.
    pub peers: usize,
    /// Hellos in a second (1,000); who comes too fast is told to come again.
    pub joins: u32,
    /// Bytes of one message on control (1 MiB, which is also the most). Whoever sends more loses the connection.
    pub message: usize,
    /// Bytes of messages on control that wait for the host, for each peer (64 MiB); more of them wait at their sender.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers: 10_000,
            joins: 1_000,
            message: crate::wire::frame::MAX_FRAME,
            memory: 64 << 20,
        }
    }
}

impl Limits {
    /// How many messages on control may wait, for each peer.
    pub(crate) fn messages(&self) -> i32 {
        // libzmq counts messages, however small they are. 0 would be any number of them.
        let most = (self.memory / self.message.max(1)).clamp(1, 1 << 20);
        i32::try_from(most).unwrap_or(1 << 20)
    }
}

/// What a host remembers of those that it has turned away.
#[derive(Debug)]
pub(crate) struct Door {
    limits: Limits,
    /// Hellos that may come now, in thousandths.
    credit: u64,
    counted: Duration,
    offenders: HashSet<Vec<u8>>,
    turned_away: u64,
}

/// So many offenders are remembered; when there are more all are forgotten, and found again by what they do.
const OFFENDERS: usize = 10_000;

impl Door {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            credit: u64::from(limits.joins) * 1000,
            counted: Duration::ZERO,
            offenders: HashSet::new(),
            turned_away: 0,
        }
    }

    /// A hello comes at `now`, and `peers` others are there: why it may not come in, and whether it may come again.
    pub(crate) fn knock(
        &mut self,
        now: Duration,
        peers: usize,
    ) -> std::result::Result<(), (String, bool)> {
        let most = u64::from(self.limits.joins) * 1000;
        let passed = now.saturating_sub(self.counted);
        let earned = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let earned = earned.saturating_mul(self.limits.joins.into());
        self.counted = now;
        self.credit = self.credit.saturating_add(earned).min(most);
        let refused = if self.credit < 1000 {
            Some((
                format!(
                    "{} join in a second, and no more are let in (--limit joins=N)",
                    self.limits.joins
                ),
                true,
            ))
        } else if peers >= self.limits.peers {
            Some((
                format!("{peers} are there, and no more are let in (--limit peers=N)"),
                true,
            ))
        } else {
            None
        };
        match refused {
            Some(why) => {
                self.turned_away += 1;
                Err(why)
            }
            None => {
                self.credit -= 1000;
                Ok(())
            }
        }
    }

    /// Whoever has this route has broken the protocol; whether that is new.
    pub(crate) fn offend(&mut self, route: &[u8]) -> bool {
        if self.offenders.len() >= OFFENDERS {
            self.offenders.clear();
        }
        let is_new = self.offenders.insert(route.to_vec());
        self.turned_away += u64::from(is_new);
        is_new
    }

    /// Nobody listens to this one any more.
    pub(crate) fn is_offender(&self, route: &[u8]) -> bool {
        self.offenders.contains(route)
    }

    /// How many were turned away.
    pub(crate) const fn turned_away(&self) -> u64 {
        self.turned_away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_come_in_as_there_is_room_and_time_for() {
        let limits = Limits {
            peers: 5,
            joins: 2,
            ..Limits::default()
        };
        let mut door = Door::new(limits);
        let at = Duration::from_millis;
        assert_eq!(door.knock(at(0), 0), Ok(()));
        assert_eq!(door.knock(at(0), 1), Ok(()));
        let (why, again) = door.knock(at(1), 2).expect_err("too fast");
        assert!(why.contains("joins=N") && again, "{why}");
        assert_eq!(door.knock(at(501), 2), Ok(()));
        let (why, again) = door.knock(at(5000), 5).expect_err("too many");
        assert!(why.contains("peers=N") && again, "{why}");
        // Time does not pile up beyond a second's worth, and one that stands still is no time.
        for _ in 0..2 {
            assert_eq!(door.knock(at(60_000), 2), Ok(()));
        }
        assert!(door.knock(at(60_000), 2).is_err());
        assert_eq!(door.turned_away(), 3);
    }

    #[test]
    fn who_has_offended_is_remembered_and_counted_once() {
        let mut door = Door::new(Limits::default());
        assert!(!door.is_offender(b"a"));
        assert!(door.offend(b"a"));
        assert!(!door.offend(b"a"));
        assert!(door.is_offender(b"a") && !door.is_offender(b"b"));
        assert_eq!(door.turned_away(), 1);
        for n in 0..OFFENDERS {
            door.offend(&n.to_ne_bytes());
        }
        assert!(door.offenders.len() <= OFFENDERS);
    }
}
