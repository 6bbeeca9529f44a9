package app

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// What a quarantined node has to say is on record once, shown with its case until that is decided,
// and outlives a restart.
func TestAppealsAreKeptAndShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	st := openStore(t, path)
	since := time.Now().UTC().Truncate(time.Second)
	status := quarantine.Status{Standing: quarantine.Quarantined, Since: since}
	of := func(spiffeid.ID) quarantine.Status { return status }
	a := appeals{st, of}
	ap := quarantine.Appeal{Accused: liar, Note: "a copy ran", At: since, EKHash: [32]byte{7}, Starts: 5, By: other}
	for range 2 { // the second says the same again
		if err := a.take(ap); err != nil {
			t.Fatal(err)
		}
	}
	louder := ap
	louder.Note, louder.At = "A COPY RAN", since.Add(time.Second)
	if err := a.take(louder); !errors.Is(err, quarantine.ErrAppeal) {
		t.Errorf("again at once: %v", err)
	}
	leaves, err := st.Outbox(0, 10)
	if err != nil || len(leaves) != 1 || leaves[0].Kind != trail.PeerAppeal.Name() {
		t.Errorf("leaves %+v, %v; want one appeal", leaves, err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	a = appeals{openStore(t, path), of}
	c := quarantine.Case{Accused: liar, Status: status}
	var m controlv1.Case
	a.show(c, &m)
	if story := strings.Join(a.story(c), "; "); m.Appeal != "a copy ran" || !m.Appealed.AsTime().Equal(since) || !strings.Contains(story, `"a copy ran"; with a fresh quote of machine 0700000000000000 (`) {
		t.Errorf("shown as %v, %q", &m, story)
	}
	soft := quarantine.Appeal{Accused: liar, Note: "no TPM", At: since.Add(time.Hour), Epoch: 3, By: other}
	if err := a.take(soft); err != nil {
		t.Fatal(err)
	}
	m = controlv1.Case{}
	a.show(c, &m)
	if story := strings.Join(a.story(c), "; "); !m.AppealUnattested || !strings.Contains(story, "unattested: it has no TPM, and signed with the key of epoch 3") || strings.Contains(story, "quote") {
		t.Errorf("without a TPM shown as %v, %q", &m, story)
	}
	c.Status.Standing = quarantine.Released
	if len(a.story(c)) != 0 || !a.pending(c).Accused.IsZero() {
		t.Error("still waits, though it is decided")
	}
}
