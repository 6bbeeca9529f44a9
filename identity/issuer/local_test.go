package issuer_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// local connects as the operator.
func (r *region) local() *grpc.ClientConn {
	r.t.Helper()
	dir, err := os.MkdirTemp("", "bw") // short: sockets have short names
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "api.sock")
	l, err := issuer.ListenLocal(path)
	if err != nil {
		r.t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		r.t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.server.ServeLocal(ctx, l) }()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-served; err != nil {
			r.t.Error(err)
		}
	})
	return conn
}

// raw is a connection that shows an agent's SVID.
func (r *region) raw(a spire.Agent) *grpc.ClientConn {
	r.t.Helper()
	own := new(identity.Credential)
	own.Set(a.SVID)
	creds := credentials.NewTLS(identity.ClientTLS(own, r.ca, func(spiffeid.ID, [][]*x509.Certificate) error { return nil }))
	conn, err := grpc.NewClient(r.cfg.Addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

func pathID(path string) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: "east.dev.example", Path: path}
}

func TestLocalAgents(t *testing.T) {
	r := newRegion(t, nil)
	conn := r.local()
	agents := agentv1.NewAgentClient(conn)
	if h, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil || h.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	clients := map[string]*spire.Client{}
	for _, name := range []string{"m3", "m1", "m2"} {
		r.machine.name = name
		c, _ := r.attest()
		clients[name] = c
	}
	var got []string
	for token := ""; ; {
		page, err := agents.ListAgents(t.Context(), &agentv1.ListAgentsRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Agents {
			got = append(got, a.Id.Path)
			if a.AttestationType != "fake" || !a.CanReattest || a.X509SvidSerialNumber == "" || a.X509SvidExpiresAt <= time.Now().Unix() {
				t.Errorf("%v", a)
			}
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if want := []string{"/spire/agent/fake/m1", "/spire/agent/fake/m2", "/spire/agent/fake/m3"}; !slices.Equal(got, want) {
		t.Errorf("list %v, want %v", got, want)
	}

	// On live connections, the next call already says so.
	if _, err := agents.BanAgent(t.Context(), &agentv1.BanAgentRequest{Id: pathID("/spire/agent/fake/m1")}); err != nil {
		t.Fatal(err)
	}
	if _, err := clients["m1"].Entries(t.Context(), nil); !errors.Is(err, spire.ErrBanned) {
		t.Errorf("banned: %v", err)
	}
	if _, err := agents.DeleteAgent(t.Context(), &agentv1.DeleteAgentRequest{Id: pathID("/spire/agent/fake/m2")}); err != nil {
		t.Fatal(err)
	}
	if _, err := clients["m2"].Entries(t.Context(), nil); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("evicted: %v", err)
	}
	if err := clients["m3"].PostStatus(t.Context(), 1, "1.15.3"); err != nil {
		t.Errorf("the third one: %v", err)
	}
	if err := clients["m3"].PostStatus(t.Context(), 2, ""); err != nil { // says nothing new
		t.Errorf("the third one: %v", err)
	}
	if err := clients["m3"].PostStatus(t.Context(), 2, strings.Repeat("v", 256)); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("a version of 256 bytes: %v", err)
	}
	r.machine.name = "m3"
	r.attest() // which keeps it
	if m3, err := agents.GetAgent(t.Context(), &agentv1.GetAgentRequest{Id: pathID("/spire/agent/fake/m3"), OutputMask: &types.AgentMask{AgentVersion: true}}); err != nil || m3.AgentVersion != "1.15.3" {
		t.Errorf("the third one: %v, %v", m3, err)
	}
	r.machine.name = "m1"
	if _, err := spire.Attest(t.Context(), r.cfg, r.machine, r.machine.key); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "is banned") {
		t.Errorf("banned, attesting: %v", err)
	}
	for name, c := range map[string]struct {
		f    *agentv1.CountAgentsRequest_Filter
		want int32
	}{
		"all": {nil, 2}, "banned": {&agentv1.CountAgentsRequest_Filter{ByBanned: wrapperspb.Bool(true)}, 1},
		"type":    {&agentv1.CountAgentsRequest_Filter{ByAttestationType: "join_token"}, 0},
		"expired": {&agentv1.CountAgentsRequest_Filter{ByExpiresBefore: time.Now().Format("2006-01-02 15:04:05 -0700 -07")}, 0},
	} {
		if got, err := agents.CountAgents(t.Context(), &agentv1.CountAgentsRequest{Filter: c.f}); err != nil || got.Count != c.want {
			t.Errorf("count %s: %v, %v", name, got, err)
		}
	}
	// Eviction ends a ban.
	if _, err := agents.DeleteAgent(t.Context(), &agentv1.DeleteAgentRequest{Id: pathID("/spire/agent/fake/m1")}); err != nil {
		t.Fatal(err)
	}
	r.attest()
	for _, id := range []*types.SPIFFEID{pathID("/spire/agent/fake/none"), pathID("/node/n1"), nil} {
		want := codes.InvalidArgument
		if id.GetPath() == "/spire/agent/fake/none" {
			want = codes.NotFound
		}
		_, e1 := agents.GetAgent(t.Context(), &agentv1.GetAgentRequest{Id: id})
		_, e2 := agents.BanAgent(t.Context(), &agentv1.BanAgentRequest{Id: id})
		_, e3 := agents.DeleteAgent(t.Context(), &agentv1.DeleteAgentRequest{Id: id})
		for _, err := range []error{e1, e2, e3} {
			if status.Code(err) != want {
				t.Errorf("%v: %v, want %s", id, err, want)
			}
		}
	}
}

// What the operator may do, nobody on the network may.
func TestLocalIsLocal(t *testing.T) {
	r := newRegion(t, nil)
	_, a := r.attest()
	if _, err := agentv1.NewAgentClient(r.raw(a)).ListAgents(t.Context(), &agentv1.ListAgentsRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("ListAgents over the network: %v", err)
	}
	if _, err := entryv1.NewEntryClient(r.raw(a)).BatchCreateEntry(t.Context(), &entryv1.BatchCreateEntryRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("BatchCreateEntry over the network: %v", err)
	}
}

func TestLocalJoinToken(t *testing.T) {
	r := newRegion(t, nil)
	conn := r.local()
	agents := agentv1.NewAgentClient(conn)
	token, err := agents.CreateJoinToken(t.Context(), &agentv1.CreateJoinTokenRequest{Ttl: 60, AgentId: pathID("/node/n7")})
	if err != nil {
		t.Fatal(err)
	}
	a, err := spire.Attest(t.Context(), r.cfg, spire.NewJoinToken(token.Value), newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	c := r.dial(a)
	if e := r.entry(c, id("/node/n7")); e.ParentID != a.SVID.ID {
		t.Errorf("%+v", e)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, spire.NewJoinToken(token.Value), newKey(t)); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("used twice: %v", err)
	}
	// A SPIRE name rather than a node's.
	token, err = agents.CreateJoinToken(t.Context(), &agentv1.CreateJoinTokenRequest{Ttl: 60, AgentId: pathID("/host"), Token: "a token of my own"})
	if err != nil {
		t.Fatal(err)
	}
	if a, err = spire.Attest(t.Context(), r.cfg, spire.NewJoinToken(token.Value), newKey(t)); err != nil {
		t.Fatal(err)
	}
	r.entry(r.dial(a), id("/host"))
	for name, req := range map[string]*agentv1.CreateJoinTokenRequest{
		"no ttl": {}, "guessable": {Ttl: 60, Token: "1234"}, "no ID": {Ttl: 60, AgentId: &types.SPIFFEID{TrustDomain: "x"}},
		"foreign": {Ttl: 60, AgentId: &types.SPIFFEID{TrustDomain: "west.dev.example", Path: "/node/n"}}, "again": {Ttl: 60, Token: "a token of my own"},
	} {
		if _, err := agents.CreateJoinToken(t.Context(), req); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Tokens survive a restart of the issuer.
	token, err = agents.CreateJoinToken(t.Context(), &agentv1.CreateJoinTokenRequest{Ttl: 60})
	if err != nil {
		t.Fatal(err)
	}
	again := &issuer.JoinTokens{}
	if _, err := issuer.New(issuer.Config{CA: r.ca, RecordRoot: r.root, Endorse: issuer.EndorseWith(r.authority), Store: r.store, Epochs: fixedEpochs{}, Standing: r.standing,
		Attestors: []issuer.Attestor{again}}); err != nil {
		t.Fatal(err)
	}
	if got, err := again.Attest(t.Context(), issuer.Evidence{Payload: []byte(token.Value), Now: time.Now()}, nil); err != nil {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := again.Attest(t.Context(), issuer.Evidence{Payload: []byte(token.Value), Now: time.Now().Add(time.Hour)}, nil); !errors.Is(err, issuer.ErrToken) {
		t.Errorf("expired: %v", err)
	}
}

func workload(path, parent string, selectors ...string) *types.Entry {
	e := &types.Entry{SpiffeId: pathID(path), ParentId: pathID(parent)}
	for _, s := range selectors {
		kind, value, _ := strings.Cut(s, ":")
		e.Selectors = append(e.Selectors, &types.Selector{Type: kind, Value: value})
	}
	return e
}

func TestLocalEntries(t *testing.T) {
	west := spiffeid.RequireTrustDomainFromString("west.dev.example")
	r := newRegion(t, nil)
	c, _ := r.attest()
	entries := entryv1.NewEntryClient(r.local())
	create := func(all ...*types.Entry) []*entryv1.BatchCreateEntryResponse_Result {
		t.Helper()
		resp, err := entries.BatchCreateEntry(t.Context(), &entryv1.BatchCreateEntryRequest{Entries: all})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Results
	}
	cart := workload("/workload/cart", "/node/n1", "unix:uid:7", "unix:gid:7")
	cart.X509SvidTtl, cart.JwtSvidTtl, cart.Hint, cart.DnsNames, cart.FederatesWith = 30, 60, "cart", []string{"cart.example"}, []string{west.Name()}
	alias := workload("/group", "/spire/server", "spiffe_id:"+r.machine.id().String())
	inGroup := workload("/workload/grouped", "/group", "unix:uid:8")
	admin, named := workload("/workload/x", "/node/n1", "unix:uid:9"), workload("/workload/y", "/node/n1", "unix:uid:9")
	admin.Admin, named.Id = true, "my-own.name"
	liar := workload("/workload/z", "/node/n1", "unix:uid:9")
	liar.Id = "file-0"
	results := create(cart, alias, inGroup, named, cart, workload("/workload/shop", "/node/n1", "unix:uid:1000"),
		workload("/node/n1", "/spire/agent/fake/m2"), workload("/workload/any", "/node/n1"), admin, liar, workload("/spire/x", "/node/n1", "a:b"))
	var got []codes.Code
	for _, x := range results {
		got = append(got, codes.Code(x.Status.Code))
	}
	want := []codes.Code{0, 0, 0, 0, codes.AlreadyExists, codes.AlreadyExists, codes.InvalidArgument, codes.InvalidArgument, codes.InvalidArgument, codes.InvalidArgument, codes.InvalidArgument}
	if !slices.Equal(got, want) {
		t.Fatalf("%v, want %v; %v", got, want, results)
	}
	if results[3].Entry.Id != "my-own.name" || results[4].Entry.Id != results[0].Entry.Id || !strings.HasPrefix(results[5].Entry.Id, "file-") {
		t.Errorf("%v", results)
	}
	e := r.entry(c, id("/workload/cart"))
	if e.TTL != 30*time.Second || e.Hint != "cart" || !slices.Equal(e.DNSNames, []string{"cart.example"}) || !slices.Equal(e.Selectors, []string{"unix:gid:7", "unix:uid:7"}) {
		t.Errorf("%+v", e)
	}
	r.entry(c, id("/workload/grouped")) // by way of the alias
	if svids, err := c.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: e.ID, ID: e.SPIFFEID, Key: newKey(t)}}); err != nil || svids[0].Err != nil {
		t.Errorf("%v, %v", svids, err)
	}
	if j, err := c.NewJWTSVID(t.Context(), e.ID, e.SPIFFEID, []string{"a"}); err != nil || time.Until(j.Expiry) > time.Minute {
		t.Errorf("%v, %v", j, err)
	}

	update := func(m *types.Entry, mask *types.EntryMask) *entryv1.BatchUpdateEntryResponse_Result {
		t.Helper()
		resp, err := entries.BatchUpdateEntry(t.Context(), &entryv1.BatchUpdateEntryRequest{Entries: []*types.Entry{m}, InputMask: mask})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Results[0]
	}
	if u := update(&types.Entry{Id: e.ID, Hint: "two"}, &types.EntryMask{Hint: true}); u.Status.Code != 0 || u.Entry.RevisionNumber != 1 || u.Entry.Hint != "two" || u.Entry.X509SvidTtl != 30 {
		t.Errorf("%v", u)
	}
	if e2 := r.entry(c, id("/workload/cart")); e2.ID != e.ID || e2.Revision != 1 || e2.Hint != "two" {
		t.Errorf("%+v", e2)
	}
	if u := update(&types.Entry{Id: e.ID}, &types.EntryMask{Selectors: true}); codes.Code(u.Status.Code) != codes.InvalidArgument {
		t.Errorf("no selectors: %v", u)
	}
	if e2 := r.entry(c, id("/workload/cart")); e2.Revision != 1 || len(e2.Selectors) != 2 {
		t.Errorf("a refused update changed %+v", e2)
	}
	file := results[5].Entry.Id
	if u := update(&types.Entry{Id: file}, &types.EntryMask{Hint: true}); codes.Code(u.Status.Code) != codes.FailedPrecondition {
		t.Errorf("an entry of a file: %v", u)
	}
	if u := update(&types.Entry{Id: "none"}, &types.EntryMask{Hint: true}); codes.Code(u.Status.Code) != codes.NotFound {
		t.Errorf("no entry: %v", u)
	}

	// An entry that ends.
	past := update(&types.Entry{Id: "my-own.name", ExpiresAt: time.Now().Add(-time.Second).Unix()}, &types.EntryMask{ExpiresAt: true})
	if past.Status.Code != 0 {
		t.Fatal(past)
	}
	seen, err := c.Entries(t.Context(), nil)
	if err != nil || slices.ContainsFunc(seen, func(e spire.Entry) bool { return e.ID == "my-own.name" }) {
		t.Errorf("an expired entry is served: %v", err)
	}

	// Files win; what they contradict is kept, and back when they change.
	files := []issuer.Entry{{SPIFFEID: n1, ParentID: r.machine.id()}, {SPIFFEID: id("/workload/cart"), ParentID: n1, Selectors: []string{"unix:uid:7", "unix:gid:7"}, Hint: "file"}}
	if err := r.server.SetEntries(files); err != nil {
		t.Fatal(err)
	}
	if e := r.entry(c, id("/workload/cart")); e.Hint != "file" || !strings.HasPrefix(e.ID, "file-") {
		t.Errorf("%+v", e)
	}
	if err := r.server.SetEntries(files[:1]); err != nil {
		t.Fatal(err)
	}
	if e := r.entry(c, id("/workload/cart")); e.Hint != "two" {
		t.Errorf("%+v", e)
	}

	count := func(f *entryv1.CountEntriesRequest_Filter) int32 {
		t.Helper()
		n, err := entries.CountEntries(t.Context(), &entryv1.CountEntriesRequest{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		return n.Count
	}
	selectors := &types.SelectorMatch{Selectors: cart.Selectors[:1], Match: types.SelectorMatch_MATCH_SUPERSET}
	for name, c := range map[string]struct {
		f    *entryv1.CountEntriesRequest_Filter
		want int32
	}{
		"all": {nil, 5}, "by ID": {&entryv1.CountEntriesRequest_Filter{BySpiffeId: pathID("/group")}, 1},
		"by parent":    {&entryv1.CountEntriesRequest_Filter{ByParentId: pathID("/node/n1")}, 2},
		"by selectors": {&entryv1.CountEntriesRequest_Filter{BySelectors: selectors}, 1},
		"by region": {&entryv1.CountEntriesRequest_Filter{ByFederatesWith: &types.FederatesWithMatch{TrustDomains: []string{west.Name()},
			Match: types.FederatesWithMatch_MATCH_EXACT}}, 1},
		"by hint":    {&entryv1.CountEntriesRequest_Filter{ByHint: wrapperspb.String("two")}, 1},
		"downstream": {&entryv1.CountEntriesRequest_Filter{ByDownstream: wrapperspb.Bool(true)}, 0},
	} {
		if got := count(c.f); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	var listed []string
	for token := ""; ; {
		page, err := entries.ListEntries(t.Context(), &entryv1.ListEntriesRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			listed = append(listed, e.Id)
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if len(listed) != 5 || !slices.IsSorted(listed) {
		t.Errorf("pages: %v", listed)
	}
	if got, err := entries.GetEntry(t.Context(), &entryv1.GetEntryRequest{Id: e.ID}); err != nil || got.Hint != "two" {
		t.Errorf("%v, %v", got, err)
	}
	gone, err := entries.BatchDeleteEntry(t.Context(), &entryv1.BatchDeleteEntryRequest{Ids: []string{e.ID, e.ID, file}})
	if err != nil || gone.Results[0].Status.Code != 0 || codes.Code(gone.Results[1].Status.Code) != codes.NotFound {
		t.Errorf("%v, %v", gone, err)
	}
	if _, err := entries.GetEntry(t.Context(), &entryv1.GetEntryRequest{Id: e.ID}); status.Code(err) != codes.NotFound {
		t.Errorf("deleted: %v", err)
	}
	if got := r.leaves(); got["admin.action create entry"] != 4 || got["admin.action update entry"] != 2 || got["admin.action delete entry"] != 1 {
		t.Errorf("trail: %v", got)
	}
}

func TestLocalBundles(t *testing.T) {
	west := spiffeid.RequireTrustDomainFromString("west.dev.example")
	valid := recordsOf(trust.Record{Region: "west", TrustDomain: west, Version: 1, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)},
		trust.Record{Region: "east", TrustDomain: east, Version: 1, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)})
	r := newRegion(t, func(c *issuer.Config) { c.Trust = valid })
	bundles := bundlev1.NewBundleClient(r.local())
	if n, err := bundles.CountBundles(t.Context(), &bundlev1.CountBundlesRequest{}); err != nil || n.Count != 2 {
		t.Errorf("%v, %v", n, err)
	}
	if l, err := bundles.ListFederatedBundles(t.Context(), &bundlev1.ListFederatedBundlesRequest{}); err != nil || len(l.Bundles) != 1 || l.Bundles[0].TrustDomain != west.Name() {
		t.Errorf("%v, %v", l, err)
	}
	if b, err := bundles.GetBundle(t.Context(), &bundlev1.GetBundleRequest{}); err != nil || len(b.X509Authorities) != 1 || len(b.JwtAuthorities) != 1 {
		t.Errorf("%v, %v", b, err)
	}
	if _, err := bundles.AppendBundle(t.Context(), &bundlev1.AppendBundleRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("AppendBundle: %v", err)
	}
}

// TestBanOnALiveStream: a sync that is under way ends where the ban found it, and so
// does an eviction's.
func TestBanOnALiveStream(t *testing.T) {
	many := func(c *issuer.Config) {
		for i := range 600 {
			c.Entries = append(c.Entries, issuer.Entry{SPIFFEID: id(fmt.Sprintf("/many/%d", i)), ParentID: n1, Selectors: []string{"unix:uid:1"}})
		}
	}
	for name, c := range map[string]struct {
		do   func(agentv1.AgentClient, *types.SPIFFEID) error
		want types.PermissionDeniedDetails_Reason
	}{
		"ban": {func(a agentv1.AgentClient, id *types.SPIFFEID) error {
			_, err := a.BanAgent(t.Context(), &agentv1.BanAgentRequest{Id: id})
			return err
		}, types.PermissionDeniedDetails_AGENT_BANNED},
		"evict": {func(a agentv1.AgentClient, id *types.SPIFFEID) error {
			_, err := a.DeleteAgent(t.Context(), &agentv1.DeleteAgentRequest{Id: id})
			return err
		}, types.PermissionDeniedDetails_AGENT_NOT_ATTESTED},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegion(t, many)
			_, a := r.attest()
			stream, err := entryv1.NewEntryClient(r.raw(a)).SyncAuthorizedEntries(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ask := func(req *entryv1.SyncAuthorizedEntriesRequest) (*entryv1.SyncAuthorizedEntriesResponse, error) {
				if err := stream.Send(req); err != nil {
					t.Fatal(err)
				}
				return stream.Recv()
			}
			first, err := ask(&entryv1.SyncAuthorizedEntriesRequest{})
			if err != nil || !first.More {
				t.Fatal(first, err)
			}
			if _, err := stream.Recv(); err != nil { // the rest of the revisions
				t.Fatal(err)
			}
			some := &entryv1.SyncAuthorizedEntriesRequest{Ids: []string{first.EntryRevisions[0].Id}}
			if got, err := ask(some); err != nil || len(got.Entries) != 1 {
				t.Fatal(got, err)
			}
			if err := c.do(agentv1.NewAgentClient(r.local()), pathID(a.SVID.ID.Path())); err != nil {
				t.Fatal(err)
			}
			_, err = ask(some)
			details := status.Convert(err).Details()
			if len(details) != 1 || details[0].(*types.PermissionDeniedDetails).GetReason() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
