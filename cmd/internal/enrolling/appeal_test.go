package enrolling

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// A node without a TPM, whose token is spent and whose SVIDs are of no use, is heard all the same, by
// the key of its feed; after a restart too. It says so of itself, and gets nothing for it.
func TestAppealWithoutATPM(t *testing.T) {
	r := newTestRegion(t, nil, tokenAgent(t))
	dir := t.TempDir()
	c := r.config(filepath.Join(dir, "state"))
	st := openStore(t, filepath.Join(dir, "state.db"))
	creds := r.start(c, st)
	r.must(creds.renew(t.Context()))
	epoch := creds.Now().InUse
	if err := creds.Appeal(t.Context(), "just in case"); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("in good standing: %v", err)
	}
	r.shut.Store(true)
	for name, creds := range map[string]*Credentials{"running": creds, "restarted": r.start(c, st)} {
		if err := creds.Appeal(t.Context(), "the program is mended"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, want := <-r.heard, (issuer.Appeal{Node: nodeN1, Note: "the program is mended", Epoch: epoch}); got != want || epoch == 0 {
			t.Errorf("%s: heard %+v, want %+v", name, got, want)
		}
	}
}
