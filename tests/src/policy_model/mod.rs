//! A second opinion on policies: worlds at random ([`generate`]), what the Kubernetes documents say of a packet there
//! ([`reference`]), and what the programs would read from the rows that the agent plans ([`rows`]).

pub mod generate;
pub mod reference;
pub mod rows;
