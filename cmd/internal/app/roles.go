package app

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/prometheus/client_golang/prometheus"
)

// tokenLife is how long after the start of the issuer a join token that its
// entries name may be used, once.
const tokenLife = 24 * time.Hour

var (
	// ErrPEM means a PEM file does not hold what the configuration says.
	ErrPEM = errors.New("a PEM file does not hold what is wanted of it")
	// ErrIssuerPort means the issuer's TCP address is taken.
	ErrIssuerPort = errors.New("the issuer's address cannot be used: stop what holds it, or change issuer.listen")
)

// openAuthority starts the region's authority on this node and publishes what
// the configuration says: the authority record and the service names.
func openAuthority(c config.Config, region string, st *store.Store) (*authority.Authority, *authority.Key, error) {
	key, err := authority.OpenKey(string(c.Authority.Keys))
	if err != nil {
		return nil, nil, err
	}
	a, err := authority.New(key, c.Node, authority.Regional, st)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	_, err = a.SetRecord(now, authority.Record{
		Level: authority.Regional, Region: region, Master: c.Node,
		Autonomy: authority.Autonomy{CanOperateIsolated: true, CanModifyPolicies: true},
		Sync:     authority.Sync{Upstream: region, Frequency: time.Second, Mode: "both", BatchSize: 64, RetryPolicy: "exponential"},
		Lease:    authority.LeaseTerms{Duration: c.Authority.Lease, Degraded: authority.Mode(c.Authority.Degraded)},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("authority record: %w", err)
	}
	for _, s := range c.Authority.Services {
		if _, err := a.SetService(now, authority.Service{Name: s.Name, IDs: s.Workloads}); err != nil {
			return nil, nil, fmt.Errorf("service %s: %w", s.Name, err)
		}
	}
	return a, key, nil
}

// issuing is what the issuer on this node works with.
type issuing struct {
	cfg       config.Config
	trust     *trust.Set
	authority *authority.Authority
	key       *authority.Key
	standing  *standings
	appraise  func(context.Context, tpm.Claims) error
	st        *store.Store
	log       *slog.Logger
	metrics   prometheus.Registerer
}

// open loads the roots and entries and binds the address.
func (i issuing) open() (*issuer.Server, net.Listener, error) {
	c := i.cfg.Issuer
	ca, err := issuer.LoadCA(string(c.Keys))
	if err != nil {
		return nil, nil, err
	}
	root, err := epoch.LoadRoot(string(c.Keys))
	if err != nil {
		return nil, nil, err
	}
	verifier := &tpm.Verifier{Roots: x509.NewCertPool(), AllowEK: hashes(c.EKAllow), DenyEK: hashes(c.EKDeny)}
	for _, path := range c.EKRoots {
		certs, err := certificates(string(path))
		if err != nil {
			return nil, nil, err
		}
		for _, cert := range certs {
			verifier.Roots.AddCert(cert)
		}
	}
	entries, tokens, err := i.entries()
	if err != nil {
		return nil, nil, err
	}
	var joins issuer.JoinTokens
	joins.Set(tokens)
	srv, err := issuer.New(issuer.Config{
		CA: ca, RecordRoot: root, Authority: i.key.Signer(), Epochs: epochs{i.authority.Epochs()}, Store: i.st,
		Standing:     i.standing.issues,
		Attestors:    []issuer.Attestor{issuer.TPM{Verifier: verifier, Appraise: i.appraise}, &joins},
		Entries:      entries,
		TrustRecords: i.trust.Export,
		Lifetime:     c.Lifetime,
		Log:          i.log, Metrics: i.metrics,
	})
	if err != nil {
		return nil, nil, err
	}
	lis, err := net.Listen("tcp", c.Listen.String())
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrIssuerPort, err)
	}
	return srv, lis, nil
}

// entries turns the configured entry files into the issuer's.
func (i issuing) entries() (out []issuer.Entry, tokens []issuer.Token, err error) {
	td := i.cfg.Node.TrustDomain()
	for _, path := range i.cfg.Issuer.Entries {
		file, err := config.LoadEntries(string(path), td)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range file {
			parent, err := parentOf(e, td)
			if err != nil {
				return nil, nil, err
			}
			if !e.Token.IsZero() {
				tokens = append(tokens, issuer.Token{Hash: e.Token, Expires: time.Now().Add(tokenLife)})
			}
			out = append(out, issuer.Entry{SPIFFEID: e.ID, ParentID: parent, Selectors: e.Selectors, Class: e.Class, X509TTL: e.Lifetime})
		}
	}
	return out, tokens, nil
}

// epochs is how the issuer asks the region's authority.
type epochs struct{ *authority.Epochs }

func (e epochs) Allocate(_ context.Context, r issuer.EpochRequest) (issuer.EpochGrant, error) {
	g, err := e.Epochs.Allocate(time.Now(), authority.EpochRequest{
		Node: r.ID, FeedKey: r.FeedKeyHash[:], Class: r.Class, Attested: r.Attested, Floor: r.Floor, Used: r.Have,
	})
	return issuer.EpochGrant{Current: g.Epoch, Spare: g.Spare, Class: g.Class}, err
}

// attestInput puts verified claims into the words of policy.
func attestInput(self *policy.Peer, c tpm.Claims, now time.Time) policy.Input {
	pcrs := map[string]string{}
	for i, d := range c.PCRs {
		pcrs[strconv.Itoa(i)] = hex.EncodeToString(d[:])
	}
	digests := map[string][]string{}
	for pcr, list := range c.Boot.Digests {
		for _, d := range list {
			digests[strconv.Itoa(pcr)] = append(digests[strconv.Itoa(pcr)], hex.EncodeToString(d[:]))
		}
	}
	return policy.Input{
		V: policy.InputVersion, Kind: policy.AttestNode,
		Time: policy.Time{Unix: now.Unix(), Trusted: true}, Self: self,
		Attest: &policy.Attest{
			Method: "bailiwick_tpm", Key: keyMode(c),
			EK: policy.EK{
				Maker: c.EKMaker, Model: c.EKModel, Firmware: c.EKFirmware,
				SHA256: hex.EncodeToString(c.EKHash[:]), ChainOK: c.EKChain,
			},
			PCRs: pcrs,
			Boot: &policy.Boot{
				SecureBoot: c.Boot.SecureBoot, SecureBootOff: c.Boot.SecureBootOff,
				CommandLines: c.Boot.CommandLines, Strings: c.Boot.Strings, Digests: digests,
				Explained: c.Boot.Explained, Unexplained: c.Boot.Unexplained,
			},
			ResetCount: c.ResetCount, RestartCount: c.RestartCount,
			Starts: c.Counters.Starts, Epoch: c.Counters.Epoch,
		},
	}
}

func hashes(list []config.Hash) map[[32]byte]bool {
	out := map[[32]byte]bool{}
	for _, h := range list {
		out[h] = true
	}
	return out
}

// certificates reads all certificates of a PEM file.
func certificates(path string) (out []*x509.Certificate, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrPEM, path, err)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s: no certificate", ErrPEM, path)
	}
	return out, nil
}

// parentOf is the ID under which whoever gets an entry's identity is known.
func parentOf(e config.Entry, td spiffeid.TrustDomain) (spiffeid.ID, error) {
	switch {
	case !e.EK.IsZero():
		return issuer.AgentID(td, issuer.TPM{}.Type(), e.EK.String())
	case !e.Token.IsZero():
		return issuer.AgentID(td, (&issuer.JoinTokens{}).Type(), e.Token.String())
	}
	return e.Node, nil
}
