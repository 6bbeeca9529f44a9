// Package sim runs fleets of thousands of nodes in one process and in virtual time: the
// real core of gossip/replica, with real records, signatures and admission, over a
// network, processors and disks that are simulated. It is deterministic: a run is a
// function of its scenario and seed, and its trace, a hash of every frame and commit
// with its time, is the same each time.
//
//	go test ./test/sim                           small fleets, among them all of testdata/small
//	make sim                                     1,000 and 5,000 nodes, an hour's partition;
//	                                             some 4 min of processor time
//	go run ./test/sim/run -seed 7 FILE...        scenarios, with another seed
//	go run ./test/sim/run -grow 10,100,1000      delivery by size, as JSON lines
//	go run ./test/sim/run -schedules 10000       schedules by chance, some with a liar: see Schedule
//
// Deliver is the same for programs; test/bench makes its table of it.
//
// # What is simulated
//
// A link has a latency, drawn once and the same both ways. Frames leave a node one after
// another at its bandwidth, the most urgent first, and a session keeps their order. QUIC
// loses none: a lost packet makes its frame, and those behind it, later. A cut lasts or
// is healed; sessions across it end after 10 s, as in mesh/link, and what came to the cut
// before is sent again. Windows of congestion control and acknowledgements are left out.
//
// A node has one processor, which the loop of its core uses as in the product: up to 128
// events, then a commit, and nothing else meanwhile. What each costs is Costs. So the
// time to verify and to make durable is in every delivery time, at every hop. The disk
// outlives the node and never fails (gossip/replica tests that). Epoch certificates are
// stand-ins, of the real size and cost.
//
// Nodes keep the links that the product keeps (cmd/internal/app): to everybody in a fleet
// of up to 17, otherwise to those they draw from the roster, and to four others. The
// roster is known; SWIM is not simulated. Only writers have feeds of their own and are
// certified; the others are read-only, as nodes are before their first certificate. In a
// fleet in which all write, heartbeats come on top of what a node at rest sends: one
// record of each node every TTL/2.
//
// # Scenarios
//
// A scenario is a text file; # begins a comment. Shares are written as 20%, times as 5ms.
//
//	nodes 300                     at least 2; the first half is one side, the rest the other
//	writers 20                    spread over the fleet; they write in turn
//	seed 1
//	size 200                      bytes of a value
//	latency 250us 750us           one way, of a link, from and to
//	bandwidth 125000000           bytes a second that a node sends
//	loss 1% 30ms                  of packets, and what sending again takes
//	thin 1000000                  bytes a second between the sides, in each direction
//	bridges 1                     only so many pairs of nodes have links between the sides
//	cost commit 500us             also frame, admit, cert, sign: see Costs
//	adversary dropper 20%         or a number of nodes; none of them is a writer
//	at 3s write 50 every 20ms
//	at 3s cut 50%                 the first so many nodes are cut off from the rest
//	at 9s heal
//	at 3s kill 10%                of the nodes, honest ones; dead writers do not write
//	at 9s revive                  all that were killed, from their disks
//	at 3s backup                  copies everybody's disk
//	at 9s restore 10%             so many honest nodes go on from that copy; their counters tell, so
//	                              they begin their spare epoch, and write no number twice
//	at 9s forget 10%              the same without counters: who writes then signs a number twice
//	at 3s jump 10% 2s             so many clocks go ahead by that, or back with -2s
//	at 3s older 10%               so many honest nodes start again as a version with stricter schemas
//	run 20s                       default: 5 s after the last step
//	expect p99 <= 15ms            or =; see Values
//
// Adversaries keep their sessions and are on the roster. A dropper passes nothing on, a
// mute announces what it does not serve, a liar claims heads that do not exist, a flooder
// sends 6,000 frames a second to each peer, an equivocator signs two records in one place.
// A thief signs a write of another's key, a backdater a record older than the one before it, an
// accuser evidence that shows nothing; a framer does all it can to make an honest writer look guilty: garbage under its headers, headers
// in its name, its old records under other signatures, bytes that are no evidence. These
// and a persistent equivocator go on until the end.
//
// When something is not as expected, the error has the seed, the command that repeats the
// run, and its story: what happened to the fleet, the way of the slowest update hop by
// hop, whom it did not reach and why, who harmed whom, and in what frontiers differ.
package sim
