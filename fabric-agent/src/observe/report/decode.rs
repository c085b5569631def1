//! Rows of any map in words, by what `fabric-common` says of its layout.

use fabric_common::{
    abi::{MapKind, MapSpec},
    addr::{Addr, Mac},
    layout::Fields,
};
use serde_json::{Map, Value};
use zerocopy::FromBytes;

/// A key by the names of its fields; of an LPM trie, with the number of bits that count.
pub(super) fn key(spec: &MapSpec, bytes: &[u8]) -> Value {
    if spec.kind != MapKind::LpmTrie {
        return any(spec.key, spec.fields.0, bytes);
    }
    let (bits, rest) = bytes.split_at(bytes.len().min(4));
    let mut value = any(spec.key, spec.fields.0, rest);
    if let Value::Object(fields) = &mut value {
        fields.insert("bits".to_owned(), any("u32", &[], bits));
    }
    value
}

/// A value; a list where every CPU has its own.
pub(super) fn value(spec: &MapSpec, bytes: &[u8]) -> Value {
    let one = |bytes: &[u8]| any(spec.value, spec.fields.1, bytes);
    match spec.kind {
        MapKind::PerCpuArray | MapKind::PerCpuHash => {
            let each = spec.sizes.1.next_multiple_of(8).max(8);
            bytes.chunks(each).map(|cpu| one(&cpu[..spec.sizes.1.min(cpu.len())])).collect()
        }
        MapKind::Hash | MapKind::LruHash | MapKind::Array | MapKind::LpmTrie | MapKind::RingBuf => one(bytes),
    }
}

fn any(name: &str, fields: Fields, bytes: &[u8]) -> Value {
    match name {
        "u8" => bytes.first().map_or(Value::Null, |byte| Value::from(*byte)),
        "u16" => number(bytes, u16::from_ne_bytes),
        "u32" => number(bytes, u32::from_ne_bytes),
        "u64" => number(bytes, u64::from_ne_bytes),
        "Addr" => Addr::read_from_bytes(bytes).map_or(Value::Null, |addr| Value::from(addr.to_string())),
        "Mac" => Mac::read_from_bytes(bytes).map_or(Value::Null, |mac| Value::from(mac.to_string())),
        _ if fields.is_empty() && name.starts_with("[u64") => {
            bytes.chunks(8).map(|word| number(word, u64::from_ne_bytes)).collect()
        }
        _ if fields.is_empty() => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        _ => {
            let ends = fields.iter().skip(1).map(|(_, offset, _)| *offset).chain([bytes.len()]);
            let named = fields.iter().zip(ends).map(|((name, offset, ty), end)| {
                ((*name).to_owned(), any(ty, &[], bytes.get(*offset..end).unwrap_or_default()))
            });
            Value::Object(named.collect::<Map<_, _>>())
        }
    }
}

/// Numbers of maps are in host byte order.
fn number<const N: usize, T: Into<Value>>(bytes: &[u8], read: fn([u8; N]) -> T) -> Value {
    bytes.try_into().map_or(Value::Null, |bytes| read(bytes).into())
}

#[cfg(test)]
mod tests {
    use fabric_common::{
        abi,
        addr::{Addr, Mac},
        counters::Tally,
        endpoint::{EndpointKey, EndpointValue},
        prefix::VniPrefix,
    };
    use serde_json::json;
    use zerocopy::{FromZeros, IntoBytes};

    use super::{key, value};

    #[test]
    fn rows_are_told_by_the_names_of_their_fields() {
        let row = EndpointKey { vni: 100, addr: Addr::v4([192, 168, 10, 2]) };
        assert_eq!(key(&abi::ENDPOINTS, row.as_bytes()), json!({"vni": 100, "addr": "192.168.10.2"}));
        let row = EndpointValue { mac: Mac::new([2, 0, 0, 0, 0, 1]), ..EndpointValue::new_zeroed() };
        assert_eq!(value(&abi::ENDPOINTS, row.as_bytes())["mac"], "02:00:00:00:00:01");
    }

    #[test]
    fn prefixes_have_their_length_and_counters_a_value_a_cpu() {
        let row = VniPrefix { vni: 100_u32.to_be_bytes(), ..VniPrefix::new_zeroed() };
        let bytes = [&128_u32.to_ne_bytes()[..], row.as_bytes()].concat();
        let told = key(&abi::ROUTES, &bytes);
        assert_eq!((&told["bits"], &told["vni"]), (&json!(128), &json!("00000064")));
        let cpus = [Tally { packets: 1, bytes: 98 }, Tally { packets: 0, bytes: 0 }];
        let bytes: Vec<u8> = cpus.iter().flat_map(|cpu| cpu.as_bytes().to_vec()).collect();
        assert_eq!(
            value(&abi::DROPS, &bytes),
            json!([{"packets": 1, "bytes": 98}, {"packets": 0, "bytes": 0}])
        );
        assert_eq!(value(&abi::CAPTURE, &7_u64.to_ne_bytes()), json!([7]));
    }
}
