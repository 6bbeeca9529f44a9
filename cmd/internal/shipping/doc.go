// Package shipping sends a node's trail to an OpenTelemetry collector as it grows: each leaf that is under a signed
// head as a log record, and behind the leaf of a segment the decisions that are in it.
//
// # What is sent
//
// OTLP/HTTP in its JSON encoding, one request at a time, of at most 256 records. A leaf's record has its body as JSON
// text, the name bailiwick.trail.<kind>, and the attributes
//
//	bailiwick.trail.origin, .index, .seq    which leaf it is
//	bailiwick.trail.leaf_hash               RFC 6962 leaf hash, in hex
//
// with which any row of any system can be held against the trail. A decision's record is the one that
// bailiwick trail export --format otlp writes.
//
// # What always holds
//
//   - It is a copy for convenience: nothing waits for it. What was not sent yet is on disk anyway, and is read from
//     there; a collector that is slow or away costs no memory and no room.
//   - Every record is sent at least once, in order. How far it came is kept in the node's store after each
//     answer, so a crash repeats one request; the attributes say which leaf is there twice.
//   - What a collector refuses for good (OTLP specification, Failures) is passed over and counted, so that nothing stands
//     in front of what comes after. Everything else is tried again, after one second at first and five minutes at last.
//   - It begins with the oldest epoch on disk. Leaves and segments that went by age before they were sent are passed over and counted.
//   - The token is read from its file for each request and is in no error, log or field.
package shipping
