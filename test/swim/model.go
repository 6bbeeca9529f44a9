package swim

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// The library's defaults for a LAN.
const (
	gossipEvery = 200 * time.Millisecond // to 3 others
	probeEvery  = time.Second
	retransmit  = 4
	header      = 6 // of a packet that carries one message
)

// Model is what Run would give for n nodes, without idle traffic: each node
// has its phases of gossip and probes, and of each message a number of transmissions
// left.
func Model(n, messages int, seed uint64) Result {
	r := rand.New(rand.NewPCG(seed, 3))
	var times [][]time.Duration
	copies := 0
	for range messages {
		s := &spread{n: n, rand: r, left: make([]int, n), heard: make([]bool, n)}
		s.run()
		times = append(times, s.times[1:]) // without the origin
		copies += s.copies
	}
	res := summarize(n, times)
	res.Copies = float64(copies) / float64(n-1) / float64(messages)
	res.Bytes = res.Copies * (MessageSize + header)
	return res
}

// spread is the way of one message.
type spread struct {
	n      int
	rand   *rand.Rand
	events events
	left   []int  // transmissions, by node
	heard  []bool // by node
	alive  int    // nodes with transmissions left, and copies under way
	copies int    // that arrived
	times  []time.Duration
}

// event is something that happens at a node.
type event struct {
	at   time.Duration
	kind kind
	node int
	from int // of a ping
}

type kind uint8

const (
	gossips kind = iota // sends to random others
	probes              // pings one other
	pinged              // and sends an ack
	hears               // the message
)

func (s *spread) run() {
	for i := range s.n {
		start := time.Duration(s.rand.Int64N(int64(probeEvery))) // of both tickers
		s.events = append(s.events, event{at: start % gossipEvery, kind: gossips, node: i}, event{at: start, kind: probes, node: i})
	}
	heap.Init(&s.events)
	for s.hear(0, s.rand.IntN(s.n)); s.alive > 0; {
		e := heap.Pop(&s.events).(event)
		switch e.kind {
		case gossips:
			a := s.other(e.node)
			b := s.other(e.node, a)
			for _, to := range []int{a, b, s.other(e.node, a, b)} {
				s.send(e.at, e.node, to)
			}
			heap.Push(&s.events, event{at: e.at + gossipEvery, kind: gossips, node: e.node})
		case probes:
			to := s.other(e.node)
			s.send(e.at, e.node, to)
			heap.Push(&s.events, event{at: e.at + Latency(s.rand), kind: pinged, node: to, from: e.node})
			heap.Push(&s.events, event{at: e.at + probeEvery, kind: probes, node: e.node})
		case pinged:
			s.send(e.at, e.node, e.from)
		case hears:
			s.copies++
			s.alive--
			s.hear(e.at, e.node)
		}
	}
}

// hear is the message at a node.
func (s *spread) hear(at time.Duration, node int) {
	if s.heard[node] {
		return
	}
	s.heard[node] = true
	s.times = append(s.times, at)
	s.left[node] = retransmit * int(math.Ceil(math.Log10(float64(s.n+1))))
	s.alive++
}

// send puts the message into a packet, if the node has it and transmissions left.
func (s *spread) send(at time.Duration, from, to int) {
	if s.left[from] == 0 {
		return
	}
	if s.left[from]--; s.left[from] > 0 {
		s.alive++ // the copy; else it takes the place of its sender
	}
	heap.Push(&s.events, event{at: at + Latency(s.rand), kind: hears, node: to})
}

// other draws a node that is none of these.
func (s *spread) other(not ...int) int {
	for {
		if i := s.rand.IntN(s.n); !slices.Contains(not, i) {
			return i
		}
	}
}

// events is a heap by time.
type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}
