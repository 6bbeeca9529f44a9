package interop

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// many is more entries than fit into two pages of the sync.
const many = 1100

// incidents are cells about one thing each. Each has a server of its own if it
// harms it.
var incidents = []struct {
	name   string
	alone  bool // needs a server of its own
	client func(t *testing.T, s *server, p *pki)
	agent  func(t *testing.T, s *server, p *pki)
}{
	{"server killed and back", true, clientAfterKill, agentAfterKill},
	{"ban", false, clientBanned, agentBanned},
	{"evict", false, clientEvicted, agentEvicted},
	{"authority rotated", true, clientRotation, agentRotation},
	{"another region's bundle", true, clientFederation, agentFederation},
	{"conformance", false, clientConformance, agentConformance},
	{"1100 entries", false, clientManyEntries, agentManyEntries},
}

// killed ends a server as a power cut does, and starts it again after meanwhile.
func (s *server) killed(t *testing.T, meanwhile func()) {
	t.Helper()
	s.proc.stop(syscall.SIGKILL)
	meanwhile()
	s.proc = s.begin(t)
	s.ready(t)
}

func clientAfterKill(t *testing.T, s *server, p *pki) {
	e := byToken(t, s, p)
	id := spiffeid.RequireFromPath(td, "/workload/client-kill")
	s.entry(t, e.agent, id, self)
	c := attest(t, s, e)
	entry := c.find(t, id)
	s.killed(t, func() {
		if _, err := c.Entries(t.Context(), nil); !errors.Is(err, spire.ErrUnreachable) {
			t.Errorf("no server: %v, want %v", err, spire.ErrUnreachable)
		}
	})
	eventually(t, "the same client works again", func() error {
		_, err := c.Entries(t.Context(), nil)
		return err
	})
	checkSVID(t, c.svid(t, entry, newKey(t)), c.bundle(t))
	c.renew(t).find(t, id)
	if _, err := spire.Attest(t.Context(), s.config(t), e.by, newKey(t)); err == nil {
		t.Error("a join token was taken twice")
	}
}

func agentAfterKill(t *testing.T, s *server, p *pki) {
	e := byToken(t, s, p)
	id := spiffeid.RequireFromPath(td, "/workload/agent-kill")
	s.entry(t, e.agent, id, self)
	a := newAgent(t, s, e)
	svid := a.svid(t, id, nil)
	own, err := s.serial(t.Context(), e.agent)
	must(t, err)
	s.killed(t, func() { a.svid(t, id, nil) }) // it serves what it has
	a.svid(t, id, another(svid))
	a.renewed(t, own)
	a.jwt(t, id)
	a.proc.stop(syscall.SIGTERM) // back with what its data_dir says
	a.proc = a.begin(t)
	a.svid(t, id, nil)
}

func clientBanned(t *testing.T, s *server, p *pki) {
	e := byPoP(t, p, newKey(t))
	c := attest(t, s, e)
	_, err := c.Entries(t.Context(), nil)
	must(t, err)
	s.ban(t, e.agent)
	if _, err := c.Entries(t.Context(), nil); !errors.Is(err, spire.ErrBanned) {
		t.Errorf("a call of a banned agent: %v, want %v", err, spire.ErrBanned)
	}
	_, err = spire.Attest(t.Context(), s.config(t), e.by, e.key) // here the server says so in words only
	if !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "banned") {
		t.Errorf("a banned machine attests: %v, want %v", err, spire.ErrRefused)
	}
}

// agentBanned: a stock agent ends when it learns that it is banned.
func agentBanned(t *testing.T, s *server, p *pki) {
	e := byPoP(t, p, newKey(t))
	id := spiffeid.RequireFromPath(td, "/workload/agent-ban")
	s.entry(t, e.agent, id, self)
	a := newAgent(t, s, e)
	a.svid(t, id, nil)
	s.ban(t, e.agent)
	eventually(t, "the banned agent ends", func() error {
		if a.proc.running() {
			return errors.New("it runs")
		}
		return nil
	})
	if log := a.proc.tail(100); !strings.Contains(log, "banned") {
		t.Errorf("it ended for another reason: %s", log)
	}
	a.proc = a.begin(t)
	eventually(t, "the banned agent does not come back", func() error {
		if a.proc.running() {
			return errors.New("it runs")
		}
		return nil
	})
}

func clientEvicted(t *testing.T, s *server, p *pki) {
	e := byPoP(t, p, newKey(t))
	c := attest(t, s, e)
	_, err := c.Entries(t.Context(), nil)
	must(t, err)
	s.evict(t, e.agent)
	if _, err := c.Entries(t.Context(), nil); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("a call of an evicted agent: %v, want %v", err, spire.ErrMustAttest)
	}
	_, err = attest(t, s, e).Entries(t.Context(), nil)
	must(t, err)
}

// agentEvicted: a stock agent attests again by itself.
func agentEvicted(t *testing.T, s *server, p *pki) {
	e := byPoP(t, p, newKey(t))
	id := spiffeid.RequireFromPath(td, "/workload/agent-evict")
	s.entry(t, e.agent, id, self)
	a := newAgent(t, s, e)
	svid := a.svid(t, id, nil)
	own, err := s.serial(t.Context(), e.agent)
	must(t, err)
	s.evict(t, e.agent)
	a.renewed(t, own)
	a.svid(t, id, another(svid))
}

// registerMany gives an agent many entries, all but the last for others' uids.
func registerMany(t *testing.T, s *server, parent spiffeid.ID, name string) (last *types.Entry) {
	t.Helper()
	var list []*types.Entry
	for i := range many - 1 {
		id := spiffeid.RequireFromPathf(td, "/many/%s/%d", name, i)
		list = append(list, newEntry(parent, id, fmt.Sprintf("unix:uid:%d", 100000+i)))
	}
	last = newEntry(parent, spiffeid.RequireFromPathf(td, "/many/%s/last", name), self)
	list = append(list, last)
	var ids []string
	for page := range slices.Chunk(list, 50) {
		ids = append(ids, s.register(t, page...)...)
	}
	last.Id = ids[len(ids)-1]
	return last
}

func clientManyEntries(t *testing.T, s *server, p *pki) {
	e := byPoP(t, p, newKey(t))
	last := registerMany(t, s, e.agent, "client")
	c := attest(t, s, e)
	var all []spire.Entry
	eventually(t, "all entries", func() (err error) {
		if all, err = c.Entries(t.Context(), nil); err == nil && len(all) != many {
			err = fmt.Errorf("%d of %d", len(all), many)
		}
		return err
	})
	s.update(t, last)
	eventually(t, "the change of an entry", func() (err error) {
		if all, err = c.Entries(t.Context(), all); err == nil && len(all) != many {
			err = fmt.Errorf("%d of %d", len(all), many)
		}
		if err == nil && !slices.ContainsFunc(all, func(e spire.Entry) bool { return e.ID == last.Id && slices.Equal(e.DNSNames, last.DnsNames) }) {
			err = errors.New("not seen")
		}
		return err
	})
	var requests []spire.Request
	key := newKey(t)
	for _, e := range all {
		requests = append(requests, spire.Request{EntryID: e.ID, ID: e.SPIFFEID, Key: key})
	}
	results, err := c.NewX509SVIDs(t.Context(), requests)
	must(t, err)
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("SVID %d: %v", i, r.Err)
		}
	}
	s.remove(t, last.Id)
	eventually(t, "the end of an entry", func() (err error) {
		if all, err = c.Entries(t.Context(), all); err == nil && len(all) != many-1 {
			err = fmt.Errorf("%d of %d", len(all), many-1)
		}
		return err
	})
}

func agentManyEntries(t *testing.T, s *server, p *pki) {
	e := byPoP(t, p, newKey(t))
	last := registerMany(t, s, e.agent, "agent")
	id := spiffeid.RequireFromPath(td, last.GetSpiffeId().GetPath())
	a := newAgent(t, s, e)
	a.svid(t, id, nil)
	s.update(t, last)
	a.svid(t, id, func(got *x509svid.SVID) error {
		if !slices.Equal(got.Certificates[0].DNSNames, last.DnsNames) {
			return fmt.Errorf("DNS names %q", got.Certificates[0].DNSNames)
		}
		return nil
	})
	s.remove(t, last.Id)
	eventually(t, "the end of the workload's only entry", func() error {
		if _, err := a.workload.FetchX509SVID(t.Context()); err == nil {
			return errors.New("it is still served")
		}
		return nil
	})
}

// update changes an entry's DNS names.
func (s *server) update(t *testing.T, e *types.Entry) {
	t.Helper()
	e.DnsNames = []string{"shop.example"}
	resp, err := s.entries.BatchUpdateEntry(t.Context(), &entryv1.BatchUpdateEntryRequest{Entries: []*types.Entry{e}, InputMask: &types.EntryMask{DnsNames: true}})
	must(t, err)
	if st := resp.GetResults()[0].GetStatus(); st.GetCode() != int32(codes.OK) {
		t.Fatal(st)
	}
}

func (s *server) remove(t *testing.T, id string) {
	t.Helper()
	resp, err := s.entries.BatchDeleteEntry(t.Context(), &entryv1.BatchDeleteEntryRequest{Ids: []string{id}})
	must(t, err)
	if st := resp.GetResults()[0].GetStatus(); st.GetCode() != int32(codes.OK) {
		t.Fatal(st)
	}
}

// strictCell: an agent that takes only hybrid key exchanges, and syncs as agents did
// before there were pages.
func strictCell(t *testing.T, p *pki) {
	s := newIssuer(t, p)
	e := byToken(t, s, p)
	e.experimental = "require_pq_kem = true use_sync_authorized_entries = false"
	id := spiffeid.RequireFromPath(td, "/workload/strict")
	s.entry(t, e.agent, id, self)
	a := newAgent(t, s, e)
	a.svid(t, id, nil)
	a.jwt(t, id)
}
