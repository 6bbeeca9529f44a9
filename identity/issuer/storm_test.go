package issuer_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// stormNode is a machine of the storm: all have one kind of evidence, their name.
type stormNode struct{ name string }

func (stormNode) Type() string { return "storm" }
func (n stormNode) Begin(context.Context) ([]byte, func(spire.Question) ([]byte, error), error) {
	return []byte(n.name), func(q spire.Question) ([]byte, error) { return q.Challenge, nil }, nil
}

func (stormNode) Attest(_ context.Context, e issuer.Evidence, exchange func([]byte) ([]byte, error)) (issuer.Attested, error) {
	if got, err := exchange([]byte("challenge")); err != nil || !bytes.Equal(got, []byte("challenge")) {
		return issuer.Attested{}, errors.Join(err, issuer.ErrEvidence)
	}
	return issuer.Attested{Name: string(e.Payload), Reattest: true}, nil
}

// A whole region comes back at once, behind one address, while a node that is
// already in renews: all 500 get in without being told to come again, and the
// renewals do not wait for them.
func TestReconnectStorm(t *testing.T) {
	const nodes = 500
	r := newRegion(t, func(c *issuer.Config) {
		c.Attestors = append(c.Attestors, stormNode{})
		for i := range nodes {
			name := strconv.Itoa(i)
			c.Entries = append(c.Entries, issuer.Entry{SPIFFEID: id("/node/s" + name), ParentID: id("/spire/agent/storm/" + name)})
		}
	})
	c, _ := r.attest()
	work := r.entry(c, shop).ID
	keys := make([]*ecdsa.PrivateKey, nodes)
	for i := range keys {
		keys[i] = newKey(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	start := time.Now()
	var wg sync.WaitGroup
	for i, key := range keys {
		wg.Go(func() {
			a, err := spire.Attest(ctx, r.cfg, stormNode{strconv.Itoa(i)}, key)
			if err != nil {
				t.Errorf("node %d: %v", i, err)
				return
			}
			n, err := spire.Dial(r.cfg, a.SVID)
			if err != nil {
				t.Error(err)
				return
			}
			defer n.Close()
			entries, err := n.Entries(ctx, nil)
			if err != nil || len(entries) != 1 {
				t.Errorf("node %d: %v, %v", i, entries, err)
				return
			}
			got, err := n.NewX509SVIDs(ctx, []spire.Request{{EntryID: entries[0].ID, ID: entries[0].SPIFFEID, Key: key}})
			if err != nil || got[0].Err != nil {
				t.Errorf("node %d: %v, %v", i, got, err)
			}
		})
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	key := newKey(t)
	var waits []time.Duration
	for storm := true; storm; {
		select {
		case <-over:
			storm = false
		default:
		}
		begun := time.Now()
		got, err := c.NewX509SVIDs(ctx, []spire.Request{{EntryID: work, ID: shop, Key: key}})
		if err != nil || got[0].Err != nil {
			t.Fatalf("a renewal during the storm: %v, %v", got, err)
		}
		waits = append(waits, time.Since(begun))
	}
	took := time.Since(start)
	slices.Sort(waits)
	worst := waits[len(waits)-1]
	t.Logf("%d nodes in %s; %d renewals meanwhile, median %s, worst %s", nodes, took, len(waits), waits[len(waits)/2], worst)
	if worst > took/2 && worst > time.Second {
		t.Errorf("a renewal waited %s of a storm of %s", worst, took)
	}
}
