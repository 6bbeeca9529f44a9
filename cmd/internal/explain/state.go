package explain

import (
	"github.com/bailiwick-mesh/bailiwick/gossip/client"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/roster"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/gossip/value"
)

// state is BW6: feeds, their replication, the roster and region summaries. A
// stopped replica wraps what stopped it, so replica.ErrStopped comes last.
var state = []Entry{
	{
		Code: "BW6001", Is: replica.ErrNoIdentity,
		Title:   "The node is read-only: it has no epoch certificate yet",
		Meaning: "It follows its peers' state and cannot write its own until the issuer gives it an epoch. Nothing was written.",
		Fix:     "Wait for enrolment; bailiwick status shows whether the issuer is reached.",
	},
	{
		Code: "BW6002", Is: replica.ErrRewound,
		Title:   "The node's own feed is ahead of this disk",
		Meaning: "Peers hold records that this node signed and has no more: the disk is a restored copy. It stays read-only so that it cannot contradict itself; what peers hold is kept.",
		Fix:     "See that the node reaches its issuer and has a spare epoch, or let the region's authority give it a new one; never restore a node's state from a backup.",
	},
	{
		Code: "BW6003", Is: replica.ErrRelay,
		Title:   "A peer relayed what it should have refused",
		Meaning: "It handed over a malformed frame, a bad signature or a body that is not its header's. The link was dropped and the peer held for a while; the record's origin is not blamed.",
		Fix:     "Check the version and the memory of the peer the log names; it may be hostile if it repeats.",
	},
	{
		Code: "BW6004", Is: replica.ErrSlow,
		Title:   "A peer does not keep up",
		Meaning: "It did not take even the most urgent records, so its session was ended. It catches up from any peer when it comes back.",
		Fix:     "Look at the load and the link of the peer the log names; nothing needs to be repaired.",
	},
	{
		Code: "BW6005", Is: replica.ErrBusy,
		Title:   "Too many writes are waiting",
		Meaning: "The disk or the node's quota is slower than its writers. This write was not accepted; those accepted before are safe.",
		Fix:     "Try again later, and write less often or several keys at once.",
	},
	{
		Code: "BW6006", Is: replica.ErrCompacted,
		Title:   "The revision is too old to watch from",
		Meaning: "The changes since then are not kept any more, or are from before a restart. The state itself is complete.",
		Fix:     "Run bailiwick get for the state and its revision, then watch from that one.",
	},
	{
		Code: "BW6007", Is: replica.ErrConfig,
		Title:   "The replica is not completely configured",
		Meaning: "A program left out a field that must be set. Nothing was started.",
		Fix:     "Report it with the log: it is a mistake in the program, not in the configuration.",
	},
	{
		Code: "BW6008", Is: feed.ErrChain,
		Title:   "A stored record does not continue its chain",
		Meaning: "The node's own records are meant: the store was changed from outside or by a fault of the disk. It was left as it is, and the node did not go on from it. Other nodes' records that do not chain are dropped and asked of peers.",
		Fix:     "Keep what is there: move <state>/state.db, and <state>/state.db.journal if there is one, to a folder of their own. Check the disk, then start the node: peers give the state back, the authority a new epoch.",
	},
	{
		Code: "BW6009", Is: feed.ErrUncheckable,
		Title:   "An epoch certificate cannot be checked here",
		Meaning: "The record root of the region is not known here, so records under the certificate wait. It blames nobody.",
		Fix:     "Put the region's newest trust record into trust.records and restart the node.",
	},
	{
		Code: "BW6010", Is: feed.ErrProof,
		Title:   "A proof does not hold",
		Meaning: "The bytes are malformed, or what they show breaks no rule. They convict nobody.",
		Fix:     "Do not act on it; look at who presented it.",
	},
	{
		Code: "BW6011", Is: feed.ErrForeign, Exit: Denied,
		Title:   "The key belongs to another owner",
		Meaning: "Only the identity in a key's path may write it. Nothing was written.",
		Fix:     "Write under this node's own path, /node/<name>/<kind>/<name>, or ask the owner to write it.",
	},
	{
		Code: "BW6012", Is: feed.ErrKey, Exit: Usage,
		Title:   "Malformed key",
		Meaning: "A state key is /<owner path>/<kind>/<name>, at most 512 bytes. Nothing was written.",
		Fix:     "Write it so, for example /node/east-n1/x-note/door.",
	},
	{
		Code: "BW6013", Is: feed.ErrSchema, Exit: Usage,
		Title:   "The value does not fit its kind",
		Meaning: "The kind is unknown, or its values look different. Nothing was written.",
		Fix:     "Use a kind of your own, x-<name>, for free values, or correct the field the message names.",
	},
	{
		Code: "BW6014", Is: feed.ErrTooLarge, Exit: Usage,
		Title:   "Too much for one record",
		Meaning: "One record holds at most 256 changes and 16 KiB. Nothing was written.",
		Fix:     "Split the write; keep large content elsewhere and put its digest here.",
	},
	{
		Code: "BW6015", Is: feed.ErrQuota, Exit: Denied,
		Title:   "Over the quota of the limits class",
		Meaning: "The node writes too often, or holds too many keys or bytes for its class. This write was not accepted; what is held stays.",
		Fix:     "Write less often or delete keys; if the node needs more, give its registration entry the class that has it.",
	},
	{
		Code: "BW6016", Is: feed.ErrClockBehind,
		Title:   "The clock is behind the node's own last record",
		Meaning: "A new record would be dated in the future of every reader. The node writes nothing until the clock has caught up; nothing is lost.",
		Fix:     "Set the clock right (timedatectl), or wait the time the message says.",
	},
	{
		Code: "BW6017", Is: feed.ErrOldEpoch,
		Title:   "The epoch cannot be written any more",
		Meaning: "The feed has a newer epoch, or this one is frozen by a proof. What it said before stays readable.",
		Fix:     "See with bailiwick quarantine list whether the node is shut out; otherwise restart it so that it takes its newest epoch.",
	},
	{
		Code: "BW6018", Is: feed.ErrUncommitted,
		Title:   "The last record is not committed yet",
		Meaning: "A program asked for the next record before the one before it was durable. No number was used twice.",
		Fix:     "Restart the node; report it with the log: it is a mistake in the program.",
	},
	{
		Code: "BW6019", Is: feed.ErrExpired,
		Title:   "A record is dated past the end of its epoch certificate",
		Meaning: "It was not accepted. Its origin must renew the certificate for the same epoch, and then the record counts.",
		Fix:     "See that the origin reaches its issuer; if it is this node, look at its line in bailiwick status.",
	},
	{
		Code: "BW6020", Is: feed.ErrFrozen, Exit: Denied,
		Title:   "The feed is frozen",
		Meaning: "A proof or its standing closed the feed at this point. What came before stays readable as suspect.",
		Fix:     "Run bailiwick quarantine show ID for the reason; only a release with a new epoch opens it again.",
	},
	{
		Code: "BW6021", Is: feed.ErrFork,
		Title:   "Two signed headers of one feed contradict each other",
		Meaning: "The origin signed two histories. If a TPM backs its epoch this is a proof and it is quarantined in the whole region; otherwise its feed freezes.",
		Fix:     "Run bailiwick quarantine show ID to see both headers; examine the machine before any release.",
	},
	{
		Code: "BW6022", Is: feed.ErrClock,
		Title:   "The record's clock does not grow",
		Meaning: "The origin signed a record dated before its own last one, which no honest node does. It is a proof and the origin is quarantined.",
		Fix:     "Run bailiwick quarantine show ID to see both headers; examine the machine before any release.",
	},
	{
		Code: "BW6023", Is: feed.ErrFuture,
		Title:   "A record is dated in the future",
		Meaning: "It waits until this machine's clock has caught up and shows as debt meanwhile. It blames nobody.",
		Fix:     "Compare the clocks of this machine and the origin (timedatectl).",
	},
	{
		Code: "BW6024", Is: feed.ErrGap,
		Title:   "Records before this one are missing",
		Meaning: "The record waits and the missing ones are fetched; until then they show as debt.",
		Fix:     "Nothing needs to be done. If the debt in bailiwick status stays, check the links to the node's peers.",
	},
	{
		Code: "BW6025", Is: feed.ErrUnknown,
		Title:   "No epoch key for the feed",
		Meaning: "The origin's epoch certificate is not known here yet, or is a second one for the same epoch. The record does not count; it blames nobody.",
		Fix:     "Wait for the certificate to arrive with the node's peers; if it is this node's own, see that it reaches its issuer.",
	},
	{
		Code: "BW6026", Is: feed.ErrBody,
		Title:   "A body is not the one its header was signed over",
		Meaning: "Whoever handed it over changed or mixed it up; the origin is not blamed. It was refused.",
		Fix:     "Nothing needs to be done for one; the relay is held when it repeats, and the log names it.",
	},
	{
		Code: "BW6027", Is: feed.ErrRecord,
		Title:   "Malformed record",
		Meaning: "The bytes are not a record of version 1. They were refused; the fault is with whoever handed them over.",
		Fix:     "Check the version of the peer the log names.",
	},
	{
		Code: "BW6028", Is: feed.ErrSeal,
		Title:   "Malformed seal",
		Meaning: "The bytes are not a seal of version 1. They were refused; the fault is with whoever handed them over.",
		Fix:     "Check the version of the peer the log names.",
	},
	{
		Code: "BW6029", Is: roster.ErrConfig,
		Title:   "The roster is not completely configured",
		Meaning: "A field is missing, or the node's own record does not verify. Nothing was started.",
		Fix:     "Restart the node so that it enrols again; if it repeats, report it with the log.",
	},
	{
		Code: "BW6030", Is: roster.ErrUnknownKey,
		Title:   "The epoch certificate of a node record is not known yet",
		Meaning: "The hint about the node was passed over for now. It blames nobody.",
		Fix:     "Nothing needs to be done; the certificate arrives with the node's feed.",
	},
	{
		Code: "BW6031", Is: roster.ErrRecord,
		Title:   "A node record does not verify",
		Meaning: "What a peer says of a node is malformed or not signed by that node. The hint was dropped.",
		Fix:     "Check the version of the peer the log names; hints decide nothing, so nothing else is affected.",
	},
	{
		Code: "BW6032", Is: summary.ErrContradiction,
		Title:   "A gateway signed two different summaries under one number",
		Meaning: "The first one is kept. The gateway lies or was restored from a copy; another region is never quarantined automatically.",
		Fix:     "Tell the operators of that region, with the log line of both.",
	},
	{
		Code: "BW6033", Is: summary.ErrOld,
		Title:   "The summary is older than the one held",
		Meaning: "A late relay does this in good faith. The newer one stays.",
		Fix:     "Nothing needs to be done.",
	},
	{
		Code: "BW6034", Is: summary.ErrFull,
		Title:   "Too many gateways",
		Meaning: "The node holds as many gateways' summaries as it can and did not take one more. Those held stay.",
		Fix:     "Have the other region name fewer gateways.",
	},
	{
		Code: "BW6035", Is: summary.ErrForeign, Exit: Denied,
		Title:   "A summary speaks for another trust domain",
		Meaning: "A gateway may speak for its own region only. The summary was refused.",
		Fix:     "Tell the operators of the gateway the log names.",
	},
	{
		Code: "BW6036", Is: summary.ErrSigner, Exit: Denied,
		Title:   "A summary is not signed by a gateway known here",
		Meaning: "Its certificate or signature does not verify, or the signer is no gateway. The summary was refused.",
		Fix:     "Put that region's newest trust record into trust.records; give the gateway's registration entry the class gateway.",
	},
	{
		Code: "BW6037", Is: summary.ErrTooLarge,
		Title:   "The region's summary is too large",
		Meaning: "The region has more services than one summary holds. Nothing was published; the last summary stays in force.",
		Fix:     "Merge service names or owners under authority.services.",
	},
	{
		Code: "BW6038", Is: summary.ErrMalformed,
		Title:   "Malformed summary",
		Meaning: "The bytes are no summary, or break its bounds. They were refused; the sender is at fault.",
		Fix:     "Check the version of the gateway the log names.",
	},
	{
		Code: "BW6039", Is: summary.ErrFlood,
		Title:   "A gateway sends too much",
		Meaning: "It sent more frames than the protocol needs and its session was ended. It may come back.",
		Fix:     "Check the version of the gateway the log names.",
	},
	{
		Code: "BW6040", Is: summary.ErrSilent, Exit: Unreachable,
		Title:   "A gateway is silent",
		Meaning: "It sent or took nothing for 15 s. What is known of its region is kept, with its age; the node tries again by itself.",
		Fix:     "Check that the gateway runs and that its address in mesh.gateways can be reached.",
	},
	{
		Code: "BW6041", Is: summary.ErrConfig,
		Title:   "The summary gateway is not completely configured",
		Meaning: "A program left out a field that must be set. Nothing was started.",
		Fix:     "Report it with the log: it is a mistake in the program, not in the configuration.",
	},
	{
		Code: "BW6043", Is: feed.ErrSnapshot,
		Title:   "A record does not fit the snapshots of its feed",
		Meaning: "It is a part of a snapshot out of its place, or names another snapshot than the newest complete one. It was not accepted, and the feed waits at this point; what came before stays.",
		Fix:     "Check the version of the node that wrote it; its next snapshot puts the feed right.",
	},
	{
		Code: "BW6044", Is: feed.ErrPart,
		Title:   "A record counts only with later ones",
		Meaning: "The feed is being taken up at a snapshot of its owner, or up to the head that a checkpoint covers, and more records are on the way; until then it shows as debt.",
		Fix:     "Nothing needs to be done. If the debt in bailiwick status stays, check the links to the node's peers.",
	},
	{
		Code: "BW6045", Is: feed.ErrPruned,
		Title:   "The record is older than the snapshot held",
		Meaning: "A newer snapshot of its owner has replaced it. If it contradicted what was held, its kept header would have shown that.",
		Fix:     "Nothing needs to be done; a peer that has been away sends such records.",
	},
	{
		Code: "BW6050", Is: feed.ErrUncovered,
		Title:   "A record under an expired epoch certificate is not covered",
		Meaning: "No checkpoint that the region's authority made before the certificate ended shows it, so whoever stole the key could have written it since. It does not count and shows as debt; what came before stays.",
		Fix:     "If its node lives, see that it reaches its issuer: a renewed certificate or a new epoch makes its state count. If not, nothing needs to be done.",
	},
	{
		Code: "BW6051", Is: feed.ErrCover,
		Title:   "A cover does not hold",
		Meaning: "What should show how far an expired feed had come does not fit its checkpoint. It was ignored.",
		Fix:     "Look at the node that wrote it; it should be the region's authority.",
	},
	{
		Code: "BW6055", Is: replica.ErrStuck,
		Title:   "A record of a peer makes the node hang",
		Meaning: "What uses signed state here (a schema, policy, the check of evidence) did not come to an end within 15 seconds, and the node has stopped. It is on disk which record was in use; if the same one does it again it is parked, and the node lives.",
		Fix:     "Let the service manager start the node again. Report the record that the log names: it found a mistake in this program or in the policy.",
	},
	{
		Code: "BW6056", Is: replica.ErrParked,
		Title:   "A record is parked",
		Meaning: "It was in use at two crashes of this node, or three other records of its origin were. It is kept and passed on, and this node does not apply it; status lists it, and the trail has each crash as state.refuse.",
		Fix:     "Run a newer version, which tries it again by itself, or bailiwick quarantine release with the twelve digits of the record's ID that status shows. Look at the node that wrote it.",
	},
	{
		Code: "BW6042", Is: replica.ErrStopped,
		Title:   "The replica has stopped",
		Meaning: "It ended with the error in the message, most likely the store's, and takes no reads or writes. What was committed is safe.",
		Fix:     "Remove the cause the message names, then restart the node.",
	},
	{
		Code: "BW6046", Is: client.ErrUnreachable, Exit: Unreachable,
		Title:   "A program cannot reach the sidecar",
		Meaning: "Nothing answers on the control socket, or what answers is not ready or no sidecar. Nothing is known of a write that was under way.",
		Fix:     "Check that the node runs, that the program uses its control.socket, and that it runs as the node's user. It may simply try again.",
	},
	{
		Code: "BW6047", Is: client.ErrNotFound,
		Title:   "No such key",
		Meaning: "The node holds no key of that name. It may exist elsewhere: the answer's debt says how much the node knows to be missing.",
		Fix:     "List the keys with bailiwick get PREFIX.",
	},
	{
		Code: "BW6048", Is: client.ErrRefused, Exit: Denied,
		Title:   "A program's write was refused",
		Meaning: "The key is not below the node's own path, its kind is the sidecar's own to write, or a quota is spent. Nothing was written.",
		Fix:     "Write keys of the node's own path whose kind begins with x-. Over quota, delete something first.",
	},
	{
		Code: "BW6049", Is: client.ErrRequest, Exit: Usage,
		Title:   "A program's request is wrong",
		Meaning: "The key, prefix, scope or value is not what it must be. Nothing was done.",
		Fix:     "Change what the message names. Keys are /<owner path>/<kind>/<name>.",
	},
	{
		Code: "BW6052", Is: value.ErrPart, Exit: Usage,
		Title:   "Not a part of a shared value",
		Meaning: "The value is none of register, counter, set and map as parts are written, or would become too large: 15 KiB, 1024 entries, elements of 256 bytes, numbers below 2^53. A local write was not made; a peer's part is left out, and said to be.",
		Fix:     "Write with bailiwick put --inc, --add, --remove, --set or --unset. Spread what is too large over several names.",
	},
	{
		Code: "BW6053", Is: value.ErrType, Exit: Usage,
		Title:   "The name has another type",
		Meaning: "All owners of a shared name give it one type. This one has another than was asked for, or its parts have several.",
		Fix:     "Name the type with --type, use another name, or delete the parts of the wrong type at their owners.",
	},
	{
		Code: "BW6054", Is: value.ErrNoElement,
		Title:   "No such element",
		Meaning: "The set does not have the element, or the map the field, that should go. Nothing was written.",
		Fix:     "Look with bailiwick get NAME at what this node sees; it may be gone already, or not have come yet.",
	},
}
