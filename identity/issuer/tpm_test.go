package issuer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// A machine with a (software) TPM, all the way over the real wire.
func TestTPM(t *testing.T) {
	dir := t.TempDir()
	factory, err := maker.NewCA(filepath.Join(dir, "maker"))
	if err != nil {
		t.Fatal(err)
	}
	chip, err := factory.Manufacture(t.Context(), filepath.Join(dir, "tpm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chip.Stop() })
	device, err := tpm.Open(chip.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	keys, err := tpm.OpenKeys(device, dir)
	if err != nil {
		t.Fatal(err)
	}
	bootLog, err := os.ReadFile(chip.BootLog())
	if err != nil {
		t.Fatal(err)
	}
	feed := newKey(t)
	by := spire.TPM{Keys: keys, FeedKey: pkix(t, &feed.PublicKey), BootLog: bootLog}
	hash := keys.EKHash()
	agent := id("/spire/agent/bailiwick_tpm/" + hex.EncodeToString(hash[:]))

	var say atomic.Pointer[error]
	var claims atomic.Pointer[tpm.Claims]
	r := newRegion(t, func(c *issuer.Config) {
		c.Attestors = []issuer.Attestor{issuer.TPM{
			Verifier: &tpm.Verifier{Roots: factory.Roots()},
			Appraise: func(_ context.Context, c tpm.Claims) (issuer.Record, error) {
				claims.Store(&c)
				if err := say.Load(); err != nil {
					return nil, *err
				}
				return nil, nil
			},
		}}
		c.Entries = []issuer.Entry{{SPIFFEID: n1, ParentID: agent, Class: "gateway"}}
	})
	a, err := spire.Attest(t.Context(), r.cfg, by, keys.Node())
	if err != nil {
		t.Fatal(err)
	}
	if a.SVID.ID != agent || !a.Reattest || claims.Load().EKHash != hash {
		t.Fatalf("agent %s, want %s", a.SVID.ID, agent)
	}
	c := r.dial(a) // its TLS handshake is signed in the TPM
	results, err := c.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: r.entry(c, n1).ID, ID: n1, Key: keys.Node()}})
	if err != nil || results[0].Err != nil {
		t.Fatal(results, err)
	}
	en, err := c.Enrol(t.Context(), nil, 0, nil, 0)
	if err != nil || en.Node != n1 || en.Class != "gateway" {
		t.Fatal(en, err)
	}
	cert, err := epoch.Verify(en.Epoch, []*x509.Certificate{r.root.Certificate()}, east, time.Now())
	if err != nil || !cert.Key.Equal(&feed.PublicKey) {
		t.Errorf("epoch certificate: %v", err)
	}
	e, err := endorse.Verify(en.Endorsement, &r.authority.PublicKey, east, time.Now())
	if err != nil || e.EKHash != hash || e.AK == nil || e.AK.Equal(keys.Node().Public().(*ecdsa.PublicKey)) || len(e.TrailKey) != 32 {
		t.Errorf("endorsement %+v, %v", e, err)
	}

	// Refusals: by policy and by a check, each by name.
	no := errors.New("rule dev.kernel: unknown kernel")
	say.Store(&no)
	if _, err := spire.Attest(t.Context(), r.cfg, by, keys.Node()); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "dev.kernel") {
		t.Errorf("policy's no: %v", err)
	}
	say.Store(nil)
	if err := device.Extend(8, [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, by, keys.Node()); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "check") {
		t.Errorf("a PCR that the boot log does not explain: %v", err)
	} else {
		t.Log(err)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, by, newKey(t)); err == nil {
		t.Error("a CSR for a key outside the TPM")
	}
	if got := r.leaves(); got["issuer.attest true"] != 1 || got["issuer.attest false"] < 2 {
		t.Errorf("trail: %v", got)
	}
}

// Evidence of one channel is of no use on another: a machine in the middle that
// speaks TLS to both sides gets nothing, though it passes on every byte.
func TestRelayedEvidence(t *testing.T) {
	r := newRegion(t, nil)
	_, err := spire.Attest(t.Context(), r.cfg, otherChannel{r.machine}, r.machine.key)
	if !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "quote-nonce") {
		t.Errorf("evidence bound to another channel: %v", err)
	}
}

type otherChannel struct{ *fakeMachine }

func (o otherChannel) Begin(ctx context.Context) ([]byte, func(spire.Question) ([]byte, error), error) {
	payload, answer, err := o.fakeMachine.Begin(ctx)
	return payload, func(q spire.Question) ([]byte, error) {
		q.Exporter = make([]byte, len(q.Exporter))
		return answer(q)
	}, err
}
