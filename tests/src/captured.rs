//! What the programs copy of dropped packets for captures.

use aya::{
    maps::{PerCpuArray, PerCpuValues, RingBuf},
    util::nr_cpus,
};
use fabric_common::{
    abi,
    capture::{CapturedDrop, UNTIL},
};

use crate::walk::Rig;

impl Rig {
    /// Lets the programs copy what they drop up to a time since boot, nanoseconds.
    pub fn capture_until(&mut self, until: u64) {
        let map = self.ebpf.map_mut(abi::CAPTURE.name).expect("it exists");
        let mut map = PerCpuArray::<_, u64>::try_from(map).expect("a per-CPU array");
        let cpus = nr_cpus().expect("the kernel tells how many CPUs it has");
        let values = PerCpuValues::try_from(vec![until; cpus]).expect("one for each CPU");
        map.set(UNTIL, values, 0).expect("it can be written");
    }

    /// What was copied since the last call.
    pub fn captured(&mut self) -> Vec<CapturedDrop> {
        let map = self.ebpf.map_mut(abi::CAPTURED.name).expect("it exists");
        let mut ring = RingBuf::try_from(map).expect("a ring buffer");
        let mut records = Vec::new();
        while let Some(item) = ring.next() {
            let record: &[u8] = &item;
            assert_eq!(record.len(), size_of::<CapturedDrop>(), "a record has another size");
            // SAFETY: the length is that of the record, which is valid for every bit pattern; read without alignment.
            records.push(unsafe { record.as_ptr().cast::<CapturedDrop>().read_unaligned() });
        }
        records
    }
}
