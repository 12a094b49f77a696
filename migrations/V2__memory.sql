-- What makes the log a memory: streams of changes are traffic too; snapshots of the state; what is derived
-- from the events, to find them and to remember them by when they go.

-- The view tells the new kinds of traffic. See the table in src/log/blocks.rs for the digits.
DROP VIEW events;
CREATE VIEW events (id, seq, at, kind, namespace, service, instance, caller, trace_id, span_id, cause, data) AS
SELECT
    CAST(seq AS TEXT),
    seq,
    strftime('%Y-%m-%dT%H:%M:%S', at / 1000000, 'unixepoch') || printf('.%06dZ', at % 1000000),
    kind, namespace, service, instance, caller,
    lower(hex(trace_id)), lower(hex(span_id)),
    cause,
    data
FROM changes
UNION ALL
SELECT
    't' || (first + n),
    seen,
    strftime('%Y-%m-%dT%H:%M:%S', at / 1000000, 'unixepoch') || printf('.%06dZ', at % 1000000),
    CASE kind WHEN '0' THEN 'heartbeat' WHEN '2' THEN 'watch_opened' WHEN '3' THEN 'watch_closed'
              WHEN '4' THEN 'notified' ELSE 'lookup' END,
    json_extract(names, '$[' || namespace || ']'),
    json_extract(names, '$[' || service || ']'),
    json_extract(names, '$[' || instance || ']'),
    json_extract(names, '$[' || caller || ']'),
    nullif(lower(hex(trace_id)), '00000000000000000000000000000000'),
    nullif(lower(hex(span_id)), '0000000000000000'),
    NULL,
    CASE kind
        WHEN '0' THEN json_patch(json_object('incarnation', revision),
                                 coalesce(json_extract(names, '$[' || detail || ']'), '{}'))
        WHEN '1' THEN json_object('filter', coalesce(json_extract(names, '$[' || detail || ']'), ''),
                                  'revision', revision, 'returned', returned, 'status', status)
        WHEN '2' THEN json_object('filter', coalesce(json_extract(names, '$[' || detail || ']'), ''),
                                  'after', revision)
        WHEN '3' THEN json_patch(json_object('through', revision),
                                 json_extract(names, '$[' || detail || ']'))
        WHEN '4' THEN json_object('filter', coalesce(json_extract(names, '$[' || detail || ']'), ''),
                                  'through', revision, 'events', returned)
        ELSE json_patch(json_object('revision', revision, 'returned', returned, 'status', status),
                        json_extract(names, '$[' || detail || ']'))
    END
FROM (
    SELECT
        first, n, names,
        CAST(substr(kinds, 1 + n, 1) AS TEXT) AS kind,
        first_at + CAST(substr(ats, 1 + n * (length(ats) / count), length(ats) / count) AS INTEGER) AS at,
        seen_from + CAST(substr(seen, 1 + n * (length(seen) / count), length(seen) / count) AS INTEGER) AS seen,
        CAST(substr(namespaces, 1 + n * (length(namespaces) / count), length(namespaces) / count) AS INTEGER) AS namespace,
        CAST(substr(services, 1 + n * (length(services) / count), length(services) / count) AS INTEGER) AS service,
        CAST(substr(instances, 1 + n * (length(instances) / count), length(instances) / count) AS INTEGER) AS instance,
        CAST(substr(callers, 1 + n * (length(callers) / count), length(callers) / count) AS INTEGER) AS caller,
        CAST(substr(details, 1 + n * (length(details) / count), length(details) / count) AS INTEGER) AS detail,
        CAST(substr(revisions, 1 + n * (length(revisions) / count), length(revisions) / count) AS INTEGER) AS revision,
        CAST(substr(returned, 1 + n * (length(returned) / count), length(returned) / count) AS INTEGER) AS returned,
        CAST(substr(statuses, 1 + n * (length(statuses) / count), length(statuses) / count) AS INTEGER) AS status,
        substr(trace_ids, 1 + n * 16, 16) AS trace_id,
        substr(span_ids, 1 + n * 8, 8) AS span_id
    FROM traffic JOIN slots ON n < count
);

-- The state after a change. One row says what it is; each service has rows of its own, so that one service of
-- the past can be had without the others, and so that none takes long to write: a large one has several.
CREATE TABLE snapshots (
    seq       INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,  -- of that change, microseconds since 1970
    -- Every heartbeat before this number, but for the last some thousand of them, is known to its instance below.
    next_traffic INTEGER NOT NULL,
    services  INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    digest    TEXT    NOT NULL,  -- as in checkpoint events
    bytes     INTEGER NOT NULL,
    -- 0 while its services are being written: it is not to be used.
    complete  INTEGER NOT NULL,
    checksum  INTEGER NOT NULL   -- CRC-32 over the above but `complete`, and over names and checksums of its services
);
CREATE TABLE snapshot_services (
    seq       INTEGER NOT NULL,
    namespace TEXT    NOT NULL,
    service   TEXT    NOT NULL,
    revision  INTEGER NOT NULL,
    part      INTEGER NOT NULL,  -- 0, 1, 2, ...
    parts     INTEGER NOT NULL,  -- how many rows this service has
    format    INTEGER NOT NULL,  -- version of the payload
    checksum  INTEGER NOT NULL,  -- CRC-32 over everything else; before the long text, which is not read for it
    -- JSON array, in the order of the ids: `instance` as in events, `lease` with its last heartbeat and the trace of
    -- its registration.
    instances TEXT    NOT NULL
);
CREATE UNIQUE INDEX snapshot_services_by_name ON snapshot_services (seq, namespace, service, part);

-- Where to look: a row stands for a stretch of events of one class and says what can be in it. Derived in the
-- background; what has no row yet is searched itself. Bits and filters: src/log/segments.rs.
CREATE TABLE change_segments (
    first     INTEGER PRIMARY KEY,
    last      INTEGER NOT NULL,
    seen_from INTEGER NOT NULL,  -- the lowest and the highest version seen here
    seen_to   INTEGER NOT NULL,
    kinds     INTEGER NOT NULL,  -- a bit for each kind
    names     BLOB    NOT NULL,  -- Bloom filter over namespaces, services, instances and callers
    trace_ids BLOB    NOT NULL,  -- Bloom filter
    checksum  INTEGER NOT NULL   -- CRC-32 over all of the above
);
CREATE TABLE traffic_segments (
    first     INTEGER PRIMARY KEY,
    last      INTEGER NOT NULL,
    seen_from INTEGER NOT NULL,
    seen_to   INTEGER NOT NULL,
    kinds     INTEGER NOT NULL,
    names     BLOB    NOT NULL,
    trace_ids BLOB    NOT NULL,
    checksum  INTEGER NOT NULL
);

-- What stays of traffic when it has gone. Also derived in the background, while it is still there: src/log/rollup.rs.
-- Lookups, by the minute in which they were answered.
CREATE TABLE lookup_minutes (
    minute   INTEGER NOT NULL,  -- minutes since 1970
    part     INTEGER NOT NULL,  -- number of the first traffic event in it: a minute of very many has several rows
    last     INTEGER NOT NULL,  -- number of the last one
    names    TEXT    NOT NULL,  -- JSON array: the texts of this row; entry 0 is null
    counts   BLOB    NOT NULL,  -- twelve numbers for each sum of equal lookups, seven bits a byte
    checksum INTEGER NOT NULL,  -- CRC-32 over all of the above
    PRIMARY KEY (minute, part)
) WITHOUT ROWID;
-- Heartbeats of one life, by the hour in which they came.
CREATE TABLE heartbeat_runs (
    namespace     TEXT    NOT NULL,
    service       TEXT    NOT NULL,
    instance      TEXT    NOT NULL,
    incarnation   INTEGER NOT NULL,
    hour          INTEGER NOT NULL,  -- hours since 1970
    first_at      INTEGER NOT NULL,
    last_at       INTEGER NOT NULL,
    count         INTEGER NOT NULL,
    widest_gap    INTEGER NOT NULL,  -- microseconds between two heartbeats of this life
    widest_gap_at INTEGER NOT NULL,  -- when it ended
    through       INTEGER NOT NULL,  -- number of the last one
    PRIMARY KEY (namespace, service, instance, incarnation, hour)
) WITHOUT ROWID;

-- What retention took last, of each class. It is noted with the removal itself, so that a crash forgets nothing:
-- what a `compacted` event has not told yet (told = 0) is told later, together with what went in between.
CREATE TABLE compactions (
    class    TEXT    PRIMARY KEY,  -- changes, traffic
    first    INTEGER NOT NULL,     -- numbers of the first and of the last event that went
    last     INTEGER NOT NULL,
    first_at INTEGER NOT NULL,     -- when those two happened
    last_at  INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,     -- about
    told     INTEGER NOT NULL      -- number of the compacted event; 0 while there is none
);

-- The oldest events that are kept, and how far the deriving has come (number of the last event). Rows before
-- them are no part of the log any more: they may still be there, until retention has removed them in slices.
ALTER TABLE log ADD COLUMN first_seq        INTEGER NOT NULL DEFAULT 1;
ALTER TABLE log ADD COLUMN first_traffic    INTEGER NOT NULL DEFAULT 1;
ALTER TABLE log ADD COLUMN derived_seq      INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN derived_traffic  INTEGER NOT NULL DEFAULT 0;
-- `derived_traffic` is what both roll-ups have: traffic up to there may go. The roll-ups are some minutes behind,
-- because they are written when a period is over; the segments are not.
ALTER TABLE log ADD COLUMN segmented_traffic  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN counted_lookups    INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN counted_heartbeats INTEGER NOT NULL DEFAULT 0;
