package swim

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	settling = 20 * time.Second // for news of membership to end
	between  = 3 * time.Second  // messages, and up to a second more
	quiet    = 10 * time.Second // in which idle traffic is counted
)

// cluster is a network of real memberlists.
type cluster struct {
	net   *network
	nodes []*node

	mu      sync.Mutex // guards the rest
	message uint64
	sent    time.Time
	times   []time.Duration
	copies  int
}

// node is a memberlist with the delegate that broadcasts.
type node struct {
	c     *cluster
	list  *memberlist.Memberlist
	queue memberlist.TransmitLimitedQueue
	heard uint64 // the newest message
}

// message is a broadcast of bytes.
type message []byte

func (m message) Invalidates(memberlist.Broadcast) bool { return false }
func (m message) Message() []byte                       { return m }
func (m message) Finished()                             {}
func (m message) UniqueBroadcast()                      {}

// Run runs n real memberlists and broadcasts so many messages, one after another. It
// must be called in a synctest bubble, and leaves nothing running.
func Run(n, messages int, seed uint64) (Result, error) {
	r := rand.New(rand.NewPCG(seed, 1))
	c := &cluster{net: &network{rand: rand.New(rand.NewPCG(seed, 2)), nodes: map[string]*transport{}}}
	defer c.shutdown()
	for i := range n {
		// Tickers have the phase of their node's start.
		time.Sleep(time.Duration(r.Int64N(int64(20 * time.Millisecond))))
		if err := c.start(i); err != nil {
			return Result{}, err
		}
	}
	for tries := 0; !c.settled(); tries++ {
		if tries == 20 {
			return Result{}, fmt.Errorf("after %s the %d nodes still have news of each other", 20*settling, n)
		}
	}
	before := c.net.sent()
	time.Sleep(quiet)
	idle := c.net.sent()
	var times [][]time.Duration
	for i := range messages {
		c.broadcast(c.nodes[r.IntN(n)], uint64(i+1), r)
		time.Sleep(between + time.Duration(r.Int64N(int64(time.Second))))
		times = append(times, c.took())
	}
	res := summarize(n, times)
	each := float64(n-1) * float64(messages)
	res.Copies, res.Bytes = float64(c.received())/each, float64(c.net.marked().bytes)/each
	seconds := float64(n) * quiet.Seconds()
	res.IdlePackets, res.IdleBytes = float64(idle.packets-before.packets)/seconds, float64(idle.bytes-before.bytes)/seconds
	return res, nil
}

// start adds node i, which joins through the first.
func (c *cluster) start(i int) error {
	t := c.net.place(i)
	v := &node{c: c}
	cfg := memberlist.DefaultLANConfig()
	cfg.Name = fmt.Sprintf("n%04d", i)
	cfg.Transport, cfg.Delegate = t, v
	cfg.EnableCompression = false // what is sent is random: it would not become less
	cfg.LogOutput, cfg.Logger = nil, log.New(io.Discard, "", 0)
	v.queue = memberlist.TransmitLimitedQueue{NumNodes: func() int { return v.list.NumMembers() }, RetransmitMult: cfg.RetransmitMult}
	var err error
	if v.list, err = memberlist.Create(cfg); err != nil {
		return err
	}
	c.nodes = append(c.nodes, v)
	if i > 0 {
		_, err = v.list.Join([]string{c.nodes[0].list.LocalNode().Address()})
	}
	return err
}

// settled waits, and reports whether all nodes know each other and nobody has news of
// membership to pass on, which goes before messages: each then sends a ping and an
// ack a second.
func (c *cluster) settled() bool {
	before := c.net.sent()
	time.Sleep(settling)
	each := float64(c.net.sent().packets-before.packets) / float64(len(c.nodes)) / settling.Seconds()
	return each < 3 && !slices.ContainsFunc(c.nodes, func(v *node) bool { return v.list.NumMembers() != len(c.nodes) })
}

// shutdown ends all nodes and waits for what they have under way.
func (c *cluster) shutdown() {
	for _, v := range c.nodes {
		_ = v.list.Shutdown() // it always returns nil here
	}
	time.Sleep(time.Minute)
}

// broadcast sends message number id from a node.
func (c *cluster) broadcast(from *node, id uint64, r *rand.Rand) {
	m := binary.BigEndian.AppendUint64(nil, id)
	for len(m) < MessageSize {
		m = binary.BigEndian.AppendUint64(m, r.Uint64())
	}
	c.net.expect(m[8:40])
	c.mu.Lock()
	c.message, c.sent, c.times = id, time.Now(), nil
	from.heard = id
	c.mu.Unlock()
	from.queue.QueueBroadcast(message(m))
}

// took is how long the newest message was on its way to each node that it reached.
func (c *cluster) took() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.times)
}

// received is how often messages came in.
func (c *cluster) received() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.copies
}

// NotifyMsg is for memberlist, like the other exported methods: a message came.
func (v *node) NotifyMsg(b []byte) {
	id := binary.BigEndian.Uint64(b)
	v.c.mu.Lock()
	defer v.c.mu.Unlock()
	v.c.copies++
	if id <= v.heard {
		return
	}
	v.heard = id
	v.c.times = append(v.c.times, time.Since(v.c.sent))
	v.queue.QueueBroadcast(append(message(nil), b...))
}

func (v *node) GetBroadcasts(overhead, limit int) [][]byte {
	return v.queue.GetBroadcasts(overhead, limit)
}

func (v *node) NodeMeta(int) []byte           { return nil }
func (v *node) LocalState(bool) []byte        { return nil }
func (v *node) MergeRemoteState([]byte, bool) {}
