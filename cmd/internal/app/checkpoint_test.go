package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// The authority's beacon is a checkpoint of the frontier it holds, and feeds whose
// certificates are about to end are covered by it.
func TestBeaconCoversExpiringFeeds(t *testing.T) {
	now := time.Now()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := authority.OpenKey(t.TempDir())
	must(err)
	global, policyKey, feedKey := p256(t), p256(t), p256(t)
	ca, err := issuer.NewCA(tdEast, now.Add(-time.Hour))
	must(err)
	root, err := epoch.NewRoot(tdEast, now)
	must(err)
	record, err := trust.Sign(trust.Record{
		Region: "east", TrustDomain: tdEast, Version: 1, AuthorityKey: key.Public(), PolicyKey: &policyKey.PublicKey,
		X509Roots: []*x509.Certificate{ca.Certificate()}, RecordRoots: []*x509.Certificate{root.Certificate()},
		NotBefore: now.Add(-time.Hour).Truncate(time.Second), NotAfter: now.Add(time.Hour).Truncate(time.Second),
	}, global)
	must(err)
	set, err := trust.NewSet([]*ecdsa.PublicKey{&global.PublicKey}, 1)
	must(err)
	_, _, err = set.Apply(record, now)
	must(err)

	st := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	a := &App{cfg: config.Config{Node: nodeN1}, store: st, trust: set, log: slog.New(slog.DiscardHandler)}
	a.dir = newDirectory(nodeN1, set, &summary.Tracker{}, a.log)
	a.authority, err = authority.New(key, nodeN1, authority.Regional, st, nil)
	must(err)
	epochKey := feed.EpochKey{Origin: nodeN1, Epoch: 1, Key: &feedKey.PublicKey, Class: "node", NotAfter: now.Add(time.Minute), Cert: []byte("epoch 1")}
	a.replica, err = replica.Open(replica.Config{
		Self: nodeN1, Store: st, Keys: func([]byte) (feed.EpochKey, error) { return epochKey, nil }, Checkpoints: a.checkpoint,
		Apply: func(feed.Record, feed.Op) error { return nil },
	})
	must(err)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- a.replica.Run(ctx) }()
	defer func() { stop(); <-ran }()
	must(a.replica.SetIdentity(ctx, replica.Identity{Signer: feedKey, Cert: epochKey.Cert}))
	got, err := a.replica.Put(ctx, feed.Op{Key: feed.KeyOf(nodeN1, "x-note", "door"), Action: feed.Put, Scope: feed.ScopeRegion})
	must(err)

	must(a.beacon(ctx, now, time.Minute))
	s, b, ok := newestBeacon(a.ownBook(), a.ownRegion())
	if !ok || b.Feeds != 1 {
		t.Fatalf("beacon over %d feeds, known %v", b.Feeds, ok)
	}
	held, ok := a.replica.Get(feed.KeyOf(nodeN1, feed.KindCover, feed.CoverName(epochKey.Feed())))
	if !ok {
		t.Fatal("no cover for a feed whose certificate ends in a minute")
	}
	cover, err := feed.VerifyCover(held.Value, a.checkpoint)
	if err != nil || cover.Seq != got.Seq || cover.ID != got.Record || !cover.At.Equal(b.At) {
		t.Errorf("cover %+v of beacon %+v: %v", cover, b, err)
	}
	if _, err := a.checkpoint(s.Raw, spiffeid.RequireTrustDomainFromString("west.dev.example")); err == nil {
		t.Error("a checkpoint counts in another region")
	}
	set2, err := trust.NewSet([]*ecdsa.PublicKey{&p256(t).PublicKey}, 1)
	must(err)
	stranger := &App{cfg: a.cfg, trust: set2, dir: newDirectory(nodeN1, set2, &summary.Tracker{}, a.log)}
	if _, err := feed.VerifyCover(held.Value, stranger.checkpoint); !errors.Is(err, feed.ErrUncheckable) {
		t.Errorf("without the region's trust record: %v", err)
	}
}
