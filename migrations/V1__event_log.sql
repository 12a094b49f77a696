-- The event log: two classes of event in one file, and one view over both.

-- One row: who this log is and which numbers come next. The numbers are stored so that they never start
-- again, also when the tables below have been emptied.
CREATE TABLE log (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    id           TEXT    NOT NULL,
    next_seq     INTEGER NOT NULL,
    next_traffic INTEGER NOT NULL,
    -- 1 if the last registry that wrote here ended in order.
    clean        INTEGER NOT NULL
);

-- Changes: one row each, in the order of the state's versions. `at` in microseconds since 1970.
CREATE TABLE changes (
    seq       INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    namespace TEXT,
    service   TEXT,
    instance  TEXT,
    caller    TEXT,
    trace_id  BLOB,
    span_id   BLOB,
    cause     INTEGER,
    node      TEXT    NOT NULL,
    -- Version of the payload in `data`.
    format    INTEGER NOT NULL,
    data      TEXT    NOT NULL,
    -- CRC-32 over all of the above.
    checksum  INTEGER NOT NULL
);

-- Traffic: a row holds up to 256 events, a column of fixed width each. A column of numbers is their
-- decimal digits, padded to the widest: entry n of a column c stands at
-- substr(c, 1 + n * (length(c) / count), length(c) / count).
CREATE TABLE traffic (
    first      INTEGER PRIMARY KEY,  -- number of the first event; the others follow without a hole
    count      INTEGER NOT NULL,
    first_at   INTEGER NOT NULL,     -- microseconds since 1970; never decreases within a block or between
    last_at    INTEGER NOT NULL,
    seen_from  INTEGER NOT NULL,     -- the lowest version that an event here saw
    names      TEXT    NOT NULL,     -- JSON array: the texts of this block; entry 0 is null
    kinds      BLOB    NOT NULL,     -- 0 heartbeat, 1 lookup
    ats        BLOB    NOT NULL,     -- microseconds after first_at
    seen       BLOB    NOT NULL,     -- versions after seen_from
    namespaces BLOB    NOT NULL,     -- these four: positions in names
    services   BLOB    NOT NULL,
    instances  BLOB    NOT NULL,
    callers    BLOB    NOT NULL,
    details    BLOB    NOT NULL,     -- position in names: a lookup's filter, what else a heartbeat said (JSON)
    revisions  BLOB    NOT NULL,     -- lookup: the revision answered; heartbeat: the incarnation renewed
    returned   BLOB    NOT NULL,
    statuses   BLOB    NOT NULL,
    trace_ids  BLOB    NOT NULL,     -- 16 bytes each
    span_ids   BLOB    NOT NULL,     -- 8 bytes each
    checksum   INTEGER NOT NULL      -- CRC-32 over all of the above
);

-- The positions within a block.
CREATE TABLE slots (n INTEGER PRIMARY KEY);
INSERT INTO slots
    WITH RECURSIVE counter (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counter WHERE n < 255)
    SELECT n FROM counter;

-- The whole story, names and not numbers. Works with SQLite 3.38 and newer while the registry runs.
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
    CASE kind WHEN '0' THEN 'heartbeat' ELSE 'lookup' END,
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
        ELSE json_object('filter', coalesce(json_extract(names, '$[' || detail || ']'), ''),
                         'revision', revision, 'returned', returned, 'status', status)
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
