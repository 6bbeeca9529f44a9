package issuer

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
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
	known := kind
	if !ok {
		known = "" // a caller's own words name no counter
	}
	refuse := func(id spiffeid.ID, why error) error {
		s.attested.WithLabelValues(known, "refused").Inc()
		return s.refuseAttestation(known, id, from, why)
	}
	switch n := len(payload); {
	case kind == "" || len(csr) == 0:
		return refuse(spiffeid.ID{}, status.Error(codes.InvalidArgument, "no attestation type, or no certificate request"))
	case n == 0 || n > MaxEvidence:
		return refuse(spiffeid.ID{}, status.Errorf(codes.InvalidArgument, "evidence of %d bytes, want 1 to %d", n, MaxEvidence))
	case !ok:
		return refuse(spiffeid.ID{}, status.Errorf(codes.FailedPrecondition, "attestation type %.64q is not accepted here", kind))
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
	note := noteOf(ctx)
	if !attested.Speaker.IsZero() && note == "" {
		return refuse(attested.Speaker, status.Errorf(codes.PermissionDenied, "%s is good for an appeal only", kind))
	}
	id := attested.Speaker
	if id.IsZero() {
		if id, err = AgentID(s.td, kind, attested.Name); err != nil {
			return refuse(spiffeid.ID{}, err)
		}
	}
	if note != "" {
		if err := s.appeal(ctx, stream.SetTrailer, id, kind, note, attested, from); err != nil {
			return refuse(id, err)
		}
		return nil
	}
	cert, err := s.admit(ctx, id, kind, attested, parsed, from)
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
func (s *Server) admit(ctx context.Context, id spiffeid.ID, kind string, attested Attested, csr *x509.CertificateRequest, from netip.Addr) (*x509.Certificate, error) {
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
	cert, err := s.sign(Request{ID: id, parsed: csr, Bound: attested.NodeKey, Lifetime: s.cfg.Lifetime, Now: now})
	if err != nil {
		return nil, err
	}
	record.Serial, record.Expires = cert.SerialNumber.Bytes(), cert.NotAfter.Unix()
	if attested.Spend != nil {
		key := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		record.Serial, record.Next, record.Unseen = nil, record.Serial, key[:]
	}
	refused := false
	err = s.cfg.Store.Update(func(tx *store.Tx) error {
		refused = true
		before, err := loadAgent(tx, id)
		switch {
		case errors.Is(err, ErrUnknownAgent):
		case err != nil:
			return err
		case !before.Banned:
			record.Version = before.Version
		default:
			return status.Errorf(codes.PermissionDenied, "%s is banned", id) // SPIRE gives no details here
		}
		if attested.Judged != nil {
			if err := attested.Judged(tx); err != nil {
				refused = false
				return err
			}
		}
		if attested.Spend != nil {
			if err := attested.Spend(tx); err != nil && !before.again(record.Unseen) {
				return err
			}
		}
		refused = false
		return errors.Join(
			record.save(tx, id),
			leaf(tx, leafAttest, attestLeaf{Type: kind, Agent: id.String(), From: from.String(), OK: true}),
			s.issuedLeaf("agent", id, id, cert).write(tx),
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
	c, err := s.recognise(ctx, now)
	if err != nil {
		return nil, s.refuse("agent", c, c.id, err)
	}
	switch {
	case !isAgent(c.id):
		return nil, s.refuse("agent", c, c.id, status.Error(codes.PermissionDenied, "only an agent SVID can be renewed"))
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
		return nil, s.refuse("agent", c, c.id, err)
	}
	err = s.record(c, func(tx *store.Tx) error {
		record, err := loadAgent(tx, c.id)
		if err != nil {
			return err
		}
		record.Next, record.Expires = cert.SerialNumber.Bytes(), cert.NotAfter.Unix()
		return errors.Join(record.save(tx, c.id), s.issuedLeaf("agent", c.id, c.id, cert).write(tx))
	})
	if err != nil {
		return nil, unavailable(err)
	}
	s.issued.WithLabelValues("agent").Inc()
	return &agentv1.RenewAgentResponse{Svid: s.svidMessage(c.id, cert, "")}, nil
}

// PostStatus is told which version an agent is, for operators to see. Nothing
// depends on it.
func (s agentAPI) PostStatus(ctx context.Context, req *agentv1.PostStatusRequest) (*agentv1.PostStatusResponse, error) {
	c, err := s.caller(ctx, time.Now())
	if err != nil {
		return nil, err
	}
	version := req.GetAgentVersion()
	if len(version) > maxAgentVersion {
		return nil, status.Errorf(codes.InvalidArgument, "agent version of %d bytes, at most %d", len(version), maxAgentVersion)
	}
	if version == "" || version == c.record.Version {
		return &agentv1.PostStatusResponse{}, nil
	}
	err = s.cfg.Store.Update(func(tx *store.Tx) error {
		record, err := loadAgent(tx, c.agent)
		if err != nil {
			return err
		}
		record.Version = strings.ToValidUTF8(version, "")
		return record.save(tx, c.agent)
	})
	if err != nil {
		return nil, unavailable(err)
	}
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
