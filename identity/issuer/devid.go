package issuer

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/identity/internal/root"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer/issuerv1"
)

const (
	devidFile       = "devid-ca.pem"
	devidLifetime   = 5 * 365 * 24 * time.Hour
	devidCALifetime = 10 * 365 * 24 * time.Hour
)

// TPMDevID is the Attestor of SPIRE's "tpm_devid". The agent ID is
// /spire/agent/tpm_devid/<hex SHA-1 of the DevID certificate>. Without a key
// binding (see package tpm) the CSR's key may live anywhere: such an agent gets
// SVIDs, and no epoch certificate. The evidence shows no counters: the epoch counter of
// such a node is what the node says at its enrolment.
type TPMDevID struct {
	Verifier *tpm.DevIDVerifier // nil refuses everything
}

// Type returns "tpm_devid".
func (TPMDevID) Type() string { return "tpm_devid" }

// Attest runs SPIRE's exchange. Errors match tpm.ErrRefused or ErrEvidence.
func (t TPMDevID) Attest(_ context.Context, e Evidence, exchange func([]byte) ([]byte, error)) (Attested, error) {
	if t.Verifier == nil {
		return Attested{}, fmt.Errorf("%w: tpm_devid: no authority is configured", ErrEvidence)
	}
	session, err := t.Verifier.Begin(e.Now, e.Payload)
	if err != nil {
		return Attested{}, invalid(err)
	}
	response, err := exchange(session.Challenge())
	if err != nil {
		return Attested{}, err
	}
	c, err := session.Finish(time.Now(), response, e.Exporter, e.CSRKey)
	if err != nil {
		return Attested{}, invalid(err)
	}
	out := Attested{Name: c.Fingerprint, Reattest: true, TPM: c.NodeKey != nil, Unbound: c.NodeKey == nil, EKHash: c.EKHash, AK: c.AK, NodeKey: c.NodeKey, FeedKey: c.FeedKey,
		Maker: strings.ToValidUTF8(c.EKMaker[:min(len(c.EKMaker), 64)], "")}
	if c.Subject != "" {
		out.Selectors = append(out.Selectors, "tpm_devid:subject:cn:"+c.Subject)
	}
	if c.Issuer != "" {
		out.Selectors = append(out.Selectors, "tpm_devid:issuer:cn:"+c.Issuer)
	}
	for _, f := range c.Above {
		out.Selectors = append(out.Selectors, "tpm_devid:ca:fingerprint:"+f)
	}
	return out, nil
}

// DevIDCA certifies DevID keys for machines that a stock SPIRE server is to know.
// It vouches for nothing else, and no bundle names it.
type DevIDCA struct {
	root *root.Root
}

// NewDevIDCA makes an authority, valid for ten years from now, in memory until
// saved.
func NewDevIDCA(td spiffeid.TrustDomain, now time.Time) (*DevIDCA, error) {
	r, err := root.New("DevID CA of "+td.Name(), td.ID().URL(), now, devidCALifetime)
	return &DevIDCA{root: r}, err
}

// LoadDevIDCA reads dir/devid-ca.pem (mode 0600), or returns ErrNoCA.
func LoadDevIDCA(dir string) (*DevIDCA, error) {
	r, err := root.Load(filepath.Join(dir, devidFile))
	if errors.Is(err, root.ErrMissing) {
		return nil, fmt.Errorf("%w: %w", ErrNoCA, err)
	}
	return &DevIDCA{root: r}, err
}

// Save writes dir/devid-ca.pem. It never replaces a file.
func (ca *DevIDCA) Save(dir string) error { return ca.root.Save(filepath.Join(dir, devidFile)) }

// Certificate is what SPIRE's server wants in devid_ca_path.
func (ca *DevIDCA) Certificate() *x509.Certificate { return ca.root.Certificate() }

// CertifyDevID certifies a DevID key that lives in the TPM the caller attested
// with. The subject is the node's path (or the EK hash, if it has no name), its
// serial number the EK hash.
func (s issuerAPI) CertifyDevID(ctx context.Context, req *issuerv1.CertifyDevIDRequest) (*issuerv1.CertifyDevIDResponse, error) {
	now := time.Now()
	c, err := s.recognise(ctx, now)
	if err != nil {
		return nil, s.refuse("devid", c, c.id, err)
	}
	refuse := func(code codes.Code, format string, args ...any) error {
		return s.refuse("devid", c, c.node.SPIFFEID, status.Errorf(code, format, args...))
	}
	switch {
	case s.cfg.DevID == nil:
		return nil, refuse(codes.FailedPrecondition, "no DevID authority is configured here")
	case !isAgent(c.id) || len(c.record.AK) == 0:
		return nil, refuse(codes.PermissionDenied, "only an agent whose TPM is known to the last key gets DevIDs, not %s: attest by bailiwick_tpm", c.id)
	}
	ak, err := publicKey(c.record.AK)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	info, _, err := channel(ctx)
	if err != nil {
		return nil, err
	}
	exporter, err := info.State.ExportKeyingMaterial(DevIDExporterLabel, nil, ExporterSize)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "TLS exporter: %v", err)
	}
	key, err := tpm.VerifyDevIDRequest(ak, req.GetPublic(), req.GetAttest(), req.GetSignature(), exporter)
	if err != nil {
		return nil, refuse(codes.InvalidArgument, "%v", err)
	}
	name := c.node.SPIFFEID.Path()
	if name == "" {
		name = hex.EncodeToString(c.record.EKHash)
	}
	der, err := s.cfg.DevID.root.Sign(&x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"bailiwick"}, CommonName: name[:min(len(name), 64)], SerialNumber: hex.EncodeToString(c.record.EKHash)},
		KeyUsage:  x509.KeyUsageDigitalSignature,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(devidLifetime), BasicConstraintsValid: true,
	}, key)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	err = s.record(c, func(tx *store.Tx) error {
		return issueLeaf{What: "devid", To: c.id.String(), ID: c.id.String(), Serial: cert.SerialNumber.Bytes(), Key: spki[:], NotAfter: cert.NotAfter.Unix()}.write(tx)
	})
	if err != nil {
		return nil, unavailable(err)
	}
	s.issued.WithLabelValues("devid").Inc()
	return &issuerv1.CertifyDevIDResponse{Chain: [][]byte{der}, Authority: s.cfg.DevID.Certificate().Raw}, nil
}
