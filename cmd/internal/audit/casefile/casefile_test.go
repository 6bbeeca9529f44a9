package casefile_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
)

var (
	node    = spiffeid.RequireFromString("spiffe://east.dev.example/node/n1")
	accused = "spiffe://east.dev.example/node/n2"
	digest  = strings.Repeat("ab", 32)
)

// kept makes a node's trail with a few leaves and returns its folder and the key that
// verifies it.
func kept(t testing.TB, id spiffeid.ID) (dir, vkey string) {
	t.Helper()
	state := t.TempDir()
	st, err := store.Open(filepath.Join(state, "state.db"))
	must(t, err)
	defer st.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	dir = filepath.Join(state, "trail")
	tr, err := trail.Open(trail.Config{Dir: dir, Node: id, Epoch: 1, Key: key, Store: st, Every: time.Hour})
	must(t, err)
	must(t, st.Update(func(tx *store.Tx) error {
		for _, l := range []struct {
			kind trail.Kind
			body map[string]any
		}{
			{trail.PolicyActivate, map[string]any{"revision": "global@1#00"}},
			{trail.StateOut, map[string]any{"epoch": 1, "seq": 1, "ops": 1, "record": bytes.Repeat([]byte{1}, 32)}},
			{trail.PeerFinding, map[string]any{"accused": accused, "class": "equivocation", "digest": bytes.Repeat([]byte{0xab}, 32), "epoch": 1, "carried_by": ""}},
			{trail.PeerStanding, map[string]any{"id": accused, "from": "ok", "to": "quarantined", "reason": "<script>alert(1)</script>"}},
			{trail.StateOut, map[string]any{"epoch": 1, "seq": 2, "ops": 1, "record": bytes.Repeat([]byte{2}, 32)}},
			{trail.PeerRelease, map[string]any{"release": accused, "epoch": 2, "reason": "a new disk"}},
		} {
			if err := trail.Append(tx, l.kind, l.body); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, tr.Flush(t.Context()))
	vkey = tr.VerifierKey()
	must(t, tr.Close())
	return dir, vkey
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func origin(id spiffeid.ID) string {
	o, _ := trail.Origin(id, 1)
	return o
}

func made(t testing.TB, q casefile.Question, dirs ...string) []byte {
	t.Helper()
	c, err := audit.Collect(t.Context(), dirs, q)
	must(t, err)
	c.Manifest.MadeAt, c.Manifest.MadeBy = time.Unix(1_795_262_400, 0).UTC(), "test"
	b, err := casefile.Write(c)
	must(t, err)
	return b
}

func believing(known ...casefile.Known) casefile.Trust { return casefile.Trust{Trails: known} }

// A case file holds what its question is about, and verifies with the trust file alone.
func TestCase(t *testing.T) {
	t.Parallel()
	dir, vkey := kept(t, node)
	trust := believing(casefile.Known{Origin: origin(node), Verifier: vkey})
	b := made(t, casefile.Question{Case: digest[:12]}, dir)
	r, err := casefile.Verify(b, trust)
	must(t, err)
	var kinds []string
	for _, f := range r.Facts {
		kinds = append(kinds, f.Kind)
	}
	if got, want := strings.Join(kinds, " "), "genesis policy.activate peer.finding peer.standing peer.release"; !r.Good() || got != want {
		t.Errorf("%s\n%+v", got, r)
	}
	c, err := casefile.Read(b)
	must(t, err)
	html, err := casefile.Page(c)
	must(t, err)
	for _, want := range []string{"went from ok to quarantined", "&lt;script&gt;"} {
		if !bytes.Contains(html, []byte(want)) {
			t.Errorf("the report lacks %q", want)
		}
	}
	for _, never := range []string{"<script", "http://", "https://", "src="} {
		if bytes.Contains(html, []byte(never)) {
			t.Errorf("the report has %q", never)
		}
	}

	r, err = casefile.Verify(made(t, casefile.Question{Subject: accused}, dir), trust)
	must(t, err)
	if !r.Good() || !strings.Contains(r.Completeness.Why, "chosen") {
		t.Errorf("%+v", r)
	}
	if _, err := audit.Collect(t.Context(), []string{dir}, casefile.Question{Subject: "spiffe://east.dev.example/node/nobody"}); !errors.Is(err, audit.ErrNoLeaf) {
		t.Errorf("nobody: %v", err)
	}
}

// A span shows that nothing in it is missing, and that something is.
func TestSpan(t *testing.T) {
	t.Parallel()
	dir, vkey := kept(t, node)
	trust := believing(casefile.Known{Origin: origin(node), Verifier: vkey})
	now := time.Now()
	for name, q := range map[string]casefile.Question{
		"all":    {From: now.Add(-time.Hour), To: now.Add(time.Hour)},
		"before": {From: now.Add(-2 * time.Hour), To: now.Add(-time.Hour)},
		"after":  {From: now.Add(time.Hour), To: now.Add(2 * time.Hour)},
	} {
		r, err := casefile.Verify(made(t, q, dir), trust)
		must(t, err)
		if !r.Good() {
			t.Errorf("%s: %s, %s", name, r.Integrity, r.Completeness)
		}
	}
	c, err := audit.Collect(t.Context(), []string{dir}, casefile.Question{From: now.Add(-time.Hour), To: now.Add(time.Hour)})
	must(t, err)
	for i := 1; i < len(c.Leaves[0]); i++ {
		less := c
		less.Leaves = [][]casefile.Leaf{append(append([]casefile.Leaf{}, c.Leaves[0][:i]...), c.Leaves[0][i+1:]...)}
		b, err := casefile.Write(less)
		must(t, err)
		r, err := casefile.Verify(b, trust)
		must(t, err)
		if r.Good() || !errors.Is(r.Completeness.Err, casefile.ErrMissing) {
			t.Errorf("without leaf %d: %+v", i, r.Completeness)
		}
	}
}

// Nothing counts because it is in the case file.
func TestWhatIsNotBelieved(t *testing.T) {
	t.Parallel()
	dir, vkey := kept(t, node)
	other, otherKey := kept(t, node) // another history of the same trail
	q := casefile.Question{Case: digest[:12]}
	b := made(t, q, dir)
	head := func(dir string) string {
		s, err := trail.OpenSnapshot(trail.EpochDir(dir, 1))
		must(t, err)
		return string(s.Head().Raw)
	}
	for name, tt := range map[string]struct {
		trust casefile.Trust
		want  error
	}{
		"nobody is trusted": {casefile.Trust{}, casefile.ErrKey},
		"another key":       {believing(casefile.Known{Origin: origin(node), Verifier: otherKey}), casefile.ErrKey},
		"the same head":     {believing(casefile.Known{Origin: origin(node), Verifier: vkey, Head: head(dir)}), nil},
		"a foreign head":    {believing(casefile.Known{Origin: origin(node), Verifier: vkey, Head: head(other)}), casefile.ErrFork},
	} {
		r, err := casefile.Verify(b, tt.trust)
		must(t, err)
		if !errors.Is(r.Integrity.Err, tt.want) || r.Good() != (tt.want == nil) {
			t.Errorf("%s: %v", name, r.Integrity)
		}
	}

	c, err := casefile.Read(b)
	must(t, err)
	trust := believing(casefile.Known{Origin: origin(node), Verifier: vkey})
	event := []byte(`{"decision_id":"00000000000000000000000000000001","path":"bailiwick/connect","result":{"allow":false,"rule":"x","reason":"x","revision":""},"timestamp":"2026-11-21T12:00:00Z"}`)
	for name, change := range map[string]func(*casefile.Case){
		"a decision that no leaf names": func(c *casefile.Case) { c.Decisions = [][]byte{event} },
		"a proof that no leaf names":    func(c *casefile.Case) { c.Evidence = [][]byte{[]byte("proof")} },
	} {
		added := c
		change(&added)
		b, err := casefile.Write(added)
		must(t, err)
		if r, err := casefile.Verify(b, trust); err != nil || r.Good() {
			t.Errorf("%s: %v, %v", name, r.Integrity, err)
		}
	}
	mixed := c
	mixed.Leaves = [][]casefile.Leaf{append([]casefile.Leaf{c.Leaves[0][0]}, casefile.Leaf{Index: 9, Raw: c.Leaves[0][1].Raw, Proof: c.Leaves[0][1].Proof})}
	if b, err := casefile.Write(mixed); err == nil {
		if r, err := casefile.Verify(b, trust); err != nil || !errors.Is(r.Integrity.Err, casefile.ErrEntry) {
			t.Errorf("a leaf under another number: %v, %v", r.Integrity, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	dir, vkey := kept(f, node)
	trust := believing(casefile.Known{Origin: origin(node), Verifier: vkey})
	b := made(f, casefile.Question{Case: digest[:12]}, dir)
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		if r, err := casefile.Verify(in, trust); err == nil && r.Good() && !bytes.Equal(in, b) {
			t.Error("another file is good")
		}
	})
}

func FuzzParseTrust(f *testing.F) {
	_, vkey := kept(f, node)
	t := believing(casefile.Known{Origin: origin(node), Verifier: vkey})
	b, err := t.Encode()
	must(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := casefile.ParseTrust(in)
		if err != nil {
			return
		}
		b, err := got.Encode()
		must(t, err)
		if _, err := casefile.ParseTrust(b); err != nil {
			t.Errorf("%s: %v", b, err)
		}
	})
}
