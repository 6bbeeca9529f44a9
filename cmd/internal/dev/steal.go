package dev

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/cache"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// loot is what somebody has who took a node's disk and TPM: all it takes to be
// that node.
type loot struct {
	svid   *x509svid.SVID // with its key in the TPM
	trust  *trust.Set
	cert   feed.EpochKey
	feed   *ecdsa.PrivateKey
	head   feed.Head
	device *tpm.Device
}

func (l *loot) close() error { return l.device.Close() }

// steal takes the state and the TPM of a node that does not run.
func steal(ctx context.Context, f *Fleet, n Node) (l *loot, err error) {
	l = &loot{}
	if l.trust, err = f.trustSet(); err != nil {
		return nil, err
	}
	vault, err := cache.Open(n.StateDir())
	if err != nil {
		return nil, err
	}
	kept, err := vault.Load()
	if err != nil {
		return nil, err
	}
	for _, der := range kept.Epochs {
		key, err := l.epochKey(n, der)
		if err != nil {
			return nil, err
		}
		if key.Epoch == kept.InUse {
			l.cert = key
		}
	}
	if l.cert.Key == nil {
		return nil, fmt.Errorf("%s is in no epoch yet", n.Name)
	}
	if l.feed, err = keyfile.Open(filepath.Join(n.StateDir(), "keys", "feed.pem")); err != nil {
		return nil, err
	}
	if l.head, err = l.headOf(ctx, n); err != nil {
		return nil, err
	}
	return l, l.takeTPM(n, kept)
}

// trustSet is what every node of the fleet believes.
func (f *Fleet) trustSet() (*trust.Set, error) {
	global, err := f.provisionGlobal()
	if err != nil {
		return nil, err
	}
	set, err := trust.NewSet([]*ecdsa.PublicKey{&global.PublicKey}, 1)
	if err != nil {
		return nil, err
	}
	for _, r := range f.Regions {
		b, err := os.ReadFile(f.trustRecord(r.Label))
		if err != nil {
			return nil, err
		}
		if _, _, err := set.Apply(b, time.Now()); err != nil {
			return nil, err
		}
	}
	return set, nil
}

func (l *loot) epochKey(n Node, der []byte) (feed.EpochKey, error) {
	td := n.ID.TrustDomain()
	from, err := epoch.NotBefore(der)
	if err != nil {
		return feed.EpochKey{}, err
	}
	c, err := epoch.Verify(der, l.trust.RecordRoots(td), td, from)
	return feed.EpochKey{
		Origin: c.ID, Epoch: c.Epoch, Key: c.Key, Class: c.Class, Attested: c.Attested(),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Cert: der,
	}, err
}

// headOf reads from the disk how far the node's feed has come.
func (l *loot) headOf(ctx context.Context, n Node) (head feed.Head, err error) {
	st, err := store.Open(filepath.Join(n.StateDir(), "state.db"))
	if err != nil {
		return feed.Head{}, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	r, err := replica.Open(replica.Config{
		Self: n.ID, Store: st,
		Keys:  func(der []byte) (feed.EpochKey, error) { return l.epochKey(n, der) },
		Apply: func(feed.Record, feed.Op) error { return nil },
	})
	if err != nil {
		return feed.Head{}, err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	frontier, _, err := r.Frontier(ctx)
	stop()
	if runErr := <-ended; !errors.Is(runErr, context.Canceled) {
		err = errors.Join(err, runErr)
	}
	return frontier[l.cert.Feed()], err
}

// takeTPM finds the node's SVID that works with the keys in its TPM.
func (l *loot) takeTPM(n Node, kept cache.Contents) (err error) {
	soft, err := maker.Attach(n.TPMDir())
	if err != nil {
		return err
	}
	if l.device, err = tpm.Open(soft.Path()); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.device.Close())
		}
	}()
	keys, err := tpm.OpenKeys(l.device, filepath.Join(n.StateDir(), "keys"))
	if err != nil {
		return err
	}
	for _, s := range kept.SVIDs {
		if svid, err := s.With(keys.Node()); err == nil && svid.ID == n.ID {
			l.svid = svid
			return nil
		}
	}
	return fmt.Errorf("%s has no SVID on its disk", n.Name)
}
