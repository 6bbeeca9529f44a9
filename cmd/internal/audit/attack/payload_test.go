package attack

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

const (
	denial  = "00112233445566778899aabbccddeeff"
	subject = "spiffe://east.dev.example/workload/shop"
)

// denied records a denial and returns its event.
func (n *node) denied() []byte {
	n.r.t.Helper()
	input := []byte(`{"target":"db"}`)
	e := decision.NewEvent(policy.Decision{ID: denial, Kind: policy.Connect, Level: "global", Rule: "shop-db", Source: subject, Target: "db", Input: input}, nil, time.Now())
	sum := statement.Digest(input)
	n.leaf(trail.DecisionDeny, map[string]any{
		"id": denial, "kind": string(policy.Connect), "level": "global", "rule": "shop-db", "revision": "", "source": subject, "target": "db", "input": sum[:],
	})
	n.record(0)
	b, err := json.Marshal(e)
	must(n.r.t, err)
	return b
}

// collected is a case about the denial, and the trust file of an auditor who verified the
// node's trail before.
func collected(t *testing.T, n *node, event []byte) (casefile.Case, casefile.Trust) {
	t.Helper()
	c, err := audit.Collect(t.Context(), []string{n.dir()}, casefile.Question{Case: denial})
	must(t, err)
	c.Decisions = [][]byte{event}
	c.Manifest.MadeAt, c.Manifest.MadeBy = time.Now().UTC().Truncate(time.Second), "test"
	return c, casefile.Trust{Trails: []casefile.Known{{Origin: n.origin(), Verifier: n.vkey()}}}
}

// verified is what an auditor finds of a case. false: it is no case file at all.
func verified(t *testing.T, c casefile.Case, trust casefile.Trust) (casefile.Report, bool) {
	t.Helper()
	b, err := casefile.Write(c)
	if err != nil {
		return casefile.Report{}, false
	}
	r, err := casefile.Verify(b, trust)
	return r, err == nil
}

// What a leaf has only the digest of is exchanged.
func TestSwappedPayload(t *testing.T) {
	t.Run("decision", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n := r.nodes[0]
			event := n.denied()
			c, trust := collected(t, n, event)
			if r, ok := verified(t, c, trust); !ok || !r.Good() {
				t.Fatalf("as it was: %s", r.Integrity)
			}
			c.Decisions = [][]byte{bytes.ReplaceAll(event, []byte(`{"target":"db"}`), []byte(`{"target":"tv"}`))}
			if r, ok := verified(t, c, trust); !ok || !errors.Is(r.Integrity.Err, casefile.ErrEntry) ||
				r.Integrity.Leaf == nil || r.Integrity.Leaf.Index == 0 || r.Integrity.Leaf.At.IsZero() || !strings.Contains(r.Integrity.Leaf.Breaks, denial) {
				t.Errorf("another input: %t, %s", ok, r.Integrity)
			}
			r.unharmed(nil)
		})
	})
	// A custodian gives another a file with other content, of the same length.
	t.Run("segment", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n := r.nodes[0]
			content := bytes.Repeat([]byte("a decision\n"), 100)
			n.file("000000000001.gz", content)
			time.Sleep(10 * time.Minute)
			liar, victim := n.custodians()[0], n.custodians()[1]
			must(t, os.RemoveAll(filepath.Join(victim.copyOf(n), "decisions")))
			n.leave(true)
			for _, p := range r.nodes {
				p.serve(func(question, answer []byte) []byte {
					return bytes.Replace(answer, []byte("a decision"), []byte("no meaning"), 1)
				})
			}
			time.Sleep(10 * time.Minute)
			if b, err := os.ReadFile(filepath.Join(victim.copyOf(n), "decisions", "000000000001.gz")); err == nil && !bytes.Equal(b, content) {
				t.Errorf("%s took the false file of %s", victim.id, liar.id)
			}
			for _, p := range r.nodes {
				p.serve(nil)
			}
			n.leave(false)
			time.Sleep(10 * time.Minute)
			if b, err := os.ReadFile(filepath.Join(victim.copyOf(n), "decisions", "000000000001.gz")); err != nil || !bytes.Equal(b, content) {
				t.Errorf("%s has not got the right one: %v", victim.id, err)
			}
			r.unharmed(nil)
		})
	})
}

// A leaf of one node is shown as another's.
func TestReplayedLeaf(t *testing.T) {
	t.Run("auditor", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n, other := r.nodes[0], r.nodes[1]
			event := n.denied()
			other.denied()
			other.record(1)
			c, trust := collected(t, n, event)
			theirs, err := audit.Collect(t.Context(), []string{other.dir()}, casefile.Question{From: time.Unix(0, 0), To: time.Now().Add(time.Hour)})
			must(t, err)
			last := len(c.Leaves[0]) - 1
			if _, err := trail.VerifyProof(c.Leaves[0][last].Raw, c.Leaves[0][last].Proof, n.vkey()); err != nil {
				t.Fatal(err)
			}
			c.Leaves[0][last].Raw = theirs.Leaves[0][len(theirs.Leaves[0])-1].Raw // their leaf under our proof
			if p, err := trail.VerifyProof(c.Leaves[0][last].Raw, c.Leaves[0][last].Proof, n.vkey()); !errors.Is(err, trail.ErrProof) {
				t.Errorf("leaf %d of another is proven: %v", p.Index, err)
			}
			if r, ok := verified(t, c, trust); ok && r.Good() {
				t.Errorf("the case is good: %s", r.Integrity)
			}
			r.unharmed(nil)
		})
	})
	t.Run("custodian", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n := r.nodes[0]
			for _, p := range r.nodes {
				if p != n {
					p.serve(func(_, answer []byte) []byte { return answer })
				}
			}
			// What it answers is its own but for one leaf, which is as long as the one it had.
			n.serve(func(_, answer []byte) []byte {
				return bytes.ReplaceAll(answer, []byte("honest"), []byte("stolen"))
			})
			n.leaf(trail.StateOut, map[string]any{"of": "honest"})
			n.await(n.record(0))
			time.Sleep(20 * time.Minute)
			for _, c := range n.custodians() {
				err := filepath.WalkDir(c.copyOf(n), func(path string, d os.DirEntry, err error) error {
					if err != nil || d.IsDir() {
						return err
					}
					if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, []byte("stolen")) {
						return fmt.Errorf("%s holds it: %w", path, err)
					}
					return nil
				})
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
				}
			}
			r.unharmed(n)
		})
	})
}

// A custodian is taken away with its copies, and later the owner too.
func TestDeletedCustodian(t *testing.T) {
	simulated(t, func(t *testing.T, r *region) {
		n := r.nodes[0]
		size := n.record(300)
		n.await(size)
		time.Sleep(10 * time.Minute)
		lost := n.custodians()[0]
		lost.leave(true)
		must(t, os.RemoveAll(lost.copyOf(n)))
		time.Sleep(20 * time.Minute)
		n.down()
		whole := 0
		for _, c := range r.nodes {
			dir := trail.EpochDir(filepath.Join(c.copyOf(n), "trail"), 1)
			rep, err := trail.Verify(t.Context(), dir, trail.Options{VerifierKey: n.vkey(), Node: n.id})
			if err == nil && rep.Good() && rep.Size >= size {
				whole++
			}
		}
		if whole < 3 {
			t.Errorf("%d whole copies of a node that is gone", whole)
		}
		lost.leave(false)
		n.up()
		r.unharmed(nil)
	})
}

// Whichever bit of whichever byte of a case file is flipped, it is refused.
func TestFlippedBit(t *testing.T) {
	var b []byte
	var trust casefile.Trust
	simulated(t, func(t *testing.T, r *region) {
		n := r.nodes[0]
		event := n.denied()
		var c casefile.Case
		c, trust = collected(t, n, event)
		var err error
		b, err = casefile.Write(c)
		must(t, err)
		r.unharmed(nil)
	})
	good := func(b []byte) bool {
		r, err := casefile.Verify(b, trust)
		return err == nil && r.Good()
	}
	if !good(b) {
		t.Fatal("the file is not good as it was written")
	}
	t.Run("as it is", func(t *testing.T) {
		for bit := range 8 * len(b) {
			b[bit/8] ^= 1 << (bit % 8)
			if good(b) {
				t.Fatalf("bit %d of byte %d of %d flipped, and still good", bit%8, bit/8, len(b))
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
		for _, cut := range [][]byte{nil, b[:len(b)-1], append([]byte{0}, b...), append(bytes.Clone(b), 0)} {
			if _, err := casefile.Verify(cut, trust); !errors.Is(err, casefile.ErrContainer) {
				t.Errorf("%d bytes: %v", len(cut), err)
			}
		}
	})
	// The zip's own checksums are made anew with every flip.
	t.Run("with new checksums", func(t *testing.T) {
		for _, e := range spans(t, b) {
			data := b[e.from:e.to]
			was := crc32.ChecksumIEEE(data)
			for i := range data {
				changed := bytes.Clone(b)
				changed[e.from+i] ^= 1 << (i % 8)
				sum := crc32.ChecksumIEEE(changed[e.from:e.to])
				for _, at := range e.sums {
					if binary.LittleEndian.Uint32(changed[at:]) != was {
						t.Fatalf("%s: no checksum at %d", e.name, at)
					}
					binary.LittleEndian.PutUint32(changed[at:], sum)
				}
				if good(changed) {
					t.Fatalf("%s: byte %d changed, and still good", e.name, i)
				}
			}
		}
	})
}

// span is where an entry of a zip is, and where its checksums are.
type span struct {
	name     string
	from, to int
	sums     []int
}

func spans(t *testing.T, b []byte) (out []span) {
	t.Helper()
	le := binary.LittleEndian
	at := 0
	for ; le.Uint32(b[at:]) == 0x04034b50; at = out[len(out)-1].to {
		name := at + 30
		from := name + int(le.Uint16(b[at+26:]))
		out = append(out, span{string(b[name:from]), from, from + int(le.Uint32(b[at+18:])), []int{at + 14}})
	}
	for i := range out {
		if le.Uint32(b[at:]) != 0x02014b50 {
			t.Fatal("not as many entries in the directory")
		}
		out[i].sums = append(out[i].sums, at+16)
		at += 46 + int(le.Uint16(b[at+28:]))
	}
	if !slices.ContainsFunc(out, func(s span) bool { return strings.HasSuffix(s.name, ".tlog-proof") }) {
		t.Fatal("no proof in it")
	}
	return out
}
