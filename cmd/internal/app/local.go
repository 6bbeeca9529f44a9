package app

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/enrolling"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/workloadapi"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// workloadAPI answers local processes from what the node was issued.
type workloadAPI struct {
	app    *App
	server *workloadapi.Server
	tokens *enrolling.Tokens

	mu      sync.Mutex // held for accesses; guards what follows
	changed chan struct{}
}

func openWorkloadAPI(a *App) (w *workloadAPI, err error) {
	w = &workloadAPI{app: a, tokens: a.creds.Tokens(), changed: make(chan struct{})}
	w.server, err = workloadapi.Listen(workloadapi.Config{
		Path: string(a.cfg.WorkloadAPI.Socket), TrustDomain: a.cfg.Node.TrustDomain(), Source: w, Log: a.log, Metrics: a.metrics,
	})
	return w, err
}

func (w *workloadAPI) run(ctx context.Context) error {
	go w.announce(ctx)
	return w.server.Run(ctx)
}

// announce tells the server when what it hands out has changed: SVIDs, or the
// roots of a region.
func (w *workloadAPI) announce(ctx context.Context) {
	issued, trusted := w.app.creds.Changed(), w.app.trust.Changed()
	for {
		w.mu.Lock()
		close(w.changed)
		w.changed = make(chan struct{})
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-issued:
			issued = w.app.creds.Changed()
		case <-trusted:
			trusted = w.app.trust.Changed()
		}
	}
}

func (w *workloadAPI) close() error { return errors.Join(w.server.Close(), w.tokens.Close()) }

// Identities, JWTSVID, Bundles, AsOf and Changed are workloadapi.Source.
func (w *workloadAPI) Identities(shows func([]string) bool) (out []workloadapi.Identity, err error) {
	for _, found := range w.app.creds.Now().Identities(shows) {
		out = append(out, workloadapi.Identity{SVID: found.SVID, Entry: found.Entry, Hint: found.Hint})
	}
	return out, nil
}

func (w *workloadAPI) JWTSVID(ctx context.Context, i workloadapi.Identity, audience []string) (*jwtsvid.SVID, error) {
	return w.tokens.Get(ctx, i.Entry, i.SVID.ID, audience)
}

func (w *workloadAPI) Bundles() (out []*spiffebundle.Bundle) {
	own := w.app.cfg.Node.TrustDomain()
	for _, r := range w.app.trust.Regions() {
		roots, err := w.app.trust.GetX509BundleForTrustDomain(r.TrustDomain)
		if err != nil {
			continue // expired: it verifies nothing any more
		}
		b := spiffebundle.FromX509Bundle(roots)
		if r.TrustDomain == own {
			if keys := w.app.creds.Now().JWTKeys; keys != nil {
				b.SetJWTAuthorities(keys.JWTAuthorities())
			}
			out = slices.Insert(out, 0, b)
		} else {
			for _, k := range r.JWTKeys {
				if time.Now().Before(k.NotAfter) {
					_ = b.AddJWTAuthority(k.ID, k.Key) // a record's keys have IDs
				}
			}
			out = append(out, b)
		}
	}
	return out
}

func (w *workloadAPI) AsOf() time.Time { return w.app.creds.Now().At }

func (w *workloadAPI) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// newQuarantineSet is the set of facts about this region, checked by proofs and
// by the region's authority.
func newQuarantineSet(td spiffeid.TrustDomain, v *verifier, dir *directory) *quarantine.Set {
	keys := dir.authorityKeys(td)
	return quarantine.NewSet(td, quarantine.Checks{
		Evidence: func(evidence []byte) (quarantine.Finding, error) {
			if a, err := witness.ParseAccusation(evidence); err == nil {
				return forkFinding(a, dir.trust)
			}
			f, err := feed.VerifyProof(evidence, v.key)
			if err != nil {
				return quarantine.Finding{}, err
			}
			if !f.Convicts() {
				return quarantine.Finding{}, feed.ErrProof
			}
			return quarantine.Finding{Accused: f.Accused, Class: f.Class, Digest: f.Digest, Epoch: f.Epoch}, nil
		},
		Release: func(raw []byte) (quarantine.Release, error) { return authority.OpenRelease(raw, td, keys) },
		Revocation: func(raw []byte) (quarantine.Revocation, error) {
			return authority.OpenRevocation(raw, td, keys)
		},
	})
}

// heard returns when an origin's newest record was written, by its own clock.
func (d *directory) heard(r *replica.Replica, id spiffeid.ID) (time.Time, bool) {
	e, ok := r.Get(feed.KeyOf(id, feed.KindNode, nodeName))
	if !ok {
		return time.Time{}, false
	}
	return time.Now().Add(-e.Age), true
}

func sortPeers(peers []*controlv1.PeerStatus) {
	slices.SortFunc(peers, func(a, b *controlv1.PeerStatus) int { return cmp.Compare(a.SpiffeId, b.SpiffeId) })
}
