//! The addresses of this host's interfaces: no session may reach the host through one of them, public or not.
//!
//! Reading them costs some system calls and an allocation per interface, and on a host with thousands of interfaces
//! milliseconds, which an agent must not be able to cause with every dial. So they are kept until the kernel announces a
//! change (rtnetlink(7), `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`). It queues the announcement of an address together
//! with the route that makes it this host's, so no dial finds one without the other: nothing is weaker than reading each
//! time.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// linux/rtnetlink.h: `RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x10 | 0x100;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct OwnAddresses(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    announcements: Option<OwnedFd>,
    known: Option<Arc<[IpAddr]>>,
    /// How often they were read.
    #[cfg(test)]
    reads: u32,
}

impl OwnAddresses {
    /// The addresses now. Who cannot read them cannot judge either.
    pub(crate) fn now(&self) -> io::Result<Arc<[IpAddr]>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.now()
    }
}

impl State {
    fn now(&mut self) -> io::Result<Arc<[IpAddr]>> {
        if self.announcements.is_none() {
            // Without announcements (out of descriptors, say) they are read each time.
            self.announcements = subscribe().ok();
            self.known = None;
        }
        // Taken before reading: what changes during the reading is announced for the next time.
        if self.changed() {
            self.known = None;
        }
        if let Some(known) = &self.known {
            return Ok(Arc::clone(known));
        }
        let read = read()?;
        #[cfg(test)]
        {
            self.reads += 1;
        }
        if self.announcements.is_some() {
            self.known = Some(Arc::clone(&read));
        }
        Ok(read)
    }

    /// Whether anything was announced since the last call, or could have been.
    fn changed(&mut self) -> bool {
        let Some(announcements) = &self.announcements else {
            return true;
        };
        let mut changed = false;
        let mut sink = [0; 64];
        loop {
            match recv(
                announcements.as_raw_fd(),
                &mut sink,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC,
            ) {
                Err(Errno::EAGAIN) => return changed,
                // More than the queue holds: at least one change.
                Ok(1..) | Err(Errno::EINTR | Errno::ENOBUFS) => changed = true,
                Ok(0) | Err(_) => {
                    self.announcements = None;
                    return true;
                }
            }
        }
    }
}

fn subscribe() -> nix::Result<OwnedFd> {
    let announcements = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkRoute,
    )?;
    bind(announcements.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
    Ok(announcements)
}

fn read() -> io::Result<Arc<[IpAddr]>> {
    Ok(nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| {
            let address = interface.address?;
            address
                .as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_read_once_as_long_as_nothing_changes() {
        let own = OwnAddresses::default();
        let loopback: IpAddr = "127.0.0.1".parse().expect("an address");
        for _ in 0..1000 {
            assert!(own.now().expect("addresses").contains(&loopback));
        }
        let reads = own.0.lock().expect("lock").reads;
        // Other tests make interfaces; not a thousand.
        assert!(reads < 100, "read {reads} times");
    }
}
