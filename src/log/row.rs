//! A change as the columns of its row, and the checksum over them.
//!
//! It knows nothing of what the columns mean: that is [`super::codec`]'s, through which all others use this.

/// A change as a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Number.
    pub seq: u64,
    /// Microseconds since the epoch.
    pub at: i64,
    /// The kind's word.
    pub kind: String,
    /// Names, where the event has them.
    pub namespace: Option<String>,
    /// See above.
    pub service: Option<String>,
    /// See above.
    pub instance: Option<String>,
    /// Who asked.
    pub caller: Option<String>,
    /// 16 bytes.
    pub trace_id: Option<Vec<u8>>,
    /// 8 bytes.
    pub span_id: Option<Vec<u8>>,
    /// Number of the cause.
    pub cause: Option<u64>,
    /// The node that appended it.
    pub node: String,
    /// Version of `data`.
    pub format: u32,
    /// JSON.
    pub data: String,
    /// CRC-32 of all of the above.
    pub checksum: u32,
}

impl Row {
    /// The checksum that the other fields call for.
    #[must_use]
    pub fn expected_checksum(&self) -> u32 {
        let names = [&self.namespace, &self.service, &self.instance, &self.caller];
        checksum(&Columns {
            numbers: (self.seq, self.at, self.cause.unwrap_or(0), self.format),
            kind: self.kind.as_bytes(),
            names: names.map(|name| name.as_deref().unwrap_or("").as_bytes()),
            ids: [&self.trace_id, &self.span_id].map(|id| id.as_deref().unwrap_or(&[])),
            node: self.node.as_bytes(),
            data: self.data.as_bytes(),
        })
    }
}

/// What a row's checksum is over, without owning it. What is not there counts as empty, or as 0.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// Number, time, cause and format.
    pub numbers: (u64, i64, u64, u32),
    /// The kind's word.
    pub kind: &'a [u8],
    /// Namespace, service, instance and caller.
    pub names: [&'a [u8]; 4],
    /// Trace and span.
    pub ids: [&'a [u8]; 2],
    /// The node that appended it.
    pub node: &'a [u8],
    /// JSON.
    pub data: &'a [u8],
}

/// The checksum of a row.
#[must_use]
pub fn checksum(columns: &Columns<'_>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    let mut text = |text: &[u8]| {
        crc.update(&(text.len() as u64).to_le_bytes());
        crc.update(text);
    };
    let (seq, at, cause, format) = columns.numbers;
    text(&seq.to_le_bytes());
    text(&at.to_le_bytes());
    text(columns.kind);
    columns.names.iter().chain(&columns.ids).for_each(|column| text(column));
    text(&cause.to_le_bytes());
    text(columns.node);
    text(&format.to_le_bytes());
    text(columns.data);
    crc.finalize()
}
