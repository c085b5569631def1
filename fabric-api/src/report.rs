//! `GET /v1/report`: what only the agent can read, for `fabric bugreport`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::Event;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Report {
    /// The programs that this agent has loaded.
    pub programs: Vec<ProgramReport>,
    /// Every map but the ring buffers.
    pub maps: Vec<MapReport>,
    /// The last drop events, oldest first.
    pub events: Vec<Event>,
    /// The end of the agent's log.
    pub log: String,
}

/// A loaded program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProgramReport {
    /// Name.
    pub name: String,
    /// The kernel's number.
    pub id: u32,
    /// Hash over its instructions, hexadecimal; the same for the same build.
    pub tag: String,
    /// Instructions that the verifier walked; 0 if the kernel does not say.
    pub verified_instructions: u32,
    /// Bytes of machine code.
    pub machine_code: u32,
    /// Why it can't be read, if so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// A map's rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MapReport {
    /// Name.
    pub name: String,
    /// Types of key and value.
    pub types: String,
    /// Rows; of arrays and counters those that are not zero.
    pub rows: Vec<MapRow>,
    /// Whether there are more.
    pub cut: bool,
    /// Why it can't be read, if so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// One row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MapRow {
    /// The key, by the names of its fields.
    pub key: Value,
    /// The value; of a map with a value a CPU, a list of those.
    pub value: Value,
}
