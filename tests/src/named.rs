//! What the programs do for policies with domain names: rows of who was told which address, and the DNS packets that they copy.

use aya::{
    maps::{HashMap, PerCpuArray, PerCpuValues, RingBuf},
    util::nr_cpus,
};
use fabric_common::{
    abi,
    addr::Addr,
    names::{DnsPacket, NamedKey, UNTIL},
};

use crate::{cast::Container, walk::Rig};

impl Rig {
    /// Says that somebody reads DNS packets up to a time since boot, nanoseconds.
    pub fn read_dns_until(&mut self, until: u64) {
        let map = self.ebpf.map_mut(abi::DNS_WATCH.name).expect("it exists");
        let mut map = PerCpuArray::<_, u64>::try_from(map).expect("a per-CPU array");
        let cpus = nr_cpus().expect("the kernel tells how many CPUs it has");
        let values = PerCpuValues::try_from(vec![until; cpus]).expect("one for each CPU");
        map.set(UNTIL, values, 0).expect("it can be written");
    }

    /// DNS packets since the last call: kind, port and frame.
    pub fn dns_packets(&mut self) -> Vec<(u32, u32, Vec<u8>)> {
        let map = self.ebpf.map_mut(abi::DNS.name).expect("it exists");
        let mut ring = RingBuf::try_from(map).expect("a ring buffer");
        let mut packets = Vec::new();
        while let Some(item) = ring.next() {
            let record: &[u8] = &item;
            assert_eq!(record.len(), size_of::<DnsPacket>(), "a record has another size");
            // SAFETY: the length is that of the record, which is valid for every bit pattern; read without alignment.
            let packet = unsafe { record.as_ptr().cast::<DnsPacket>().read_unaligned() };
            packets.push((packet.kind, packet.ifindex, packet.data[..packet.length as usize].to_vec()));
        }
        packets
    }

    /// Says that a container was told `addr` for a name, which gives the address this identity.
    pub fn tell(&mut self, container: &Container, addr: std::net::IpAddr, identity: u32) {
        let key = NamedKey { ifindex: self.port(container).ifindex(), addr: Addr::from(addr) };
        let map = self.ebpf.map_mut(abi::NAMED.name).expect("it exists");
        let mut map = HashMap::<_, NamedKey, u32>::try_from(map).expect("a hash");
        map.insert(key, identity, 0).expect("the row can be written");
    }
}
