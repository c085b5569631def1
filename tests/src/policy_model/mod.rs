//! A second opinion on policies: worlds at random ([`generate`]), what the Kubernetes documents say of a packet there
//! ([`reference`]), what the programs would read from the rows that the agent plans ([`rows`]), and what they do with a packet
//! ([`programs`]).

pub mod generate;
pub mod programs;
pub mod reference;
pub mod rows;
