package issuer_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

func program(name string, on spiffeid.ID, selectors ...string) issuer.Entry {
	return issuer.Entry{SPIFFEID: id("/workload/" + name), ParentID: on, Selectors: selectors}
}

func machineID(t *testing.T, digit string) spiffeid.ID {
	t.Helper()
	m, err := issuer.AgentID(east, "bailiwick_tpm", strings.Repeat(digit, 64))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// apply applies and says in short what came of it: "+/a" is new, "-/a" gone, "~/a"
// in another's place.
func (r *region) apply(how issuer.Apply, entries ...issuer.Entry) string {
	r.t.Helper()
	got, err := r.server.Apply(entries, how)
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, c := range got.Changes {
		switch {
		case c.Before == nil:
			out = append(out, "+"+c.After.SPIFFEID.Path())
		case c.After == nil:
			out = append(out, "-"+c.Before.SPIFFEID.Path())
		default:
			out = append(out, "~"+c.Before.SPIFFEID.Path()+">"+c.After.SPIFFEID.Path())
		}
	}
	slices.Sort(out)
	if got.Unchanged > 0 {
		out = append(out, fmt.Sprintf("=%d", got.Unchanged))
	}
	for i := range entries {
		if err := got.Refused[i]; err != nil {
			if !errors.Is(err, issuer.ErrEntry) {
				r.t.Errorf("refused without ErrEntry: %v", err)
			}
			out = append(out, fmt.Sprintf("!%d", i))
		}
	}
	return strings.Join(out, " ")
}

func TestApply(t *testing.T) {
	r := newRegion(t, nil)
	n2, n3 := id("/node/n2"), id("/node/n3")
	a, b := machineID(t, "a"), machineID(t, "b")
	web, cron := program("web", n2, "unix:uid:1"), program("cron", n2, "unix:uid:2")
	longer := web
	longer.X509TTL = 2 * time.Minute
	gateway := issuer.Entry{SPIFFEID: n2, ParentID: a, Class: "gateway"}
	var dry, prune = issuer.Apply{DryRun: true}, issuer.Apply{Prune: true}
	for _, step := range []struct {
		name    string
		how     issuer.Apply
		entries []issuer.Entry
		want    string
	}{
		{"only told", dry, []issuer.Entry{web}, "+/workload/web"},
		{"new", issuer.Apply{}, []issuer.Entry{web, {SPIFFEID: n2, ParentID: a}}, "+/node/n2 +/workload/web"},
		{"the same again", issuer.Apply{}, []issuer.Entry{{SPIFFEID: n2, ParentID: a}, web}, "=2"},
		{"spelled otherwise", issuer.Apply{}, []issuer.Entry{{SPIFFEID: n2, ParentID: a, Class: "node"}}, "=1"},
		{"other fields", issuer.Apply{}, []issuer.Entry{longer, gateway}, "~/node/n2>/node/n2 ~/workload/web>/workload/web"},
		{"one more, the rest stays", issuer.Apply{}, []issuer.Entry{cron}, "+/workload/cron"},
		{"another machine is the node", issuer.Apply{}, []issuer.Entry{{SPIFFEID: n2, ParentID: b}}, "~/node/n2>/node/n2"},
		{"two change places", issuer.Apply{}, []issuer.Entry{{SPIFFEID: n3, ParentID: a}}, "+/node/n3"},
		{"at once", issuer.Apply{}, []issuer.Entry{{SPIFFEID: n2, ParentID: a}, {SPIFFEID: n3, ParentID: b}}, "~/node/n2>/node/n2 ~/node/n3>/node/n3"},
		{"pruning told", issuer.Apply{Prune: true, DryRun: true}, []issuer.Entry{cron}, "-/node/n2 -/node/n3 -/workload/web =1"},
		{"pruned", prune, []issuer.Entry{cron}, "-/node/n2 -/node/n3 -/workload/web =1"},
		{"all that is wrong, and nothing done", prune, []issuer.Entry{
			web, {SPIFFEID: n1, ParentID: a}, cron, cron, program("x", n2), {SPIFFEID: n3, ParentID: r.machine.id()}}, "!1 !3 !4 !5"},
		{"as before", prune, []issuer.Entry{cron}, "=1"},
		{"what a file says too", issuer.Apply{}, []issuer.Entry{{SPIFFEID: n1, ParentID: r.machine.id()}}, "+/node/n1"},
		{"all pruned", prune, nil, "-/node/n1 -/workload/cron"},
	} {
		if got := r.apply(step.how, step.entries...); got != step.want {
			t.Errorf("%s: got %q, want %q", step.name, got, step.want)
		}
	}
}

// An applied entry is the applier's, a file's the file's, the socket's the socket's.
func TestOwners(t *testing.T) {
	r := newRegion(t, nil)
	c, _ := r.attest()
	socket := entryv1.NewEntryClient(r.local())
	made, err := socket.BatchCreateEntry(t.Context(), &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{{
		SpiffeId: pathID("/workload/api"), ParentId: pathID("/node/n1"), Selectors: []*types.Selector{{Type: "unix", Value: "uid:7"}},
	}}})
	if err != nil || made.Results[0].Status.Code != 0 {
		t.Fatal(made, err)
	}
	if got := r.apply(issuer.Apply{Prune: true}, program("web", n1, "unix:uid:1")); got != "+/workload/web" {
		t.Error(got)
	}
	if got := r.apply(issuer.Apply{}, program("api", n1, "unix:uid:7")); got != "!0" {
		t.Errorf("what the socket says was applied: %s", got)
	}
	applied := r.entry(c, id("/workload/web")) // at once, on a live connection
	all, err := r.server.Entries()
	if err != nil {
		t.Fatal(err)
	}
	from := map[string]string{}
	for _, e := range all {
		from[e.SPIFFEID.Path()] = e.From
		if !e.InForce {
			t.Errorf("%s is out of force", e.SPIFFEID)
		}
	}
	if from["/workload/web"] != issuer.FromApply || from["/workload/api"] != issuer.FromAPI || from["/node/n1"] != issuer.FromFile {
		t.Error(from)
	}

	update, err := socket.BatchUpdateEntry(t.Context(), &entryv1.BatchUpdateEntryRequest{Entries: []*types.Entry{{Id: applied.ID, Hint: "x"}}, InputMask: &types.EntryMask{Hint: true}})
	if err != nil || codes.Code(update.Results[0].Status.Code) != codes.FailedPrecondition {
		t.Errorf("the socket changed an applied entry: %v, %v", update, err)
	}
	create, err := socket.BatchCreateEntry(t.Context(), &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{{
		Id: "apply-mine", SpiffeId: pathID("/workload/x"), ParentId: pathID("/node/n1"), Selectors: []*types.Selector{{Type: "unix", Value: "uid:8"}},
	}}})
	if err != nil || codes.Code(create.Results[0].Status.Code) != codes.InvalidArgument {
		t.Errorf("the socket made an applied entry: %v, %v", create, err)
	}

	for _, e := range all {
		_, err := r.server.Delete(e.ID)
		if want := e.From == issuer.FromFile; errors.Is(err, issuer.ErrEntry) != want || !want && err != nil {
			t.Errorf("delete %s of %s: %v", e.SPIFFEID, e.From, err)
		}
	}
	if _, err := r.server.Delete(applied.ID); !errors.Is(err, issuer.ErrNoEntry) {
		t.Errorf("deleted twice: %v", err)
	}
	if n := r.leaves(); n["admin.action create entry"] != 2 || n["admin.action delete entry"] != 2 {
		t.Errorf("leaves: %v", n)
	}
}

func TestAppliedEntriesLast(t *testing.T) {
	r := newRegion(t, nil)
	e := program("web", n1, "unix:uid:1")
	if got := r.apply(issuer.Apply{}, e, issuer.Entry{SPIFFEID: id("/node/n9"), ParentID: machineID(t, "9"), Class: "gateway"}); got != "+/node/n9 +/workload/web" {
		t.Fatal(got)
	}
	again, err := issuer.New(issuer.Config{CA: r.ca, RecordRoot: r.root, Endorse: issuer.EndorseWith(r.authority), Store: r.store, Epochs: fixedEpochs{}, Standing: r.standing,
		Entries: []issuer.Entry{e}}) // the file says it as well, now
	if err != nil {
		t.Fatal(err)
	}
	all, err := again.Entries()
	if err != nil || len(all) != 3 {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, got := range all {
		if got.SPIFFEID == id("/node/n9") && (got.Class != "gateway" || !got.InForce) {
			t.Errorf("%+v", got)
		}
		if got.SPIFFEID == e.SPIFFEID && got.InForce != (got.From == issuer.FromFile) {
			t.Errorf("%+v", got)
		}
	}
}

func TestApplyIsDurableOrNotDone(t *testing.T) {
	for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
		path := filepath.Join(t.TempDir(), "store")
		broken := false
		faulty, err := store.OpenFaulty(path, func(int) store.Fault {
			if broken {
				return fault
			}
			return store.NoFault
		})
		if err != nil {
			t.Fatal(err)
		}
		r := newRegion(t, func(c *issuer.Config) { c.Store = faulty })
		broken = true
		if _, err := r.server.Apply([]issuer.Entry{program("web", n1, "unix:uid:1")}, issuer.Apply{}); err == nil {
			t.Errorf("fault %v: applied", fault)
		}
		if all, err := r.server.Entries(); fault == store.FaultBefore && (err != nil || len(all) != 3) {
			t.Errorf("fault %v: %d entries are in force, %v", fault, len(all), err)
		}
		if err := faulty.Close(); err != nil {
			t.Fatal(err)
		}
		st, err := store.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		leaves, err := st.Outbox(0, 10)
		if want := int(fault - store.FaultBefore); err != nil || len(leaves) != want {
			t.Errorf("fault %v: %d leaves, %v, want %d: an entry and its leaf share their fate", fault, len(leaves), err, want)
		}
		st.Close()
	}
}

func TestApplyJoinToken(t *testing.T) {
	r := newRegion(t, nil)
	hash := sha256.Sum256([]byte("secret"))
	agent, err := issuer.AgentID(east, "join_token", hex.EncodeToString(hash[:]))
	if err != nil {
		t.Fatal(err)
	}
	node := issuer.Entry{SPIFFEID: id("/node/tablet"), ParentID: agent}
	if got := r.apply(issuer.Apply{}, node); got != "+/node/tablet" {
		t.Fatal(got)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, spire.NewJoinToken("secret"), newKey(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, spire.NewJoinToken("secret"), newKey(t)); err == nil {
		t.Error("the token worked twice")
	}
	if got := r.apply(issuer.Apply{}, node); got != "=1" {
		t.Errorf("applied again after the token was spent: %s", got)
	}
	node.X509TTL = time.Hour
	if got := r.apply(issuer.Apply{}, node); got != "~/node/tablet>/node/tablet" {
		t.Errorf("another lifetime after the token was spent: %s", got)
	}
	web := program("web", agent, "unix:uid:1")
	if got := r.apply(issuer.Apply{}, web); got != "+/workload/web" {
		t.Errorf("a workload of the agent that spent the token: %s", got)
	}
	web.X509TTL = time.Hour
	if got := r.apply(issuer.Apply{}, web); got != "~/workload/web>/workload/web" {
		t.Errorf("another lifetime for a workload of that agent: %s", got)
	}
	if got := r.apply(issuer.Apply{Prune: true}, web); got != "-/node/tablet =1" {
		t.Error(got)
	}
	if got := r.apply(issuer.Apply{}, node); got != "!0" {
		t.Errorf("an entry for a spent token: %s", got)
	}
	without := newRegion(t, func(c *issuer.Config) { c.Attestors = c.Attestors[1:] })
	if got := without.apply(issuer.Apply{}, node); got != "!0" {
		t.Errorf("where no join tokens are accepted: %s", got)
	}
}

// Entries are bounded, whichever way they come: applied, or one by one.
func TestEntriesAreBounded(t *testing.T) {
	r := newRegion(t, nil)
	n2 := id("/node/n2")
	if got := r.apply(issuer.Apply{}, program("web", n2, "unix:uid:1")); got != "+/workload/web" {
		t.Fatal(got)
	}
	all, err := r.server.Entries()
	if err != nil {
		t.Fatal(err)
	}
	r.server.BoundEntries(len(all) + 1)
	two := []issuer.Entry{program("cron", n2, "unix:uid:2"), program("mail", n2, "unix:uid:3")}
	if _, err := r.server.Apply(two, issuer.Apply{}); !errors.Is(err, issuer.ErrEntry) {
		t.Errorf("one too many is applied: %v", err)
	}
	if got := r.apply(issuer.Apply{}, two[0]); got != "+/workload/cron" {
		t.Error(got)
	}
	created, err := entryv1.NewEntryClient(r.local()).BatchCreateEntry(t.Context(), &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{{
		SpiffeId: &types.SPIFFEID{TrustDomain: n2.TrustDomain().Name(), Path: "/workload/mail"}, ParentId: &types.SPIFFEID{TrustDomain: n2.TrustDomain().Name(), Path: n2.Path()},
		Selectors: []*types.Selector{{Type: "unix", Value: "uid:3"}},
	}}})
	if err != nil || created.Results[0].Status.Code == 0 {
		t.Errorf("one too many is created: %v, %v", created, err)
	}
}
