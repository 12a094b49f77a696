-- Trace ids are looked for apart from names: their filters are nine tenths of a segment, and a search asks for one or
-- the other. So they have tables of their own, and neither search reads what it does not ask. The names now
-- also say in which roles an event had none. All of it is derived anew in the background; what has no row yet is
-- searched itself. src/log/segments.rs.
DROP TABLE change_segments;
DROP TABLE traffic_segments;
CREATE TABLE change_segments (
    first     INTEGER PRIMARY KEY,
    last      INTEGER NOT NULL,
    seen_from INTEGER NOT NULL,  -- the lowest and the highest version seen here
    seen_to   INTEGER NOT NULL,
    kinds     INTEGER NOT NULL,  -- a bit for each kind
    names     BLOB    NOT NULL,  -- Bloom filter over namespaces, services, instances and callers
    checksum  INTEGER NOT NULL   -- CRC-32 over all of the above
);
CREATE TABLE traffic_segments (
    first     INTEGER PRIMARY KEY,
    last      INTEGER NOT NULL,
    seen_from INTEGER NOT NULL,
    seen_to   INTEGER NOT NULL,
    kinds     INTEGER NOT NULL,
    names     BLOB    NOT NULL,
    checksum  INTEGER NOT NULL
);
CREATE TABLE change_traces (
    first     INTEGER PRIMARY KEY,  -- of the segment
    last      INTEGER NOT NULL,
    trace_ids BLOB    NOT NULL,     -- Bloom filter
    checksum  INTEGER NOT NULL      -- CRC-32 over all of the above
);
CREATE TABLE traffic_traces (
    first     INTEGER PRIMARY KEY,
    last      INTEGER NOT NULL,
    trace_ids BLOB    NOT NULL,
    checksum  INTEGER NOT NULL
);
UPDATE log SET derived_seq = 0, segmented_traffic = 0;
