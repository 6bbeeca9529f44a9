package governing

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

// stagedEast is a node of east and the keys that sign its policy.
type stagedEast struct {
	t          *testing.T
	c          config.Config
	global     *ecdsa.PrivateKey
	region     *ecdsa.PrivateKey
	delegation []byte
	st         *store.Store
	extra      string            // a module of the region's policy
	changes    []decision.Change // that were recorded
	untold     error             // of recording a change

	// of the process that runs
	engine *policy.Engine
	p      *Policies
	r      *Rolling
	peers  []rollout.Peer
	offers int
}

func newStagedEast(t *testing.T, st *store.Store) *stagedEast {
	t.Helper()
	e := &stagedEast{t: t, st: st, c: config.Config{Node: self}}
	for _, key := range []**ecdsa.PrivateKey{&e.global, &e.region} {
		var err error
		if *key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	e.delegation, err = provision.Delegate(e.global, trust.Record{TrustDomain: e.c.Node.TrustDomain(), PolicyKey: &e.region.PublicKey}, builtin.Regional("east").Delegation, provision.ValidFor(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// stagedEastOn runs, with a global policy in force.
func stagedEastOn(t *testing.T) *stagedEast {
	t.Helper()
	e := newStagedEast(t, openStore(t, filepath.Join(t.TempDir(), "state.db")))
	must(t, e.start())
	e.take(e.version(policy.Global, 1, true, nil))
	return e
}

// start begins a process on what the disk has.
func (e *stagedEast) start() error {
	log := slog.New(slog.DiscardHandler)
	e.engine = policy.New(policy.Config{Require: Required})
	e.p = New(e.c, e.engine, e.st, []*ecdsa.PublicKey{&e.global.PublicKey}, e.change, log)
	if err := e.p.Open(); err != nil {
		return err
	}
	s, err := OpenShadowing(e.p, func() bool { return false }, prometheus.NewRegistry(), log)
	if err != nil {
		return err
	}
	e.r = NewRolling(e.p, s, Fleet{
		Node:  func() rollout.Node { return rollout.Node{ID: self.String(), Path: self.Path(), Class: "node"} },
		Peers: func(bundle.Kept) []rollout.Peer { return e.peers }, Behind: func(context.Context) bool { return false },
		Taken: func(string) {},
		Settled: func(newest bundle.Kept, name [32]byte) bool {
			return rollout.Settled(e.peers, [8]byte(name[:]), [8]byte(newest.Name[:]))
		},
		Offer: func(bundle.Kept) { e.offers++ },
	}, log)
	return nil
}

// change records what is about to be in force, which is not yet.
func (e *stagedEast) change(tx *store.Tx, c decision.Change) error {
	if e.untold != nil {
		return e.untold
	}
	if c.Why != decision.Reverted && e.engine.Revision() != c.From {
		e.t.Errorf("%s is in force before it is recorded that it follows %s", e.engine.Revision(), c.From)
	}
	e.changes = append(e.changes, c)
	return decision.New(decision.Config{Store: e.st}).Change(tx, c)
}

// mallorysLast is the version that is closed to one shop only.
const mallorysLast = 9

func stagedShop(i int) string { return fmt.Sprintf("spiffe://east.dev.example/workload/shop-%d", i) }

// version signs a version of a level: open to the shops, or closed to them.
func (e *stagedEast) version(level string, n uint64, open bool, plan *rollout.Plan) *bundle.Verified {
	e.t.Helper()
	levels := builtin.Dev("east")
	l, p, key := levels[0], provision.Policy{Level: level, Scope: bundle.ScopeMesh}, e.global
	if level == policy.Regional {
		l, key = levels[1], e.region
		if e.extra != "" {
			l.Modules = maps.Clone(l.Modules)
			l.Modules["extra.rego"] = e.extra
		}
		p.Scope, p.Delegations = e.c.Node.TrustDomain().Name(), [][]byte{e.delegation}
		callers := []any{}
		for i := range 40 {
			if open || i > 0 && n == mallorysLast {
				callers = append(callers, stagedShop(i))
			}
		}
		l.Data = map[string]any{"services": map[string]any{"web.east": map[string]any{"callers": callers}}}
	}
	p.Version, p.Author, p.Rollout = n, "spiffe://east.dev.example/operator", plan
	var err error
	if p.Content, err = (bundle.Content{Modules: l.Modules, Data: l.Data}).Encode(); err != nil {
		e.t.Fatal(err)
	}
	file, err := p.Sign(key, provision.ValidFor(24*time.Hour))
	if err != nil {
		e.t.Fatal(err)
	}
	signed, content, err := bundle.Split(file)
	if err != nil {
		e.t.Fatal(err)
	}
	v, err := bundle.Verify(signed, content, []*ecdsa.PublicKey{&e.global.PublicKey}, time.Now())
	if err != nil {
		e.t.Fatal(err)
	}
	return v
}

func (e *stagedEast) take(v *bundle.Verified) {
	e.t.Helper()
	if refused, err := e.p.Take(v, false); refused != nil || err != nil {
		e.t.Fatal(refused, err)
	}
}

// look takes a step, and expects this version of the region's policy in force.
func (e *stagedEast) look(want uint64, phase rollout.Phase) {
	e.t.Helper()
	if err := e.r.look(e.t.Context(), time.Now()); err != nil {
		e.t.Fatal(err)
	}
	e.expect(want)
	if all := e.r.Progress(); len(all) != 1 || all[0].Outlook.State.Phase != phase {
		e.t.Fatalf("%+v, want %s", all, phase)
	}
}

func (e *stagedEast) expect(want uint64) {
	e.t.Helper()
	if got := e.p.Version(policy.Regional); got != want || !strings.Contains(e.engine.Revision(), "regional@"+string(rune('0'+want))+"#") {
		e.t.Fatalf("version %d is in force, %s; want %d", got, e.engine.Revision(), want)
	}
}

func (e *stagedEast) decide(caller int) policy.Decision {
	in := shopCalls()
	in.Source.SPIFFEID = stagedShop(caller)
	in.Time.Unix = time.Now().Unix()
	return e.engine.Decide(e.t.Context(), in)
}

// calls is one question of each of n shops.
func (e *stagedEast) calls(n int) {
	for i := range n {
		e.decide(i)
	}
	synctest.Wait()
}

var (
	othersFirst = &rollout.Plan{Rings: []rollout.Ring{{Name: "canary", Nodes: []string{"/node/canary-"}}}, Soak: 600}
	selfFirst   = &rollout.Plan{Rings: []rollout.Ring{{Name: "self", Nodes: []string{self.Path()}}}, Soak: 600}
)

func canaryPeer(phase rollout.Phase, since time.Time) []rollout.Peer {
	return []rollout.Peer{{Node: rollout.Node{ID: "spiffe://east.dev.example/node/canary-1", Path: "/node/canary-1"}, Heard: true, State: &rollout.State{Phase: phase, Since: since},
		Soaked: phase == rollout.Enforcing && time.Since(since) >= 600*time.Second}}
}

func TestStagedPolicy(t *testing.T) {
	st := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	synctest.Test(t, func(t *testing.T) {
		e := newStagedEast(t, st)
		if err := e.start(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		run := func() {
			go func() { _ = e.r.shadow.Run(ctx) }() // ends without an error
		}
		run()
		e.take(e.version(policy.Global, 1, true, nil))
		e.take(e.version(policy.Regional, 1, true, othersFirst)) // nothing before it: at once
		e.expect(1)

		// The next waits for the ring before, in the shadow, also over a restart.
		e.take(e.version(policy.Regional, 2, true, othersFirst))
		e.peers = canaryPeer(rollout.Enforcing, time.Now())
		e.look(1, rollout.Waiting)
		e.calls(3)
		e.look(1, rollout.Waiting)
		if m := e.r.Progress()[0]; m.Measured.Compared != 3 || !strings.Contains(m.Outlook.Waits, "soaked") {
			t.Errorf("%+v", m)
		}
		if err := e.start(); err != nil {
			t.Fatal(err)
		}
		run()
		e.expect(1)
		time.Sleep(time.Hour) // whatever the clock says here: the canary has not said that it is over
		e.look(1, rollout.Waiting)
		e.peers[0].Soaked = true
		e.look(2, rollout.Enforcing)

		// One that waits is superseded by one that waits: what is in force stays on the disk.
		e.peers = canaryPeer(rollout.Waiting, time.Now())
		for n := uint64(3); n < 6; n++ {
			e.take(e.version(policy.Regional, n, false, othersFirst))
			e.look(2, rollout.Waiting)
		}
		if err := e.start(); err != nil {
			t.Fatal(err)
		}
		run()
		e.expect(2)

		// The first ring goes at once; what it denies too much takes it back, for good.
		e.take(e.version(policy.Regional, 6, false, selfFirst))
		e.expect(2)
		e.look(6, rollout.Enforcing)
		e.calls(30)
		e.look(2, rollout.Stopped)
		e.calls(1)
		e.look(2, rollout.Stopped)
		if d := e.decide(0); !d.Allow {
			t.Errorf("denied after it was stopped: %+v", d)
		}
		if err := e.start(); err != nil {
			t.Fatal(err)
		}
		run()
		e.look(2, rollout.Stopped)
		var phases []string
		leaves, err := st.Outbox(0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range leaves {
			if l.Kind == trail.PolicyRollout.String() {
				phases = append(phases, string(l.Body))
			}
		}
		if n := len(phases); n == 0 || !strings.Contains(phases[n-1], "stopped") || !strings.Contains(phases[n-1], "in force here: connect: 30 of 30 callers, more than 5 percent: 30 of 30 decisions") {
			t.Errorf("the trail has %q", phases)
		}

		// A newer version without a plan holds for all at once.
		e.take(e.version(policy.Regional, 7, true, nil))
		e.expect(7)
		if err := e.r.look(ctx, time.Now()); err != nil || len(e.r.Progress()) != 0 {
			t.Errorf("%+v, %v", e.r.Progress(), err)
		}
		if e.r.shadow.Running() {
			t.Error("something is compared still")
		}

		// The engine itself goes back: that stops a rollout too.
		e.take(e.version(policy.Regional, 8, true, selfFirst))
		e.look(8, rollout.Enforcing)
		why := "the engine went back: level regional: the deadline passed"
		e.r.reverted.Store(&why)
		e.look(7, rollout.Stopped)

		// Whoever is shut out takes that back by no number of questions, also when nobody else asked yet.
		e.take(e.version(policy.Regional, mallorysLast, false, selfFirst))
		e.look(mallorysLast, rollout.Enforcing)
		for range 60 {
			e.decide(0)
		}
		synctest.Wait()
		e.look(mallorysLast, rollout.Enforcing)
		e.calls(30)
		for range 60 {
			e.decide(0)
		}
		synctest.Wait()
		e.look(mallorysLast, rollout.Enforcing)
		if m := e.r.Progress()[0].Measured; m.Denied != 121 || m.Questions != 30 || len(m.Callers) != 1 || m.Callers[0].Denied != 1 {
			t.Errorf("%+v", m)
		}
	})
}

// A node tells that its ring has soaked once it has enforced the version for that time while it ran; a
// restart costs a minute of it at most, and what passed meanwhile does not count.
func TestSoakIsMeasuredWhileRunning(t *testing.T) {
	st := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	synctest.Test(t, func(t *testing.T) {
		e := newStagedEast(t, st)
		if err := e.start(); err != nil {
			t.Fatal(err)
		}
		e.take(e.version(policy.Global, 1, true, nil))
		e.take(e.version(policy.Regional, 1, true, nil))
		e.take(e.version(policy.Regional, 2, true, selfFirst))
		runs := func(d time.Duration, soaked bool) {
			t.Helper()
			for range d / rollEvery {
				time.Sleep(rollEvery)
				e.look(2, rollout.Enforcing)
			}
			if x := e.r.Progress()[0]; x.Record.Record.Rollout.Soaked(x.Outlook.State) != soaked {
				t.Errorf("soaked %v: %+v", !soaked, x.Outlook.State)
			}
		}
		runs(5*time.Minute+30*time.Second, false)
		time.Sleep(24 * time.Hour) // off
		if err := e.start(); err != nil {
			t.Fatal(err)
		}
		runs(4*time.Minute+30*time.Second, false)
		runs(time.Minute, true)
		if err := e.start(); err != nil {
			t.Fatal(err)
		}
		runs(time.Second, true)
	})
}

// Whatever commit breaks, and whether it landed or not: after a restart the version in force is that
// of the phase on the disk, and a version is never in force before its phase says so.
func TestStagedPolicyOnAFailingDisk(t *testing.T) {
	for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
		for n := 1; n <= 3; n++ {
			path := filepath.Join(t.TempDir(), "state.db")
			st, err := store.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			e := newStagedEast(t, st)
			if err := e.start(); err != nil {
				t.Fatal(err)
			}
			e.take(e.version(policy.Global, 1, true, nil))
			e.take(e.version(policy.Regional, 1, true, nil))
			e.take(e.version(policy.Regional, 2, true, selfFirst))
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			commits := 0
			if e.st, err = store.OpenFaulty(path, func(int) store.Fault {
				if commits++; commits == n {
					return fault
				}
				return store.NoFault
			}); err != nil {
				t.Fatal(err)
			}
			if err = e.start(); err == nil {
				err = e.r.look(t.Context(), time.Now())
			}
			if err != nil && e.p.Version(policy.Regional) == 2 && n == 1 {
				t.Errorf("fault %v at %d: in force before it was durable", fault, n)
			}
			e.st.Close()
			if e.st, err = store.Open(path); err != nil {
				t.Fatal(err)
			}
			if err := e.start(); err != nil {
				t.Fatal(err)
			}
			k, _ := e.p.Newest(policy.Regional, "east.dev.example")
			want := uint64(1)
			if e.p.stages.of(k.Name).Phase == rollout.Enforcing {
				want = 2
			}
			e.expect(want)
			e.st.Close()
		}
	}
}

// What was in force stays held, and is told from what was stopped or waited, however many come.
func TestHeldToGoBack(t *testing.T) {
	e := stagedEastOn(t)
	states := func(want ...string) {
		t.Helper()
		var got []string
		for _, k := range e.p.Kept() {
			if k.Record.Level == policy.Regional {
				state, _ := e.p.StateOf(k)
				got = append(got, fmt.Sprintf("%d %s", k.Record.Version, state))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("holds %q, want %q", got, want)
		}
	}
	stop := func() {
		t.Helper()
		k, _ := e.p.Newest(policy.Regional, "east.dev.example")
		if err := e.p.move(k, rollout.State{Phase: rollout.Stopped, Since: time.Now(), Reason: "denies"}, "canary", nil); err != nil {
			t.Fatal(err)
		}
	}
	e.take(e.version(policy.Regional, 1, true, nil))
	e.take(e.version(policy.Regional, 2, false, nil))
	for n := uint64(3); n < 6; n++ {
		e.take(e.version(policy.Regional, n, true, othersFirst))
		stop()
	}
	states("5 stopped", "4 stopped", "2 in force", "1 was in force")
	if err := e.start(); err != nil { // nor does a restart lose it
		t.Fatal(err)
	}
	e.take(e.version(policy.Regional, 6, true, othersFirst))
	states("6 staged", "5 stopped", "2 in force", "1 was in force")
	e.take(e.version(policy.Regional, 7, true, nil))
	states("7 in force", "6 staged", "2 was in force", "1 was in force")
	e.take(e.version(policy.Regional, 8, true, nil))
	states("8 in force", "7 was in force", "2 was in force")
}
