package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/test/swim"
)

// What a node of a large region costs when nobody writes: heartbeats are all there is.

const (
	idleNodes  = 1000
	idleLinks  = 10               // its mesh, and some outside of it
	idleCopies = 5                // of a record that come to a node: what test/sim says
	idlePeriod = 30 * time.Second // in which each node writes a record without ops
	idleFor    = 20 * time.Second // how long one is watched
)

var idleBenches = func() (out []bench) {
	const (
		replayed = "one real replica (loop, admission, bbolt) at rest for 20 s, to which 10 links bring the heartbeats of 999 others, signed before, " +
			"one each 30 s, five copies of each as in test/sim; "
		fellow = "what hashicorp/memberlist v0.7.0 itself sends at rest with 1,000 nodes, its real code in virtual time, RECORDED before (test/swim)"
	)
	for _, f := range []struct {
		name, unit, reference, note string
		ours, theirs                func(idleCost) float64
	}{
		{"cpu", "ms of processor time a second", "crypto/ecdsa VerifyASN1 of the same heartbeats, once each", "TLS, QUIC and serf are not in it: see loopback-p50 for whole processes",
			func(c idleCost) float64 { return c.cpu }, func(c idleCost) float64 { return c.verify }},
		{"bytes", "bytes a second that it sends", fellow, "with 60 bytes for what UDP and QUIC add to each packet of 1,200, and with serf's own",
			func(c idleCost) float64 { return c.bytes + c.serf.IdleBytes + udp*c.serf.IdlePackets }, func(c idleCost) float64 { return c.serf.IdleBytes + udp*c.serf.IdlePackets }},
		{"messages", "frames and datagrams a second that it sends", fellow, "roots and heartbeats, and serf's own; what one commit leaves to send goes in one write",
			func(c idleCost) float64 { return c.frames + c.serf.IdlePackets }, func(c idleCost) float64 { return c.serf.IdlePackets }},
		{"heap", "MB that the copy of 1,000 nodes adds to the heap", "the records themselves, as they are encoded", "each node has a record of 300 bytes and up to two heartbeats",
			func(c idleCost) float64 { return c.heap }, func(c idleCost) float64 { return c.records }},
	} {
		out = append(out, bench{
			area: "gossip", name: "idle-1000-" + f.name, unit: f.unit, once: true, reference: f.reference, note: replayed + f.note,
			prepare: func(dir string, s size) (sides, error) {
				cost := func() (idleCost, error) { return measureIdle(dir, s) }
				return sides{
					ours:      func() (float64, error) { c, err := cost(); return f.ours(c), err },
					reference: func() (float64, error) { c, err := cost(); return f.theirs(c), err },
				}, nil
			},
		})
	}
	return out
}()

// idleCost is what was measured of one node.
type idleCost struct {
	cpu, verify   float64 // ms a second
	bytes, frames float64 // a second
	heap, records float64 // MB
	serf          swim.Result
}

// idled are those measured in this run.
var idled = map[size]idleCost{}

func measureIdle(dir string, s size) (c idleCost, err error) {
	if c, ok := idled[s]; ok {
		return c, nil
	}
	span := idleFor
	if s == tiny {
		span = time.Second
	}
	others, err := newCrowd(s.pick(idleNodes, 30), span, madeUp, func(int) ([]byte, error) { return []byte(strings.Repeat("x", 300)), nil })
	if err != nil {
		return c, err
	}
	rec, err := swim.Recorded()
	if err != nil {
		return c, err
	}
	c.serf, c.records = rec.Result, float64(others.size)/1e6
	c.verify = others.verify.Seconds() * 1000 * float64(len(others.beats)) / span.Seconds()
	empty := heap()
	drive, err := others.replay(span, nil)
	if err != nil {
		return c, err
	}
	st, err := store.Open(filepath.Join(dir, "idle.db"))
	if err != nil {
		return c, err
	}
	defer st.Close()
	r, err := replica.Open(replica.Config{
		Self: idleID(0), Store: st, Keys: others.key, TTL: 2 * idlePeriod,
		Apply:  func(feed.Record, feed.Op) error { return nil },
		Roster: func() []replica.Member { return others.members },
	})
	if err != nil {
		return c, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	whole, err := others.replay(span, r)
	if err != nil {
		return c, err
	}
	heads, _, err := r.Frontier(ctx)
	if err != nil {
		return c, err
	}
	held := uint64(0)
	for _, h := range heads {
		held += h.Seq
	}
	if want := len(others.firsts) + len(others.beats); held != uint64(want) {
		return c, fmt.Errorf("it holds %d of %d records", held, want)
	}
	c.heap = max(float64(heap())-float64(empty), 1) / 1e6
	c.cpu = max((whole.cpu-drive.cpu).Seconds()*1000/span.Seconds(), 0.001)
	c.bytes, c.frames = float64(whole.bytes)/span.Seconds(), float64(whole.frames)/span.Seconds()
	idled[s] = c
	return c, nil
}

// heap is what is in use of it.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first had finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func idleID(i int) spiffeid.ID {
	return spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/node/n%04d", i))
}

// crowd is what the other nodes send.
type crowd struct {
	keys    map[string]feed.EpochKey // by certificate
	certs   [][]byte
	firsts  [][]byte // a record of each
	beats   [][]byte // heartbeats, as they follow each other
	members []replica.Member
	size    int           // of all records
	verify  time.Duration // one signature
}

// certifier makes the i-th certificate, of an epoch of a node from start on.
type certifier func(i int, pub *ecdsa.PublicKey, start time.Time) (feed.EpochKey, error)

// madeUp makes what has the size of a certificate, which crowd.key knows.
func madeUp(i int, pub *ecdsa.PublicKey, start time.Time) (feed.EpochKey, error) {
	cert := make([]byte, 600)
	binary.BigEndian.PutUint64(cert, uint64(i))
	return feed.EpochKey{
		Origin: idleID(i), Epoch: 1, Key: pub, Class: "node", Attested: true, Cert: cert,
		NotBefore: start.Add(-time.Hour), NotAfter: start.Add(24 * time.Hour),
	}, nil
}

// newCrowd has so many nodes, but for one, say a first word each, and heartbeats for a while.
func newCrowd(nodes int, span time.Duration, certify certifier, say func(i int) ([]byte, error)) (*crowd, error) {
	g := &crowd{keys: map[string]feed.EpochKey{}}
	start := time.Now()
	var writers []*feed.Writer
	var chains []*feed.Chain
	for i := 1; i < nodes; i++ {
		priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		key, err := certify(i, &priv.PublicKey, start)
		if err != nil {
			return nil, err
		}
		chain, err := newChain(key)
		if err != nil {
			return nil, err
		}
		w, err := feed.NewWriter(chain, 1, priv)
		if err != nil {
			return nil, err
		}
		value, err := say(i)
		if err != nil {
			return nil, err
		}
		op := feed.Op{Key: feed.KeyOf(key.Origin, feed.KindNode, "self"), Action: feed.Put, Value: value, Scope: feed.ScopeRegion}
		b, err := g.next(w, chain, start.Add(-time.Minute), op)
		if err != nil {
			return nil, err
		}
		g.keys[string(key.Cert)] = key
		g.certs, g.firsts = append(g.certs, key.Cert), append(g.firsts, b)
		g.members = append(g.members, replica.Member{ID: key.Origin})
		writers, chains = append(writers, w), append(chains, chain)
	}
	for at := time.Duration(0); at < span; at += idlePeriod / time.Duration(nodes) {
		i := len(g.beats) % len(writers)
		b, err := g.next(writers[i], chains[i], start.Add(at))
		if err != nil {
			return nil, err
		}
		g.beats = append(g.beats, b)
	}
	return g, g.timeVerify()
}

func (g *crowd) next(w *feed.Writer, chain *feed.Chain, now time.Time, ops ...feed.Op) ([]byte, error) {
	rec, err := w.Next(now, feed.Draft{Ops: ops, TTL: uint32(2 * idlePeriod / time.Second), Policy: "global@1+regional@1"})
	if err != nil {
		return nil, err
	}
	if res := chain.Admit(now, rec); res.Verdict != feed.Admitted {
		return nil, fmt.Errorf("own record: %s: %w", res.Verdict, res.Err)
	}
	g.size += len(rec.Bytes())
	return rec.Bytes(), nil
}

// timeVerify times what the standard library takes for one signature.
func (g *crowd) timeVerify() error {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(nil)
	sig, err := ecdsa.SignASN1(rand.Reader, priv, digest[:])
	if err != nil {
		return err
	}
	const times = 500
	rate, err := oneCore(func() (float64, error) {
		return perCPUSecond(times, func() error { return verifyAll(&priv.PublicKey, digest, sig, times) })
	})
	g.verify = time.Duration(float64(time.Second) / rate)
	return err
}

func (g *crowd) key(der []byte) (feed.EpochKey, error) {
	key, ok := g.keys[string(der)]
	if !ok {
		return key, errors.New("an unknown certificate")
	}
	return key, nil
}

// replayed is what a replay took and brought about.
type replayed struct {
	cpu    time.Duration
	bytes  int64 // that the node sent, with what packets add
	frames int64
}

// replay plays the region to a replica, and to nobody if there is none: that is what the
// replay itself costs. What the node sends is counted from when it has all first records.
func (g *crowd) replay(span time.Duration, r *replica.Replica) (res replayed, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	var bytes, frames atomic.Int64
	links := make([]io.Writer, idleLinks)
	for i := range links {
		links[i] = io.Discard
		if r == nil {
			continue
		}
		ours, theirs := net.Pipe()
		links[i] = &locked{w: ours}
		wait.Go(func() { _ = r.Attach(ctx, idleID(i+1), theirs) }) // until the replay ends
		wait.Go(func() { listen(ours, links[i], &bytes, &frames) })
	}
	for i := range g.firsts {
		if _, err := links[i%len(links)].Write(slices.Concat(frameOf(1, g.certs[i]), frameOf(5, g.firsts[i]))); err != nil {
			return res, err
		}
	}
	time.Sleep(min(span, 3*time.Second)) // it settles
	before, err := ownCPU()
	if err != nil {
		return res, err
	}
	bytes.Store(0)
	frames.Store(0)
	start := time.Now()
	for i, b := range g.beats {
		time.Sleep(time.Until(start.Add(span * time.Duration(i) / time.Duration(len(g.beats)))))
		frame := frameOf(5, b)
		for j := range min(idleCopies, len(links)) {
			if _, err := links[(i+j)%len(links)].Write(frame); err != nil {
				return res, err
			}
		}
	}
	time.Sleep(time.Until(start.Add(span)))
	after, err := ownCPU()
	return replayed{after - before, bytes.Load(), frames.Load()}, err
}

// listen counts what the node sends, and agrees with each root.
func listen(in io.Reader, out io.Writer, bytes, frames *atomic.Int64) {
	const packet, more = 1200, 60
	from := bufio.NewReaderSize(in, 64<<10)
	var head [5]byte
	for {
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(from, body); err != nil {
			return
		}
		n := len(head) + len(body)
		bytes.Add(int64(n + (n+packet-1)/packet*more))
		frames.Add(1)
		if head[4] == 2 {
			if _, err := out.Write(frameOf(2, body)); err != nil {
				return
			}
		}
	}
}

// locked is a writer for several goroutines.
type locked struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// frameOf is a frame of a gossip session; see the package doc of gossip/replica.
func frameOf(t byte, body []byte) []byte {
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 5+len(body)), uint32(1+len(body)))
	return append(append(out, t), body...)
}
