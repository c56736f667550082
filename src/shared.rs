//! Memory that processes of one host share.

mod memfd;
mod names;
pub(crate) mod segment;
mod table;
pub(crate) mod ticket;
