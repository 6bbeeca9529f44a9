package decision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// told is what the outbox says of segments and gaps.
func told(t *testing.T, s *store.Store) (segments Leaves, gaps uint64) {
	t.Helper()
	for _, e := range leaves(t, s, trail.Segment.Name()) {
		segments.Add(trail.Indexed{Leaf: trail.Leaf{Kind: e.Kind, Body: e.Body}})
	}
	for _, e := range leaves(t, s, "gap") {
		var g trail.Gap
		if err := statement.Unmarshal(e.Body, &g); err != nil {
			t.Fatal(err)
		}
		gaps += g.Count
	}
	return segments, gaps
}

// everything is the events in the segments and, after them, the open ones.
func everything(t *testing.T, l *Log) (ids []string) {
	t.Helper()
	for e, err := range Read(l.cfg.Dir) {
		if err != nil && !errors.Is(err, ErrNothing) && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err == nil {
			ids = append(ids, e.DecisionID)
		}
	}
	if err := l.cfg.Store.View(func(tx *store.Tx) error {
		tx.Range(activeBucket, nil, func(_, v []byte) bool {
			e, err := ParseEvent(v)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, e.DecisionID)
			return true
		})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestSegmentsHoldWhatWasDecided(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	l := New(Config{Store: s, Engine: oracle{}, Dir: filepath.Join(t.TempDir(), "d"), SegmentAt: 4, Labels: map[string]string{"id": "n1"}})
	var want []string
	for i := range 10 {
		want = append(want, l.Decide(t.Context(), ask(fmt.Sprint("db", i))).ID)
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	if err := l.Rotate(); err != nil { // nothing is active: no segment
		t.Fatal(err)
	}
	want = append(want, l.Decide(t.Context(), ask("last")).ID)
	segments, gaps := told(t, s)
	r, err := Verify(l.cfg.Dir, segments)
	if err != nil || !r.Good() || r.Segments != 3 || r.Events != 10 || r.Waiting != 0 || gaps != 0 {
		t.Errorf("%+v, %v, %d lost", r, err, gaps)
	}
	if got := everything(t, l); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for _, id := range []string{want[0], want[5][:12], want[10]} {
		if e, err := l.Get(id); err != nil || !strings.HasPrefix(e.DecisionID, id) {
			t.Errorf("%s: %+v, %v", id, e, err)
		}
	}
	if e, err := l.Last(); err != nil || e.DecisionID != want[10] {
		t.Errorf("the last: %+v, %v", e, err)
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	if e, err := l.Last(); err != nil || e.DecisionID != want[10] {
		t.Errorf("the last, in a segment: %+v, %v", e, err)
	}
}

func TestDiskIsBounded(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir(), SegmentAt: 4, MaxBytes: 3 * 4096})
	for i := range 40 {
		l.Decide(t.Context(), ask(fmt.Sprint("db", i)))
		if i%4 == 3 {
			if err := l.Rotate(); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := segmentFiles(l.cfg.Dir)
	segments, gaps := told(t, s)
	if err != nil || len(files) != 3 || gaps != 7*4 {
		t.Errorf("%d files, %d lost, %v", len(files), gaps, err)
	}
	if r, err := Verify(l.cfg.Dir, segments); err != nil || !r.Good() || r.First != 8 {
		t.Errorf("%+v, %v", r, err)
	}
	l.cfg.MaxBytes = 2 * 4096 // as after a start with less room: nothing is to be sealed
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	files, err = segmentFiles(l.cfg.Dir)
	if _, gaps := told(t, s); err != nil || len(files) != 2 || gaps != 8*4 {
		t.Errorf("with less room: %d files, %d lost, %v", len(files), gaps, err)
	}
	l.Decide(t.Context(), ask("one more"))
	if r, err := l.Room(); err != nil || r != (Room{Files: 2, Bytes: 2 * 4096, MaxBytes: 2 * 4096, Kept: 2*4 + 1, Gone: 8 * 4}) {
		t.Errorf("%+v, %v", r, err)
	}
	l.cfg.Hold = true
	for i := range 7 {
		l.Decide(t.Context(), ask(fmt.Sprint("held", i)))
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	if files, err := segmentFiles(l.cfg.Dir); err != nil || len(files) != 4 {
		t.Errorf("under a hold there are %d files, %v", len(files), err)
	}
}

// A full disk keeps the newest in the store and tells how many of the oldest it cost.
func TestFullDisk(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir(), SegmentAt: 4})
	full := true
	l.steps = func(step string) error {
		if full && step == "write" {
			return syscall.ENOSPC
		}
		return nil
	}
	var all []string
	for i := range 30 {
		d := l.Decide(t.Context(), ask(fmt.Sprint("db", i)))
		if strings.Contains(d.Reason, "not recorded") {
			t.Fatal(d.Reason)
		}
		all = append(all, d.ID)
	}
	if err := l.Rotate(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	_, gaps := told(t, s)
	if got := everything(t, l); fmt.Sprint(got) != fmt.Sprint(all[gaps:]) || gaps == 0 || len(got) > 4*activeSegments {
		t.Errorf("%d lost, %d kept", gaps, len(got))
	}
	full = false
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	segments, _ := told(t, s)
	if r, err := Verify(l.cfg.Dir, segments); err != nil || !r.Good() || r.Events != len(all)-int(gaps) {
		t.Errorf("%+v, %v", r, err)
	}
}

// Whatever step of a segment breaks, and however the node dies there: nothing that was recorded is
// lost or doubled, and the segments verify.
func TestCrashWhileASegmentIsMade(t *testing.T) {
	for _, step := range []string{"write", "sync", "rename", "folder", "before", "after", "torn"} {
		path, dir := filepath.Join(t.TempDir(), "db"), t.TempDir()
		commit, breakAt := 0, -1
		s, err := store.OpenFaulty(path, func(op int) store.Fault {
			switch commit = op; {
			case op == breakAt && step == "before":
				return store.FaultBefore
			case op == breakAt && step == "after":
				return store.FaultAfter
			}
			return store.NoFault
		})
		if err != nil {
			t.Fatal(err)
		}
		l := New(Config{Store: s, Engine: oracle{}, Dir: dir, SegmentAt: 3})
		var want []string
		for i := range 3 {
			want = append(want, l.Decide(t.Context(), ask(fmt.Sprint("db", i))).ID)
		}
		if err := l.Rotate(); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			want = append(want, l.Decide(t.Context(), ask(fmt.Sprint("more", i))).ID)
		}
		breakAt = commit + 1
		l.steps = func(at string) error {
			if step == "torn" && at == "sync" {
				os.WriteFile(filepath.Join(dir, segmentName(2)), []byte{0x1f, 0x8b, 8}, 0o600) // what a disk without barriers leaves
			}
			if at == step || step == "torn" && at == "rename" {
				return errors.New("the power went")
			}
			return nil
		}
		if err := l.Rotate(); err == nil {
			t.Fatalf("%s: nothing broke", step)
		}
		s.Close()
		again := New(Config{Store: open(t, path), Engine: oracle{}, Dir: dir, SegmentAt: 3})
		want = append(want, again.Decide(t.Context(), ask("after")).ID)
		if err := again.Rotate(); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if got := everything(t, again); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\ngot  %v\nwant %v", step, got, want)
		}
		segments, gaps := told(t, again.cfg.Store)
		if r, err := Verify(dir, segments); err != nil || !r.Good() || r.Waiting != 0 || gaps != 0 {
			t.Errorf("%s: %+v, %v, %d lost", step, r, err, gaps)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*"+unfinished)); len(left) > 0 {
			t.Errorf("%s: left %v", step, left)
		}
	}
}

func TestRunMakesSegments(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Store: s, Engine: oracle{}, Dir: dir, SegmentAt: 5, SegmentEvery: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		count := func() int {
			synctest.Wait()
			files, _ := segmentFiles(dir)
			return len(files)
		}
		for i := range 5 {
			if count() != 0 {
				t.Fatal("too early")
			}
			l.Decide(ctx, ask(fmt.Sprint("db", i)))
		}
		if n := count(); n != 1 {
			t.Errorf("%d segments of a full one", n)
		}
		l.Decide(ctx, ask("db"))
		time.Sleep(time.Hour)
		if n := count(); n != 2 {
			t.Errorf("%d segments after an hour", n)
		}
		l.Decide(ctx, ask("db"))
		cancel()
		if err := <-ended; err != nil || count() != 3 {
			t.Errorf("%d segments after the end, %v", count(), err)
		}
	})
}

func TestWhatIsRecordedEach(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir(), SampleEvery: 1000, Each: func(d policy.Decision) bool { return d.Kind == policy.Admin }})
	for range 3 {
		in := ask("web")
		in.Kind = policy.Admin
		if d := l.Decide(t.Context(), in); !d.Allow {
			t.Fatal(d.Reason)
		} else if _, err := l.Get(d.ID); err != nil {
			t.Error(err)
		}
	}
}

func TestSamplesAsPolicySays(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	asked := 0
	l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir(), Rules: func(context.Context, policy.Decision) (policy.Recording, error) {
		asked++
		return policy.Recording{SampleEvery: 3}, nil
	}})
	for range 9 {
		l.Decide(t.Context(), ask("web"))
	}
	if n := len(everything(t, l)); n != 3 || asked != 4 {
		t.Errorf("%d kept, the rules were asked %d times", n, asked)
	}
}

// Events that are dropped while a segment is made of them are in the gap or in the segment, never
// in both.
func TestDroppedWhileASegmentIsMade(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir(), SegmentAt: 4})
	total := 0
	decide := func(n int) {
		for range n {
			l.Decide(t.Context(), ask(fmt.Sprint("db", total)))
			total++
		}
	}
	decide(4)
	flooded := false
	l.steps = func(step string) error {
		if step == "rename" && !flooded {
			flooded = true
			decide(4 * activeSegments)
		}
		return nil
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	segments, gaps := told(t, s)
	r, err := Verify(l.cfg.Dir, segments)
	if err != nil || !r.Good() || gaps == 0 || r.Events+int(gaps) != total {
		t.Errorf("%+v, %v; %d lost of %d", r, err, gaps, total)
	}
}
