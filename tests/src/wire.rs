//! Frames that come in for real.

use std::time::Duration;

use aya::{Ebpf, TestRun, TestRunAttrs, TestRunOptions, programs::Program};
use fabric_common::abi::program;

use crate::{
    cast::Container,
    load::{Globals, load},
    walk::{Rig, xdp_md},
};

/// How long the stack may take for a frame: it is done in the same call, but for what it leaves to the next softirq.
const SETTLE: Duration = Duration::from_millis(10);

/// Gives frames to the kernel as if they had come in at an interface.
pub struct Wire {
    ebpf: Ebpf,
    ifindex: u32,
}

impl Wire {
    /// Into the uplink of a rig. What passes the frames on is our XDP program without any tables, to which nothing is its
    /// own and everything passes.
    pub fn into_uplink(rig: &Rig) -> Self {
        Self { ebpf: load(Globals::default()), ifindex: rig.uplink().ifindex() }
    }

    /// The same into a container's port.
    pub fn into_port(rig: &Rig, container: &Container) -> Self {
        Self { ebpf: load(Globals::default()), ifindex: rig.port(container).ifindex() }
    }

    /// One frame. Returns when the kernel has had time for it.
    pub fn inject(&mut self, frame: &[u8]) {
        let Some(Program::Xdp(program)) = self.ebpf.program_mut(program::FROM_UPLINK_XDP) else {
            panic!("{} is no XDP program", program::FROM_UPLINK_XDP)
        };
        let context = xdp_md(frame.len(), self.ifindex);
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        options.attrs = TestRunAttrs::new().xdp_live_frames(1);
        program.test_run(options).expect("Linux 5.18 or later injects frames");
        std::thread::sleep(SETTLE);
    }
}
