package payload

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

const (
	alice = "spiffe://east.example.org/workload/alice"
	bob   = "spiffe://east.example.org/workload/bob"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func openStore(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func openKeys(t *testing.T, dir string, s *store.Store) *Keys {
	t.Helper()
	k, err := Open(dir, s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seals(t *testing.T, k *Keys, s Scope, at time.Time, name, text string) Box {
	t.Helper()
	b, err := k.Seal(s, at, name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func reads(t *testing.T, k interface {
	Open(Box, string) ([]byte, error)
}, b Box, name, want string) {
	t.Helper()
	if got, err := k.Open(b, name); err != nil || string(got) != want {
		t.Errorf("%s: %q, %v; want %q", name, got, err, want)
	}
}

func order(o Order) Order {
	o.By, o.Reason = "uid 0", "request 4711"
	return o
}

func silent(*store.Tx, Order) error { return nil }

// The bytes of version 1 never change: what was sealed must open for as long as its key is kept.
func TestFrozen(t *testing.T) {
	secret, nonce := bytes.Repeat([]byte{1}, keySize), bytes.Repeat([]byte{2}, nonceSize)
	const box = "020202020202020202020202" + frozenBox
	b, _ := hex.DecodeString(box) // the nonce first
	if got, err := unseal(secret, "0123456789abcdef0123456789abcdef", b); err != nil || string(got) != `{"input":{"v":1}}` {
		fresh, _ := seal(secret, nonce, "0123456789abcdef0123456789abcdef", []byte(`{"input":{"v":1}}`))
		t.Errorf("box: %q, %v; sealed now: %x", got, err, fresh)
	}
	if got := Commit(bytes.Repeat([]byte{3}, SaltSize), []byte(`{"v":1}`)); hex.EncodeToString(got[:]) != frozenCommitment {
		t.Errorf("commitment: %x", got)
	}
	k := &key{ID: bytes.Repeat([]byte{4}, idSize), Serial: 5, Secret: secret, Subject: alice, Kind: "replicate", Classes: []string{"customer"}}
	gone := &key{ID: bytes.Repeat([]byte{6}, idSize), Serial: 6, Erased: &Erasure{"00112233445566778899", 1795262400, "uid 0"}}
	var file []byte
	for _, one := range []*key{k, gone} {
		f, err := one.frame()
		if err != nil {
			t.Fatal(err)
		}
		file = append(file, f...)
	}
	if hex.EncodeToString(file) != frozenFile {
		t.Errorf("file: %x", file)
	}
	if list, torn, err := parse(file); err != nil || torn != len(file) || len(list) != 2 || list[0].Subject != alice || list[1].Erased == nil {
		t.Errorf("%v, %d, %v", list, torn, err)
	}
}

const (
	frozenBox        = "07c7c9a7b52ce394bdbcc9bc7e9db990d497ebde96cc8c71dd781ffb78fb747f777f1e376d6fa3ef472e52e99f275c7baa75ded7a75add26cb43b3b263344d8a4bc5c963d33037e66a209203eca213ba"
	frozenCommitment = "910688418ebcc30348b20965ba074cfb91dd126e4c93171bd9a190a3e775ecc9"
	frozenFile       = "0071a601480404040404040404020503582001010101010101010101010101010101010101010101010101010101010101010478287370696666653a2f2f656173742e6578616d706c652e6f72672f776f726b6c6f61642f616c69636505697265706c6963617465068168637573746f6d65728184785f0032a301480606060606060606020607a301743030313132323333343435353636373738383939021a6b0187c00365756964203070e9ef0c"
)

func TestSealAndOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), DirName)
	s := openStore(t, filepath.Join(t.TempDir(), "db"))
	k := openKeys(t, dir, s)
	long := strings.Repeat("what ", 50_000)
	one := seals(t, k, Scope{Subject: alice}, noon, "1", "path /a")
	two := seals(t, k, Scope{Subject: bob}, noon, "2", "path /b")
	again := seals(t, k, Scope{Subject: alice}, noon.Add(11*time.Hour), "3", long)
	next := seals(t, k, Scope{Subject: alice}, noon.Add(12*time.Hour), "4", "")
	if one.Key != again.Key || one.Key == two.Key || one.Key == next.Key {
		t.Errorf("keys %q %q %q %q: one for each scope and day", one.Key, two.Key, again.Key, next.Key)
	}
	for _, o := range []interface {
		Open(Box, string) ([]byte, error)
	}{k, openKeys(t, dir, s), NewReader(dir)} {
		reads(t, o, one, "1", "path /a")
		reads(t, o, two, "2", "path /b")
		reads(t, o, again, "3", long)
		reads(t, o, next, "4", "")
		if _, err := o.Open(one, "2"); !errors.Is(err, ErrBox) {
			t.Errorf("under another name: %v", err)
		}
		if _, err := o.Open(Box{two.Key, one.Box}, "1"); !errors.Is(err, ErrBox) {
			t.Errorf("under another key: %v", err)
		}
		for _, bad := range []string{"", "/", "2026-11-21/", "2026-11-21/zz", "../secret/0011223344556677", "2026-11-21/00"} {
			if _, err := o.Open(Box{bad, one.Box}, "1"); !errors.Is(err, ErrBox) {
				t.Errorf("key %q: %v", bad, err)
			}
		}
		if _, err := o.Open(Box{"2026-11-20/0011223344556677", one.Box}, "1"); !errors.Is(err, ErrNoKey) {
			t.Errorf("of another node: %v", err)
		}
	}
	if len(again.Box) > len(long)/50 || (len(one.Box)-nonceSize-16)%padding != 0 {
		t.Errorf("boxes of %d and %d bytes", len(again.Box), len(one.Box))
	}
	if _, err := k.Seal(Scope{}, noon, "5", make([]byte, MaxPayload+1)); err == nil {
		t.Error("sealed more than can be opened")
	}
	for i := range one.Box {
		broken := bytes.Clone(one.Box)
		broken[i] ^= 1
		if _, err := k.Open(Box{one.Key, broken}, "1"); !errors.Is(err, ErrBox) {
			t.Fatalf("bit %d: %v", i, err)
		}
	}
	if text := fmt.Sprintf("%v %+v", k.days["2026-11-21"].list[0], k.days["2026-11-21"].list); strings.Contains(text, alice) || !strings.Contains(text, "payload key") {
		t.Errorf("prints %s", text)
	}
	info, err := os.Stat(filepath.Join(dir, "2026-11-21"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestErase(t *testing.T) {
	scopes := map[string]Scope{
		"alice": {Subject: alice, Kind: "connect"}, "bob": {Subject: bob, Kind: "connect"}, "admin": {Subject: alice, Kind: "admin"},
		"customer": {Subject: bob, Kind: "replicate", Classes: []string{"billing", "customer"}}, "ops": {Kind: "replicate", Classes: []string{"ops"}},
	}
	midnight := noon.Truncate(24 * time.Hour)
	for name, tt := range map[string]struct {
		order Order
		gone  []string // "<scope> <days ago>"
	}{
		"subject": {Order{Subject: alice}, []string{"admin 0", "admin 1", "admin 2", "alice 0", "alice 1", "alice 2"}},
		"class":   {Order{Class: "customer"}, []string{"customer 0", "customer 1", "customer 2"}},
		"both":    {Order{Class: "customer", Subject: alice}, nil},
		"kind":    {Order{Kind: "connect", Subject: bob}, []string{"bob 0", "bob 1", "bob 2"}},
		"before":  {Order{Subject: alice, Before: midnight.Add(-24 * time.Hour)}, []string{"admin 2", "alice 2"}},
		"nobody":  {Order{Subject: "spiffe://east.example.org/workload/carol"}, nil},
	} {
		dir := t.TempDir()
		s := openStore(t, filepath.Join(t.TempDir(), "db"))
		k := openKeys(t, dir, s)
		boxes := map[string]Box{}
		for who, scope := range scopes {
			for ago := range 3 {
				id := fmt.Sprint(who, " ", ago)
				boxes[id] = seals(t, k, scope, noon.Add(time.Duration(-24*ago)*time.Hour), id, "secret of "+id)
			}
		}
		if keys, _ := k.Count(order(tt.order)); keys != len(tt.gone) {
			t.Errorf("%s: %d keys counted", name, keys)
		}
		told := 0
		o, err := k.Erase(order(tt.order), noon, func(_ *store.Tx, o Order) error { told = o.Keys; return nil })
		if err != nil || o.Keys != len(tt.gone) || told != len(tt.gone) || (o.ID != "") != (len(tt.gone) > 0) {
			t.Errorf("%s: %+v, %d, %v", name, o, told, err)
		}
		after := seals(t, k, scopes["alice"], noon, "after", "later")
		for _, opener := range []interface {
			Open(Box, string) ([]byte, error)
		}{k, NewReader(dir), openKeys(t, dir, s), NewReader(dir)} {
			for id, b := range boxes {
				var erased *ErasedError
				if _, err := opener.Open(b, id); !slices.Contains(tt.gone, id) {
					reads(t, opener, b, id, "secret of "+id)
				} else if !errors.As(err, &erased) || !errors.Is(err, ErrErased) || erased.Erasure != (Erasure{o.ID, noon.Unix(), "uid 0"}) {
					t.Errorf("%s: %s: %v", name, id, err)
				}
			}
			reads(t, opener, after, "after", "later") // what comes after an order is not its business
		}
	}
	for name, o := range map[string]Order{
		"nothing": {By: "x", Reason: "y"}, "no reason": {Subject: alice, By: "x"}, "nobody": {Subject: alice, Reason: "y"},
		"time": {Subject: alice, By: "x", Reason: "y", Before: noon},
	} {
		k := openKeys(t, t.TempDir(), openStore(t, filepath.Join(t.TempDir(), "db")))
		if _, err := k.Erase(o, noon, silent); !errors.Is(err, ErrOrder) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Not recorded, not erased; and what was recorded is erased, whenever the node dies: before or after the
// order lands, before or after the first of two days' files does.
func TestCrash(t *testing.T) {
	for _, at := range []string{"order before", "order after", "told", "before 1", "after 1", "before 2", "after 2"} {
		path, dir := filepath.Join(t.TempDir(), "db"), t.TempDir()
		var fault store.Fault
		s, err := store.OpenFaulty(path, func(int) store.Fault { return fault })
		if err != nil {
			t.Fatal(err)
		}
		k, err := Open(dir, s)
		if err != nil {
			t.Fatal(err)
		}
		boxes := []Box{seals(t, k, Scope{Subject: alice}, noon, "0", "one"), seals(t, k, Scope{Subject: alice}, noon.Add(-24*time.Hour), "1", "two")}
		kept := seals(t, k, Scope{Subject: bob}, noon, "2", "kept")
		tell := silent
		switch at {
		case "order before":
			fault = store.FaultBefore
		case "order after":
			fault = store.FaultAfter
		case "told":
			tell = func(*store.Tx, Order) error { return errors.New("the trail is full") }
		}
		files := map[string]int{}
		k.steps = func(step string) error {
			if files[step]++; fmt.Sprint(step, " ", files[step]) == at {
				return errors.New("the power went")
			}
			return nil
		}
		if _, err := k.Erase(order(Order{Subject: alice}), noon, tell); err == nil {
			t.Fatalf("%s: nothing broke", at)
		}
		s.Close()
		again := openKeys(t, dir, openStore(t, path))
		stands := at != "order before" && at != "told"
		for i, text := range []string{"one", "two"} {
			if _, err := again.Open(boxes[i], fmt.Sprint(i)); errors.Is(err, ErrErased) != stands {
				t.Errorf("%s: %s: %v", at, text, err)
			}
		}
		reads(t, again, kept, "2", "kept")
		if left, _ := filepath.Glob(filepath.Join(dir, "*.*")); len(left) > 0 {
			t.Errorf("%s: left %v", at, left)
		}
	}
}

// A backup of the folder that is put back does not bring back what was erased since.
func TestBackup(t *testing.T) {
	dir, s := t.TempDir(), openStore(t, filepath.Join(t.TempDir(), "db"))
	k := openKeys(t, dir, s)
	b := seals(t, k, Scope{Subject: alice}, noon, "1", "one")
	backup, err := os.ReadFile(filepath.Join(dir, "2026-11-21"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Erase(order(Order{Subject: alice}), noon, silent); err != nil {
		t.Fatal(err)
	}
	later := seals(t, k, Scope{Subject: alice}, noon.Add(24*time.Hour), "2", "later")
	if err := os.WriteFile(filepath.Join(dir, "2026-11-21"), backup, 0o600); err != nil {
		t.Fatal(err)
	}
	again := openKeys(t, dir, s)
	if _, err := again.Open(b, "1"); !errors.Is(err, ErrErased) {
		t.Errorf("after a backup was put back: %v", err)
	}
	reads(t, again, later, "2", "later")
}

// A crash while a key is written leaves a torn frame: it is cut off, and the keys before it are whole. Damage
// elsewhere is not taken for one.
func TestTorn(t *testing.T) {
	dir, s := t.TempDir(), openStore(t, filepath.Join(t.TempDir(), "db"))
	k := openKeys(t, dir, s)
	first := seals(t, k, Scope{Subject: alice}, noon, "1", "one")
	path := filepath.Join(dir, "2026-11-21")
	whole, _ := os.ReadFile(path)
	seals(t, k, Scope{Subject: bob}, noon, "2", "two")
	both, _ := os.ReadFile(path)
	for n := len(whole); n < len(both); n++ {
		for _, tail := range [][]byte{nil, make([]byte, len(both)-n)} {
			os.WriteFile(path, append(bytes.Clone(both[:n]), tail...), 0o600)
			again := openKeys(t, dir, s)
			reads(t, again, first, "1", "one")
			third := seals(t, again, Scope{Subject: bob}, noon, "3", "three")
			reads(t, openKeys(t, dir, s), third, "3", "three")
		}
	}
	for i := range whole {
		broken := bytes.Clone(both)
		broken[i] ^= 0x80
		os.WriteFile(path, broken, 0o600)
		if _, err := Open(dir, s); i >= 2 && !errors.Is(err, ErrKeys) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
}

func TestForget(t *testing.T) {
	dir, s := t.TempDir(), openStore(t, filepath.Join(t.TempDir(), "db"))
	k := openKeys(t, dir, s)
	old := seals(t, k, Scope{}, noon.Add(-24*time.Hour), "1", "old")
	now := seals(t, k, Scope{}, noon, "2", "now")
	if err := k.Forget(noon); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Open(old, "1"); !errors.Is(err, ErrNoKey) {
		t.Errorf("forgotten: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "2026-11-20")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its file: %v", err)
	}
	reads(t, k, now, "2", "now")
}

// Nobody who does not know the salt can tell which of two payloads a commitment is of, whatever they are: the
// same payload never has the same commitment twice. Who knows it can check, and can show no other payload.
func TestCommitment(t *testing.T) {
	seen := map[[32]byte]bool{}
	for range 1000 {
		salt := Salt()
		c := Commit(salt, []byte("alice"))
		if seen[c] || len(salt) != SaltSize || c != Commit(salt, []byte("alice")) {
			t.Fatalf("%x", c)
		}
		seen[c] = true
		for _, other := range []string{"", "alicf", "alice\x00", "bob"} {
			if c == Commit(salt, []byte(other)) {
				t.Errorf("opens to %q as well", other)
			}
		}
		if c == Commit(make([]byte, SaltSize), []byte("alice")) || c == Commit(nil, []byte("alice")) {
			t.Error("can be guessed without the salt")
		}
	}
}

// Erasing and sealing at once: nothing is sealed under a key that is gone or zero.
func TestConcurrent(t *testing.T) {
	k := openKeys(t, t.TempDir(), openStore(t, filepath.Join(t.TempDir(), "db")))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				name := fmt.Sprint(w, "/", i)
				b, err := k.Seal(Scope{Subject: alice}, noon, name, []byte(name))
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := unseal(make([]byte, keySize), name, b.Box); err == nil {
					t.Errorf("under no key: %q", got)
				}
				if got, err := k.Open(b, name); !errors.Is(err, ErrErased) && (err != nil || string(got) != name) {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
	for range 5 {
		if _, err := k.Erase(order(Order{Subject: alice}), noon, silent); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

func FuzzParse(f *testing.F) {
	b, _ := hex.DecodeString(frozenFile)
	f.Add(b)
	f.Add([]byte{0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, torn, err := parse(b)
		if torn > len(b) || err == nil && torn < len(b) && torn+2+1<<16+sumSize < len(b) && !zero(b[torn:]) {
			t.Fatalf("torn at %d of %d, %v", torn, len(b), err)
		}
		for _, k := range keys {
			if again, err := k.frame(); err != nil || !bytes.Contains(b, again) {
				t.Fatalf("%v: %x, %v", k, again, err)
			}
		}
	})
}

func FuzzUnseal(f *testing.F) {
	key := bytes.Repeat([]byte{1}, keySize)
	good, _ := seal(key, make([]byte, nonceSize), "n", []byte("text"))
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := unseal(key, "n", b); err == nil && !bytes.Equal(b, good) {
			t.Fatalf("forged: %q", out)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	secret := make([]byte, keySize)
	box, err := seal(secret, make([]byte, nonceSize), "n", []byte(strings.Repeat(`{"source":{"spiffe_id":"spiffe://east.example.org/workload/shop"},"service":{"name":"web"}}`, 10)))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := unseal(secret, "n", box); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	s, err := store.Open(filepath.Join(b.TempDir(), "db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	k, err := Open(b.TempDir(), s)
	if err != nil {
		b.Fatal(err)
	}
	text := []byte(strings.Repeat(`{"source":{"spiffe_id":"spiffe://east.example.org/workload/shop"},"service":{"name":"web"}}`, 10))
	for b.Loop() {
		if _, err := k.Seal(Scope{Subject: alice}, noon, "n", text); err != nil {
			b.Fatal(err)
		}
	}
}
