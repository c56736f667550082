//! What processes of one host wait by.

#![allow(dead_code)]

pub(crate) mod raw_mutex;
