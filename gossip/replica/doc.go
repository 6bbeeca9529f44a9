// Package replica keeps a node's copy of the signed state of its region: it
// stores and passes on what package feed admits, writes the node's own feed, and
// answers reads.
//
// # Session
//
// Attach runs one gossip session over a stream, the same on both sides. It is a
// sequence of frames, each
//
//	length uint32, big-endian, of what follows: 1 to 32768
//	type   1 byte
//	body
//
// with bodies, where they are structured, in deterministic CBOR:
//
//	1 cert     DER of an epoch certificate; sent before the first thing it signed
//	2 root     32 bytes: the hash of the sender's frontier, as package feed defines it
//	           for comparing
//	3 heads    [{1: origin, 2: epoch, 3: seq, 4: RecordID, 5: bytes}...]: what the
//	           sender has and the other may not. bytes is the feed's encoded size from
//	           its start up to there
//	4 want     [{1: origin, 2: epoch, 3: from, 4: to}...]: please send these records
//	5 record   a record
//	6 seal     the sender's seal of its own head
//	7 header   a record's signed header: proof that a head exists, and from which
//	           snapshot on its feed is complete
//	8 nodes    [{1: prefix, 2: which, 3: hashes}...], at most 32: subtrees of the
//	           sender's frontier by the hashes of their children, bit i of which says
//	           that the i-th has feeds, and hashes holds theirs, one after the other
//	9 leaves   [{1: prefix, 2: heads}...], at most 128: subtrees by all their heads
//	10 end     {1: origin, 2: epoch, 3: seq}: an answer to a want ends before this record
//	11 terms   {1: version, 2: mode, 3: budget}; the first frame of a session of version 2
//	12 fetch   as want, for records that the mode would not bring
//	13 prune   nothing: announce to the sender from now on, and push no more
//
// In 8 and 9 prefix has one byte for each hexadecimal digit, at most 8; prefixes ascend,
// and none begins with another. All heads told lie below their prefix.
//
// Each side starts with its certificate, seal and root. A root that differs is answered
// at most once a second. If the other's is of nothing, with all heads. Otherwise one side
// goes down: the one whose ID is the smaller string, while the other, and who has
// nothing, answers with its own root. To go down into a subtree of which the other has
// another hash is to say it by its nodes, or by its leaves where it has at most 8 feeds.
// Whoever gets nodes goes down where a child differs, or tells its heads there if the
// other has none; what it holds no more than 8 of it says by its leaves. Whoever gets
// leaves answers with those of its own heads below that are others. Nothing of this is
// remembered: each frame is judged by the frontier as it is then, goes down by at least
// one digit, and what has changed meanwhile or got lost shows with the next roots.
//
// Whoever sees a head that it lacks wants the records from its own head on, and goes on
// while they come, so that the link never waits for the next want. A head that contradicts
// a record held is asked for too: the answer is evidence. An answer starts with
// headers: that of the first record asked for, where the sender has pruned that and
// keeps its header, which shows whether both have one history; and, unless the records
// themselves reach the sender's head, that of the record before unfinished snapshots
// there, and that of the head, so that the asker's debt counts only what was signed. If
// these show the asker that the feed begins with a newer snapshot, it wants that. The
// records follow, from the feed's start on. An answer that stops short, because the
// sender lacks the rest or has no room for it, says so.
//
// Of one feed one peer is asked at a time. A want names at most 512 records and about
// 256 KiB. From one peer about 128 KiB are under way at first, and up to 768 KiB while
// answers begin within a second; where they do not, less and less, down to 64 KiB: more
// would only wait at the peer. A want that brings nothing for a second, or for longer where
// its peer's answers take longer (RFC 6298, up to 8 seconds), is given up if
// the peer brings nothing else either, or things that were asked for later; any is after
// 30 seconds. What is wanted again while it waits in the queue is not queued again. Records that come many at a time are not pushed on: the mesh is told
// of the new head every 256 of them and at the last, and wants what it lacks. While one
// side catches up, roots that differ are answered every ten seconds only.
//
// What a peer says costs it nothing, so it is bounded. A want names at most 256 feeds,
// each once; per session five certificates a second are looked at that do not verify, 1024 at
// once; 8 MiB of the store are read for wants a second, and none while
// the queue to the peer is full. To compare
// frontiers, 4 MiB may be told at once and 128 KiB a second, and a head that is looked at
// counts for 8 bytes. Of claims 16384 feeds and 4 MiB are remembered; they go with the session. Who leaves a want unanswered is
// not asked for that feed for a second, then for twice as long each time, up to 8 seconds,
// and after others; who showed a signed head is asked before who only claims one.
//
// Frames wait in four classes, higher first: certificates and evidence; control and
// authority; state; bulk. A peer that does not keep up loses state and bulk frames,
// and catches up from the frontiers; one that does not even take the first two
// classes is dropped (ErrSlow).
//
// A session of version 1 is one stream (Attach). One of version 2 (AttachPair) has two:
// the first two classes travel on one, the other two on the other, and of the latter
// nothing is written while anything of the former waits. So what is urgent is behind
// 16 KiB at most, and on the wire behind what the path itself holds up. Neither stream
// waits for the other. Only what precedes something in its own stream is relied on: so a
// certificate goes ahead of what it signed on the stream of that, twice a session at
// most, and the headers of an answer go on the stream of its records. A record that
// overtakes an older one of its feed is parked, and a proof in it counts all the same. So an
// urgent one takes up to 8 KiB of those before it along, where anything waits in the other stream.
//
// Version 2 begins with terms: a Mode and a budget in bytes a second. Of both sides' the
// thinner mode and the smaller budget hold for both, from when they are heard of. A budget is a
// token bucket of two seconds for all frames of one direction, with 60 bytes for each packet of
// 1200 that they fill: state and bulk wait for
// it, the first two classes may overdraw it by as much again and the largest frame, and
// at most what ten seconds let through (64 KiB at least) waits. What finds no room is
// not sent, shows as debt, and is asked for when it is found missing.
//
// # Thin links
//
// The modes of Terms differ in what is pushed. In a session of mode Tree a node that gets
// a record which it has already sends prune, and both announce to each other from then on
// what they pushed before (Plumtree, Leitao et al. 2007). What is announced over such a
// link is waited for one second; if no other link brings it, it is fetched, and with that both push
// to each other again. So about one copy reaches a node, and a node that fails costs those
// behind it a second, once, or two where all who announce to them were behind it too.
//
// In a session of mode Headers only records with evidence or with what authorities signed
// are pushed. Of others the signed header is, with its certificate before it, and heads
// that comparing finds are told by their headers too; a want is answered by the header
// alone. So the debt is exact, and what it speaks of comes when Fetch asks for its
// origin, or, one want at a time, while the budget lies idle. Those pushed records that the
// peer missed while it was away come when frontiers are compared, each once a session; and
// for one that an authority signed the records before it are fetched. Roots are told once a
// minute. A header that shows the furthest record of its feed that anybody showed is passed on
// in the mesh, unless it is part of an answer: so all behind such a link know their debt, and
// what one of them fetches comes to all. Who has only peers behind it cannot have that fetched:
// only where the link ends does Fetch ask across.
//
// A peer of version 1 knows nothing of terms. What it is sent keeps to ours.
//
// # Where records may be
//
// Config.Resides says which records a node may hold. One that a peer may not hold is not
// sent to it: in its place goes its header, and an answer ends before it. One that this
// node may not hold is not taken in; that is asked about what its origin signed only, for what
// a relay forges is nobody's word. As every record extends the one before, the
// origin's feed ends there for that node, which shows as debt, and nothing that the origin
// writes afterwards reaches it until it may. So a writer should refuse what some node of
// its region may not hold. Headers hide no origin, time, size or hash of a body.
//
// # Mesh
//
// A node pushes to six of the attached peers, its mesh. It draws them itself from the
// signed roster (Config.Roster), so nobody gets in by attaching. All nodes lie on
// three rings, in orders that a hash of their names gives, and a node takes its
// nearest on both sides of each: so about six push to it as well, and none need be
// asked. At most three are of one failure domain where there are others. Every
// minute one ring is ordered anew. Held peers are never taken; attached peers that
// the roster does not name yet are while it names less than six.
//
// A record admitted for the first time goes at once to the peers of the mesh that
// are not known to have it: whole if it holds evidence or its body is at most 1 KiB,
// as an announcement otherwise. Every 200 ms the heads that have moved go to three
// attached peers outside of the mesh, by chance, and every second the root to three
// of the mesh and one other. These repair what the mesh misses: with a fifth of all
// nodes passing nothing on, about one honest node in a thousand.
//
// What a peer has is remembered of the mesh only, and of peers that are gone since.
//
// # Rejoining
//
// After a partition all nodes of a side lack the same, and many have links to the other.
// So that it goes across about once, a node tells two kinds of peers apart. Near is one
// with which all that differed has come since it attached; all others are far. Where there
// are near ones, a feed of which a far one has more is left to those of them that a hash of
// feed and name puts before this node: each of the first three for a step. Chance adds a
// part of one where several are first that do not see each other, three times that until
// near ones have brought any of the feed. Who fetches a feed
// announces how far it is twice a step, and near peers are asked before far ones. The
// wait begins anew with all that near ones bring of any such feed, a quarter of it for who is
// first by chance: else the line lies idle between them. But if nothing of this one
// comes for 30 seconds it is this node's turn: so who is silent costs a step, or
// those seconds at most. A step is a quarter of what all that is missing takes
// at 1 MiB/s, or two round trips to the far peer, and a second at most; below 128 KiB nobody
// waits. What crosses is not told to far peers, unless it was
// written since they attached and they do not claim it themselves, and they are compared with
// rarely: two at once, then one every two seconds, and each every ten while anything crosses.
//
// What a far peer says is not signed, and counts for what is asked of that peer only: how much
// is missing, and how long its answers take. All of them wait in one line to be compared with. What
// near ones bring counts while it is a sixteenth of 1 MiB/s, or of the least budget set here for
// a link to a far peer, over the last four seconds: so who brings less holds nothing up,
// and who brings more cannot make a rejoin longer than that takes.
//
// Only feeds that Config.Carry lets through travel a session, in either direction,
// and only they count in its roots. Without Carry these are the feeds of the
// node's own trust domain. Frontiers are kept as trees for at most eight sets of feeds;
// the peers of more take turns, at the cost of building theirs anew.
//
// # What always holds
//
// A foreign record is passed on when package feed admitted it, applied when it is
// also durable and Config.Apply allows the op. An own record is sent when it is
// durable. No (epoch, seq) is used twice, whatever crashed: after a failed commit
// Run ends, and the next Open continues from what the disk holds. Only where the disk is full
// the batch waits for room: own writes are refused meanwhile, and records of others are judged,
// findings told, and nothing of it shown. The disk holds
// each feed without gaps from its start on: a snapshot and what came after it. If
// another node's feed does not chain there at Open, its records are dropped and asked
// of peers; the node's own must. All parts of an own snapshot are one commit; so is,
// for everybody, the last part with the deletion of what the snapshot replaces. When a
// peer shows something of our own feed that we lack, nothing more is written in that
// epoch (ErrRewound, Config.OnRewound). A finding freezes its feed, and holds its
// origin when it convicts, before Config.OnFinding hears of it; a proof found here is
// published in the node's own feed under evidence, and every proof received is
// verified before it counts. One that neither moves the end of its feed nor is the first
// to convict is not kept; of one feed 16 are, the one that ends it among them.
//
// The trail gets, in the transaction of the change: state.out (Out) for each own
// record, state.in (In) per commit, counted, state.refuse (Refuse) for each
// record refused, or for each reason why ops of it were.
//
// # Drivers
//
// What decides is apart from what waits: it is called with what came and when, leaves
// frames in the queues of sessions and changes in a batch, and has time and chance from
// Config only, so that the same calls send the same frames. Run and Attach drive it with
// goroutines, timers and streams; a Core is driven by its caller, as test/sim does for
// thousands of nodes in one process.
//
// # Memory
//
// Everything kept for others has a bound. Of a peer, while it is attached: 3 MiB of frames
// that wait in its queue and on their way; 16384 claims of together 4 MiB; as many feeds
// that it is known to have or left wants unanswered for; 256 wants; the certificates it
// was sent and those it disputes, and the signed heads it showed, one for each feed whose
// certificate verifies here. Of peers that are gone, the 256 that went last: the signed heads,
// and how far they had the feeds held here. Of an origin: what package feed says, for
// each feed a certificate, 16 findings and a cover (4096 in all), and what readers see, its live
// keys with their values and those it has deleted since its newest snapshot. Of all
// together: 16384 feeds that cross, eight trees, 4096 changes for Watch, 4096 refusals that the trail has, 4096
// own writes that wait, and one batch of at most 129 events or calls. Epochs, and so
// feeds, come from the authority alone.
//
// # Records that crash the node
//
// What a record says goes through code that may have mistakes: schemas, policy, the
// readers of evidence, whoever watches (Guard). If that panics, it is on disk that this
// record was in use before the process ends of it. If it hangs for 15 seconds, Run ends
// (ErrStuck), and that is on disk as well. A record that was in use at two such ends is
// parked: kept, passed on, not applied and not shown, also where a snapshot restates it. With three
// parked records of an origin nothing new of it is tried. Nothing is written while all
// goes well, and nothing by who kills the process: so no innocent record is parked for
// that. A record that does no harm the second time is forgotten. Parked says which
// are; Unpark, and another Config.Version, try them again.
//
// # What it does not do
//
// It does not choose whom to attach, encrypt the store, limit scopes below a feed, or
// decide standing.
package replica
