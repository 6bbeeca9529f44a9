package trail

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

// chipBench is a node whose trail key is in a software TPM that runs.
type chipBench struct {
	*bench
	ca   *maker.CA
	home string
	chip *maker.SoftTPM
}

func newChipBench(t *testing.T) *chipBench {
	home, err := os.MkdirTemp("", "bw") // short: a socket goes there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	b := &chipBench{bench: newBench(t), home: home}
	if b.ca, err = maker.NewCA(filepath.Join(b.dir, "maker")); err != nil {
		t.Fatal(err)
	}
	b.powerUp()
	device, err := tpm.Open(b.chip.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	keys, err := tpm.OpenKeys(device, filepath.Join(b.dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	b.cfg.Key, b.cfg.Protection = keys.Trail(), "tpm"
	return b
}

func (b *chipBench) powerUp() {
	b.Helper()
	var err error
	if b.chip, err = b.ca.Manufacture(context.Background(), b.home); err != nil {
		b.Fatal(err)
	}
	chip := b.chip
	b.Cleanup(func() { _ = chip.Stop() })
}

func (b *chipBench) signal(s syscall.Signal) {
	b.Helper()
	if err := syscall.Kill(b.chip.PID(), s); err != nil {
		b.Fatal(err)
	}
}

// The TPM that signs the heads dies: what was signed stays good, what is new waits; when too much
// waits, events of gapped kinds happen and are counted, and those of closed kinds do not happen. With
// the TPM back, the trail goes on under the same key by itself and tells how many were counted.
func TestTPMDies(t *testing.T) {
	t.Parallel()
	b := newChipBench(t)
	tr := b.open()
	b.put(0, 1)
	b.flush(tr)
	b.signal(syscall.SIGKILL)

	if err := act(b.s, AdminAction, "soon after"); err != nil {
		t.Fatalf("the outbox has room: %v", err)
	}
	if err := tr.Flush(t.Context()); !errors.Is(err, ErrSigner) || !errors.Is(err, tpm.ErrDevice) || !errors.Is(tr.Err(), ErrSigner) {
		t.Fatalf("a head without a TPM: %v, then %v", err, tr.Err())
	}
	if r := b.verify(); !r.Integrity.Good || tr.Head().Size != 3 {
		t.Errorf("what was signed: %v, a head of %d", r.Integrity, tr.Head().Size)
	}
	b.put(1, MaxWaiting/2-1)
	for range 5 {
		if err := errors.Join(act(b.s, DecisionDeny, "denied"), act(b.s, PeerStanding, "held")); err != nil {
			t.Fatalf("what happens without its leaf: %v", err)
		}
	}
	b.put(MaxWaiting/2, MaxWaiting/2)
	if err := act(b.s, AdminAction, "late"); !errors.Is(err, ErrBacklog) || done(t, b.s, "late") {
		t.Fatalf("what cannot be recorded: %v, done %t", err, done(t, b.s, "late"))
	}
	if err := act(b.s, DecisionAllow, "admitted"); !errors.Is(err, ErrBacklog) || done(t, b.s, "admitted") {
		t.Fatalf("an allow that cannot be recorded: %v", err)
	}
	if err := act(b.s, PeerStanding, "quarantined"); err != nil || !done(t, b.s, "quarantined") {
		t.Fatalf("containment: %v", err)
	}
	if err := tr.Flush(t.Context()); !errors.Is(err, ErrSigner) {
		t.Errorf("still without a TPM: %v", err)
	}

	b.powerUp()
	b.flush(tr)
	if tr.Err() != nil {
		t.Errorf("with its TPM: %v", tr.Err())
	}
	r := b.wantGood(3 + 1 + MaxWaiting - 1 + 2)
	if r.Lost != 11 || r.Kinds["gap"] != 2 || r.Kinds["admin.action"] != 1 || r.Protection != "tpm" {
		t.Errorf("lost %d, kinds %v, key kept in %s", r.Lost, r.Kinds, r.Protection)
	}
	if err := act(b.s, AdminAction, "late"); err != nil || !done(t, b.s, "late") {
		t.Errorf("with room again: %v", err)
	}
}

// A TPM that does not answer delays heads; an act waits for the outbox only.
func TestTPMHangs(t *testing.T) {
	t.Parallel()
	b := newChipBench(t)
	tr := b.open()
	b.signal(syscall.SIGSTOP)
	flushed := make(chan error, 1)
	b.put(0, 1)
	go func() { flushed <- tr.Flush(context.Background()) }()
	for i := range 100 {
		if err := b.s.Update(func(tx *store.Tx) error { return Append(tx, AdminAction, map[string]int{"i": i}) }); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := b.s.Pending(); err != nil || n != 101 || tr.Head().Size != 2 {
		t.Errorf("%d leaves wait, %v, behind a head of %d", n, err, tr.Head().Size)
	}
	select {
	case err := <-flushed:
		t.Errorf("a head came without the TPM, or gave up: %v", err)
	default:
	}
	b.signal(syscall.SIGCONT)
	select {
	case err := <-flushed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("no head since the TPM goes on")
	}
	b.flush(tr)
	if r := b.wantGood(2 + 101); r.Lost != 0 {
		t.Errorf("lost %d", r.Lost)
	}
}
