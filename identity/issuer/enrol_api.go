package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer/issuerv1"
)

// issuerAPI is bailiwick.issuer.v1.Issuer.
type issuerAPI struct {
	issuerv1.UnimplementedIssuerServer
	*Server
}

// TrustRecords gives the trust records to anybody: nobody believes them for who sent
// them.
func (s issuerAPI) TrustRecords(context.Context, *issuerv1.TrustRecordsRequest) (*issuerv1.TrustRecordsResponse, error) {
	out := &issuerv1.TrustRecordsResponse{}
	if s.cfg.TrustRecords != nil {
		out.TrustRecords = s.cfg.TrustRecords()
	}
	return out, nil
}

// Enrol gives an attested node its epoch certificates, the endorsement of its
// AK, and the trust records.
func (s issuerAPI) Enrol(ctx context.Context, req *issuerv1.EnrolRequest) (*issuerv1.EnrolResponse, error) {
	now := time.Now()
	c, err := s.recognise(ctx, now)
	if err != nil {
		return nil, s.refuse("epoch", c, c.id, err)
	}
	refuse := func(code codes.Code, format string, args ...any) error {
		return s.refuse("epoch", c, c.node.SPIFFEID, status.Errorf(code, format, args...))
	}
	if !isAgent(c.id) {
		return nil, refuse(codes.PermissionDenied, "enrolment needs the agent SVID, not that of %s", c.id)
	}
	if c.node.SPIFFEID.IsZero() {
		return nil, refuse(codes.FailedPrecondition, "no entry gives %s a name: add one with this parent", c.id)
	}
	if err := s.share(c, 3, now); err != nil {
		return nil, err
	}
	if c.record.Unbound {
		return nil, refuse(codes.FailedPrecondition, "the key of %s is not proven to live in its TPM: attest by bailiwick_tpm, or with a key binding", c.id)
	}
	feed, err := feedKey(c, req.GetFeedKey())
	if err != nil {
		return nil, refuse(codes.InvalidArgument, "feed key: %v", err)
	}
	der, err := x509.MarshalPKIXPublicKey(feed)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	feedHash := sha256.Sum256(der)
	grant, err := s.cfg.Epochs.Allocate(ctx, EpochRequest{
		ID: c.node.SPIFFEID, FeedKeyHash: feedHash, Class: c.node.Class, Attested: c.record.TPM, Have: req.GetEpoch(),
		Floor: max(c.record.Epoch, req.GetCounter()), // tpm_devid attests no counters
	})
	if err != nil {
		return nil, refuse(codeOf(err), "the authority allocates no epoch: %v", err)
	}
	class := grant.Class
	out := &issuerv1.EnrolResponse{SpiffeId: c.node.SPIFFEID.String(), LimitsClass: class}
	if s.cfg.TrustRecords != nil {
		out.TrustRecords = s.cfg.TrustRecords()
	}
	if s.cfg.PolicyHeads != nil {
		out.PolicyHeads = s.cfg.PolicyHeads(c.node.SPIFFEID)
	}
	var leaves []issueLeaf
	for i, n := range []uint64{grant.Current, grant.Spare} {
		prev := req.GetPrevHead()
		if i > 0 {
			prev = nil // nobody knows yet where the spare will begin
		}
		cert, err := s.issueEpoch(epoch.Request{ID: c.node.SPIFFEID, Epoch: n, Class: class, Key: feed, PrevHead: prev, Now: now})
		if errors.Is(err, epoch.ErrRequest) {
			return nil, refuse(codes.InvalidArgument, "%v", err)
		} else if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		out.EpochCertificates = append(out.EpochCertificates, cert)
		leaves = append(leaves, issueLeaf{What: "epoch", To: c.id.String(), ID: c.node.SPIFFEID.String(), Key: feedHash[:],
			NotAfter: now.Add(epoch.DefaultLifetime).Unix(), Epoch: n, Class: class})
	}
	if len(c.record.AK) > 0 {
		e, err := s.endorsement(c, now)
		if err == nil {
			out.AkEndorsement, err = s.cfg.Endorse(ctx, e)
		}
		if err != nil {
			return nil, refuse(codeOf(err), "AK endorsement: %v", err)
		}
		ak := sha256.Sum256(c.record.AK)
		leaves = append(leaves, issueLeaf{What: "endorsement", To: c.id.String(), ID: c.node.SPIFFEID.String(), Key: ak[:], NotAfter: e.Expires.Unix()})
	}
	err = s.record(c, func(tx *store.Tx) error {
		for _, l := range leaves {
			if err := l.write(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, unavailable(err)
	}
	for _, l := range leaves {
		s.issued.WithLabelValues(l.What).Inc()
	}
	return out, nil
}

// codeOf tells an authority that is away, for a while, or says later, from one that says no.
func codeOf(err error) codes.Code {
	switch {
	case errors.Is(err, ErrAuthorityAway):
		return codes.Unavailable
	case errors.Is(err, ErrEpochsLater):
		return codes.ResourceExhausted
	}
	return codes.FailedPrecondition
}

func (s *Server) issueEpoch(req epoch.Request) ([]byte, error) {
	approved, err := s.cfg.RecordRoot.Check(req)
	if err != nil {
		return nil, err
	}
	return s.cfg.RecordRoot.Issue(approved)
}

func (s *Server) endorsement(c caller, now time.Time) (endorse.Endorsement, error) {
	ak, err := publicKey(c.record.AK)
	if err != nil || len(c.record.EKHash) != 32 {
		return endorse.Endorsement{}, errors.Join(fmt.Errorf("record of %s has no TPM in it", c.agent), err)
	}
	e := endorse.Endorsement{
		ID: c.node.SPIFFEID, EKHash: [32]byte(c.record.EKHash), AK: ak, NodeKey: sha256.Sum256(c.record.NodeKey),
		Maker: c.record.Maker, ResetCount: c.record.ResetCount, Expires: now.Add(epoch.DefaultLifetime),
	}
	if len(c.record.TrailKey) > 0 {
		sum := sha256.Sum256(c.record.TrailKey)
		e.TrailKey = sum[:]
	}
	return e, nil
}

// feedKey is the attested feed key or, without a TPM, the one asked for.
func feedKey(c caller, asked []byte) (*ecdsa.PublicKey, error) {
	if len(asked) > 256 {
		return nil, fmt.Errorf("%d bytes", len(asked))
	}
	if !c.record.TPM {
		key, err := publicKey(asked)
		if err == nil && key == nil {
			err = errors.New("required without a TPM")
		}
		return key, err
	}
	key, err := publicKey(c.record.FeedKey)
	switch {
	case err != nil:
		return nil, err
	case key == nil:
		return nil, errors.New("none was attested: attest again")
	}
	if len(asked) > 0 {
		if other, err := publicKey(asked); err != nil || !key.Equal(other) {
			return nil, errors.New("is not the attested one: attest again with the new key")
		}
	}
	return key, nil
}
