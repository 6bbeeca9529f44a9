package issuing

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// tokenLife is how long after an issuer first read it a join token of its entries
// may be used, once.
const tokenLife = 24 * time.Hour

var (
	// ErrPort means the issuer's TCP address is taken.
	ErrPort = errors.New("the issuer's address cannot be used: stop what holds it, or change issuer.listen")
	// ErrNesting means issuer.keys holds an authority that an upstream certified
	// and issuer.upstream names none, or the other way round.
	ErrNesting = errors.New("issuer.keys and issuer.upstream do not go together")
)

// Config is what a role is made of. All of it is required, but for Heads and Notify.
type Config struct {
	Node     config.Config                 // with its issuer part
	Device   func() (issuer.Device, error) // the TPM that holds the root, where issuer.root says so
	Trust    *trust.Set
	Branch   *Branch
	Standing func(spiffeid.ID) error // why an identity gets nothing here at present
	Appraise func(context.Context, tpm.Claims) (issuer.Record, error)
	Judge    func(context.Context, string, issuer.Attested) (issuer.Record, error) // of all other evidence
	Store    *store.Store
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	Heads    func(node spiffeid.ID) [][]byte // the signed policy records in force for a node; may be nil
	Notify   func(state string)              // tells the service manager; may be nil
}

// Role is the issuer's role on this node. Its server is there from the start,
// or, nested below an upstream for the first time, from when that certified it.
type Role struct {
	Config
	server   atomic.Pointer[issuer.Server] // nil while there is no authority to sign with
	upstream *spire.Upstream               // nil: the root is its own anchor
	joins    issuer.JoinTokens

	mu     sync.Mutex                // held while entries are read and while the server is made; guards what follows
	parts  issuer.Config             // all but the CA
	tokens map[config.Hash]time.Time // when a file's join token expires

	outer, inner net.Listener
	lock         *os.File // of issuer.keys
}

// Server returns what signs here; nil where nothing does yet.
func (i *Role) Server() *issuer.Server { return i.server.Load() }

// RecordRoot is the certificate that the region's epoch certificates of this issuer lead to.
func (i *Role) RecordRoot() *x509.Certificate { return i.parts.RecordRoot.Certificate() }

// Open makes the role. It reads everything the configuration names and, with an authority
// to sign with, binds its addresses; Run serves. Whatever the error, Close releases what
// was taken.
//
// Errors: ErrKeysInUse, ErrNesting, ErrRootMade (have the draft signed, and start again),
// ErrPort, provision.ErrOtherRegion, and those of identity/issuer and of the files.
func Open(c Config) (*Role, error) {
	i := &Role{Config: c}
	return i, i.open()
}

func (i *Role) open() error {
	c := i.Node.Issuer
	var err error
	if i.lock, err = lockKeys(string(c.Keys)); err != nil {
		return err
	}
	ca, err := i.openCA()
	waits := errors.Is(err, issuer.ErrNoCA) && c.Upstream != nil
	if err != nil && !waits {
		return err
	}
	if ca != nil {
		nested := slices.ContainsFunc(ca.Authorities(), func(a issuer.Authority) bool { return a.Nested })
		switch {
		case nested && c.Upstream == nil:
			return fmt.Errorf("%w: an upstream certified the authority in %s, and issuer.upstream is not set", ErrNesting, c.Keys)
		case !nested && c.Upstream != nil:
			return fmt.Errorf("%w: %s holds a root that is its own anchor; for issuer.upstream move svid-root*.pem and authorities.json away", ErrNesting, c.Keys)
		}
	}
	if c.Upstream != nil {
		if i.upstream, err = i.openUpstream(ca); err != nil {
			return err
		}
	}
	if err := i.assemble(); err != nil {
		return err
	}
	if waits {
		return nil
	}
	return i.start(ca)
}

// assemble makes all parts of the server but its CA.
func (i *Role) assemble() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.Node.Issuer
	root, err := epoch.LoadRoot(string(c.Keys))
	if err != nil {
		return err
	}
	if err := i.own(root.TrustDomain()); err != nil {
		return err
	}
	attestors, err := i.attestors()
	if err != nil {
		return err
	}
	entries, tokens, err := i.entries()
	if err != nil {
		return err
	}
	i.admit(tokens)
	i.parts = issuer.Config{
		RecordRoot: root, Endorse: i.Branch.Endorse, Epochs: i.Branch, Store: i.Store,
		Standing: i.issues, Appeal: i.Branch.Appeal, Attestors: attestors, Entries: entries, Others: i.Branch.OtherKeys, Barred: i.Branch.Barred, Evicted: i.Branch.evicted,
		Trust: i.Trust, TrustRecords: i.Trust.Export, PolicyHeads: i.Heads, Lifetime: c.Lifetime, Log: i.Log, Metrics: i.Metrics,
	}
	if i.upstream != nil {
		i.parts.Upstream = i.above()
	}
	if c.DevIDCA {
		i.parts.DevID, err = openDevIDCA(string(c.Keys), i.Node.Node.TrustDomain())
	}
	return err
}

// attestors are what judges evidence: each type that the configuration names an
// authority for, bailiwick_tpm and join tokens in any case. Policy judges all of it.
func (i *Role) attestors() ([]issuer.Attestor, error) {
	c := i.Node.Issuer
	verifier, err := EKVerifier(*c)
	if err != nil {
		return nil, err
	}
	td := i.Node.Node.TrustDomain()
	speaks := issuer.EpochProof{TrustDomain: td, Roots: func() []*x509.Certificate {
		r, _ := i.Trust.Record(td)
		return r.RecordRoots
	}}
	out := []issuer.Attestor{issuer.TPM{Verifier: &verifier, Appraise: i.Appraise}, i.judged(&i.joins), speaks}
	if len(c.X509PoPRoots) > 0 {
		roots, err := pool(c.X509PoPRoots)
		if err != nil {
			return nil, err
		}
		out = append(out, i.judged(issuer.X509PoP{Roots: roots}))
	}
	if len(c.DevIDRoots) > 0 {
		roots, err := pool(c.DevIDRoots)
		if err != nil {
			return nil, err
		}
		out = append(out, i.judged(issuer.TPMDevID{Verifier: &tpm.DevIDVerifier{DevIDRoots: roots, EK: verifier}}))
	}
	return out, nil
}

func (i *Role) judged(a issuer.Attestor) issuer.Attestor {
	return issuer.Judged{Attestor: a, Judge: i.Judge}
}

// start makes the server and binds its addresses.
func (i *Role) start(ca *issuer.CA) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	cfg := i.parts
	cfg.CA = ca
	srv, err := issuer.New(cfg)
	if err != nil {
		return err
	}
	c := i.Node.Issuer
	if i.outer, err = net.Listen("tcp", c.Listen.String()); err != nil {
		return fmt.Errorf("%w: %w", ErrPort, err)
	}
	if err := os.MkdirAll(filepath.Dir(string(c.AdminSocket)), 0o700); err != nil {
		return fmt.Errorf("issuer.admin_socket: %w", err)
	}
	if i.inner, err = issuer.ListenLocal(string(c.AdminSocket)); err != nil {
		return fmt.Errorf("issuer.admin_socket: %w", err)
	}
	i.server.Store(srv)
	return nil
}

// Run serves until ctx ends, and waits for the upstream first where it must.
func (i *Role) Run(ctx context.Context) error {
	if i.server.Load() == nil {
		ca, err := nest(ctx, i.Node.Node.TrustDomain(), i.above(), i.Log, i.Notify)
		if err != nil {
			return err
		}
		if err := ca.Save(string(i.Node.Issuer.Keys)); err != nil {
			return err
		}
		if err := i.start(ca); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return i.server.Load().Serve(ctx, i.outer) })
	g.Go(func() error { return i.server.Load().ServeLocal(ctx, i.inner) })
	g.Go(func() error { return i.Branch.run(ctx, i.notice, i.forget) })
	return g.Wait()
}

// above is the upstream as the issuer may use it.
func (i *Role) above() issuer.Upstream {
	return published{i.upstream, i.Node.Node.TrustDomain(), i.Trust}
}

// issues says why an identity gets nothing here at present: its standing, or another
// issuer's ban.
func (i *Role) issues(id spiffeid.ID) error {
	if err := i.Standing(id); err != nil {
		return err
	}
	return i.Branch.bans(id)
}

// notice is what the region's other issuers are told by this one.
func (i *Role) notice() (notice, error) {
	srv := i.server.Load()
	agents, err := srv.Agents()
	if err != nil {
		return notice{}, err
	}
	var n notice
	for _, a := range agents {
		if !a.Banned {
			continue
		}
		if len(n.Banned) == maxSharedBans {
			i.Log.Error("the region's other issuers hear of no more bans than these: delete banned agents whose machines are gone", "bans", maxSharedBans)
			break
		}
		b := banOf(a.ID)
		n.Banned = append(n.Banned, b[:])
	}
	evictions, err := srv.Evictions()
	if err != nil {
		return notice{}, err
	}
	slices.SortFunc(evictions, func(a, b issuer.Eviction) int { return cmp.Compare(b.Number, a.Number) })
	for _, e := range evictions[:min(len(evictions), maxSharedEvictions)] {
		b := banOf(e.Agent)
		n.Evicted = append(n.Evicted, evictionWire{b[:], e.Number})
	}
	n.Keys, err = wireKeys(srv.Authorities())
	return n, err
}

// forget does here what other issuers did: their evictions.
func (i *Role) forget(agents map[ban]bool) error {
	srv := i.server.Load()
	all, err := srv.Agents()
	if err != nil {
		return err
	}
	for _, a := range all {
		if !agents[banOf(a.ID)] {
			continue
		}
		if err := srv.Forget(a.ID, "by another issuer of the region"); err != nil && !errors.Is(err, issuer.ErrUnknownAgent) {
			return err
		}
	}
	return nil
}

// Reload puts the entries of files in force as they are now, and returns how many.
func (i *Role) Reload() (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	entries, tokens, err := i.entries()
	if err != nil {
		return 0, err
	}
	if srv := i.server.Load(); srv == nil {
		i.parts.Entries = entries
	} else if err := srv.SetEntries(entries); err != nil {
		return 0, err
	}
	i.admit(tokens)
	return len(entries), nil
}

// Close releases what Open took. The role serves no more.
func (i *Role) Close() error {
	var errs []error
	for _, l := range []net.Listener{i.outer, i.inner} {
		if l != nil {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if i.upstream != nil {
		errs = append(errs, i.upstream.Close())
	}
	if i.lock != nil {
		errs = append(errs, i.lock.Close())
	}
	return errors.Join(errs...)
}

// devIDCertificate is where stock servers' devid_ca_path gets its file from, in
// issuer.keys.
const devIDCertificate = "devid-ca.crt"

// openDevIDCA reads the DevID authority, making it first where there is none: no
// trust record names it, so nobody has to agree. Its certificate is left beside it.
func openDevIDCA(dir string, td spiffeid.TrustDomain) (*issuer.DevIDCA, error) {
	ca, err := issuer.LoadDevIDCA(dir)
	if errors.Is(err, issuer.ErrNoCA) {
		if ca, err = issuer.NewDevIDCA(td, time.Now()); err == nil {
			err = ca.Save(dir)
		}
	}
	if err != nil {
		return nil, err
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate().Raw})
	return ca, provision.WriteFile(filepath.Join(dir, devIDCertificate), certificate, 0o644)
}
