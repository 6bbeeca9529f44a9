package issuing

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

const (
	upstreamKeyFile = "upstream-agent.pem" // in issuer.keys
	upstreamPoP     = "issuer.upstream.x509pop"
	nestTimeout     = 30 * time.Second
)

// The agent SVID that a join token of the upstream bought, and the token's hash.
const upstreamBucket = "app/upstream"

var (
	upstreamSVID  = []byte("svid")
	upstreamToken = []byte("token")
)

// openUpstream makes the client of the SPIRE server above; ca is what it certified
// before, or nil. Nothing is sent yet.
func (i *Role) openUpstream(ca *issuer.CA) (*spire.Upstream, error) {
	u, td := i.Node.Issuer.Upstream, i.Node.Node.TrustDomain()
	roots, err := config.Certificates(u.TrustBundle)
	if err != nil {
		return nil, err
	}
	bundle := x509bundle.FromX509Authorities(td, roots)
	if ca != nil { // it may have rotated its roots since the file was written
		for _, root := range ca.Bundle().X509Authorities() {
			bundle.AddX509Authority(root)
		}
	}
	key, err := keyfile.Open(filepath.Join(string(i.Node.Issuer.Keys), upstreamKeyFile))
	if err != nil {
		return nil, err
	}
	agent := &upstreamAgent{Upstream: u, st: i.Store}
	cfg := spire.UpstreamConfig{Config: spire.Config{Addr: u.Address, TrustDomain: td, Bundles: bundle}, By: agent, Key: key}
	if u.TokenFile != "" {
		cfg.Keep = agent.keep
		if cfg.Agent, err = agent.kept(key); err != nil {
			return nil, err
		}
	}
	if cfg.Agent == nil {
		if _, err := agent.evidence(); err != nil {
			return nil, err
		}
	}
	return spire.NewUpstream(cfg)
}

// published is an upstream whose authorities are used only if the region's nodes
// believe in them: they know its roots from the trust record, not from its bundle.
type published struct {
	issuer.Upstream
	td      spiffeid.TrustDomain
	records x509bundle.Source
}

// NewCA returns what the upstream gave, or ErrUnpublished.
func (p published) NewCA(ctx context.Context, csr []byte, life time.Duration) ([]*x509.Certificate, error) {
	chain, err := p.Upstream.NewCA(ctx, csr, life)
	if err != nil {
		return nil, err
	}
	bundle, err := p.records.GetX509BundleForTrustDomain(p.td)
	if err != nil {
		return nil, err
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, root := range bundle.X509Authorities() {
		options.Roots.AddCert(root)
	}
	for _, between := range chain[1:] {
		options.Intermediates.AddCert(between)
	}
	if _, err := chain[0].Verify(options); err != nil {
		return nil, fmt.Errorf("%w: what the upstream certified leads to none of its roots: %w", issuer.ErrUnpublished, err)
	}
	return chain, nil
}

// upstreamAgent is who this issuer is to its upstream: a spire.Attester, and what keeps
// the agent SVID that a join token bought, for it buys nothing a second time. Calls
// follow each other.
type upstreamAgent struct {
	*config.Upstream
	st    *store.Store
	shown []byte // SHA-256 of the token that this process read to show it
}

// Type is that of the evidence configured.
func (a *upstreamAgent) Type() string {
	if a.TokenFile != "" {
		return spire.JoinToken{}.Type()
	}
	return spire.X509PoP{}.Type()
}

// Begin reads the files anew, so that they may be replaced while the node runs.
func (a *upstreamAgent) Begin(ctx context.Context) ([]byte, func(spire.Question) ([]byte, error), error) {
	by, err := a.evidence()
	if err != nil {
		return nil, nil, err
	}
	return by.Begin(ctx)
}

// evidence is what is to be shown now.
func (a *upstreamAgent) evidence() (spire.Attester, error) {
	if a.TokenFile == "" {
		return ProofOfPossession(upstreamPoP, *a.X509PoP)
	}
	token, err := a.token()
	if err != nil {
		return nil, err
	}
	a.shown = hashOf(token)
	return spire.NewJoinToken(token), nil
}

func (a *upstreamAgent) token() (string, error) {
	b, err := os.ReadFile(string(a.TokenFile))
	if err != nil {
		return "", fmt.Errorf("issuer.upstream.token_file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func hashOf(token string) []byte {
	hash := sha256.Sum256([]byte(token))
	return hash[:]
}

// keep stores an agent SVID and, if it was just bought, by which token.
func (a *upstreamAgent) keep(svid *x509svid.SVID) error {
	var chain []byte
	for _, c := range svid.Certificates {
		chain = append(chain, c.Raw...)
	}
	return a.st.Update(func(tx *store.Tx) error {
		if err := tx.Put(upstreamBucket, upstreamSVID, chain); err != nil || a.shown == nil {
			return err
		}
		return tx.Put(upstreamBucket, upstreamToken, a.shown)
	})
}

// kept returns the agent SVID that is stored, nil if there is none, it has expired, or
// the file holds another token than the one that bought it.
func (a *upstreamAgent) kept(key *ecdsa.PrivateKey) (*x509svid.SVID, error) {
	var chain, bought []byte
	if err := a.st.View(func(tx *store.Tx) error {
		chain, bought = bytes.Clone(tx.Get(upstreamBucket, upstreamSVID)), bytes.Clone(tx.Get(upstreamBucket, upstreamToken))
		return nil
	}); err != nil || len(chain) == 0 {
		return nil, err
	}
	if token, err := a.token(); err == nil && !bytes.Equal(hashOf(token), bought) { // a spent token may be removed
		return nil, nil
	}
	certs, err := x509.ParseCertificates(chain)
	if err != nil {
		return nil, err
	}
	id, err := x509svid.IDFromCert(certs[0])
	if err != nil || time.Now().After(certs[0].NotAfter) || !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, err
	}
	return &x509svid.SVID{ID: id, Certificates: certs, PrivateKey: key}, nil
}

// nest asks the upstream for an authority until it gives one or ctx ends. It may be
// away, or its operator not have made the downstream entry yet.
func nest(ctx context.Context, td spiffeid.TrustDomain, up issuer.Upstream, log *slog.Logger, notify func(string)) (*issuer.CA, error) {
	for failures := 1; ; failures++ {
		try, cancel := context.WithTimeout(ctx, nestTimeout)
		ca, err := issuer.NewNestedCA(try, td, up, time.Now())
		cancel()
		if err == nil {
			log.Info("the upstream certified this issuer's authority", "until", ca.Certificate().NotAfter.UTC().Format(time.RFC3339))
			return ca, nil
		}
		now := time.Now()
		wait := identity.Renewal{}.Retry(now, failures).Sub(now)
		log.Warn("this issuer answers nobody until its upstream has certified it", "err", err, "again", wait.Round(time.Millisecond))
		if notify != nil {
			notify(fmt.Sprintf("STATUS=waiting for issuer.upstream\nEXTEND_TIMEOUT_USEC=%d", (wait + 2*nestTimeout).Microseconds())) // it is no failed start
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}
