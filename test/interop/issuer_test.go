package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// issuerEnv names the file that makes this binary our issuer: identity/issuer on
// one folder, with every attestor it has and lifetimes shorter than a node's
// configuration allows.
const issuerEnv = "BAILIWICK_INTEROP_ISSUER"

type issuerFile struct {
	Dir, Listen, Socket            string
	PopRoot, DevIDRoot, MakerRoots string

	// Above, if it has an address, is the stock server that certifies ours. It knows
	// us by x509pop.
	Above struct{ Addr, Bundle, Chain, Key string }
}

// newIssuer starts our issuer, a process of its own.
func newIssuer(t *testing.T, p *pki) *server { return newIssuerBelow(t, p, nil) }

// newIssuerBelow is newIssuer below a stock server, or below none.
func newIssuerBelow(t *testing.T, p *pki, above *server) *server {
	t.Helper()
	dir, port := folder(t), freePort(t)
	s := &server{ours: true, dir: dir, port: port, socket: filepath.Join(dir, "api.sock")}
	f := issuerFile{
		Dir: dir, Listen: fmt.Sprintf("127.0.0.1:%d", port), Socket: s.socket,
		PopRoot: p.popRoot, DevIDRoot: p.devidRoot, MakerRoots: p.makerRoots,
	}
	if above != nil {
		f.Above.Addr, f.Above.Bundle = above.config(t).Addr, above.bundleFile(t, dir)
		f.Above.Chain, f.Above.Key = above.downstream(t, p, dir)
	}
	b, err := json.Marshal(f)
	must(t, err)
	conf := write(t, dir, "issuer.json", "%s", b)
	self, err := os.Executable()
	must(t, err)
	s.begin = func(t *testing.T) *process {
		return start(t, dir, "issuer", []string{issuerEnv + "=" + conf}, self)
	}
	return s.open(t)
}

// runIssuer is the process.
func runIssuer(path string) (err error) {
	var f issuerFile
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	cfg, err := f.config()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cfg.Store.Close()) }()
	srv, err := issuer.New(cfg)
	if err != nil {
		return err
	}
	outer, err := net.Listen("tcp", f.Listen)
	if err != nil {
		return err
	}
	inner, err := issuer.ListenLocal(f.Socket)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Serve(ctx, outer) })
	g.Go(func() error { return srv.ServeLocal(ctx, inner) })
	return g.Wait()
}

func (f issuerFile) config() (cfg issuer.Config, err error) {
	fail := func(err error) (issuer.Config, error) { return issuer.Config{}, err }
	up, err := f.above()
	if err != nil {
		return fail(err)
	}
	ca, err := issuer.LoadCA(f.Dir)
	if errors.Is(err, issuer.ErrNoCA) {
		if up != nil {
			ca, err = issuer.NewNestedCA(context.Background(), td, up, time.Now())
		} else {
			ca, err = issuer.NewCA(td, time.Now())
		}
		if err == nil {
			err = ca.Save(f.Dir)
		}
	}
	if err != nil {
		return fail(err)
	}
	root, err := epoch.LoadRoot(f.Dir)
	if errors.Is(err, epoch.ErrNoRoot) {
		if root, err = epoch.NewRoot(td, time.Now()); err == nil {
			err = root.Save(f.Dir)
		}
	}
	if err != nil {
		return fail(err)
	}
	devid, err := issuer.LoadDevIDCA(f.Dir)
	if errors.Is(err, issuer.ErrNoCA) {
		if devid, err = issuer.NewDevIDCA(td, time.Now()); err == nil {
			err = devid.Save(f.Dir)
		}
	}
	if err != nil {
		return fail(err)
	}
	key, err := authority.OpenKey(f.Dir)
	if err != nil {
		return fail(err)
	}
	st, err := store.Open(filepath.Join(f.Dir, "store"))
	if err != nil {
		return fail(err)
	}
	verifier := tpm.Verifier{Roots: pool(f.MakerRoots)}
	cfg = issuer.Config{
		CA: ca, RecordRoot: root, DevID: devid, Authority: key.Signer(), Epochs: granted{authority.NewEpochs(st)}, Store: st,
		Standing: func(spiffeid.ID) error { return nil },
		Attestors: []issuer.Attestor{
			&issuer.JoinTokens{}, issuer.TPM{Verifier: &verifier, Appraise: accept}, issuer.X509PoP{Roots: pool(f.PopRoot)},
			issuer.TPMDevID{Verifier: &tpm.DevIDVerifier{DevIDRoots: pool(f.DevIDRoot), EK: verifier}},
		},
		Lifetime: agentTTL * time.Second,
		Log:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if up != nil {
		cfg.Upstream = up
	}
	others, err := f.others()
	if others != nil {
		cfg.Trust = others
	}
	return cfg, err
}

// above returns the server that certifies ours, nil if there is none.
func (f issuerFile) above() (*spire.Upstream, error) {
	if f.Above.Addr == "" {
		return nil, nil
	}
	roots, err := x509bundle.Load(td, f.Above.Bundle)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(f.Above.Chain, f.Above.Key)
	if err != nil {
		return nil, err
	}
	key := pair.PrivateKey.(*ecdsa.PrivateKey)
	cfg := spire.Config{Addr: f.Above.Addr, TrustDomain: td, Bundles: roots}
	return spire.NewUpstream(cfg, spire.X509PoP{Chain: pair.Certificate, Key: key}, key)
}

// granted hands out epochs as a node that is its region's authority does.
type granted struct{ *authority.Epochs }

func (g granted) Allocate(_ context.Context, r issuer.EpochRequest) (issuer.EpochGrant, error) {
	out, err := g.Epochs.Allocate(time.Now(), authority.EpochRequest{
		Node: r.ID, FeedKey: r.FeedKeyHash[:], Class: r.Class, Attested: r.Attested, Floor: r.Floor, Used: r.Have,
	})
	return issuer.EpochGrant{Current: out.Epoch, Spare: out.Spare, Class: out.Class}, err
}

// pool reads certificates; what cannot be read is no root.
func pool(path string) *x509.CertPool {
	out := x509.NewCertPool()
	if b, err := os.ReadFile(path); err == nil {
		out.AppendCertsFromPEM(b)
	}
	return out
}

// accept leaves all to the verifier's own checks: policy has tests elsewhere.
func accept(context.Context, tpm.Claims) error { return nil }
