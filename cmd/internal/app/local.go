package app

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
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
}

func openWorkloadAPI(a *App) (w *workloadAPI, err error) {
	w = &workloadAPI{app: a}
	w.server, err = workloadapi.Listen(workloadapi.Config{Path: string(a.cfg.WorkloadAPI.Socket), Source: w, Log: a.log, Metrics: a.metrics})
	return w, err
}

func (w *workloadAPI) run(ctx context.Context) error { return w.server.Run(ctx) }

func (w *workloadAPI) close() error { return w.server.Close() }

// Identities, Bundles, AsOf and Changed are workloadapi.Source.
func (w *workloadAPI) Identities(selectors []string) (out []workloadapi.Identity, err error) {
	for _, found := range w.app.creds.now().identities(selectors) {
		out = append(out, workloadapi.Identity{SVID: found.svid, Hint: found.hint})
	}
	return out, nil
}

func (w *workloadAPI) Bundles() (out []*x509bundle.Bundle) {
	own := w.app.cfg.Node.TrustDomain()
	for _, r := range w.app.trust.Regions() {
		b, err := w.app.trust.GetX509BundleForTrustDomain(r.TrustDomain)
		if err != nil {
			continue // expired: it verifies nothing any more
		}
		if r.TrustDomain == own {
			out = slices.Insert(out, 0, b)
		} else {
			out = append(out, b)
		}
	}
	return out
}

func (w *workloadAPI) AsOf() time.Time { return w.app.creds.savedAt() }

func (w *workloadAPI) Changed() <-chan struct{} { return w.app.creds.onChange() }

// newQuarantineSet is the set of facts about this region, checked by proofs and
// by the region's authority.
func newQuarantineSet(td spiffeid.TrustDomain, v *verifier, dir *directory) *quarantine.Set {
	keys := dir.authorityKeys(td)
	return quarantine.NewSet(td, quarantine.Checks{
		Evidence: func(evidence []byte) (quarantine.Finding, error) {
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
