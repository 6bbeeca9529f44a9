// Package archive keeps trails in a bucket of S3-compatible storage whose object lock lets nobody, its
// owner included, change or remove them before their time.
//
// # In the bucket
//
// Below a prefix, each trail has the folder that its origin names, and in it the same files as on a
// node (C2SP tlog-tiles): any reader of tile logs reads it there.
//
//	<td>/trail/<node>/<epoch>/tile/...               bundles and tiles, full ones and right edges
//	<td>/trail/<node>/<epoch>/heads/<size>.<digest>  each head that was archived; size has 20 digits
//	<td>/trail/<node>/<epoch>/witnessed/...          those with enough cosignatures, one in ten minutes of each trail
//	<td>/trail/<node>/<epoch>/conflict/...           heads that are signed and do not continue the archive
//	<td>/trail/<node>/<epoch>/checkpoint             a copy of the newest head, for readers of tile logs
//	<td>/trail/<node>/decisions/<segment>            segments of decisions that a leaf names
//	<td>/trail/<node>/rosters/<hash>                 who witnesses are
//	<td>/trail/<node>/witnesses/<hash>               whose keys cosigned
//	<td>/trail/<node>/trust/<hash>                   trust records
//
// where <node> is <zone>/<name> for a node in a zone.
//
// # What always holds
//
//   - Every object is put with a retention in mode COMPLIANCE, and with a legal hold where one is on. It
//     is read back, and counts only when the bytes and the lock are the ones that were asked for. A
//     bucket without object lock is refused.
//   - A head is put last: what is under an archived head is whole. So Push needs no notes of its own. It
//     goes on at the newest head in the bucket, may be killed at any time, and repeated or run by
//     several at once: an object that is there already is compared, not put again.
//     Of one that two put at the same moment there are two versions with the same bytes.
//   - The oldest version of an object counts. Who may write to the bucket can put another version over
//     it, or a delete marker, and hides nothing from Fetch. Who writes a key before Push does is told
//     of (ErrForeign); choose another prefix then.
//   - Only what is signed is archived: a head that its trail's key did not sign, that its tiles do not
//     lead to, or that does not continue the archive, puts nothing under a head. The last is kept as a
//     conflict and told of (ErrDiverges).
//
// Retention begins when an object is put and lasts as long for each; a proof of a leaf needs no object
// that is older than the leaf. A full verification needs all tiles: a lifecycle rule that removes what is
// no longer locked should leave tile/ alone, but for tile/entries/.
//
// # What it does not do
//
// It deletes nothing and shortens no retention. It does not encrypt: that is for the bucket (SSE). What
// is in it cannot be removed before its time; payloads in segments of decisions are sealed under keys that
// stay on their node, so erasing there reaches them here. It takes a trail's key at its genesis' word, as
// a custodian does; whether that is the node's is for bailiwick trail verify.
package archive
