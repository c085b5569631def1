//! What policies mean, and what the programs need to know of it.
//!
//! For an endpoint and a direction the rules that apply are put into one order (`effective`): ClusterNetworkPolicies of the
//! Admin tier by priority and name, then NetworkPolicies, and where none isolates the endpoint the Baseline tier. Whoever may
//! be the other side has an [`Identity`]. The rules that match an identity (`matching`) give ranges of ports with verdicts (`ruling`); these are
//! what [`decide`] explains and what [`compile`] writes as rows, under numbers that stay ([`Numbers`]).

mod candidates;
mod compile;
mod decide;
mod denied;
mod effective;
mod identity;
mod lint;
mod matching;
mod numbers;
mod ports;
mod ruling;
mod transition;

pub use compile::{Compiled, compile};
pub use decide::decide;
pub use denied::spared;
pub use identity::Identity;
pub use lint::lint;
pub use numbers::{Numbers, RuleNames};
pub use transition::{Change, State};
