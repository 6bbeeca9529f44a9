package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // a second Close is no error
	return s
}

func put(key, value string) func(*Tx) error {
	return func(tx *Tx) error {
		if err := tx.Leaf("test.put", []byte(key)); err != nil {
			return err
		}
		return tx.Put("test/kv", []byte(key), []byte(value))
	}
}

// shown reads everything: the key "k", and how many leaves wait.
func shown(t *testing.T, s *Store) string {
	t.Helper()
	var v []byte
	if err := s.View(func(tx *Tx) error { v = tx.Get("test/kv", []byte("k")); return nil }); err != nil {
		t.Fatal(err)
	}
	n, err := s.Pending()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %d", v, n)
}

func TestChangeAndLeafCommitTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	if err := s.Update(put("k", "1")); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	err := s.Update(func(tx *Tx) error {
		if err := put("k", "2")(tx); err != nil {
			return err
		}
		return refused
	})
	if !errors.Is(err, refused) {
		t.Fatalf("got %v, want %v", err, refused)
	}
	if got := shown(t, s); got != "1 1" {
		t.Errorf("after a refused update: %s, want 1 1", got)
	}
	if err := s.Update(put("k", "3")); err != nil {
		t.Errorf("a refusal must not break the store: %v", err)
	}
}

func TestBreakEveryCommit(t *testing.T) {
	for _, tt := range []struct {
		fault Fault
		want  string
	}{{FaultBefore, "1 1"}, {FaultAfter, "2 2"}} {
		path := filepath.Join(t.TempDir(), "state.db")
		s, err := OpenFaulty(path, func(op int) Fault {
			if op == 2 {
				return tt.fault
			}
			return NoFault
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Update(put("k", "1")); err != nil {
			t.Fatal(err)
		}
		if err := s.Update(put("k", "2")); err == nil {
			t.Fatal("a broken commit was reported good")
		}
		if err := s.Update(put("k", "3")); !errors.Is(err, ErrBroken) {
			t.Errorf("after a failed commit: got %v, want %v", err, ErrBroken)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got := shown(t, open(t, path)); got != tt.want {
			t.Errorf("fault %d, after restart: %s, want %s", tt.fault, got, tt.want)
		}
	}
}

func TestOutboxNeverReusesASequence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	for i := range 5 {
		if err := s.Update(put("k", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	<-s.Wake()
	entries, err := s.Outbox(2, 2)
	if err != nil || len(entries) != 2 || entries[0].Seq != 3 || entries[1].Seq != 4 {
		t.Fatalf("after 2, at most 2: %v %v", entries, err)
	}
	if entries[0].Kind != "test.put" || !bytes.Equal(entries[0].Body, []byte("k")) || entries[0].At.IsZero() {
		t.Errorf("entry: %+v", entries[0])
	}
	if entries, err = s.Outbox(1<<64-1, 2); err != nil || len(entries) > 0 {
		t.Errorf("after the last possible: %v %v", entries, err)
	}
	if err := s.Trim(5); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if err := s.Update(put("k", "6")); err != nil {
		t.Fatal(err)
	}
	if entries, _ = s.Outbox(0, 10); len(entries) != 1 || entries[0].Seq != 6 {
		t.Errorf("after trim and restart: %+v, want sequence 6", entries)
	}
}

func TestRangeAndLast(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	err := s.Update(func(tx *Tx) error {
		for _, k := range []string{"a", "c", "b"} {
			if err := tx.Put("test/r", []byte(k), nil); err != nil {
				return err
			}
		}
		return tx.Delete("test/none", []byte("x"))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.View(func(tx *Tx) error {
		var got string
		tx.Range("test/r", []byte("b"), func(k, _ []byte) bool { got += string(k); return true })
		if got != "bc" {
			t.Errorf("range from b: %q", got)
		}
		if k, _ := tx.Last("test/r"); string(k) != "c" {
			t.Errorf("last: %q", k)
		}
		if v := tx.Get("test/r", []byte("a")); v == nil {
			t.Error("an empty value reads as none")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLeafBounds(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	for _, tt := range []struct {
		kind string
		size int
	}{{"", 1}, {"big", MaxLeaf + 1}} {
		if err := s.Update(func(tx *Tx) error { return tx.Leaf(tt.kind, make([]byte, tt.size)) }); err == nil {
			t.Errorf("leaf %q of %d bytes was taken", tt.kind, tt.size)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	s := open(t, path)
	for i := range 50 {
		if err := s.Update(put(fmt.Sprint("k", i), string(make([]byte, 16384)))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(path); !errors.Is(err, ErrBusy) {
		t.Errorf("open twice: got %v, want %v", err, ErrBusy)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 100, 4096, 5000, 8192, 12288, 512 << 10} {
		cut := filepath.Join(dir, fmt.Sprint("cut", n))
		if err := os.WriteFile(cut, good[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(cut)
		if err == nil {
			_ = s.Close()
		}
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d of %d bytes: got %v, want %v", n, len(good), err, ErrCorrupt)
		}
		if after, _ := os.ReadFile(cut); !bytes.Equal(after, good[:n]) {
			t.Errorf("%d bytes: a refused file was changed", n)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "text"), bytes.Repeat([]byte("no store "), 4000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "text")); !errors.Is(err, ErrCorrupt) {
		t.Errorf("text file: got %v, want %v", err, ErrCorrupt)
	}
	if _, err := Open(filepath.Join(dir, "none", "state.db")); err == nil {
		t.Error("missing folder was accepted")
	}
}

// A store at rest is one file; at work it has a journal beside it, and neither is
// for other users. Copied without its journal it opens as it was.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	files := func() (names string) {
		all, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			info, err := e.Info()
			if err != nil || info.Mode() != 0o600 {
				t.Errorf("%s: mode %v, %v", e.Name(), info.Mode(), err)
			}
			names += e.Name() + " "
		}
		return names
	}
	s := open(t, path)
	if got := files(); got != "state.db " {
		t.Errorf("opened: %s", got)
	}
	copied, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(put("k", "1")); err != nil {
		t.Fatal(err)
	}
	if got := files(); got != "state.db state.db.journal " {
		t.Errorf("written to: %s", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := files(); got != "state.db " {
		t.Errorf("closed: %s", got)
	}
	if err := s.Update(put("k", "2")); err == nil {
		t.Error("updated after Close")
	}
	older := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(older, copied, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := shown(t, open(t, older)); got != " 0" {
		t.Errorf("a copy from before: %s", got)
	}
}

// A database from before there was a journal opens, with what it holds.
func TestOldDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		kv, err := tx.CreateBucketIfNotExists([]byte("test/kv"))
		if err != nil {
			return err
		}
		outbox, err := tx.CreateBucketIfNotExists([]byte(outboxBucket))
		if err != nil {
			return err
		}
		leaf := append(make([]byte, 8), "\x04testbody"...)
		return errors.Join(kv.Put([]byte("k"), []byte("old")), outbox.SetSequence(7), outbox.Put(sequenceKey(6), leaf), outbox.Put(sequenceKey(7), leaf))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	for want := range 2 {
		s := open(t, path)
		if got := shown(t, s); got != fmt.Sprint("old ", 2+want) {
			t.Errorf("found %s", got)
		}
		if err := s.Update(func(tx *Tx) error { return tx.Leaf("test", nil) }); err != nil {
			t.Fatal(err)
		}
		entries, err := s.Outbox(0, 10)
		if err != nil || entries[0].Seq != 6 || entries[len(entries)-1].Seq != uint64(8+want) {
			t.Errorf("%+v, %v", entries, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadChanges(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	for name, fn := range map[string]func(*Tx) error{
		"no key":      func(tx *Tx) error { return tx.Put("b", nil, []byte("v")) },
		"long key":    func(tx *Tx) error { return tx.Put("b", make([]byte, maxKey+1), nil) },
		"no bucket":   func(tx *Tx) error { return tx.Put("", []byte("k"), nil) },
		"long bucket": func(tx *Tx) error { return tx.Delete(string(make([]byte, maxKey+1)), []byte("k")) },
		"the outbox":  func(tx *Tx) error { return tx.Put(outboxBucket, []byte("k"), nil) },
		"the mark":    func(tx *Tx) error { return tx.Delete(ownBucket, []byte(markKey)) },
	} {
		if err := s.Update(fn); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := s.View(func(tx *Tx) error { return tx.Put("b", []byte("k"), nil) }); !errors.Is(err, errReadOnlyTx) {
		t.Errorf("a change in a view: got %v", err)
	}
	if err := errors.Join(s.Update(put("k", "1")), s.Close()); err != nil {
		t.Error(err)
	}
}

// A new database is in its place whole or not at all, and what it was made of is gone.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	if err := createBase(path); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := createBase(path); err != nil {
		t.Fatalf("another process was first: %v", err)
	}
	if again, _ := os.ReadFile(path); !bytes.Equal(again, made) {
		t.Error("a database that is there was replaced")
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files are left", len(files))
	}
	s := open(t, path)
	if err := s.Update(put("k", "v")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other.db.journal"), []byte("no journal at all, and longer than a header would be"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "other.db")); !errors.Is(err, ErrJournal) {
		t.Errorf("a journal without its database: got %v, want %v", err, ErrJournal)
	}
	if _, err := os.Stat(filepath.Join(dir, "other.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a database was made beside it: %v", err)
	}
}
