//! The parts of the datapath that are plain arithmetic over bytes: they compile for the host as well, so that unit
//! tests need no kernel. The programs themselves are in `main.rs` and its modules.
#![no_std]

pub mod bucket;
pub mod checksum;
pub mod ecn;
pub mod entropy;
pub mod nat_port;
