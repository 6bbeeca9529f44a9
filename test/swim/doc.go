// Package swim measures the broadcast of hashicorp/memberlist, to compare ours
// with: the real code in virtual time, and a model of it for more nodes than the
// real code can be run with.
//
// What is broadcast is a message of a delegate, as serf does with user events: a
// TransmitLimitedQueue of the library's own retransmit multiplier, into which who
// hears a message first puts it again. Everything else is DefaultLANConfig: every
// 200 ms to 3 random nodes, pings and acks once a second carry what waits, each
// message 4 x ceil(log10(n+1)) times from each node.
//
// The network delays each packet by Latency, loses none and has no limit of
// bandwidth. Deciding takes no time, which favours memberlist by the little that its
// checks cost.
//
// [Model] keeps only what matters for that: when who sends to whom. TestBroadcast
// runs both and fails when they differ by more than a fifth.
package swim

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// MessageSize is the size of a message, in bytes.
const MessageSize = 200

// Latency draws how long a packet is under way: half a millisecond, give or take half
// of that.
func Latency(r *rand.Rand) time.Duration {
	return 250*time.Microsecond + time.Duration(r.Int64N(int64(500*time.Microsecond)))
}

// Result is how messages reached the nodes, with the words of test/sim: times are of
// all messages at all nodes that they reached but their origins.
type Result struct {
	Nodes  int           `json:"nodes"`
	Missed float64       `json:"missed"` // share of nodes that a message never reached: nobody repairs that
	P50    time.Duration `json:"p50"`
	P99    time.Duration `json:"p99"`
	Last   time.Duration `json:"last"`   // the slowest of them all
	Tail   time.Duration `json:"tail"`   // the last node of a message, median of the messages
	Copies float64       `json:"copies"` // received, for each node and message
	Bytes  float64       `json:"bytes"`  // of the packets that carried them, headers of IP and UDP not counted

	IdlePackets float64 `json:"idle_packets"` // sent by each node in a second in which there is nothing to say
	IdleBytes   float64 `json:"idle_bytes"`
}

// summarize makes a result of the delivery times of each message, ascending.
func summarize(nodes int, messages [][]time.Duration) Result {
	var all, tails []time.Duration
	for _, times := range messages {
		all = append(all, times...)
		tails = append(tails, times[len(times)-1])
	}
	slices.Sort(all)
	slices.Sort(tails)
	return Result{
		Nodes: nodes, Missed: 1 - float64(len(all))/float64((nodes-1)*len(messages)),
		P50: rank(all, 0.5), P99: rank(all, 0.99), Last: rank(all, 1), Tail: rank(tails, 0.5),
	}
}

// rank is the smallest of sorted times that share of them are not above.
func rank(times []time.Duration, share float64) time.Duration {
	return times[max(int(math.Ceil(share*float64(len(times))))-1, 0)]
}
