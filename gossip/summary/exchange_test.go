package summary

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// site is one gateway under test.
type site struct {
	*Gateway
	tracker *Tracker
	id      spiffeid.ID

	mu         sync.Mutex
	content    Content
	statements [][]byte
	got        []string
}

func newSite(t *testing.T, root *fakeRoot, region, path string) *site {
	t.Helper()
	st, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	s := &site{tracker: NewTracker(root.verify), id: nodeID(region, "n1"), content: content(region)}
	key, cert := root.cert(t, s.id, 1)
	s.Gateway, err = New(Config{
		Self: s.id, Store: st, Keys: root.verify, Tracker: s.tracker, Metrics: prometheus.NewRegistry(),
		Signer: func() (crypto.Signer, []byte) { return key, cert },
		Content: func() Content {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.content
		},
		Statements: func() [][]byte {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.statements
		},
		OnStatement: func(_ spiffeid.ID, raw []byte) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.got = append(s.got, string(raw))
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) set(change func(*site)) {
	s.mu.Lock()
	change(s)
	s.mu.Unlock()
	s.Wake()
}

func (s *site) statementsGot() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// connect runs a session between two sites and returns what ends it.
func connect(ctx context.Context, a, b *site) (cut func() (error, error)) {
	x, y := net.Pipe()
	errA, errB := make(chan error, 1), make(chan error, 1)
	go func() { errA <- a.Exchange(ctx, b.id, x) }()
	go func() { errB <- b.Exchange(ctx, a.id, y) }()
	return func() (error, error) {
		x.Close()
		return <-errA, <-errB
	}
}

func TestDebtGrowsInACutAndDrains(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var root fakeRoot
		east := newSite(t, &root, "east", filepath.Join(dir, "east.db"))
		west := newSite(t, &root, "west", filepath.Join(dir, "west.db"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go east.Run(ctx)
		go west.Run(ctx)
		east.set(func(s *site) { s.statements = [][]byte{[]byte("policy head 1")} })

		cut := connect(ctx, east, west)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if e, ok := west.tracker.Region(east.id.TrustDomain()); !ok || e.Age(time.Now()) > 2*time.Second || e.Nodes["ok"] != 2 {
			t.Fatalf("west knows of east: %+v %v", e, ok)
		}
		if d := east.Debt(); len(d) != 1 || d[0].Peer != west.id || d[0].Owed != 0 || !d[0].Connected || d[0].LastAck.IsZero() {
			t.Fatalf("debt while connected: %+v", d)
		}
		if got := west.statementsGot(); !slices.Equal(got, []string{"policy head 1"}) {
			t.Fatalf("statements: %q", got)
		}

		east.set(func(s *site) {
			s.content.Nodes = map[string]int{"ok": 3}
			s.statements = append(s.statements, []byte("policy head 2"))
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if e, _ := west.tracker.Region(east.id.TrustDomain()); e.Nodes["ok"] != 3 {
			t.Errorf("a change did not arrive: %+v", e.Nodes)
		}

		if a, b := cut(); a == nil && b == nil {
			t.Error("neither side noticed the cut")
		}
		time.Sleep(60 * time.Second)
		synctest.Wait()
		d := east.Debt()[0]
		if d.Owed < 29 || d.Owed > 31 || d.Connected || time.Since(d.Oldest) < 58*time.Second {
			t.Errorf("after a minute of cut: %+v", d)
		}
		e, _ := west.tracker.Region(east.id.TrustDomain())
		if age := e.Age(time.Now()); age < 58*time.Second {
			t.Errorf("age in a cut: %s", age)
		}

		cut = connect(ctx, east, west)
		time.Sleep(time.Second)
		synctest.Wait()
		for _, s := range []*site{east, west} {
			if d := s.Debt()[0]; d.Owed > 1 || !d.Connected {
				t.Errorf("after healing: %+v", d)
			}
		}
		cancel()
		cut()
	})
}

func TestNumbersGrowOverRestarts(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var root fakeRoot
		var last uint64
		for run := range 3 {
			s := newSite(t, &root, "east", filepath.Join(dir, "east.db"))
			ctx, cancel := context.WithCancel(t.Context())
			go s.Run(ctx)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			own, ok := s.Own()
			if !ok || own.Number <= last {
				t.Fatalf("run %d: number %d after %d", run, own.Number, last)
			}
			last = own.Number
			cancel()
			synctest.Wait()
			s.cfg.Store.Close()
		}
	})
}

func TestSessionRefusals(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var root fakeRoot
		east := newSite(t, &root, "east", filepath.Join(dir, "east.db"))
		west := nodeID("west", "n1")
		north := nodeID("north", "n1")
		valid := func(id spiffeid.ID, region string) []byte { return build(t, &root, id, 1, 1, content(region)) }
		flood := func() (b []byte) {
			body, _ := encodeAck(Summary{Gateway: east.id, Epoch: 1, Number: 1})
			for range frameBurst + 100 {
				b = appendFrame(b, frameAck, body)
			}
			return b
		}
		for _, tt := range []struct {
			name string
			peer spiffeid.ID
			in   []byte
			want error
		}{
			{"own region", nodeID("east", "n2"), nil, ErrForeign},
			{"nobody", spiffeid.ID{}, nil, ErrForeign},
			{"another region's summary", west, appendFrame(nil, frameSummary, valid(north, "north")), ErrForeign},
			{"unknown frame", west, appendFrame(nil, 9, []byte("x")), ErrMalformed},
			{"oversized frame", west, []byte{frameSummary, 0, 1, 0, 0}, ErrMalformed},
			{"garbage", west, appendFrame(nil, frameSummary, []byte("x")), ErrMalformed},
			{"ack for another", west, appendFrame(nil, frameAck, []byte{0xa0}), ErrMalformed},
			{"flood", west, flood(), ErrFlood},
			{"silence", west, nil, ErrSilent},
		} {
			x, y := net.Pipe()
			got := make(chan error, 1)
			go func() { got <- east.Exchange(t.Context(), tt.peer, x) }()
			go io.Copy(io.Discard, y)
			go y.Write(tt.in)
			if err := <-got; !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
			}
			y.Close()
		}
		if len(east.tracker.Entries()) != 0 {
			t.Error("a refused summary was kept")
		}
		x, y := net.Pipe()
		y.Close()
		if err := east.Exchange(t.Context(), west, x); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("ended by the peer: %v", err)
		}
	})
}

func TestLedger(t *testing.T) {
	l := ledger{base: 100, peers: map[spiffeid.ID]*account{}}
	west := nodeID("west", "n1")
	l.session(west, +1)
	for i := range 5 {
		l.publish(t0.Add(time.Duration(i) * time.Second))
	}
	for _, step := range []struct {
		ack, owed uint64
	}{{0, 5}, {99, 5}, {102, 3}, {101, 3}, {999, 3}, {105, 0}} {
		l.ack(t0, west, step.ack)
		d := l.debts()[0]
		if d.Owed != step.owed {
			t.Errorf("ack %d: owed %d, want %d", step.ack, d.Owed, step.owed)
		}
		if step.owed == 3 && !d.Oldest.Equal(t0.Add(2*time.Second)) {
			t.Errorf("oldest %s", d.Oldest.Sub(t0))
		}
	}
	for i := range 2 * maxPeers {
		l.ack(t0, nodeID("west", fmt.Sprint("x", i)), 1)
	}
	if len(l.debts()) != maxPeers {
		t.Errorf("%d accounts", len(l.debts()))
	}
}
