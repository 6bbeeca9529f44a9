package trail

import (
	"crypto"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// act is a change of state that must not be without its leaf.
func act(s *store.Store, kind Kind, key string) error {
	return s.Update(func(tx *store.Tx) error {
		return errors.Join(Append(tx, kind, map[string]string{"key": key}), tx.Put("acts", []byte(key), []byte("done")))
	})
}

func done(t *testing.T, s *store.Store, key string) (is bool) {
	t.Helper()
	if err := s.View(func(tx *store.Tx) error { is = tx.Get("acts", []byte(key)) != nil; return nil }); err != nil {
		t.Fatal(err)
	}
	return is
}

// While the key does not sign, the outbox fills: first what may be counted is only
// counted, then what must be recorded does not happen. All of it is told afterwards,
// also of what a crash came between.
func TestBacklog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tr := b.open()
	b.key.fail(errors.New("TPM_RC_FAILURE"))
	b.put(0, MaxWaiting/2)
	waiting := func() int {
		n, err := b.s.Pending()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range 3 {
		if err := act(b.s, DecisionDeny, "denied"); err != nil {
			t.Fatalf("a denial that can be counted: %v", err)
		}
	}
	if err := b.s.Update(func(tx *store.Tx) error { return AppendGap(tx, 40, "a segment was removed") }); err != nil {
		t.Fatal(err)
	}
	if n := waiting(); n != MaxWaiting/2 || !done(t, b.s, "denied") {
		t.Fatalf("%d leaves wait", n)
	}
	if err := act(b.s, AdminAction, "repair"); err != nil || waiting() != MaxWaiting/2+1 {
		t.Fatalf("no room is left for what must be recorded: %v", err)
	}
	b.put(MaxWaiting/2, MaxWaiting/2-1)
	if err := act(b.s, AdminAction, "late"); !errors.Is(err, ErrBacklog) || done(t, b.s, "late") {
		t.Fatalf("an act behind a full outbox: %v, done %t", err, done(t, b.s, "late"))
	}
	if err := act(b.s, PeerStanding, "held"); err != nil || !done(t, b.s, "held") {
		t.Fatalf("containment behind a full outbox: %v", err)
	}

	// The next epoch may begin on an outbox that is full: its trail is what empties it.
	_ = tr.Close()
	_ = b.s.Close()
	b.openStore()
	b.key.fail(nil)
	b.cfg.Epoch = 2
	tr = b.open()
	r := b.wantGood(2 + MaxWaiting + 3)
	if r.Lost != 44 || r.Kinds["gap"] != 3 || r.Kinds["admin.action"] != 1 {
		t.Errorf("lost %d, kinds %v", r.Lost, r.Kinds)
	}
	if err := act(b.s, AdminAction, "late"); err != nil || waiting() != 1 {
		t.Errorf("with room again: %v", err)
	}
	b.flush(tr)
	b.wantGood(2 + MaxWaiting + 4)
}

func TestReasonsOfABacklogAreBounded(t *testing.T) {
	b := newBench(t)
	if err := b.s.Update(func(tx *store.Tx) error {
		for i := range 3 * maxReasons {
			if err := owe(tx, 2, strings.Repeat("x", i+1)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	b.close(b.open())
	if r := b.wantGood(2 + maxReasons + 1); r.Lost != 6*maxReasons {
		t.Errorf("lost %d", r.Lost)
	}
}

// The disk of the store is full: nothing happens that is not recorded, and the trail
// on its other disk tells of what had to happen all the same.
func TestStoreDiskFull(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_ = b.s.Close()
	commits := 0
	s, err := store.OpenFaulty(filepath.Join(b.dir, "store"), func(int) store.Fault {
		if commits++; commits > 3 { // two of the trail's beginning, and one act
			return store.FaultBefore
		}
		return store.NoFault
	})
	if err != nil {
		t.Fatal(err)
	}
	b.s, b.cfg.Store = s, s
	tr := b.open()
	if err := act(s, AdminAction, "first"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := act(s, AdminAction, "second"); err == nil || done(t, s, "second") {
			t.Fatalf("an act that is not recorded: %v", err)
		}
	}
	if err := act(s, PeerStanding, "held"); err == nil {
		t.Fatal("a broken store takes leaves")
	}
	tr.Gap(1, "containment could not be recorded")
	if err := tr.Flush(t.Context()); !errors.Is(err, store.ErrBroken) {
		t.Errorf("flush: %v", err)
	}
	r := b.wantGood(4)
	if r.Lost != 1 {
		t.Errorf("lost %d: the gap waits for a store that is broken", r.Lost)
	}
	_ = tr.Close()
	_ = s.Close()
	b.openStore()
	b.close(b.open())
	if r := b.wantGood(4); r.Kinds["admin.action"] != 1 {
		t.Errorf("kinds %v", r.Kinds)
	}
}

// A store on a disk that is really full, and then has room again.
func TestStoreOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("TestStoreDiskFull stands for it: only root may mount a small disk")
		return
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatalf("mount a tmpfs of 3m: %v; run the tests as root with CAP_SYS_ADMIN, or as another user", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	var acted int
	for err == nil && acted < 100_000 {
		if err = act(s, AdminAction, strings.Repeat("k", 1000)+string(rune('a'+acted%26))+time.Duration(acted).String()); err == nil {
			acted++
		}
	}
	if !errors.Is(err, store.ErrFull) || acted == 0 {
		t.Fatalf("after %d acts: %v", acted, err)
	}
	if err := act(s, AdminAction, "more"); !errors.Is(err, store.ErrFull) || done(t, s, "more") {
		t.Errorf("after that: %v", err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if err := act(s, AdminAction, "with room"); err != nil {
		t.Errorf("with room again: %v", err)
	}
	acted++
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = store.Open(filepath.Join(dir, "store")); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	acts, leaves := 0, 0
	if err := s.View(func(tx *store.Tx) error {
		tx.Range("acts", nil, func([]byte, []byte) bool { acts++; return true })
		leaves = int(tx.Waiting())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if acts != acted || acts != leaves {
		t.Errorf("%d acts acknowledged, %d found with %d leaves", acted, acts, leaves)
	}
}

// On a slow disk each act waits for its own leaf, and nobody hears of one that is not on disk.
func TestSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slow = 3 * time.Second
		path := filepath.Join(t.TempDir(), "store")
		s, err := store.OpenFaulty(path, func(int) store.Fault { time.Sleep(slow); return store.NoFault })
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		began := time.Now()
		heard := make(chan error, 1)
		go func() { heard <- act(s, AdminAction, "slow") }()
		time.Sleep(slow - time.Millisecond)
		synctest.Wait()
		select {
		case err := <-heard:
			t.Fatalf("acknowledged after %s, %v", time.Since(began), err)
		default:
		}
		if n, _ := s.Pending(); n != 0 || done(t, s, "slow") {
			t.Errorf("%d leaves and the act are seen before they are durable", n)
		}
		if err := <-heard; err != nil || !done(t, s, "slow") || time.Since(began) < slow {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// slowKey waits at each signature, as a TPM under load does.
type slowKey struct {
	crypto.Signer
	takes atomic.Int64
}

func (k *slowKey) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	time.Sleep(time.Duration(k.takes.Load()))
	return k.Signer.Sign(r, digest, o)
}

// A trail key that takes its time delays heads and no act: the outbox is what an act waits for.
func TestSlowKeyDelaysHeadsOnly(t *testing.T) {
	key := &slowKey{Signer: newKey(t)}
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s, err := store.Open(filepath.Join(dir, "store"))
		if err != nil {
			t.Fatal(err)
		}
		tr, err := Open(Config{Dir: dir, Node: testNode, Epoch: 1, Key: key, Store: s})
		if err != nil {
			t.Fatal(err)
		}
		key.takes.Store(int64(30 * time.Second))
		for range 100 {
			began := time.Now()
			if err := act(s, AdminAction, "quick"); err != nil || time.Since(began) != 0 {
				t.Fatalf("an act took %s, %v", time.Since(began), err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if h := tr.Head(); h.Size != 2 {
			t.Errorf("a head of %d before the key signed", h.Size)
		}
		key.takes.Store(0)
		time.Sleep(time.Minute)
		synctest.Wait()
		if h := tr.Head(); h.Size != 102 || tr.Err() != nil {
			t.Errorf("head of %d, %v", h.Size, tr.Err())
		}
		if err := errors.Join(tr.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
}
