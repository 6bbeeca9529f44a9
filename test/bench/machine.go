package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
)

// machine is a client of the server API, the same code for both servers, and
// nothing of ours: SPIRE's messages and stubs.
type machine struct {
	s    *server
	from net.IP // its address: both servers count attestations by it
	svid *x509svid.SVID
}

// GetX509SVID is for TLS.
func (m *machine) GetX509SVID() (*x509svid.SVID, error) { return m.svid, nil }

// tls shows the SVID if there is one.
func (m *machine) tls() *tls.Config {
	server := tlsconfig.AuthorizeID(spiffeid.RequireFromPath(region, "/spire/server"))
	if m.svid == nil {
		return tlsconfig.TLSClientConfig(m.s.bundle, server)
	}
	return tlsconfig.MTLSClientConfig(m, m.s.bundle, server)
}

// dial opens a connection for gRPC's own client.
func (m *machine) dial() (*grpc.ClientConn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: m.from}}
	return grpc.NewClient("passthrough:///"+m.s.addr, grpc.WithTransportCredentials(credentials.NewTLS(m.tls())),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", addr) }))
}

// attest joins with a token, over a connection of its own. What comes is for take.
func (m *machine) attest(ctx context.Context, j joining, csr []byte) (*types.X509SVID, error) {
	var resp agentv1.AttestAgentResponse
	err := m.call(ctx, agentv1.Agent_AttestAgent_FullMethodName, &agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{Params: &agentv1.AttestAgentRequest_Params{
		Data:   &types.AttestationData{Type: "join_token", Payload: []byte(j.token)},
		Params: &agentv1.AgentX509SVIDParams{Csr: csr},
	}}}, &resp)
	return resp.GetResult().GetSvid(), err
}

// renew opens a connection with the SVID held and gets a new one, for take.
func (m *machine) renew(ctx context.Context, csr []byte) (*types.X509SVID, error) {
	var resp agentv1.RenewAgentResponse
	err := m.call(ctx, agentv1.Agent_RenewAgent_FullMethodName, &agentv1.RenewAgentRequest{Params: &agentv1.AgentX509SVIDParams{Csr: csr}}, &resp)
	return resp.GetSvid(), err
}

// take holds an SVID that came, from now on.
func (m *machine) take(svid *types.X509SVID, key *ecdsa.PrivateKey) error {
	var certs []*x509.Certificate
	for _, der := range svid.GetCertChain() {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return errors.New("no certificate in the answer")
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return errors.New("the certificate is for another key")
	}
	id, err := x509svid.IDFromCert(certs[0])
	m.svid = &x509svid.SVID{ID: id, Certificates: certs, PrivateKey: key}
	return err
}

// sync gets all entries, as spire-agent does when it knows none: revisions first,
// then the entries by pages.
func (m *machine) sync(ctx context.Context, conn *grpc.ClientConn) ([]*types.Entry, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := entryv1.NewEntryClient(conn).SyncAuthorizedEntries(ctx)
	if err != nil {
		return nil, err
	}
	mask := &types.EntryMask{SpiffeId: true, Selectors: true, RevisionNumber: true, X509SvidTtl: true, JwtSvidTtl: true, Hint: true}
	if err := stream.Send(&entryv1.SyncAuthorizedEntriesRequest{OutputMask: mask}); err != nil {
		return nil, err
	}
	var entries []*types.Entry
	var need []string
	for more := true; more; {
		resp, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		entries = append(entries, resp.GetEntries()...)
		for _, r := range resp.GetEntryRevisions() {
			need = append(need, r.GetId())
		}
		more = resp.GetMore()
	}
	for len(need) > 0 {
		n := min(len(need), 500)
		if err := stream.Send(&entryv1.SyncAuthorizedEntriesRequest{Ids: need[:n]}); err != nil {
			return nil, err
		}
		need = need[n:]
		for more := true; more; {
			resp, err := stream.Recv()
			if err != nil {
				return nil, err
			}
			entries = append(entries, resp.GetEntries()...)
			more = resp.GetMore()
		}
	}
	return entries, stream.CloseSend()
}

// sign gets X.509-SVIDs, one for each request.
func sign(on *lean, batch []*svidv1.NewX509SVIDParams) error {
	var resp svidv1.BatchNewX509SVIDResponse
	if err := on.call(svidv1.SVID_BatchNewX509SVID_FullMethodName, &svidv1.BatchNewX509SVIDRequest{Params: batch}, &resp); err != nil {
		return err
	}
	if len(resp.GetResults()) != len(batch) {
		return fmt.Errorf("%d results of %d", len(resp.GetResults()), len(batch))
	}
	for _, r := range resp.GetResults() {
		if r.GetStatus().GetCode() != int32(codes.OK) || len(r.GetSvid().GetCertChain()) == 0 {
			return fmt.Errorf("no SVID: %v", r.GetStatus())
		}
	}
	return nil
}

// signJWT gets a JWT-SVID.
func signJWT(on *lean, entry string) error {
	var resp svidv1.NewJWTSVIDResponse
	err := on.call(svidv1.SVID_NewJWTSVID_FullMethodName, &svidv1.NewJWTSVIDRequest{EntryId: entry, Audience: []string{"bench"}}, &resp)
	if err == nil && resp.GetSvid().GetToken() == "" {
		err = errors.New("no token in the answer")
	}
	return err
}

// address spreads machines over loopback: 15 on each, for attestations are
// limited by address, and one server's limit cannot be turned off.
func address(i int) net.IP { return net.IPv4(127, 1, byte(i/15/250), byte(1+i/15%250)) }

// keys are made before the clock starts.
type csrKey struct {
	key *ecdsa.PrivateKey
	csr []byte
}

func newKeys(n int) (out []csrKey, err error) {
	for range n {
		key, csr, err := request(spiffeid.ID{}) // the server knows the name
		if err != nil {
			return nil, err
		}
		out = append(out, csrKey{key, csr})
	}
	return out, nil
}

// joinAll attests the first n machines of a server.
func (s *server) joinAll(n int) ([]*machine, error) {
	keys, err := newKeys(n)
	if err != nil {
		return nil, err
	}
	out := make([]*machine, n)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range out {
		out[i] = &machine{s: s, from: address(i)}
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			svid, err := out[i].attest(ctx, s.join[i], keys[i].csr)
			if err == nil {
				err = out[i].take(svid, keys[i].key)
			}
			if err != nil {
				return fmt.Errorf("%s: machine %d: %w", s.name(), i, err)
			}
			return nil
		})
	}
	return out, g.Wait()
}
