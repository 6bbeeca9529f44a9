package trail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/transparency-dev/merkle/proof"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// cosignedBy puts a line under a head as a witness would.
func cosignedBy(raw []byte) []byte {
	return append(append([]byte{}, raw...), "— east.dev.example/witness/w AAAABGn0lcAB\n"...)
}

func TestHeadNamesItsRoster(t *testing.T) {
	b := newBench(t)
	var roster [32]byte
	b.cfg.Roster = func() [32]byte { return roster }
	tr := b.open()
	if strings.Contains(string(tr.Head().Raw), rosterLine) {
		t.Error("a head without a roster has a line for it")
	}
	size := tr.Head().Size
	roster[0] = 7
	b.flush(tr)
	c, err := OpenCheckpoint(tr.Head().Raw, tr.VerifierKey())
	if err != nil || c.Roster != roster || c.Size != size || !strings.HasPrefix(string(c.Raw), c.Text()) {
		t.Fatalf("%+v, %v", c, err)
	}
	before := tr.Head().Raw
	b.flush(tr)
	if string(tr.Head().Raw) != string(before) {
		t.Error("a head is signed again while nothing is new")
	}
	b.put(0, 3)
	b.flush(tr)
	b.wantGood(size + 3)
	if fork, err := Fork(before, c.Raw, tr.VerifierKey()); err != nil || fork {
		t.Errorf("%t, %v", fork, err)
	}
	for name, line := range map[string]string{
		"short": "roster 07\n", "upper": "roster " + strings.Repeat("AB", 32) + "\n", "zero": "roster " + strings.Repeat("00", 32) + "\n",
		"word": "rooster " + strings.Repeat("ab", 32) + "\n", "twice": strings.Repeat("roster "+strings.Repeat("ab", 32)+"\n", 2), "space": "roster  " + strings.Repeat("ab", 32) + "\n",
	} {
		if _, err := parseHead(Checkpoint{Origin: c.Origin, Size: 3}.Text() + line); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWitnessedHeadStaysBesideTheTrail(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 5)
	b.flush(tr)
	first := cosignedBy(tr.Head().Raw)
	if _, ok := tr.Witnessed(); ok {
		t.Error("a new trail is witnessed")
	}
	if err := tr.SetWitnessed(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	onDisk, err := os.ReadFile(filepath.Join(b.folder(), "checkpoint"))
	if h := tr.Head(); h.Unwitnessed || err != nil || string(onDisk) != string(first) || string(h.Raw) != string(first) {
		t.Errorf("%+v, %v", h, err)
	}
	b.put(5, 5)
	b.flush(tr)
	if h := tr.Head(); !h.Unwitnessed {
		t.Errorf("%+v", h)
	}
	if err := tr.SetWitnessed(t.Context(), first); err != nil { // late
		t.Fatal(err)
	}
	r := b.wantGood(tr.Head().Size)
	if r.Witnessed == nil || string(r.Witnessed.Raw) != string(first) || r.Head.Size != tr.Head().Size {
		t.Errorf("%+v", r)
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	tr = b.open()
	if c, ok := tr.Witnessed(); !ok || string(c.Raw) != string(first) {
		t.Errorf("after a restart: %+v %t", c, ok)
	}
	other := newBench(t)
	if err := tr.SetWitnessed(t.Context(), other.open().Head().Raw); !errors.Is(err, ErrCheckpoint) {
		t.Errorf("another trail's head: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tr.SetWitnessed(ctx, first); err == nil {
		t.Error("a closed trail keeps heads")
	}
}

// Whoever cuts off leaves that were witnessed has to explain the witnessed head.
func TestWitnessedHeadHasToBeInThePast(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 5)
	b.flush(tr)
	old := tr.Head().Raw
	b.put(5, 5)
	b.flush(tr)
	if err := tr.SetWitnessed(t.Context(), cosignedBy(tr.Head().Raw)); err != nil {
		t.Fatal(err)
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	if err := durable.Replace(filepath.Join(b.folder(), "checkpoint"), old, 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := Verify(t.Context(), b.folder(), Options{Node: testNode})
	if err != nil || r.Completeness.Good || !errors.Is(r.Completeness.Err, ErrRollback) {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Open(b.cfg); !errors.Is(err, ErrDamaged) {
		t.Errorf("the trail goes on: %v", err)
	}
	if err := os.WriteFile(filepath.Join(b.folder(), WitnessedPath), []byte("no head"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(t.Context(), b.folder(), Options{Node: testNode}); err != nil || !errors.Is(r.Completeness.Err, ErrCheckpoint) {
		t.Errorf("%+v, %v", r, err)
	}
}

// Who verifies a trail that is being written must not find it behind what was witnessed of it
// meanwhile: the pipe holds the reader until the head has moved.
func TestHeadMovesWhileItIsVerified(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 5)
	b.flush(tr)
	path := filepath.Join(b.folder(), WitnessedPath)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	verified := make(chan error, 1)
	go func() {
		r, err := Verify(context.Background(), b.folder(), Options{Node: testNode})
		if err == nil && (!r.Good() || r.Witnessed == nil || r.Witnessed.Size != r.Size) {
			err = fmt.Errorf("size %d, integrity %v, completeness %v, witnessed %v", r.Size, r.Integrity, r.Completeness, r.Witnessed)
		}
		verified <- err
	}()
	pipe, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.put(5, 5)
	b.flush(tr)
	if _, err := pipe.Write(cosignedBy(tr.Head().Raw)); err != nil {
		t.Error(err)
	}
	if err := errors.Join(pipe.Close(), <-verified); err != nil {
		t.Error(err)
	}
}

func TestConsistency(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 600)
	b.flush(tr)
	size := tr.Head().Size
	for _, old := range []uint64{0, 1, 2, 3, 255, 256, 257, 511, 600, size} {
		p, err := Consistency(b.folder(), old, size)
		if err != nil {
			t.Fatal(err)
		}
		var hashes [][]byte
		for _, h := range p {
			hashes = append(hashes, h[:])
		}
		root, err := tiles{dir: b.folder(), size: size}.root(old)
		if err != nil {
			t.Fatal(err)
		}
		whole := tr.Head().Root
		if err := proof.VerifyConsistency(hasher, old, size, hashes, root[:], whole[:]); err != nil && old > 0 {
			t.Errorf("%d: %v", old, err)
		}
	}
	if _, err := Consistency(b.folder(), size+1, size); !errors.Is(err, ErrTile) {
		t.Errorf("%v", err)
	}
	if _, err := Consistency(b.folder(), 3, size+300); !errors.Is(err, ErrTile) {
		t.Errorf("%v", err)
	}
}

func TestParseOrigin(t *testing.T) {
	for _, origin := range []string{"east.dev.example/trail/east-n1/7", "east.dev.example/trail/z1/east-n1/18446744073709551615"} {
		node, epoch, err := ParseOrigin(origin)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Origin(node, epoch); err != nil || again != origin {
			t.Errorf("%q: %q, %v", origin, again, err)
		}
	}
	for _, bad := range []string{"", "a", "east.dev.example/trail/n1", "east.dev.example/trail/n1/07", "east.dev.example/log/n1/7", "East/trail/n1/7", "e/trail//7", "e/trail/a/b/c/7"} {
		if _, _, err := ParseOrigin(bad); !errors.Is(err, ErrNode) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
