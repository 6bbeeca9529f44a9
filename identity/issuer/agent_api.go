package issuer

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// agentAPI is spire.api.server.agent.v1.Agent.
type agentAPI struct {
	agentv1.UnimplementedAgentServer
	*Server
}

// AttestAgent takes evidence and answers with an agent SVID.
func (s agentAPI) AttestAgent(stream agentv1.Agent_AttestAgentServer) error {
	info, from, err := channel(stream.Context())
	if err != nil {
		return err
	}
	done, err := s.limits.begin(stream.Context(), from)
	if errors.Is(err, errBusy) {
		s.attested.WithLabelValues("", "limited").Inc()
		return status.Error(codes.ResourceExhausted, err.Error())
	} else if err != nil {
		return status.FromContextError(err).Err()
	}
	defer done()
	now := time.Now()
	ctx, cancel := context.WithTimeout(stream.Context(), attestTimeout)
	defer cancel()
	req, err := receive(ctx, stream)
	if err != nil {
		return err
	}
	params := req.GetParams()
	kind, payload, csr := params.GetData().GetType(), params.GetData().GetPayload(), params.GetParams().GetCsr()
	attestor, ok := s.kinds[kind]
	if !ok {
		s.attested.WithLabelValues("", "refused").Inc()
		return status.Errorf(codes.InvalidArgument, "attestation type %q is not accepted here", kind)
	}
	refuse := func(id spiffeid.ID, why error) error {
		s.attested.WithLabelValues(kind, "refused").Inc()
		return s.refuseAttestation(kind, id, from, why)
	}
	if len(payload) == 0 || len(payload) > MaxEvidence {
		return refuse(spiffeid.ID{}, status.Errorf(codes.InvalidArgument, "evidence of %d bytes, want 1 to %d", len(payload), MaxEvidence))
	}
	parsed, err := parseCSR(csr)
	if err != nil {
		return refuse(spiffeid.ID{}, status.Error(codes.InvalidArgument, err.Error()))
	}
	exporter, err := info.State.ExportKeyingMaterial(ExporterLabel, nil, ExporterSize)
	if err != nil {
		return status.Errorf(codes.Internal, "TLS exporter: %v", err)
	}
	evidence := Evidence{Payload: payload, Exporter: exporter, CSRKey: parsed.RawSubjectPublicKeyInfo, Now: now}
	attested, err := attestor.Attest(ctx, evidence, func(challenge []byte) ([]byte, error) {
		if err := stream.Send(&agentv1.AttestAgentResponse{Step: &agentv1.AttestAgentResponse_Challenge{Challenge: challenge}}); err != nil {
			return nil, err
		}
		req, err := receive(ctx, stream)
		if err != nil {
			return nil, err
		}
		if n := len(req.GetChallengeResponse()); n == 0 || n > MaxEvidence {
			return nil, status.Errorf(codes.InvalidArgument, "challenge response of %d bytes, want 1 to %d", n, MaxEvidence)
		}
		return req.GetChallengeResponse(), nil
	})
	if err != nil {
		return refuse(spiffeid.ID{}, err)
	}
	id, err := AgentID(s.td, kind, attested.Name)
	if err != nil {
		return refuse(spiffeid.ID{}, err)
	}
	cert, err := s.admit(ctx, id, kind, attested, csr, from)
	if err != nil {
		return refuse(id, err)
	}
	s.attested.WithLabelValues(kind, "ok").Inc()
	s.issued.WithLabelValues("agent").Inc()
	return stream.Send(&agentv1.AttestAgentResponse{Step: &agentv1.AttestAgentResponse_Result_{
		Result: &agentv1.AttestAgentResponse_Result{Svid: s.svidMessage(id, cert, ""), Reattestable: attested.Reattest},
	}})
}

// admit issues the agent SVID and records it.
func (s *Server) admit(ctx context.Context, id spiffeid.ID, kind string, attested Attested, csr []byte, from netip.Addr) (*x509.Certificate, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	node, _ := s.entries.Load().node(id)
	for _, id := range []spiffeid.ID{id, node.SPIFFEID} {
		if err := s.standing(id); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	record, err := newAgent(kind, attested, now)
	if err != nil {
		return nil, err
	}
	cert, err := s.sign(Request{ID: id, CSR: csr, Bound: attested.NodeKey, Lifetime: s.cfg.Lifetime, Now: now})
	if err != nil {
		return nil, err
	}
	record.Serial, record.Expires = cert.SerialNumber.Bytes(), cert.NotAfter.Unix()
	refused := false
	err = s.cfg.Store.Update(func(tx *store.Tx) error {
		refused = true
		switch before, err := loadAgent(tx, id); {
		case errors.Is(err, ErrUnknownAgent):
		case err != nil:
			return err
		case before.Banned:
			return denied(types.PermissionDeniedDetails_AGENT_BANNED, "%s is banned", id)
		}
		if attested.Spend != nil {
			if err := attested.Spend(tx); err != nil {
				return err
			}
		}
		refused = false
		return errors.Join(
			record.save(tx, id),
			leaf(tx, leafAttest, attestLeaf{Type: kind, Agent: id.String(), From: from.String(), OK: true}),
			issuedLeaf("agent", id, id, cert).write(tx),
		)
	})
	if err != nil && !refused {
		return nil, unavailable(err)
	}
	return cert, err
}

func (s *Server) refuseAttestation(kind string, id spiffeid.ID, from netip.Addr, why error) error {
	l := attestLeaf{Type: kind, From: from.String(), Why: short(why)}
	if !id.IsZero() {
		l.Agent = id.String()
	}
	if err := s.cfg.Store.Update(func(tx *store.Tx) error { return leaf(tx, leafAttest, l) }); err != nil {
		return unavailable(err)
	}
	if _, ok := status.FromError(why); ok {
		return why
	}
	return status.Errorf(codes.PermissionDenied, "attestation refused: %v", why)
}

// RenewAgent gives an agent that cannot attest again a new SVID. The old one
// stays active until the new one is shown, so a lost answer loses nothing.
func (s agentAPI) RenewAgent(ctx context.Context, req *agentv1.RenewAgentRequest) (*agentv1.RenewAgentResponse, error) {
	now := time.Now()
	c, err := s.caller(ctx, now)
	if err != nil {
		return nil, s.refuse("agent", c.id, c.id, err)
	}
	switch {
	case !isAgent(c.id):
		return nil, s.refuse("agent", c.id, c.id, status.Error(codes.PermissionDenied, "only an agent SVID can be renewed"))
	case c.record.Reattest:
		return nil, denied(types.PermissionDeniedDetails_AGENT_MUST_REATTEST, "%s renews by attesting again", c.id)
	}
	if err := s.share(c, 1, now); err != nil {
		return nil, err
	}
	bound, err := publicKey(c.record.NodeKey)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	cert, err := s.sign(Request{ID: c.id, CSR: req.GetParams().GetCsr(), Bound: bound, Lifetime: s.cfg.Lifetime, Now: now})
	if err != nil {
		return nil, s.refuse("agent", c.id, c.id, err)
	}
	err = s.cfg.Store.Update(func(tx *store.Tx) error {
		record, err := loadAgent(tx, c.id)
		if err != nil {
			return err
		}
		record.Next, record.Expires = cert.SerialNumber.Bytes(), cert.NotAfter.Unix()
		return errors.Join(record.save(tx, c.id), issuedLeaf("agent", c.id, c.id, cert).write(tx))
	})
	if err != nil {
		return nil, unavailable(err)
	}
	s.issued.WithLabelValues("agent").Inc()
	return &agentv1.RenewAgentResponse{Svid: s.svidMessage(c.id, cert, "")}, nil
}

// PostStatus is told which bundle an agent has. Nothing depends on it.
func (s agentAPI) PostStatus(ctx context.Context, req *agentv1.PostStatusRequest) (*agentv1.PostStatusResponse, error) {
	c, err := s.caller(ctx, time.Now())
	if err != nil {
		return nil, err
	}
	s.log.Debug("agent status", "agent", c.id, "bundle", req.GetCurrentBundleSerial(), "version", req.GetAgentVersion())
	return &agentv1.PostStatusResponse{}, nil
}

// receive is stream.Recv that gives up with ctx.
func receive(ctx context.Context, stream agentv1.Agent_AttestAgentServer) (*agentv1.AttestAgentRequest, error) {
	type result struct {
		req *agentv1.AttestAgentRequest
		err error
	}
	ch := make(chan result, 1)
	go func() { // ends when the handler returns at the latest: gRPC then ends the stream
		req, err := stream.Recv()
		ch <- result{req, err}
	}()
	select {
	case r := <-ch:
		return r.req, r.err
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (s *Server) svidMessage(id spiffeid.ID, cert *x509.Certificate, hint string) *types.X509SVID {
	m := &types.X509SVID{Id: idMessage(id), ExpiresAt: cert.NotAfter.Unix(), Hint: hint}
	for _, c := range s.cfg.CA.chain(cert) {
		m.CertChain = append(m.CertChain, c.Raw)
	}
	return m
}

func idMessage(id spiffeid.ID) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: id.TrustDomain().Name(), Path: id.Path()}
}
