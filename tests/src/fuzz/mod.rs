//! Fuzzing of the hooks. [`mutate`] makes frames that are almost right, [`model`] says what a program may do with one,
//! [`campaign`] runs many of them and holds the counters against it, [`corpus`] keeps the interesting ones.
//!
//! A frame follows from its seed alone: `FABRIC_SEED=n FABRIC_FRAMES=1` runs just that one.

pub mod arrival;
pub mod campaign;
pub mod corpus;
pub mod model;
pub mod mutate;
pub mod seeds;
