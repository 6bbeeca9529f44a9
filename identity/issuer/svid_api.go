package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// svidAPI is spire.api.server.svid.v1.SVID.
type svidAPI struct {
	svidv1.UnimplementedSVIDServer
	*Server
}

// BatchNewX509SVID answers each request with an SVID or why not. All
// certificates and refusals are recorded in one transaction first.
func (s svidAPI) BatchNewX509SVID(ctx context.Context, req *svidv1.BatchNewX509SVIDRequest) (*svidv1.BatchNewX509SVIDResponse, error) {
	now := time.Now()
	c, err := s.recognise(ctx, now)
	if err != nil {
		return nil, s.refuse("svid", c, c.id, err)
	}
	if n := len(req.GetParams()); n == 0 || n > pageSize {
		return nil, status.Errorf(codes.InvalidArgument, "%d requests, want 1 to %d", n, pageSize)
	}
	if err := s.share(c, len(req.GetParams()), now); err != nil {
		return nil, err
	}
	d := s.entries.Load()
	mine := c.reach(d)
	out := &svidv1.BatchNewX509SVIDResponse{}
	var issued []issueLeaf
	var refused []refuseLeaf
	for _, p := range req.GetParams() {
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		result := &svidv1.BatchNewX509SVIDResponse_Result{Status: &types.Status{Message: "OK"}}
		out.Results = append(out.Results, result)
		if p.GetEntryId() == "" || len(p.GetCsr()) == 0 {
			result.Status = &types.Status{Code: int32(codes.InvalidArgument), Message: "no entry ID, or no certificate request"}
			refused = append(refused, refuseLeaf{What: "svid", To: c.id.String(), Why: "no entry ID, or no certificate request"})
			continue
		}
		if _, ok := slices.BinarySearch(mine, p.GetEntryId()); !ok {
			result.Status = &types.Status{Code: int32(codes.NotFound), Message: "no such entry for you"}
			refused = append(refused, refuseLeaf{What: "svid", To: c.id.String(), Why: "no such entry for the caller"})
			continue
		}
		e := d.byID[p.GetEntryId()].Entry
		cert, err := s.issueFor(c, e, p.GetCsr(), now)
		if err != nil {
			code := codes.Internal
			switch {
			case errors.Is(err, ErrCSR), errors.Is(err, ErrForeignID):
				code = codes.InvalidArgument
			case errors.Is(err, ErrUnboundKey):
				code = codes.PermissionDenied
			case status.Code(err) != codes.Unknown:
				code = status.Code(err)
			}
			result.Status = &types.Status{Code: int32(code), Message: err.Error()}
			refused = append(refused, refuseLeaf{What: "svid", To: c.id.String(), ID: e.SPIFFEID.String(), Why: short(err)})
			continue
		}
		what := "workload"
		if e.isNode() {
			what = "node"
		}
		result.Svid = s.svidMessage(e.SPIFFEID, cert, e.Hint)
		issued = append(issued, s.issuedLeaf(what, c.id, e.SPIFFEID, cert))
	}
	err = s.record(c, func(tx *store.Tx) error {
		for _, l := range issued {
			if err := l.write(tx); err != nil {
				return err
			}
		}
		for _, l := range refused {
			if err := leaf(tx, leafRefuse, l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, unavailable(err)
	}
	for _, l := range issued {
		s.issued.WithLabelValues(l.What).Inc()
	}
	s.refused.WithLabelValues("svid").Add(float64(len(refused)))
	return out, nil
}

// NewJWTSVID answers with a JWT-SVID of an entry, for the audience the caller
// names.
func (s svidAPI) NewJWTSVID(ctx context.Context, req *svidv1.NewJWTSVIDRequest) (*svidv1.NewJWTSVIDResponse, error) {
	now := time.Now()
	c, err := s.recognise(ctx, now)
	if err != nil {
		return nil, s.refuse("jwt", c, c.id, err)
	}
	if err := s.share(c, 1, now); err != nil {
		return nil, err
	}
	d := s.entries.Load()
	if _, ok := slices.BinarySearch(c.reach(d), req.GetEntryId()); !ok {
		return nil, s.refuse("jwt", c, c.id, status.Error(codes.NotFound, "no such entry for you"))
	}
	e := d.byID[req.GetEntryId()]
	refuse := func(why error) error { return s.refuse("jwt", c, e.SPIFFEID, why) }
	if e.isNode() {
		return nil, refuse(status.Error(codes.PermissionDenied, "a node's name is bound to its key: it gets no bearer token"))
	}
	if err := s.standing(e.SPIFFEID); err != nil {
		return nil, refuse(err)
	}
	approved, err := s.cfg.CA.CheckJWT(JWTRequest{ID: e.SPIFFEID, Audience: req.GetAudience(), Lifetime: e.JWTTTL, Now: now})
	if err != nil {
		return nil, refuse(status.Error(codes.InvalidArgument, err.Error()))
	}
	j, err := s.cfg.CA.IssueJWT(approved)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	err = s.record(c, func(tx *store.Tx) error {
		return issueLeaf{What: "jwt", To: c.id.String(), ID: e.SPIFFEID.String(), Key: []byte(j.kid), NotAfter: j.Expires.Unix(), authority: j.kid}.write(tx)
	})
	if err != nil {
		return nil, unavailable(err)
	}
	s.issued.WithLabelValues("jwt").Inc()
	return &svidv1.NewJWTSVIDResponse{Svid: &types.JWTSVID{
		Token: j.Token, Id: idMessage(j.ID), ExpiresAt: j.Expires.Unix(), IssuedAt: j.IssuedAt.Unix(), Hint: e.Hint,
	}}, nil
}

// issueFor signs an SVID of an entry for a caller that may have it.
func (s *Server) issueFor(c caller, e Entry, csr []byte, now time.Time) (*x509.Certificate, error) {
	if err := s.standing(e.SPIFFEID); err != nil {
		return nil, err
	}
	req := Request{ID: e.SPIFFEID, CSR: csr, DNSNames: e.DNSNames, Lifetime: s.cfg.Lifetime, Now: now}
	if e.X509TTL > 0 {
		req.Lifetime = min(req.Lifetime, e.X509TTL)
	}
	if e.isNode() {
		key, err := c.nodeKey()
		if err != nil {
			return nil, err
		}
		req.Bound = key
	}
	return s.sign(req)
}

// nodeKey is the only key a node may have: the attested one or, without a TPM,
// the one the caller just showed it holds.
func (c caller) nodeKey() (*ecdsa.PublicKey, error) {
	if c.record.TPM {
		key, err := publicKey(c.record.NodeKey)
		if err != nil || key == nil {
			return nil, errors.Join(ErrUnboundKey, err)
		}
		return key, nil
	}
	key, ok := c.key.(*ecdsa.PublicKey)
	if !ok {
		return nil, statement.ErrKey
	}
	return key, nil
}
