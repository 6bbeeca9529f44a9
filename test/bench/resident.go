package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/client"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

// What the process of a node of a large region keeps in memory. The node is the product; what it
// takes for the other nodes is this process.

const residentSpan = time.Minute // of heartbeats

var residentBenches = []bench{{
	area: "gossip", name: "idle-1000-rss", unit: "MB resident (VmRSS) of the process of a node", once: true, disk: true,
	reference: "the same process while its region has two nodes",
	note: "one real process of bailiwick run that holds the signed records of 1,000 nodes, after a minute of their heartbeats, one each 30 s; " +
		"998 are played by the bench's process: each has a socket, an SVID and an epoch certificate of the region, and is linked by QUIC to the node if that wants it in its mesh. " +
		"They say nothing of serf: its list has two nodes",
	prepare: func(dir string, s size) (sides, error) {
		if s == tiny {
			return sides{}, errTiny
		}
		var r residence
		return sides{
			ours: func() (v float64, err error) {
				r, err = measureResident(dir)
				return r.large.resident, err
			},
			reference: func() (float64, error) { return r.small.resident, nil },
			note:      func() string { return r.note },
		}, nil
	},
}}

// residence is what was measured of the process, in the small region and in the large one.
type residence struct {
	small, large memory
	note         string
}

func measureResident(dir string) (r residence, err error) {
	s, err := newServer(dir, true)
	if err != nil {
		return r, err
	}
	defer s.stop()
	if err := s.startOurs(demand{machines: 1}); err != nil {
		return r, err
	}
	first, err := listens(filepath.Join(dir, "node.yaml"))
	if err != nil {
		return r, err
	}
	s.meet = fmt.Sprintf("%q", first)
	n, err := s.startNode(0, false)
	if err != nil {
		return r, err
	}
	defer n.stop()
	at, err := listens(filepath.Join(dir, "node0", "node.conf"))
	if err != nil {
		return r, err
	}
	c := client.New(filepath.Join(filepath.Dir(n.socket), "c.sock"))
	defer c.Close()
	if err := until(n.proc, func() error { return knows(c, 2) }); err != nil {
		return r, err
	}
	time.Sleep(5 * time.Second) // they have just met
	if r.small, err = n.proc.memory(); err != nil {
		return r, err
	}
	others, err := s.crowd()
	if err != nil {
		return r, err
	}
	defer others.stop()
	if err := others.meet(at, s.join[0].node); err != nil {
		return r, err
	}
	said := make(chan error, 1)
	go func() {
		_, err := others.replay(residentSpan, others.copy)
		said <- err
	}()
	if err := until(n.proc, func() error { return knows(c, idleNodes) }); err != nil {
		return r, err
	}
	start := time.Now()
	before, err := n.proc.cpu()
	if err != nil {
		return r, err
	}
	if err := <-said; err != nil {
		return r, err
	}
	after, err := n.proc.cpu()
	if err != nil {
		return r, err
	}
	span := time.Since(start)
	if err := knows(c, idleNodes); err != nil {
		return r, err
	}
	if r.large, err = n.proc.memory(); err != nil {
		return r, err
	}
	r.note = fmt.Sprintf("; %s, and %s before; meanwhile %.1f ms of processor time a second, TLS, QUIC and all else in it, at %d links",
		r.large, r.small, (after-before).Seconds()*1000/span.Seconds(), others.linked(s.join[0].node))
	return r, nil
}

// knows reports what is missing until a node knows so many nodes of its region.
func knows(c *client.Client, nodes int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	items, _, _, err := c.List(ctx, "/node/")
	if err != nil {
		return err
	}
	known := 0
	for _, it := range items {
		if strings.HasSuffix(it.Key, "/node/self") {
			known++
		}
	}
	if known < nodes {
		return fmt.Errorf("it knows %d of %d nodes", known, nodes)
	}
	return nil
}

// listens is the address of a node's link, by its file.
func listens(path string) (string, error) {
	conf, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`mesh: \{listen: "(127[^"]+)"`).FindSubmatch(conf)
	if m == nil {
		return "", fmt.Errorf("%s lacks mesh.listen", path)
	}
	return string(m[1]), nil
}

// played are nodes that share one copy of what all know, and have a link each.
type played struct {
	*crowd
	copy  *replica.Replica
	links []*link.Link
	ctx   context.Context
	end   []func() error
}

func (p *played) stop() {
	for i := range p.end {
		_ = p.end[len(p.end)-1-i]() // nothing of theirs is wanted any more
	}
}

// crowd plays all nodes of a large region but for the two that run.
func (s *server) crowd() (p *played, err error) {
	keys := filepath.Join(s.dir, "keys")
	root, err := epoch.LoadRoot(keys)
	if err != nil {
		return nil, err
	}
	ca, err := issuer.LoadCA(keys)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p = &played{ctx: ctx, end: []func() error{func() error { cancel(); return nil }}}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	st, err := store.Open(filepath.Join(s.dir, "crowd.db"))
	if err != nil {
		return nil, err
	}
	p.end = append(p.end, st.Close)
	for i := 1; i < idleNodes-1; i++ {
		if err := p.listen(ca, s.bundle, idleID(i)); err != nil {
			return nil, err
		}
	}
	certify := func(i int, pub *ecdsa.PublicKey, start time.Time) (feed.EpochKey, error) {
		approved, err := root.Check(epoch.Request{ID: idleID(i), Epoch: 1, Class: "node", Key: pub, Now: start})
		if err != nil {
			return feed.EpochKey{}, err
		}
		der, err := root.Issue(approved)
		return feed.EpochKey{Origin: idleID(i), Epoch: 1, Key: pub, Class: "node", Attested: true, Cert: der, NotBefore: start.Add(-time.Second), NotAfter: start.Add(24 * time.Hour)}, err
	}
	if p.crowd, err = newCrowd(idleNodes-1, residentSpan, certify, func(i int) ([]byte, error) {
		return statement.Marshal(struct { // a node record of package app
			Address string `cbor:"1,keyasint"`
			Region  string `cbor:"2,keyasint"`
			Version string `cbor:"4,keyasint"`
			Policy  string `cbor:"5,keyasint"`
		}{p.links[i-1].Addr().String(), "east", "v0.1.0", "global@1+regional@1"})
	}); err != nil {
		return nil, err
	}
	p.copy, err = replica.Open(replica.Config{
		Self: idleID(0), Store: st, TTL: 2 * idlePeriod,
		Apply: func(feed.Record, feed.Op) error { return nil },
		Keys: func(der []byte) (feed.EpochKey, error) {
			if key, err := p.key(der); err == nil {
				return key, nil
			}
			return certified(der, root.Certificate())
		},
	})
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- p.copy.Run(ctx) }()
	p.end = append(p.end, func() error { cancel(); return <-ended })
	return p, nil
}

// certified is what the certificate of an epoch says that the region's issuer gave.
func certified(der []byte, root *x509.Certificate) (feed.EpochKey, error) {
	from, err := epoch.NotBefore(der)
	if err != nil {
		return feed.EpochKey{}, err
	}
	c, err := epoch.Verify(der, []*x509.Certificate{root}, region, from)
	return feed.EpochKey{
		Origin: c.ID, Epoch: c.Epoch, Key: c.Key, Class: c.Class, Attested: c.Attested(), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Cert: der,
	}, err
}

// meet makes a link of one of them to a node that runs, and a session; for the others' it looks itself.
func (p *played) meet(at string, id spiffeid.ID) error {
	addr, err := netip.ParseAddrPort(at)
	if err != nil {
		return err
	}
	conn, err := p.links[0].Dial(p.ctx, addr, id)
	if err != nil {
		return err
	}
	s, err := conn.OpenStream(p.ctx, "gossip/1")
	if err != nil {
		return err
	}
	go func() { _ = p.copy.Attach(p.ctx, id, s) }() // until the link ends
	return nil
}

// linked is how many of them have a link with a node.
func (p *played) linked(id spiffeid.ID) (count int) {
	for _, l := range p.links {
		if _, live := l.Conn(id); live {
			count++
		}
	}
	return count
}

// listen opens the link of one of the nodes.
func (p *played) listen(ca *issuer.CA, trusted *x509bundle.Bundle, id spiffeid.ID) error {
	svid, err := newSVID(ca, id)
	if err != nil {
		return err
	}
	l, err := link.Listen(link.Config{
		Listen: "127.0.0.1:0", SVID: svid, Bundles: x509bundle.NewSet(trusted), Authorize: func(spiffeid.ID) error { return nil },
	})
	if err != nil {
		return err
	}
	l.Handle("gossip/1", func(ctx context.Context, peer spiffeid.ID, s *link.Stream) {
		defer s.Reset()
		_ = p.copy.Attach(ctx, peer, s) // until the link ends
	})
	ran := make(chan error, 1)
	go func() { ran <- l.Run(p.ctx) }()
	p.links = append(p.links, l)
	p.end = append(p.end, func() error { return errors.Join(l.Close(), <-ran) })
	return nil
}
