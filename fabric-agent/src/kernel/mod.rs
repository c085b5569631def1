//! The kernel's network objects as verbs, one noun per file: links, addresses, routes, namespaces, sysctls, and what
//! the underlay interfaces are. Nothing here decides what should be; the reconciler does.
//!
//! Every netlink request is one transaction of the kernel: it happened or it did not. Deleting the absent is success.

mod access;
pub mod address;
mod cleanup;
pub mod frag;
pub mod inject;
pub mod link;
pub mod netns;
pub mod packet;
pub mod port;
pub mod route;
pub mod sysctl;
pub mod tap;
pub mod uplink;
pub mod vxlan;
pub mod watch;

use std::{io, sync::Arc};

use tokio::task::JoinHandle;

/// What can go wrong with the kernel's network objects. Each message is one sentence for people.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused a request.
    #[error("{what}: {source}")]
    Refused {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The netlink socket itself failed.
    #[error("{what}: the netlink request failed ({reason})")]
    Netlink {
        /// What was tried.
        what: String,
        /// What the library says.
        reason: String,
    },
    /// The namespace of a container does not exist any more.
    #[error("its namespace is gone ({path}); detach the endpoint, or attach it again to a running container")]
    NamespaceGone {
        /// Path of the namespace.
        path: String,
    },
    /// The interface that a container engine took is gone, and its container with it.
    #[error(
        "its interface is gone, and its container with it; it goes once the engine removes it, or has ended"
    )]
    InterfaceGone,
    /// The namespace of a container can't be opened.
    #[error("its namespace {path} can't be opened: {source}")]
    NamespaceClosed {
        /// Path of the namespace.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A veth leads to a namespace that is there, but not where it was found before.
    #[error(
        "its interface exists, but its namespace can't be opened at {path} to set it up; detach it and attach it again by a path that exists"
    )]
    OutOfReach {
        /// Path of the namespace.
        path: String,
    },
    /// A path that is not a network namespace.
    #[error("{path} is not a network namespace; give a path like /run/netns/NAME or /proc/PID/ns/net")]
    NotANamespace {
        /// The path.
        path: String,
    },
    /// The container has an interface of that name already.
    #[error("the namespace {path} already has an interface named {name}; choose another one with --ifname")]
    InterfaceExists {
        /// Path of the namespace.
        path: String,
        /// The name.
        name: String,
    },
    /// The host side of a port exists, but its other side is not in the namespace where it should be.
    #[error("the veth {name} leads to another container than {path}; it is made anew")]
    Elsewhere {
        /// Host side.
        name: String,
        /// Path of the wanted namespace.
        path: String,
    },
    /// An underlay interface that does not exist.
    #[error(
        "there is no interface named {name}; `ip link` shows those that exist, --underlay names the one to use"
    )]
    NoSuchInterface {
        /// The name.
        name: String,
    },
    /// No underlay interface was named and none stands out.
    #[error("{0}; name the underlay interface with --underlay")]
    NoUplink(String),
    /// A VTEP address that no underlay interface has.
    #[error("the VTEP address {0} is on none of the underlay interfaces; add it to one or correct --vtep")]
    VtepNotFound(std::net::IpAddr),
    /// An underlay interface that can't carry the overlay.
    #[error("{0}")]
    Unusable(String),
}

impl KernelError {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::NamespaceClosed { source, .. } => source.raw_os_error(),
            Self::Netlink { .. }
            | Self::NamespaceGone { .. }
            | Self::InterfaceGone
            | Self::OutOfReach { .. }
            | Self::NotANamespace { .. }
            | Self::InterfaceExists { .. }
            | Self::Elsewhere { .. }
            | Self::NoSuchInterface { .. }
            | Self::NoUplink(_)
            | Self::VtepNotFound(_)
            | Self::Unusable(_) => None,
        }
    }

    /// Whether a container's namespace could not be opened by its path, or is another one there now.
    pub fn is_unreachable_namespace(&self) -> bool {
        matches!(self, Self::NamespaceGone { .. } | Self::NamespaceClosed { .. })
    }

    /// Whether the object that was to be changed does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(
            self.errno().map(nix::errno::Errno::from_raw),
            Some(nix::errno::Errno::ENODEV | nix::errno::Errno::ENOENT | nix::errno::Errno::ESRCH)
        )
    }
}

/// A netlink socket of one network namespace. Cheap to clone; the socket closes with the last clone.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    _task: Arc<Task>,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Netlink {
    /// A socket in the namespace of the calling thread. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the kernel gives no socket.
    pub fn new() -> Result<Self, KernelError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| KernelError::Refused { what: "opening a netlink socket".to_owned(), source })?;
        Ok(Self { handle, _task: Arc::new(Task(tokio::spawn(connection))) })
    }
}

/// Turns the library's error into ours; `what` is only made when it is needed.
fn explain<T>(result: Result<T, rtnetlink::Error>, what: impl FnOnce() -> String) -> Result<T, KernelError> {
    result.map_err(|error| {
        let what = what();
        if let rtnetlink::Error::NetlinkError(message) = &error {
            KernelError::Refused { what, source: message.to_io() }
        } else {
            KernelError::Netlink { what, reason: error.to_string() }
        }
    })
}
