//! Domain names in policies: what local endpoints were told by the DNS servers that they asked.
//!
//! The programs copy queries and hand over answers (`dataplane`). [`message`] reads them, [`cache`] matches and remembers, [`watch`]
//! has the reconciler write what they give rise to, and then delivers the answer: the endpoint's first packet to the
//! address finds its policy open. An answer is believed only if it matches a query that the endpoint's own policies admitted.

pub mod cache;
pub mod message;
pub mod watch;
