package enrolling

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/machine"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// tpmNode is a node on a real software TPM, as far as its identity and its feed go.
// Whatever is done to it, it never signs two records for one place in its feed.
type tpmNode struct {
	t      *testing.T
	region *testRegion
	maker  *maker.CA
	soft   *maker.SoftTPM
	dir    string
	cfg    config.Config
	signed map[[2]uint64]string // (epoch, seq) -> what was written there

	// of the running node
	st      *store.Store
	creds   *Credentials
	replica *replica.Replica
	rewound chan uint64
	end     func()
}

func newTPMNode(t *testing.T) *tpmNode {
	return newTPMNodeBy(t, func(a issuer.TPM) issuer.Attestor { return a })
}

// uncounted is evidence that shows no counters, as SPIRE's tpm_devid.
type uncounted struct{ issuer.TPM }

func (u uncounted) Attest(ctx context.Context, e issuer.Evidence, exchange func([]byte) ([]byte, error)) (issuer.Attested, error) {
	a, err := u.TPM.Attest(ctx, e, exchange)
	a.Starts, a.Epoch = 0, 0
	return a, err
}

func newTPMNodeBy(t *testing.T, by func(issuer.TPM) issuer.Attestor) *tpmNode {
	t.Helper()
	n := &tpmNode{t: t, dir: t.TempDir(), signed: map[[2]uint64]string{}}
	var err error
	n.maker, err = maker.OpenCA(filepath.Join(n.dir, "maker"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.region.must(n.soft.Stop()) })
	n.replaceTPM("tpm")
	n.region = newTestRegion(t, []issuer.Attestor{by(issuer.TPM{
		Verifier: &tpm.Verifier{Roots: n.maker.Roots()}, Appraise: func(context.Context, tpm.Claims) (issuer.Record, error) { return nil, nil },
	})}, n.agent())
	n.cfg = n.region.config(n.state())
	n.cfg.TPM.Mode, n.cfg.TPM.Device, n.cfg.TPM.BootLog = "auto", n.soft.Path(), config.Path(n.soft.BootLog())
	n.start()
	n.region.must(n.creds.renew(t.Context()))
	return n
}

func (n *tpmNode) state() string { return filepath.Join(n.dir, "state") }

// replaceTPM puts another TPM into the machine, or the one of that name again.
func (n *tpmNode) replaceTPM(name string) {
	n.t.Helper()
	var err error
	if n.soft != nil {
		err = n.soft.Stop()
	}
	if err == nil {
		n.soft, err = n.maker.Manufacture(context.Background(), filepath.Join(n.dir, name))
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.cfg.TPM.Device, n.cfg.TPM.BootLog = n.soft.Path(), config.Path(n.soft.BootLog())
}

func (n *tpmNode) ek() string {
	n.t.Helper()
	d, err := tpm.Open(n.soft.Path())
	if err != nil {
		n.t.Fatal(err)
	}
	defer d.Close()
	ek, err := d.EndorsementKey()
	if err != nil {
		n.t.Fatal(err)
	}
	return hex.EncodeToString(ek.Hash[:])
}

// agent is the ID of whoever attests by the TPM that is in the machine.
func (n *tpmNode) agent() spiffeid.ID {
	n.t.Helper()
	id, err := issuer.AgentID(tdEast, "bailiwick_tpm", n.ek())
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

// start is a start of the node; nothing of it asks the issuer.
func (n *tpmNode) start() {
	n.t.Helper()
	n.st = openStore(n.t, filepath.Join(n.state(), "state.db"))
	n.creds = n.region.start(n.cfg, n.st)
	n.rewound = make(chan uint64, 1)
	var err error
	n.replica, err = replica.Open(replica.Config{
		Self: nodeN1, Store: n.st, Keys: keysOf(n.creds), Kinds: feed.DefaultKinds(),
		Apply:     func(feed.Record, feed.Op) error { return nil },
		OnRewound: func(epoch, _ uint64) { n.rewound <- epoch },
		Log:       slog.New(slog.DiscardHandler),
	})
	n.region.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- n.replica.Run(ctx) }()
	n.end = func() {
		cancel()
		if err := <-ran; !errors.Is(err, context.Canceled) {
			n.t.Fatal(err)
		}
		n.region.must(errors.Join(n.creds.machine.Close(), n.st.Close()))
	}
}

// keysOf verifies epoch certificates of the node that holds c.
func keysOf(c *Credentials) feed.KeyFunc {
	return func(der []byte) (feed.EpochKey, error) {
		e, err := c.verifyEpoch(der)
		return feed.EpochKey{
			Origin: e.ID, Epoch: e.Epoch, Key: e.Key, Class: e.Class, Attested: e.Attested(), NotBefore: e.NotBefore, NotAfter: e.NotAfter, Cert: der,
		}, err
	}
}

// restart ends the node as kill -9 does, which leaves on disk what is there, does
// something in between, and starts it again.
func (n *tpmNode) restart(between ...func()) {
	n.t.Helper()
	n.end()
	for _, f := range between {
		f()
	}
	n.start()
}

// powerCut resets the TPM too.
func (n *tpmNode) powerCut() { n.replaceTPM(filepath.Base(n.soft.Dir())) }

// copyState copies the state folder.
func (n *tpmNode) copyState(from, to string) {
	n.t.Helper()
	n.region.must(os.RemoveAll(to))
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
}

// write begins the epoch in force and writes; it returns in which epoch.
func (n *tpmNode) write(value string) uint64 {
	n.t.Helper()
	epoch, err := n.creds.Begin(n.t.Context(), n.replica, false)
	n.region.must(err)
	n.put(value)
	return epoch
}

func (n *tpmNode) put(value string) {
	n.t.Helper()
	r, err := n.replica.Put(n.t.Context(), feed.Op{Key: feed.KeyOf(nodeN1, "x-note", "n"), Action: feed.Put, Value: []byte(value), Scope: feed.ScopeRegion})
	n.region.must(err)
	place := [2]uint64{r.Epoch, r.Seq}
	if before, used := n.signed[place]; used {
		n.t.Fatalf("record %d of epoch %d was %q and is now %q", r.Seq, r.Epoch, before, value)
	}
	n.signed[place] = value
}

// readOnly checks that nothing can be written, and that an enrolment mends it.
func (n *tpmNode) readOnly() {
	n.t.Helper()
	if _, err := n.creds.Begin(n.t.Context(), n.replica, false); !errors.Is(err, replica.ErrRewound) && !errors.Is(err, replica.ErrNoIdentity) {
		n.t.Fatalf("it may write: %v", err)
	}
	n.region.must(n.creds.renew(n.t.Context()))
}

func TestSameEpochAfterRestarts(t *testing.T) {
	n := newTPMNode(t)
	first := n.write("first")
	for i := range 3 {
		n.restart()
		if got := n.write(fmt.Sprint("restarted ", i)); got != first {
			t.Fatalf("epoch %d after a restart, want %d", got, first)
		}
	}
	for i := range 10 { // with no issuer in reach
		n.restart(n.powerCut)
		complete(t, n.creds)
		if got := n.write(fmt.Sprint("power cut ", i)); got != first {
			t.Fatalf("epoch %d after power cut %d, want %d", got, i+1, first)
		}
	}
	n.end()
}

// TestRestoredDisk: however often one copy of a disk comes back, the node writes nothing
// twice, also where its evidence shows no counters and only the node says what they are.
func TestRestoredDisk(t *testing.T) {
	for name, by := range map[string]func(issuer.TPM) issuer.Attestor{
		"attested counter": func(a issuer.TPM) issuer.Attestor { return a },
		"own word":         func(a issuer.TPM) issuer.Attestor { return uncounted{a} },
	} {
		t.Run(name, func(t *testing.T) { restoredDisk(t, newTPMNodeBy(t, by)) })
	}
}

func restoredDisk(t *testing.T, n *tpmNode) {
	first := n.write("first")
	old := filepath.Join(n.dir, "old")
	n.restart(func() { n.copyState(n.state(), old) })
	n.write("lost")
	restore := func() { n.copyState(old, n.state()) }
	n.restart(restore)
	second := n.write("in the spare epoch, with no issuer in reach")
	if second <= first {
		t.Fatalf("epoch %d after %d", second, first)
	}
	n.restart()
	if got := n.write("again"); got != second {
		t.Fatalf("epoch %d, want %d", got, second)
	}
	n.restart(restore) // which does not know that the spare is spent
	n.readOnly()
	third := n.write("asked for")
	n.restart(restore)
	n.readOnly()
	if fourth := n.write("asked for again"); third <= second || fourth <= third {
		t.Fatalf("epochs %d, %d, %d, %d", first, second, third, fourth)
	}
	n.end()
}

// TestLostTail takes away the newest records of a disk that is otherwise the right
// one, which only a peer can notice.
func TestLostTail(t *testing.T) {
	n := newTPMNode(t)
	peerStore := openStore(t, filepath.Join(n.dir, "peer.db"))
	peer, err := replica.Open(replica.Config{
		Self: liar, Store: peerStore, Keys: keysOf(n.creds), Kinds: feed.DefaultKinds(), Apply: func(feed.Record, feed.Op) error { return nil }, Log: slog.New(slog.DiscardHandler),
	})
	n.region.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- peer.Run(ctx) }()
	meet := func() (part func()) {
		ours, theirs := net.Pipe()
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{}, 2)
		go func() { _ = n.replica.Attach(ctx, liar, ours); done <- struct{}{} }()
		go func() { _ = peer.Attach(ctx, nodeN1, theirs); done <- struct{}{} }()
		return func() {
			cancel()
			<-done
			<-done
		}
	}
	first := n.write("first")
	n.end()
	n.start()
	old := filepath.Join(n.dir, "old")
	n.copyState(n.state(), old) // of the same start
	n.write("lost")
	part := meet()
	deadline := time.After(10 * time.Second)
	for {
		if e, ok := peer.Get(feed.KeyOf(nodeN1, "x-note", "n")); ok && string(e.Value) == "lost" {
			break
		}
		select {
		case <-deadline:
			t.Fatal("the peer never had the record")
		case <-time.After(10 * time.Millisecond):
		}
	}
	part()
	n.end()
	n.copyState(old, n.state())
	n.start()
	if epoch, err := n.creds.Begin(t.Context(), n.replica, false); err != nil || epoch != first {
		t.Fatal(epoch, err)
	}
	part = meet()
	select {
	case epoch := <-n.rewound:
		if epoch != first {
			t.Fatalf("rewound in epoch %d, want %d", epoch, first)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nobody noticed")
	}
	if _, err := n.replica.Put(t.Context(), feed.Op{Key: feed.KeyOf(nodeN1, "x-note", "n"), Action: feed.Put, Scope: feed.ScopeRegion}); !errors.Is(err, replica.ErrRewound) {
		t.Errorf("it writes on: %v", err)
	}
	second, err := n.creds.Begin(t.Context(), n.replica, true)
	if err != nil || second <= first {
		t.Fatalf("epoch %d after %d: %v", second, first, err)
	}
	n.put("after the loss")
	part()
	n.end()
	cancel()
	<-ran
}

// leafOf returns the newest leaf of that kind that waits for the trail.
func leafOf(t *testing.T, st *store.Store, kind trail.Kind) string {
	t.Helper()
	all, err := st.Outbox(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	body := ""
	for _, l := range all {
		if l.Kind == kind.String() {
			body = string(l.Body)
		}
	}
	return body
}

func TestClearedTPM(t *testing.T) {
	n := newTPMNode(t)
	first, ek := n.write("first"), n.ek()
	n.end()
	n.region.must(n.soft.Clear())
	if n.ek() != ek {
		t.Fatal("the endorsement key changed")
	}
	strict := n.cfg
	strict.TPM.Mode = "required"
	st := openStore(t, filepath.Join(n.state(), "state.db"))
	if _, err := machine.Open(strict, st, slog.New(slog.DiscardHandler)); !errors.Is(err, tpm.ErrOtherTPM) || errors.Is(err, machine.ErrNoTPM) {
		t.Errorf("a TPM is required: %v", err)
	}
	n.region.must(st.Close())

	n.start()
	if !strings.Contains(n.creds.machine.Renewed(), "the TPM was cleared:") {
		t.Fatal("nothing is said of it")
	}
	if body := leafOf(t, n.st, trail.IdentityMachine); !strings.Contains(body, "the TPM was cleared") || !strings.Contains(body, ek) {
		t.Errorf("the trail says %q", body)
	}
	if h := n.creds.Now(); h.Node != nil || len(h.Workloads) != 1 {
		t.Errorf("node %v, %d workloads", h.Node, len(h.Workloads))
	}
	n.restart() // before it reached the issuer
	if n.creds.machine.Renewed() == "" {
		t.Error("a restart made it silent")
	}
	n.readOnly()
	complete(t, n.creds)
	if e, ok := n.replica.Get(feed.KeyOf(nodeN1, "x-note", "n")); !ok || string(e.Value) != "first" {
		t.Error("the state of before is lost")
	}
	if second := n.write("after the clear"); second <= first {
		t.Errorf("epoch %d after %d", second, first)
	}
	if n.creds.machine.Renewed() != "" {
		t.Error("it goes on about what is mended")
	}
	n.restart()
	if n.write("and on"); n.creds.machine.Renewed() != "" {
		t.Error("it was mended once already")
	}
	n.end()
}

func TestReplacedTPM(t *testing.T) {
	for name, removed := range map[string][]string{"its files in place": nil, "its files removed": {tpm.NodeKeyFile, tpm.TrailKeyFile}} {
		t.Run(name, func(t *testing.T) {
			n := newTPMNode(t)
			first := n.write("first")
			n.restart(func() {
				n.replaceTPM("another")
				for _, f := range removed {
					n.region.must(os.Remove(filepath.Join(n.state(), "keys", f)))
				}
			})
			if !strings.Contains(n.creds.machine.Renewed(), "the TPM is another one") {
				t.Fatal("nothing is said of it")
			}
			err := n.creds.renew(t.Context())
			if want := fmt.Sprintf("{id: %s, ek: %s}", nodeN1, n.ek()); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), want) {
				t.Fatalf("%v, want %s in it", err, want)
			}
			n.region.must(n.region.server.SetEntries([]issuer.Entry{
				{SPIFFEID: nodeN1, ParentID: n.agent()}, {SPIFFEID: workShop, ParentID: nodeN1, Selectors: []string{"unix:uid:0"}},
			}))
			n.readOnly()
			if second := n.write("after the change"); second <= first {
				t.Errorf("epoch %d after %d", second, first)
			}
			n.end()
		})
	}
}

// TestInterruptedStartOver breaks every commit of the first start after a clear.
func TestInterruptedStartOver(t *testing.T) {
	for at := 1; ; at++ {
		reached := false
		for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
			n := newTPMNode(t)
			first := n.write("first")
			n.end()
			n.region.must(n.soft.Clear())
			st, err := store.OpenFaulty(filepath.Join(n.state(), "state.db"), func(op int) store.Fault {
				if op == at {
					reached = true
					return fault
				}
				return store.NoFault
			})
			n.region.must(err)
			if m, err := machine.Open(n.cfg, st, slog.New(slog.DiscardHandler)); err == nil {
				n.region.must(m.Close())
			} else if !reached {
				t.Fatal(err)
			}
			n.region.must(st.Close())
			n.start()
			if n.creds.machine.Renewed() == "" {
				t.Fatalf("commit %d, fault %d: nothing is said of it", at, fault)
			}
			n.readOnly()
			if second := n.write("after the clear"); second <= first {
				t.Fatalf("commit %d, fault %d: epoch %d after %d", at, fault, second, first)
			}
			n.end()
		}
		if !reached {
			if at < 3 {
				t.Fatalf("only %d commits", at-1)
			}
			return
		}
	}
}
