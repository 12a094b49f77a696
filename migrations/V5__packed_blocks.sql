-- Blocks of traffic take fewer bytes: the numbers in them are packed. Blocks that were written before stay as they are,
-- and the view shows both.
--
-- A column of numbers of the table `traffic` is now one of these:
--
--   packed   two decimal digits a byte, as hex() shows them, for each event as many bytes as the widest number takes:
--            hex(x'071024') is 071024. A column of fewer bytes than there are events holds one number for all of them.
--            `kinds` and `statuses` are columns like the others.
--   digits   as V1 has it: decimal digits as text. `kinds` takes one for each event, `statuses` three.
--
-- Which of them tells the first byte of `kinds`: below x'30', the character 0, the whole block is packed. In either, the
-- ids stand one by one, and the checksum covers all columns.
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
    CASE kind WHEN 0 THEN 'heartbeat' WHEN 2 THEN 'watch_opened' WHEN 3 THEN 'watch_closed'
              WHEN 4 THEN 'notified' ELSE 'lookup' END,
    json_extract(names, '$[' || namespace || ']'),
    json_extract(names, '$[' || service || ']'),
    json_extract(names, '$[' || instance || ']'),
    json_extract(names, '$[' || caller || ']'),
    nullif(lower(hex(trace_id)), '00000000000000000000000000000000'),
    nullif(lower(hex(span_id)), '0000000000000000'),
    NULL,
    CASE kind
        WHEN 0 THEN json_patch(json_object('incarnation', revision),
                               coalesce(json_extract(names, '$[' || detail || ']'), '{}'))
        WHEN 1 THEN json_object('filter', coalesce(json_extract(names, '$[' || detail || ']'), ''),
                                'revision', revision, 'returned', returned, 'status', status)
        WHEN 2 THEN json_object('filter', coalesce(json_extract(names, '$[' || detail || ']'), ''),
                                'after', revision)
        WHEN 3 THEN json_patch(json_object('through', revision),
                               json_extract(names, '$[' || detail || ']'))
        WHEN 4 THEN json_object('filter', coalesce(json_extract(names, '$[' || detail || ']'), ''),
                                'through', revision, 'events', returned)
        ELSE json_patch(json_object('revision', revision, 'returned', returned, 'status', status),
                        json_extract(names, '$[' || detail || ']'))
    END
FROM (
    -- What stands for the event becomes a number.
    SELECT
        first, n, names,
        CAST(iif(packed, hex(kind), kind) AS INTEGER) AS kind,
        first_at + CAST(iif(packed, hex(at), at) AS INTEGER) AS at,
        seen_from + CAST(iif(packed, hex(seen), seen) AS INTEGER) AS seen,
        CAST(iif(packed, hex(namespace), namespace) AS INTEGER) AS namespace,
        CAST(iif(packed, hex(service), service) AS INTEGER) AS service,
        CAST(iif(packed, hex(instance), instance) AS INTEGER) AS instance,
        CAST(iif(packed, hex(caller), caller) AS INTEGER) AS caller,
        CAST(iif(packed, hex(detail), detail) AS INTEGER) AS detail,
        CAST(iif(packed, hex(revision), revision) AS INTEGER) AS revision,
        CAST(iif(packed, hex(returned), returned) AS INTEGER) AS returned,
        CAST(iif(packed, hex(status), status) AS INTEGER) AS status,
        trace_id, span_id
    FROM (
        -- Of each column what stands for the event: all of it where there is one number for all.
        SELECT
            first, n, names, first_at, seen_from,
            kinds < x'30' AS packed,
            iif(length(kinds) < count, kinds,
                substr(kinds, 1 + n * (length(kinds) / count), length(kinds) / count)) AS kind,
            iif(length(ats) < count, ats,
                substr(ats, 1 + n * (length(ats) / count), length(ats) / count)) AS at,
            iif(length(seen) < count, seen,
                substr(seen, 1 + n * (length(seen) / count), length(seen) / count)) AS seen,
            iif(length(namespaces) < count, namespaces,
                substr(namespaces, 1 + n * (length(namespaces) / count), length(namespaces) / count)) AS namespace,
            iif(length(services) < count, services,
                substr(services, 1 + n * (length(services) / count), length(services) / count)) AS service,
            iif(length(instances) < count, instances,
                substr(instances, 1 + n * (length(instances) / count), length(instances) / count)) AS instance,
            iif(length(callers) < count, callers,
                substr(callers, 1 + n * (length(callers) / count), length(callers) / count)) AS caller,
            iif(length(details) < count, details,
                substr(details, 1 + n * (length(details) / count), length(details) / count)) AS detail,
            iif(length(revisions) < count, revisions,
                substr(revisions, 1 + n * (length(revisions) / count), length(revisions) / count)) AS revision,
            iif(length(returned) < count, returned,
                substr(returned, 1 + n * (length(returned) / count), length(returned) / count)) AS returned,
            iif(length(statuses) < count, statuses,
                substr(statuses, 1 + n * (length(statuses) / count), length(statuses) / count)) AS status,
            substr(trace_ids, 1 + n * 16, 16) AS trace_id,
            substr(span_ids, 1 + n * 8, 8) AS span_id
        FROM traffic JOIN slots ON n < count
    )
);
