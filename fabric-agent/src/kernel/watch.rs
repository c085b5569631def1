//! Notifications of the kernel that links, addresses or routes changed.

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::{sync::mpsc, task::JoinHandle};

use super::KernelError;

/// Sends on the channel whenever a link, an address or a route of this namespace changes, until dropped. What changed
/// is not said: the listener looks for itself. Several changes may come as one.
#[derive(Debug)]
pub struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watch {
    /// Begins to watch. A full channel is no loss: the listener is to look anyway.
    ///
    /// # Errors
    /// If the kernel gives no socket.
    pub fn start(changed: mpsc::Sender<()>) -> Result<Self, KernelError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, _handle, mut messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(|source| KernelError::Refused {
                what: "listening to the kernel's network notifications".to_owned(),
                source,
            })?;
        Ok(Self(tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            loop {
                tokio::select! {
                    () = &mut connection => break,
                    message = messages.next() => {
                        if message.is_none() {
                            break;
                        }
                        let _ = changed.try_send(());
                    }
                }
            }
            tracing::warn!(
                "the kernel's network notifications ended; changes are found by looking now and then"
            );
        })))
    }
}
