package payload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// together seals for n subjects at once, after all of them asked for a key.
func together(k *Keys, n int) (boxes []Box, errs []error) {
	boxes, errs = make([]Box, n), make([]error, n)
	var wg sync.WaitGroup
	k.files.Lock()
	for i := range n {
		wg.Go(func() {
			boxes[i], errs[i] = k.Seal(Scope{Subject: fmt.Sprint("uid:", i/2)}, noon.Add(time.Duration(i/2%2)*24*time.Hour), fmt.Sprint(i), []byte(fmt.Sprint(i)))
		})
	}
	for waiting := 0; waiting < n/2; runtime.Gosched() {
		k.mu.Lock()
		waiting = len(k.fresh)
		k.mu.Unlock()
	}
	k.files.Unlock()
	wg.Wait()
	return boxes, errs
}

// Who comes first while a file is written waits for one sync with the others, and two of one scope for one key.
func TestFirstKeysShareASync(t *testing.T) {
	dir, s := t.TempDir(), openStore(t, filepath.Join(t.TempDir(), "db"))
	k := openKeys(t, dir, s)
	appends := 0
	k.steps = func(string) error { appends++; return nil }
	const n = 64
	boxes, errs := together(k, n)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if appends != 2 {
		t.Errorf("%d appends for two days, want 2", appends)
	}
	if len(k.fresh) != 0 || k.serial != n/2 {
		t.Errorf("%d keys still fresh, newest is %d, want %d", len(k.fresh), k.serial, n/2)
	}
	again := openKeys(t, dir, s)
	for i, b := range boxes {
		if b.Key != boxes[i&^1].Key {
			t.Errorf("%d: keys %s and %s in one scope and day", i, b.Key, boxes[i&^1].Key)
		}
		if got, err := again.Open(b, fmt.Sprint(i)); err != nil || string(got) != fmt.Sprint(i) {
			t.Errorf("%d: %q, %v", i, got, err)
		}
	}
	seen := map[uint64]bool{}
	for _, d := range again.days {
		for _, one := range d.list {
			seen[one.Serial] = true
		}
	}
	if len(seen) != n/2 {
		t.Errorf("%d serial numbers, want %d", len(seen), n/2)
	}
}

// Nobody seals under a key that did not reach the disk, and the next who asks tries again.
func TestFirstKeysFailTogether(t *testing.T) {
	dir := t.TempDir()
	k := openKeys(t, dir, openStore(t, filepath.Join(t.TempDir(), "db")))
	full := errors.New("no space")
	k.steps = func(string) error { return full }
	_, errs := together(k, 8)
	for i, err := range errs {
		if !errors.Is(err, full) {
			t.Errorf("%d: %v, want %v", i, err, full)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 || len(k.days) != 0 || len(k.fresh) != 0 {
		t.Errorf("left: %v, %v, %d days, %d fresh", files, err, len(k.days), len(k.fresh))
	}
	k.steps = nil
	if _, err := k.Seal(Scope{Subject: "uid:1"}, noon, "1", []byte("1")); err != nil {
		t.Error(err)
	}
}
