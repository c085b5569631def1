//! The kernel's own VXLAN device as an oracle: [`sides`] gives the same frame to it and to our programs, for real, and
//! collects what each delivers; [`reasons`] names every case in which they may differ.

pub mod fragments;
pub mod reasons;
pub mod sides;
mod tap;
