//! The rows of `advertisements`, with the ports that they are for: read for the advertiser.

use std::{collections::BTreeMap, sync::Arc};

use aya::maps::MapData;
use fabric_common::{
    abi::{self, MapSpec},
    advertisement::AdvertisementValue,
    port::{NO_SLOT, PortValue},
};

use super::{error::DataplaneError, groups::read_all, maps::OpenMaps};

/// What is advertised, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertised {
    /// Frames by VNI.
    pub networks: BTreeMap<u32, AdvertisementValue>,
    /// VNIs by the interface index of containers' ports. The host's own ports are left out: what is in networks never routes the host.
    pub ports: BTreeMap<u32, u32>,
}

/// A reader of router advertisements. Cheap to clone; works as long as it lives, also while a pass is running.
#[derive(Clone)]
pub struct Advertisements {
    maps: Arc<[(&'static MapSpec, MapData); 2]>,
}

impl Advertisements {
    pub(super) fn open(open: &OpenMaps) -> Result<Self, DataplaneError> {
        let map = |spec| Ok::<_, DataplaneError>((spec, open.reopen(spec)?));
        Ok(Self { maps: Arc::new([map(&abi::ADVERTISEMENTS)?, map(&abi::PORTS)?]) })
    }

    /// What the programs answer at this moment.
    ///
    /// # Errors
    /// The maps can't be read.
    pub fn read(&self) -> Result<Advertised, DataplaneError> {
        let [(rows, rows_data), (ports, ports_data)] = &*self.maps;
        let ports = read_all::<u32, PortValue>(ports, ports_data)?.into_iter();
        Ok(Advertised {
            networks: read_all(rows, rows_data)?,
            ports: ports
                .filter(|(_, port)| port.slot != NO_SLOT)
                .map(|(index, port)| (index, port.vni))
                .collect(),
        })
    }
}
