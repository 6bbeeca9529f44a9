package shipping

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy/decision/export"
)

var testNode = spiffeid.RequireFromString("spiffe://east.example.org/node/edge-7")

// request is an OTLP request for logs, in its JSON mapping; nothing else may be in one.
type request struct {
	ResourceLogs []struct {
		Resource  struct{ Attributes []attribute }
		ScopeLogs []struct {
			Scope      struct{ Name string }
			LogRecords []struct {
				TimeUnixNano, ObservedTimeUnixNano, SeverityText, EventName, TraceID string
				SeverityNumber                                                       int
				Body                                                                 struct{ StringValue string }
				Attributes                                                           []attribute
			}
		}
	}
}

type attribute struct {
	Key   string
	Value struct {
		StringValue, IntValue string
		BoolValue             bool
	}
}

// collector takes requests, as long as it is told to.
type collector struct {
	*testing.T
	answer func() error // nil: takes all
	names  []string     // of every record taken
	leaves []string     // epoch#index of every leaf taken
	asked  int
}

func (c *collector) send(_ context.Context, b []byte) error {
	c.asked++
	if c.answer != nil {
		if err := c.answer(); err != nil {
			return err
		}
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var r request
	if err := dec.Decode(&r); err != nil {
		c.Fatalf("%v: %.200s", err, b)
	}
	for _, logs := range r.ResourceLogs[0].ScopeLogs[0].LogRecords {
		c.names = append(c.names, logs.EventName)
		if n, err := strconv.ParseInt(logs.TimeUnixNano, 10, 64); err != nil || n <= 0 || !json.Valid([]byte(logs.Body.StringValue)) {
			c.Errorf("%+v", logs)
		}
		at := map[string]attribute{}
		for _, a := range logs.Attributes {
			at[a.Key] = a
		}
		if origin := at["bailiwick.trail.origin"].Value.StringValue; origin != "" {
			if hash, err := hex.DecodeString(at["bailiwick.trail.leaf_hash"].Value.StringValue); err != nil || len(hash) != sha256.Size {
				c.Errorf("leaf hash of %+v", logs)
			}
			c.leaves = append(c.leaves, origin[len(origin)-1:]+"#"+at["bailiwick.trail.index"].Value.IntValue)
		}
	}
	if n := len(r.ResourceLogs[0].ScopeLogs[0].LogRecords); n == 0 || n > export.BatchSize {
		c.Errorf("a request of %d records", n)
	}
	return nil
}

// wantLeaves checks that all leaves of one epoch came, in order and once.
func (c *collector) wantLeaves(epoch, n int) {
	c.Helper()
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("%d#%d", epoch, i))
	}
	if !slices.Equal(c.leaves, want) {
		c.Fatalf("%d leaves came, want %d: %v", len(c.leaves), n, c.leaves[max(0, len(c.leaves)-5):])
	}
}

// node has a trail that is sent.
type node struct {
	*testing.T
	state string
	key   *ecdsa.PrivateKey
	store *store.Store
	trail *trail.Trail
}

func newNode(t *testing.T) *node {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{T: t, state: t.TempDir(), key: key}
	if n.store, err = store.Open(filepath.Join(n.state, "store")); err != nil {
		t.Fatal(err)
	}
	n.epoch(1)
	t.Cleanup(func() { _ = n.trail.Close(); _ = n.store.Close() })
	return n
}

func (n *node) epoch(e uint64) {
	n.Helper()
	var err error
	if n.trail, err = trail.Open(trail.Config{Dir: filepath.Join(n.state, "trail"), Node: testNode, Epoch: e, Key: n.key, Store: n.store, Every: time.Hour}); err != nil {
		n.Fatal(err)
	}
}

func (n *node) grow(kind trail.Kind, count int, body any) {
	n.Helper()
	if err := n.store.Update(func(tx *store.Tx) error {
		for range count {
			if err := trail.Append(tx, kind, body); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		n.Fatal(err)
	}
	if err := n.trail.Flush(n.Context()); err != nil {
		n.Fatal(err)
	}
}

func (n *node) shipper(c *collector) *Shipper {
	n.Helper()
	s, err := New(Config{Node: testNode, Version: "v1", Trail: filepath.Join(n.state, "trail"), Decisions: filepath.Join(n.state, "decisions"),
		Store: n.store, Send: c.send, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		n.Fatal(err)
	}
	return s
}

var errAway = errors.New("nobody answers")

// Every leaf comes once and in order: over many requests, with a collector that fails in between, after a
// restart, and on into the next epoch.
func TestEveryLeafInOrder(t *testing.T) {
	n, c := newNode(t), &collector{T: t}
	n.grow(trail.StateOut, 700, map[string]int{"n": 1})
	fails := 0
	c.answer = func() error {
		if fails++; fails%2 == 1 {
			return errAway
		}
		return nil
	}
	s := n.shipper(c)
	for err := error(errAway); err != nil; {
		if err = s.all(t.Context()); err != nil && !errors.Is(err, errAway) {
			t.Fatal(err)
		}
		s = n.shipper(c) // as after a crash
	}
	c.wantLeaves(1, 702)
	if c.names[0] != "bailiwick.trail.genesis" || c.names[2] != "bailiwick.trail.state.out" {
		t.Errorf("names %v", c.names[:3])
	}
	c.answer = nil
	if before := c.asked; s.all(t.Context()) != nil || c.asked != before {
		t.Error("nothing is new, and it was sent")
	}
	n.grow(trail.StateOut, 3, map[string]int{"n": 2})
	if err := n.trail.Close(); err != nil {
		t.Fatal(err)
	}
	n.epoch(2)
	n.grow(trail.StateOut, 1, map[string]int{"n": 3})
	c.leaves = nil
	if err := s.all(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"1#702", "1#703", "1#704", "2#0", "2#1", "2#2"}; !slices.Equal(c.leaves, want) {
		t.Errorf("%v, want %v", c.leaves, want)
	}
}

// What a crash comes between, after the collector took it and before that was kept, is sent again; nothing is left out.
func TestCrashRepeatsOneRequest(t *testing.T) {
	n, c := newNode(t), &collector{T: t}
	n.grow(trail.StateOut, 300, map[string]int{"n": 1})
	s := n.shipper(c)
	first := s.at
	if err := s.all(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.keep(place{Epoch: 1, Index: export.BatchSize}); err != nil { // of two requests the second was not kept
		t.Fatal(err)
	}
	if err := n.shipper(c).all(t.Context()); err != nil {
		t.Fatal(err)
	}
	twice := 302 - export.BatchSize
	if first != (place{}) || len(c.leaves) != 302+twice || c.leaves[302] != fmt.Sprintf("1#%d", export.BatchSize) {
		t.Errorf("%d leaves, of them %v", len(c.leaves), c.leaves[302:])
	}
}

// What is refused for good stands in front of nothing.
func TestRefusedForGood(t *testing.T) {
	n, c := newNode(t), &collector{T: t}
	n.grow(trail.StateOut, 600, map[string]int{"n": 1})
	c.answer = func() error {
		if c.asked == 2 {
			return fmt.Errorf("%w: %w", export.ErrCollector, export.ErrRefused)
		}
		return nil
	}
	if err := n.shipper(c).all(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(c.leaves) != 602-export.BatchSize || c.leaves[len(c.leaves)-1] != "1#601" {
		t.Errorf("%d leaves", len(c.leaves))
	}
}

// Decisions come behind the leaf that names their segment; a segment that is gone or damaged stops nothing.
func TestDecisions(t *testing.T) {
	n, c := newNode(t), &collector{T: t}
	if err := os.Mkdir(filepath.Join(n.state, "decisions"), 0o700); err != nil {
		t.Fatal(err)
	}
	whole := segment(t, 400)
	for i, file := range [][]byte{1: whole, 2: []byte("damaged"), 3: nil} {
		if i == 0 {
			continue
		}
		digest := sha256.Sum256(file)
		if file != nil {
			if err := os.WriteFile(filepath.Join(n.state, "decisions", fmt.Sprintf("%012d.ndjson.gz", i)), file, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n.grow(trail.Segment, 1, map[string]any{"segment": i, "first": 1, "last": 400, "count": 400, "digest": digest[:], "bytes": max(1, len(file))})
	}
	n.grow(trail.StateOut, 1, map[string]int{"n": 1})
	c.answer = func() error {
		if c.asked == 3 { // in the middle of the segment
			return errAway
		}
		return nil
	}
	if err := n.shipper(c).all(t.Context()); !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	if err := n.shipper(c).all(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.wantLeaves(1, 6)
	decisions := 0
	for i, name := range c.names {
		if name == "bailiwick.decision" {
			if decisions++; i < 3 || i > 402 {
				t.Errorf("a decision is record %d", i)
			}
		}
	}
	if decisions != 400 {
		t.Errorf("%d decisions", decisions)
	}
}

// A collector that does not answer costs the node nothing, is asked ever less often, and gets all of it in the end.
func TestCollectorAway(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		n := &node{T: t, state: t.TempDir(), key: key}
		if n.store, err = store.Open(filepath.Join(n.state, "store")); err != nil {
			t.Fatal(err)
		}
		n.epoch(1)
		var back atomic.Bool
		var asked atomic.Int64
		c := &collector{T: t, answer: func() error {
			asked.Add(1)
			if back.Load() {
				return nil
			}
			time.Sleep(patience)
			return errAway
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.shipper(c).Run(ctx) }()
		for range 24 {
			began := time.Now()
			n.grow(trail.AdminAction, 1, map[string]int{"n": 1})
			if time.Since(began) != 0 {
				t.Fatalf("an act waited %s for the collector", time.Since(began))
			}
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		if n := asked.Load(); n < 24*60/10 || n > 24*60/5 {
			t.Errorf("asked %d times in a day", n)
		}
		back.Store(true)
		time.Sleep(retryMax + patience)
		synctest.Wait()
		c.wantLeaves(1, 26)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := errors.Join(n.trail.Close(), n.store.Close()); err != nil {
			t.Error(err)
		}
	})
}

// Leaves that went by age before they were sent are passed over.
func TestPruned(t *testing.T) {
	n, c := newNode(t), &collector{T: t}
	n.grow(trail.StateOut, 1000, map[string]int{"n": 1})
	if gone, err := n.trail.Prune(t.Context(), time.Now().Add(time.Hour)); err != nil || gone == 0 {
		t.Fatal(gone, err)
	}
	if err := n.shipper(c).all(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.leaves[255] != "1#255" || c.leaves[256] == "1#256" || c.leaves[len(c.leaves)-1] != fmt.Sprintf("1#%d", n.trail.Head().Size-1) {
		t.Errorf("%d leaves, then %s", len(c.leaves), c.leaves[256])
	}
}
