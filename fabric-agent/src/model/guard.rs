//! What nobody may lock out by mistake.

use std::{collections::BTreeSet, net::IpAddr};

/// What this node depends on, beside the other nodes of the fabric. Deny sets and policies spare it unless they are forced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Addresses of the store's members.
    pub store: BTreeSet<IpAddr>,
}
