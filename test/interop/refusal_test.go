package interop

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// caller is a raw gRPC client of the server API, with what it may name in requests.
type caller struct {
	ctx     context.Context
	agents  agentv1.AgentClient
	bundles bundlev1.BundleClient
	entries entryv1.EntryClient
	svids   svidv1.SVIDClient

	entry, foreign string // IDs of an entry of this agent, and of one of another's
	id             spiffeid.ID
	csr            []byte // for id
	other          []byte // a CSR for another ID
	nameless       []byte // a CSR for none
	forged         []byte // a CSR that somebody else signed

	spent, expired string // join tokens
	stranger       string // x509pop of a certificate that nobody knows
}

// questions are requests that go wrong, or are unusual. A question is answered by a
// code, and by those of its parts.
var questions = []struct {
	name string
	ask  func(c *caller) string
	ours string // our answer to an agent where it is meant not to be SPIRE's
	why  string
}{
	{"attest: nothing", func(c *caller) string { return c.attest(nil) }, "", ""},
	{"attest: no data", func(c *caller) string {
		return c.attest(&agentv1.AttestAgentRequest_Params{Params: &agentv1.AgentX509SVIDParams{Csr: c.csr}})
	}, "", ""},
	{"attest: no type", func(c *caller) string { return c.attest(params("", "x", c.nameless)) }, "", ""},
	{"attest: no payload", func(c *caller) string { return c.attest(params("join_token", "", c.nameless)) }, "", ""},
	{"attest: no CSR", func(c *caller) string { return c.attest(params("join_token", "unknown-token-0001", nil)) }, "", ""},
	{"attest: CSR is garbage", func(c *caller) string { return c.attest(params("join_token", "unknown-token-0001", []byte("x"))) }, "", ""},
	{"attest: unknown type", func(c *caller) string { return c.attest(params("no_such", "x", c.nameless)) }, "", ""},
	{"attest: unknown token", func(c *caller) string { return c.attest(params("join_token", "unknown-token-0001", c.nameless)) }, "", ""},
	{"attest: spent token", func(c *caller) string { return c.attest(params("join_token", c.spent, c.nameless)) }, "", ""},
	{"attest: expired token", func(c *caller) string { return c.attest(params("join_token", c.expired, c.nameless)) }, "", ""},
	{"attest: x509pop is garbage", func(c *caller) string { return c.attest(params("x509pop", "x", c.nameless)) }, "", ""},
	{"attest: x509pop without certificate", func(c *caller) string { return c.attest(params("x509pop", "{}", c.nameless)) }, "", ""},
	{"attest: x509pop of a stranger", func(c *caller) string { return c.attest(params("x509pop", c.stranger, c.nameless)) }, "", ""},
	{"attest: tpm_devid is garbage", func(c *caller) string { return c.attest(params("tpm_devid", "x", c.nameless)) }, "", ""},
	{"attest: tpm_devid without certificate", func(c *caller) string { return c.attest(params("tpm_devid", "{}", c.nameless)) }, "", ""},
	{"renew: nothing", func(c *caller) string { return c.renew(nil) }, "", ""},
	{"renew: no CSR", func(c *caller) string { return c.renew(&agentv1.AgentX509SVIDParams{}) }, "", ""},
	{"renew: CSR is garbage", func(c *caller) string { return c.renew(&agentv1.AgentX509SVIDParams{Csr: []byte("x")}) }, "", ""},
	{"svid: nothing", func(c *caller) string { return c.batch() }, "", ""},
	{"svid: no entry ID", func(c *caller) string { return c.batch(&svidv1.NewX509SVIDParams{Csr: c.csr}) }, "", ""},
	{"svid: no entry ID, no CSR", func(c *caller) string { return c.batch(&svidv1.NewX509SVIDParams{}) }, "", ""},
	{"svid: unknown entry, no CSR", func(c *caller) string { return c.batch(&svidv1.NewX509SVIDParams{EntryId: "no-such"}) }, "", ""},
	{"svid: unknown entry", func(c *caller) string { return c.batch(&svidv1.NewX509SVIDParams{EntryId: "no-such", Csr: c.csr}) }, "", ""},
	{"svid: another's entry", func(c *caller) string { return c.batch(&svidv1.NewX509SVIDParams{EntryId: c.foreign, Csr: c.csr}) }, "", ""},
	{"svid: no CSR", func(c *caller) string { return c.batch(&svidv1.NewX509SVIDParams{EntryId: c.entry}) }, "", ""},
	{"svid: CSR is garbage", func(c *caller) string { return c.batch(&svidv1.NewX509SVIDParams{EntryId: c.entry, Csr: []byte("x")}) }, "", ""},
	{"svid: CSR is forged", func(c *caller) string { return c.batch(&svidv1.NewX509SVIDParams{EntryId: c.entry, Csr: c.forged}) }, "", ""},
	{"svid: CSR without ID", func(c *caller) string { return c.batch(&svidv1.NewX509SVIDParams{EntryId: c.entry, Csr: c.nameless}) }, "", ""},
	{"svid: CSR for another ID", func(c *caller) string { return c.batch(&svidv1.NewX509SVIDParams{EntryId: c.entry, Csr: c.other}) }, "OK/InvalidArgument", "a CSR that names another ID is a mistake somewhere"},
	{"svid: one good, one bad", func(c *caller) string {
		return c.batch(&svidv1.NewX509SVIDParams{EntryId: c.entry, Csr: c.csr}, &svidv1.NewX509SVIDParams{EntryId: "no-such", Csr: c.csr})
	}, "", ""},
	{"jwt: nothing", func(c *caller) string { return c.jwt("") }, "", ""},
	{"jwt: no audience", func(c *caller) string { return c.jwt(c.entry) }, "", ""},
	{"jwt: empty audience", func(c *caller) string { return c.jwt(c.entry, "") }, "InvalidArgument", "it is the request that is wrong"},
	{"jwt: unknown entry", func(c *caller) string { return c.jwt("no-such", audience) }, "", ""},
	{"jwt: another's entry", func(c *caller) string { return c.jwt(c.foreign, audience) }, "", ""},
	{"jwt: two audiences", func(c *caller) string { return c.jwt(c.entry, audience, "more") }, "", ""},
	{"sync: IDs at once", func(c *caller) string { return c.sync(&entryv1.SyncAuthorizedEntriesRequest{Ids: []string{c.entry}}) }, "", ""},
	{"sync: all", func(c *caller) string { return c.sync(&entryv1.SyncAuthorizedEntriesRequest{}) }, "", ""},
	{"sync: mask without revision", func(c *caller) string {
		return c.sync(&entryv1.SyncAuthorizedEntriesRequest{OutputMask: &types.EntryMask{SpiffeId: true}})
	}, "", ""},
	{"entries: all", func(c *caller) string {
		_, err := c.entries.GetAuthorizedEntries(c.ctx, &entryv1.GetAuthorizedEntriesRequest{})
		return answer(err)
	}, "", ""},
	{"status: version too long", func(c *caller) string {
		_, err := c.agents.PostStatus(c.ctx, &agentv1.PostStatusRequest{AgentVersion: strings.Repeat("v", 256)})
		return answer(err)
	}, "", ""},
	{"status: nothing", func(c *caller) string {
		_, err := c.agents.PostStatus(c.ctx, &agentv1.PostStatusRequest{})
		return answer(err)
	}, "", ""},
	{"bundle: own", func(c *caller) string {
		_, err := c.bundles.GetBundle(c.ctx, &bundlev1.GetBundleRequest{})
		return answer(err)
	}, "", ""},
	{"federated bundle: no name", func(c *caller) string { return c.federated("") }, "", ""},
	{"federated bundle: own", func(c *caller) string { return c.federated(td.Name()) }, "", ""},
	{"federated bundle: no trust domain's name", func(c *caller) string { return c.federated("A//b") }, "", ""},
	{"federated bundle: unknown", func(c *caller) string { return c.federated("unknown.dev.example") }, "", ""},
	{"downstream: no such entry", func(c *caller) string {
		_, err := c.svids.NewDownstreamX509CA(c.ctx, &svidv1.NewDownstreamX509CARequest{Csr: c.csr})
		return answer(err)
	}, "Unimplemented", "our issuer has nobody below it"},
	{"operator's: list agents", func(c *caller) string {
		_, err := c.agents.ListAgents(c.ctx, &agentv1.ListAgentsRequest{})
		return answer(err)
	}, "Unimplemented", "not served there"},
	{"operator's: make token", func(c *caller) string {
		_, err := c.agents.CreateJoinToken(c.ctx, &agentv1.CreateJoinTokenRequest{Ttl: 60})
		return answer(err)
	}, "Unimplemented", "not served there"},
	{"operator's: create entry", func(c *caller) string {
		_, err := c.entries.BatchCreateEntry(c.ctx, &entryv1.BatchCreateEntryRequest{})
		return answer(err)
	}, "Unimplemented", "not served there"},
	{"operator's: mint", func(c *caller) string {
		_, err := c.svids.MintX509SVID(c.ctx, &svidv1.MintX509SVIDRequest{Csr: c.csr})
		return answer(err)
	}, "Unimplemented", "not served there"},
}

// refusalCell asks both servers the same, as an agent and as nobody.
func refusalCell(t *testing.T, p *pki) {
	ours, stock := newIssuer(t, p), newStock(t, p)
	us, them := newCaller(t, ours, p), newCaller(t, stock, p)
	for name, who := range map[string][2]*caller{"agent": {us, them}, "nobody": {us.nobody(t, ours), them.nobody(t, stock)}} {
		for _, q := range questions {
			got, want := q.ask(who[0]), q.ask(who[1])
			if q.ours != "" && got != want {
				want = q.ours
			}
			if got != want {
				t.Errorf("%s asks %q: our issuer says %s, SPIRE %s", name, q.name, got, want)
			}
		}
	}
}

func newCaller(t *testing.T, s *server, p *pki) *caller {
	t.Helper()
	e := byPoP(t, p, newKey(t))
	c := &caller{id: spiffeid.RequireFromPath(td, "/workload/asks")}
	c.entry = s.entry(t, e.agent, c.id, self)
	c.foreign = s.entry(t, spiffeid.RequireFromPath(td, "/somebody"), spiffeid.RequireFromPath(td, "/workload/else"), self)
	c.csr, c.other, c.nameless = csr(t, c.id.URL()), csr(t, c.id.URL().JoinPath("x")), csr(t)
	c.forged = append([]byte(nil), c.csr...)
	c.forged[len(c.forged)-1] ^= 1
	c.spent, c.expired = s.usedTokens(t)
	own, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), KeyUsage: x509.KeyUsageDigitalSignature}, &x509.Certificate{}, newKey(t).Public(), newKey(t))
	must(t, err)
	payload, err := json.Marshal(map[string][][]byte{"certificates": {own}})
	must(t, err)
	c.stranger = string(payload)
	client := attest(t, s, e)
	client.find(t, c.id)
	c.dial(t, s, client.agent.SVID)
	return c
}

// usedTokens returns a join token that somebody joined with, and one whose second is
// over.
func (s *server) usedTokens(t *testing.T) (spent, expired string) {
	t.Helper()
	m, err := s.agents.CreateJoinToken(t.Context(), &agentv1.CreateJoinTokenRequest{Ttl: 1})
	must(t, err)
	spent, _ = s.token(t)
	_, err = spire.Attest(t.Context(), s.config(t), spire.NewJoinToken(spent), newKey(t))
	must(t, err)
	eventually(t, "a join token expires", func() error {
		if time.Now().Unix() <= m.GetExpiresAt() {
			return errors.New("it is still good")
		}
		return nil
	})
	return spent, m.GetValue()
}

// nobody is the same caller without a certificate.
func (c *caller) nobody(t *testing.T, s *server) *caller {
	t.Helper()
	out := *c
	out.dial(t, s, nil)
	return &out
}

func (c *caller) dial(t *testing.T, s *server, svid *x509svid.SVID) {
	t.Helper()
	cfg := s.config(t)
	issuer := tlsconfig.AuthorizeID(spiffeid.RequireFromPath(td, "/spire/server"))
	tls := tlsconfig.TLSClientConfig(cfg.Bundles, issuer)
	if svid != nil {
		tls = tlsconfig.MTLSClientConfig(svid, cfg.Bundles, issuer)
	}
	conn, err := grpc.NewClient(cfg.Addr, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	c.ctx = t.Context()
	c.agents, c.bundles = agentv1.NewAgentClient(conn), bundlev1.NewBundleClient(conn)
	c.entries, c.svids = entryv1.NewEntryClient(conn), svidv1.NewSVIDClient(conn)
}

func csr(t *testing.T, uris ...*url.URL) []byte {
	t.Helper()
	out, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: uris}, newKey(t))
	must(t, err)
	return out
}

// answer is what counts of an error: its code, and why permission was denied.
func answer(err error) string {
	st := status.Convert(err)
	out := st.Code().String()
	for _, d := range st.Details() {
		if d, ok := d.(*types.PermissionDeniedDetails); ok {
			out += " " + d.GetReason().String()
		}
	}
	return out
}

func params(kind, payload string, csr []byte) *agentv1.AttestAgentRequest_Params {
	return &agentv1.AttestAgentRequest_Params{Data: &types.AttestationData{Type: kind, Payload: []byte(payload)}, Params: &agentv1.AgentX509SVIDParams{Csr: csr}}
}

func (c *caller) attest(p *agentv1.AttestAgentRequest_Params) string {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	stream, err := c.agents.AttestAgent(ctx)
	if err != nil {
		return answer(err)
	}
	_ = stream.Send(&agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{Params: p}}) // Recv says why
	_, err = stream.Recv()
	return answer(err)
}

func (c *caller) renew(p *agentv1.AgentX509SVIDParams) string {
	_, err := c.agents.RenewAgent(c.ctx, &agentv1.RenewAgentRequest{Params: p})
	return answer(err)
}

func (c *caller) batch(p ...*svidv1.NewX509SVIDParams) string {
	resp, err := c.svids.BatchNewX509SVID(c.ctx, &svidv1.BatchNewX509SVIDRequest{Params: p})
	out := answer(err)
	for _, r := range resp.GetResults() {
		out += fmt.Sprintf("/%s", codes.Code(r.GetStatus().GetCode()))
	}
	return out
}

func (c *caller) jwt(entry string, audience ...string) string {
	_, err := c.svids.NewJWTSVID(c.ctx, &svidv1.NewJWTSVIDRequest{EntryId: entry, Audience: audience})
	return answer(err)
}

func (c *caller) sync(first *entryv1.SyncAuthorizedEntriesRequest) string {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	stream, err := c.entries.SyncAuthorizedEntries(ctx)
	if err != nil {
		return answer(err)
	}
	_ = stream.Send(first) // Recv says why
	resp, err := stream.Recv()
	return fmt.Sprintf("%s %d", answer(err), len(resp.GetEntries()))
}

func (c *caller) federated(name string) string {
	_, err := c.bundles.GetFederatedBundle(c.ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: name})
	return answer(err)
}

// deniedCell: the global policy denies one TPM, whatever evidence it gives, and all
// machines without one.
func deniedCell(t *testing.T, p *pki) {
	denied, welcome := newChip(t, p), newChip(t, p)
	strict := *p
	strict.denied = []string{denied.ekHash()}
	strict.provision(t, folder(t))
	s := newIssuer(t, &strict)
	for _, by := range []func(*chip) evidence{
		func(c *chip) evidence {
			return evidence{by: spire.TPM{Keys: c.keys, FeedKey: c.feed, BootLog: c.boot}, key: c.keys.Node()}
		},
		func(c *chip) evidence {
			key, err := c.keys.NewDevID()
			must(t, err)
			return devidEvidence(t, folder(t), c, key, [][]byte{p.devid.certify(t, "machine", key.Key().Public())})
		},
	} {
		e := by(welcome)
		if _, err := spire.Attest(t.Context(), s.config(t), e.by, e.key); err != nil {
			t.Errorf("%s of another TPM: %v", e.by.Type(), err)
		}
		e = by(denied)
		if _, err := spire.Attest(t.Context(), s.config(t), e.by, e.key); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "rule ek-denied") {
			t.Errorf("%s of a TPM that policy denies: %v", e.by.Type(), err)
		}
	}
	for _, m := range methods[:2] {
		e := m.prove(t, s, p)
		if _, err := spire.Attest(t.Context(), s.config(t), e.by, e.key); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "policy does not accept") {
			t.Errorf("%s where policy wants TPMs: %v", m.name, err)
		}
	}
}
