package trail

import (
	"bufio"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// victimEnv makes the test binary the process that TestSIGKILL kills.
const victimEnv = "BAILIWICK_TEST_TRAIL_VICTIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		fmt.Fprintln(os.Stderr, victim(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// victim writes leaves from several goroutines and prints each number that the
// store acknowledged, until it is killed.
func victim(dir string) error {
	der, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		return err
	}
	k, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return err
	}
	s, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	tr, err := Open(Config{Dir: filepath.Join(dir, "trail"), Node: testNode, Epoch: 1, Key: k, Store: s, Every: 300 * time.Microsecond})
	if err != nil {
		return err
	}
	round, err := strconv.ParseUint(os.Getenv(victimEnv+"_ROUND"), 10, 64)
	if err != nil {
		return err
	}
	var writers sync.WaitGroup
	for w := range uint64(4) {
		writers.Go(func() {
			for i := uint64(0); ; i++ {
				n := round<<40 | w<<32 | i
				if err := s.Update(func(tx *store.Tx) error { return Append(tx, StateOut, map[string]uint64{"n": n}) }); err != nil {
					fmt.Println("failed:", err)
					return
				}
				fmt.Println(n)
			}
		})
	}
	writers.Wait()
	return tr.Close()
}

// Sixty kills at random moments: every acknowledged leaf is there, once.
func TestSIGKILL(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_ = b.s.Close()
	der, err := x509.MarshalECPrivateKey(b.key.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "key"), der, 0o600); err != nil {
		t.Fatal(err)
	}
	acked := map[uint64]bool{}
	for round := range 60 {
		for _, n := range kill(t, b.dir, round, 1+rand.IntN(40)) {
			acked[n] = true
		}
	}
	b.openStore()
	b.close(b.open())
	r := b.verify()
	if !r.Good() || r.Lost != 0 {
		t.Fatalf("integrity %v, completeness %v, lost %d", r.Integrity, r.Completeness, r.Lost)
	}
	seen := map[uint64]bool{}
	for _, n := range b.numbers() {
		if seen[n] {
			t.Errorf("leaf %x is there twice", n)
		}
		seen[n] = true
	}
	lost := 0
	for n := range acked {
		if !seen[n] {
			lost++
		}
	}
	if lost > 0 || len(acked) < 60 {
		t.Errorf("%d of %d acknowledged leaves are lost", lost, len(acked))
	}
	t.Logf("%d acknowledged, %d in the trail", len(acked), len(seen))
}

// kill runs the victim until it acknowledged a number of leaves and kills it.
func kill(t *testing.T, dir string, round, after int) (acked []uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), victimEnv+"="+dir, victimEnv+"_ROUND="+strconv.Itoa(round))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer deadline.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		n, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			t.Fatalf("victim says %q", lines.Text())
		}
		// What it printed before it died counts, also after the kill.
		if acked = append(acked, n); len(acked) == after {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	if len(acked) < after {
		t.Fatalf("round %d: the victim ended early: %s", round, stderr.String())
	}
	return acked
}

// A full disk makes the outbox wait and loses nothing; freed, the trail goes on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	free := fullDisk(t, b)
	tr := b.open()
	n := 0
	var err error
	for ; err == nil && n < 10_000; n += 100 {
		b.put(n, 100)
		err = tr.Flush(t.Context())
	}
	want := error(syscall.ENOSPC)
	if os.Geteuid() != 0 {
		want = os.ErrPermission // see fullDisk
	}
	if !strings.Contains(fmt.Sprint(err), want.Error()) && !errors.Is(err, want) {
		t.Fatalf("after %d leaves: %v, want %v", n, err, want)
	}
	waiting, err := b.s.Pending()
	if err != nil || waiting == 0 {
		t.Fatalf("%d leaves wait, %v", waiting, err)
	}
	if r := b.verify(); !r.Integrity.Good {
		t.Errorf("what is signed stays good: %v", r.Integrity)
	}
	b.put(n, 100)
	n += 100
	if err := tr.Flush(t.Context()); err == nil {
		t.Error("a full disk took more")
	}
	free()
	b.flush(tr)
	b.wantGood(uint64(n) + 2)
	b.wantNumbers(n)
	b.close(tr)
}

// fullDisk puts the trail on a small disk of its own. Only root may mount one;
// for anybody else a folder that turns read-only stands in for it.
func fullDisk(t *testing.T, b *bench) (free func()) {
	t.Helper()
	if err := os.MkdirAll(b.cfg.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := syscall.Mount("tmpfs", b.cfg.Dir, "tmpfs", 0, "size=256k"); err != nil {
			t.Fatalf("mount a tmpfs of 256k: %v; run the tests as root with CAP_SYS_ADMIN, or as another user", err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(b.cfg.Dir, syscall.MNT_DETACH) })
		return func() {
			if err := syscall.Mount("tmpfs", b.cfg.Dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.close(b.open())
	entries := filepath.Join(b.folder(), "tile/entries/000.p")
	if err := os.Chmod(entries, 0o555); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Chmod(entries, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
