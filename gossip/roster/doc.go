// Package roster runs serf for hints: which nodes seem to be alive, have failed
// or have left, and at which address a node says it is. It is a hint and
// nothing else: no trust, no admission, no quarantine, no data follows from it.
//
// # Why the filter
//
// memberlist (under serf) trusts whoever may speak to it: one forged packet from
// an authenticated member can evict any other for good (memberlist's SECURITY.md
// puts that out of its scope). So serf never sees a packet or stream as it
// came. Both arrive over authenticated links, each is decoded, judged by who
// sent it, and written anew by us; memberlist reads only our bytes:
//
//	ping, indirect ping   source rewritten to the sender; the target must be in the roster
//	ack, nack             only from the peer that was asked, with the number it was asked with
//	alive                 about the sender: its own word. About another: incarnation at most
//	                      128 above what that node itself told us; rate-limited
//	suspect               never about the sender; at most 64 above; rate-limited, and of one
//	                      node by one sender to less than the accused can refute
//	dead                  the sender's own leave passes; any other becomes a suspicion, which
//	                      the accused can refute
//	serf join, leave      only about the sender, and no leave that prunes
//	everything else       dropped: user events, queries, keys, relays, compressed or
//	                      encrypted messages, user streams
//
// Addresses are replaced by synthetic ones (fd00::/8 of the name's hash): peers
// are reached by name, over the link of the identity behind the name. Serf's own
// state in push/pull is dropped, its node states are judged one by one as above.
// A claim about this node whose incarnation is out of reach is lowered, once a
// second, so that a restarted node can still climb above what is said of it.
//
// # Who doubts itself
//
// A node whose probes fail too often most likely has a fault of its own (Lifeguard's
// score, HealthScore, is above zero for a second or two). Until that is over it keeps quiet about others:
// its suspicions are not sent, a push/pull tells only who is alive, and a failure is no
// hint yet. What it still thinks then, it says. No finding rests on anybody's opinion,
// and what serf says changes neither trust nor standing.
//
// # Node record
//
// Tags hold one signed record of at most 400 bytes, a statement of type node/1:
//
//	{1: SPIFFE ID, 2: "ip:port", 3: epoch, 4: SHA-256 of the epoch certificate}
//
// It is verified on every alive. While its certificate is not known here, it is
// taken only from its own node, whose identity the link has verified.
//
// # Probes
//
// SWIM probes all members in turn, linked or not. So the times are those of a WAN: one
// probe every 5 s, whose answer may take 3 s, and a suspicion that stands for twice
// log10(members) probes. Only a probe is worth a connection (Network.SendDatagram); what
// is told by chance goes where one is, rides on probes, and comes with push/pull.
//
// What always holds: names that are not in the app's roster do not exist here;
// sending never blocks; what is dropped is counted by reason.
package roster
