package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const testPlace = 16 * blockSize

// written is a journal as the disk may hold it.
type written struct {
	b    []byte
	end  mark     // of the last frame
	ends []int    // where each frame's bytes end, without padding
	want []string // the values, frame by frame
}

// write makes a journal that continues m: for each generation, its number of frames.
func write(m mark, frames ...int) written {
	w := written{b: make([]byte, blockSize+2*testPlace), end: m}
	copy(w.b, journalHeader(m.id, testPlace))
	for _, n := range frames {
		w.end.generation++
		at := blockSize + int(w.end.generation%2)*testPlace
		for i := range n {
			value := fmt.Sprintf("%d.%d", w.end.generation, i)
			fill := 40 + i%2*blockSize // every second one has two blocks
			f, s := appendFrame(nil, m.id, w.end.generation, uint64(i), w.end.last, []*change{
				{op: opPut, bucket: "test/kv", key: []byte("k"), value: []byte(value)},
				{op: opPut, bucket: "test/fill", key: []byte("k"), value: make([]byte, fill)},
			})
			w.want = append(w.want, value)
			w.ends = append(w.ends, at+len(bytes.TrimRight(f, "\x00"))+fill)
			at += copy(w.b[at:], f)
			w.end.last = s
		}
	}
	return w
}

// values are what the changes set "k" to, one after another.
func values(changes []*change) (out []string) {
	for _, c := range changes {
		if c.bucket == "test/kv" {
			out = append(out, string(c.value))
		}
	}
	return out
}

func TestCutJournal(t *testing.T) {
	m := newMark()
	m.generation = 1
	w := write(m, 2, 3) // generation 2 in the first place, 3 in the second
	last := w.ends[4]
	for n := range len(w.b) + 1 {
		if n%61 != 0 && w.b[n%len(w.b)] == 0 && !slices.Contains(w.ends, n) {
			continue // inside of zeros some cuts will do
		}
		changes, end, err := parseJournal(w.b[:n], m)
		got, want := values(changes), 5
		switch {
		case n < w.ends[0]:
			want = 0
		case n < w.ends[1]:
			want = 1
		case n < w.ends[2]:
			want = 2
		case n < w.ends[3]:
			want = 3
		case n < last:
			want = 4
		}
		if err != nil || len(got) != want || fmt.Sprint(got) != fmt.Sprint(w.want[:want]) {
			t.Fatalf("%d bytes: %v %v, want %v", n, got, err, w.want[:want])
		}
		if want == 5 && end != w.end {
			t.Fatalf("%d bytes: ends at %+v, want %+v", n, end, w.end)
		}
	}
}

// One wrong bit is noticed, unless it is in the last frame, which is then not there.
func TestFlippedBytes(t *testing.T) {
	m := newMark()
	m.generation = 1
	w := write(m, 2, 2)
	start := blockSize + testPlace // of generation 3
	for at := range w.b {
		frame := -1
		for i, from := range []int{blockSize, blockSize * 2, start, start + blockSize} {
			if at >= from && at < w.ends[i] {
				frame = i
			}
		}
		header := at < len(journalHeader(m.id, 0))
		if frame < 0 && !header && at%997 != 0 {
			continue // padding: some of it will do
		}
		b := bytes.Clone(w.b)
		b[at] ^= 0x10
		changes, _, err := parseJournal(b, m)
		switch got := values(changes); {
		case header || frame >= 0 && frame < 3:
			if !errors.Is(err, ErrJournal) {
				t.Fatalf("byte %d of frame %d: %v %v, want %v", at, frame, got, err, ErrJournal)
			}
		case frame == 3:
			if err != nil || len(got) != 3 {
				t.Fatalf("byte %d of the last frame: %v %v", at, got, err)
			}
		default:
			if err != nil || len(got) != 4 {
				t.Fatalf("byte %d of padding: %v %v", at, got, err)
			}
		}
	}
}

// What an earlier generation left behind the newest frame is not read again.
func TestOldGenerations(t *testing.T) {
	m := newMark()
	w := write(m, 3, 2)
	m3 := w.end
	newer := write(m3, 1, 1)
	b := bytes.Clone(w.b)
	for _, at := range []int{blockSize + testPlace, blockSize} { // generations 3 and 4 over the first frames of 1 and 2
		copy(b[at:at+blockSize], newer.b[at:])
	}
	changes, end, err := parseJournal(b, m3)
	if got := fmt.Sprint(values(changes)); err != nil || got != "[3.0 4.0]" || end != newer.end {
		t.Errorf("got %s %v", got, err)
	}
	changes, end, err = parseJournal(b, newer.end)
	if err != nil || len(changes) != 0 || end != newer.end {
		t.Errorf("a journal that is absorbed: %v %v", values(changes), err)
	}
}

func TestWrongJournals(t *testing.T) {
	m := newMark()
	w := write(m, 2, 2)
	zeroed := func(from, n int) []byte {
		b := bytes.Clone(w.b)
		clear(b[from : from+n])
		return b
	}
	fork := mark{id: m.id, generation: 1, last: sum{1}}
	later := write(w.end, 1)
	for name, tt := range map[string]struct {
		b []byte
		m mark
	}{
		"of another database":                 {w.b, newMark()},
		"of another copy of the database":     {w.b, fork},
		"of a newer state of the database":    {later.b, m},
		"without the older generation":        {zeroed(blockSize+testPlace, testPlace), m},
		"without the older generation's tail": {zeroed(blockSize+testPlace+blockSize, testPlace-blockSize), m},
		"without a frame in the middle":       {zeroed(blockSize, blockSize), m},
		"without its header":                  {zeroed(0, blockSize), m},
		"a text":                              {bytes.Repeat([]byte("no journal "), 1000), m},
		"of a newer version":                  {append([]byte("bailiwick journal 2\n"), w.b[len(journalHead):]...), m},
	} {
		if changes, end, err := parseJournal(tt.b, tt.m); !errors.Is(err, ErrJournal) {
			t.Errorf("%s: got %v to generation %d, %v, want %v", name, values(changes), end.generation, err, ErrJournal)
		}
	}
}

// Open refuses a journal that does not fit, changes neither file, and without the
// journal opens the database as it was.
func TestOpenRefusesJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	if err := s.Update(put("k", "1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	foreign := write(newMark(), 2).b
	for _, size := range []int64{int64(len(foreign)), maxJournal + 1} {
		if err := errors.Join(os.WriteFile(path+journalSuffix, foreign, 0o600), os.Truncate(path+journalSuffix, size)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); !errors.Is(err, ErrJournal) {
			t.Errorf("got %v, want %v", err, ErrJournal)
		}
		after, _ := os.ReadFile(path)
		kept, _ := os.ReadFile(path + journalSuffix)
		if !bytes.Equal(after, before) || int64(len(kept)) != size || !bytes.HasPrefix(kept, foreign) {
			t.Error("a refused pair was changed")
		}
	}
	gone := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(gone+journalSuffix, foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(gone); !errors.Is(err, ErrJournal) {
		t.Errorf("without its database: got %v, want %v", err, ErrJournal)
	}
	if _, err := os.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a database was made beside a journal: %v", err)
	}
	if err := os.Rename(path+journalSuffix, path+".aside"); err != nil {
		t.Fatal(err)
	}
	if got := shown(t, open(t, path)); got != "1 1" {
		t.Errorf("without the journal: %s", got)
	}
}

func FuzzJournal(f *testing.F) {
	m := mark{id: storeID{1}, generation: 1}
	w := write(m, 2, 1)
	f.Add(w.b[:3*blockSize])
	f.Add(w.b)
	f.Add([]byte(journalHead))
	f.Fuzz(func(t *testing.T, b []byte) {
		changes, end, err := parseJournal(b, m)
		if err == nil && end == m && len(changes) > 0 {
			t.Error("changes of no generation")
		}
		for _, c := range changes {
			if err := c.check(); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzChanges is the body of a frame, past the sum that keeps a fuzzer out.
func FuzzChanges(f *testing.F) {
	var seed []byte
	for _, c := range []*change{
		{op: opPut, bucket: "b", key: []byte("k"), value: []byte{}},
		{op: opDelete, bucket: "b", key: []byte("k")},
		{op: opLeaf, value: append(make([]byte, 8), "\x01kbody"...)},
		{op: opTrim, key: sequenceKey(3)},
	} {
		seed = appendChange(seed, c)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		changes, err := decodeChanges(b)
		if err != nil {
			return
		}
		var again []byte
		st := state{}
		for _, c := range changes {
			again = appendChange(again, c)
			st.apply(c)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x is spelled %x", b, again)
		}
	})
}
