package attack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
)

// A record that crashes what uses it ends a process twice and not again: it is parked,
// passed on all the same, and what follows it counts. Another version tries it again;
// an operator may release it. Who kills the process parks nothing.
func TestPoisonRecord(t *testing.T) {
	home := newRegion(t, "east.dev.example")
	f := &fleet{t: t, net: loopback, home: home, abroad: home, keys: keys(home)}
	h := &hostile{t: t, f: f, id: home.node("h1")}
	h.self = home.identity(t, h.id, newKey(t), 1, time.Hour)
	bad, good := h.say(op(h.key("bad"), "panic")), h.say(op(h.key("good"), "1"))

	t.Run("in policy", func(t *testing.T) {
		v := newVictim(t, h, bad, good)
		for i := range 2 {
			if out, err := v.run("POISON_APPLY=panic"); err == nil || !strings.Contains(out, "panic: panic") {
				t.Fatalf("process %d: %v\n%s", i+1, err, out)
			}
		}
		v.lives("good=1 bad=- parked=1 passed=2", "POISON_APPLY=panic")
		v.lives("good=1 bad=- parked=1 passed=0", "POISON_APPLY=panic") // they are on its disk
		if out, err := v.run("POISON_APPLY=panic", "POISON_VERSION=2"); err == nil {
			t.Errorf("another version does not try it again:\n%s", out)
		}
		v.lives("good=1 bad=panic parked=0 passed=0", "POISON_APPLY=", "POISON_VERSION=2")
	})
	t.Run("in who watches", func(t *testing.T) {
		v := newVictim(t, h, bad, good)
		for i := range 2 {
			if out, err := v.run("POISON_WATCH=panic"); err == nil {
				t.Fatalf("process %d lives:\n%s", i+1, out)
			}
		}
		v.lives("good=1 bad=- parked=1 passed=0", "POISON_WATCH=panic")
		v.lives("good=1 bad=panic parked=0 passed=0", "POISON_UNPARK=1")
	})
	t.Run("killed by others", func(t *testing.T) {
		v := newVictim(t, h, bad, good)
		for range 3 {
			if out, err := v.run("POISON_APPLY=wait"); err == nil || strings.Contains(out, "panic") {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		v.lives("good=1 bad=panic parked=0 passed=2")
	})
	t.Run("one after the other", func(t *testing.T) {
		h := &hostile{t: t, f: f, id: home.node("h2")}
		h.self = home.identity(t, h.id, newKey(t), 1, time.Hour)
		var all []feed.Record
		for i := range 6 {
			all = append(all, h.say(op(h.key(fmt.Sprint("bad", i)), "panic")))
		}
		v := newVictim(t, h, append(all, h.say(op(h.key("good"), "1")))...)
		crashes := 0
		for ; crashes < 20; crashes++ {
			if _, err := v.run("POISON_APPLY=panic"); err == nil {
				break
			}
		}
		if crashes != 6 {
			t.Errorf("%d crashes by one origin", crashes)
		}
	})
}

// victim is a process that runs a replica, on a disk that stays.
type victim struct {
	t   *testing.T
	env []string
}

func newVictim(t *testing.T, h *hostile, recs ...feed.Record) *victim {
	t.Helper()
	dir := t.TempDir()
	if err := h.f.home.root.Save(dir); err != nil {
		t.Fatal(err)
	}
	frames := frame(frameCert, h.self.Cert)
	for _, rec := range recs {
		frames = append(frames, frame(frameRecord, rec.Bytes())...)
	}
	return &victim{t, []string{"POISON_DIR=" + dir, "POISON_ORIGIN=" + h.id.String(), "POISON_FRAMES=" + hex.EncodeToString(frames), fmt.Sprint("POISON_LAST=", len(recs))}}
}

// run starts the process and waits for its end; one that waits is killed.
func (v *victim) run(env ...string) (string, error) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(append(os.Environ(), v.env...), env...)
	var said strings.Builder
	var failure bytes.Buffer
	cmd.Stderr = &failure
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		v.t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if lines.Text() == "waiting" {
			_ = cmd.Process.Kill()
		}
	}
	err = cmd.Wait()
	return said.String() + failure.String(), err
}

// lives runs the process, which must live and say this.
func (v *victim) lives(want string, env ...string) {
	v.t.Helper()
	if out, err := v.run(env...); err != nil || !strings.Contains(out, want) {
		v.t.Errorf("%v, want %s\n%s", err, want, out)
	}
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("POISON_DIR"); dir != "" {
		if err := suffer(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// suffer runs a replica that gets the frames of the environment from one peer and
// passes on what it takes to another, and tells what became of them.
func suffer(dir string) error {
	root, err := epoch.LoadRoot(dir)
	if err != nil {
		return err
	}
	home := &region{td: root.TrustDomain(), root: root}
	frames, err := hex.DecodeString(os.Getenv("POISON_FRAMES"))
	if err != nil {
		return err
	}
	s, err := store.Open(filepath.Join(dir, "store.db"))
	if err != nil {
		return err
	}
	use := func(how string, value []byte) {
		switch {
		case string(value) != "panic":
		case os.Getenv(how) == "panic":
			panic("panic")
		case os.Getenv(how) == "wait":
			fmt.Println("waiting")
			time.Sleep(time.Hour)
		}
	}
	r, err := replica.Open(replica.Config{
		Self: home.node("victim"), Store: s, Keys: keys(home), Version: os.Getenv("POISON_VERSION"),
		Apply: func(_ feed.Record, op feed.Op) error { use("POISON_APPLY", op.Value); return nil },
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	go func() {
		for c, err := range r.Watch(ctx, "/", 0) {
			if err == nil {
				r.Guard(c, func() { use("POISON_WATCH", c.Value) })
			}
		}
	}()
	passed := newCounter()
	origin := home.node("other")
	there, here := net.Pipe()
	go func() { _ = r.Attach(ctx, origin, here) }()
	go listen(there, passed.count)
	from, to := net.Pipe()
	go func() { _ = r.Attach(ctx, home.node("h1"), to) }()
	go func() { _, _ = io.Copy(io.Discard, from) }()
	until := func(what string, cond func() bool) error {
		for start := time.Now(); !cond(); time.Sleep(5 * time.Millisecond) {
			if time.Since(start) > 20*time.Second {
				return errors.New("never: " + what)
			}
		}
		return nil
	}
	attached := func() bool {
		d, err := r.Debt(ctx)
		return err == nil && len(d.Peers) == 2
	}
	if err := until("both are attached", attached); err != nil {
		return err
	}
	if _, err := from.Write(frames); err != nil {
		return err
	}
	if err := until("all records are taken", func() bool {
		heads, _, err := r.Frontier(ctx)
		for f, head := range heads {
			if f.Origin.Path() != "/node/victim" {
				return err == nil && fmt.Sprint(head.Seq) == os.Getenv("POISON_LAST")
			}
		}
		return false
	}); err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond) // who watches has seen them, and what is passed on has gone
	if os.Getenv("POISON_UNPARK") != "" {
		for _, p := range r.Parked() {
			if err := r.Unpark(ctx, p.Record); err != nil {
				return err
			}
		}
	}
	value := func(name string) string {
		for _, e := range first(r.List("/")) {
			if e.Name == name {
				return string(e.Value)
			}
		}
		return "-"
	}
	fmt.Printf("good=%s bad=%s parked=%d passed=%d\n", value("good"), value("bad"), len(r.Parked()), passed.of(frameRecord))
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		return err
	}
	return s.Close()
}

func first[A, B any](a A, _ B) A { return a }
