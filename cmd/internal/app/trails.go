package app

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
)

// trailKeeper holds the trail of the epoch in force. Between two epochs the
// outbox holds everything.
type trailKeeper struct {
	dir string
	app *App

	mu     sync.RWMutex // held for an assignment, and by close
	trail  *trail.Trail
	untold uint64 // events of gaps for the next trail
}

// open begins or continues the trail of an epoch and ends the one before.
func (k *trailKeeper) open(node spiffeid.ID, epoch uint64, key crypto.Signer, tpm bool, endorsement []byte) error {
	if t := k.current(); t != nil && t.Epoch() != epoch {
		if err := k.app.leaf(trail.EpochSeal, map[string]any{"epoch": t.Epoch(), "next": epoch}); err != nil {
			k.gap(1, "epoch.seal: "+err.Error())
		}
	}
	if err := k.close(); err != nil {
		return err
	}
	protection := "software"
	if tpm {
		protection = "tpm"
	}
	t, err := trail.Open(trail.Config{
		Dir: k.dir, Node: node, Epoch: epoch, Key: key, Protection: protection, Endorsement: endorsement,
		Store: k.app.store, Log: k.app.log, Metrics: k.app.metrics,
		Roster: k.app.gatherer.Roster, OnHead: k.app.gatherer.Wake,
	})
	if err != nil {
		return fmt.Errorf("trail of epoch %d: %w", epoch, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trail = t
	t.Gap(k.untold, "before the trail was open")
	k.untold = 0
	return nil
}

func (k *trailKeeper) current() *trail.Trail {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.trail
}

// gap tells the trail of events that could not be recorded.
func (k *trailKeeper) gap(count uint64, why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.trail != nil {
		k.trail.Gap(count, why)
	} else {
		k.untold += count
	}
}

func (k *trailKeeper) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.trail == nil {
		return nil
	}
	err := errors.Join(k.trail.Flush(context.Background()), k.trail.Close())
	k.trail = nil
	return err
}

// leaf records an event of the node itself.
func (a *App) leaf(kind trail.Kind, body map[string]any) error {
	return a.store.Update(func(tx *store.Tx) error { return trail.Append(tx, kind, body) })
}

// TrailEndorsement says, in words, whether the key of the trail in dir is
// endorsed by the authority of its region, under the trust records that the
// node's configuration names. It needs no running node.
func TrailEndorsement(configPath, dir string) string {
	if configPath == "" {
		return "its own word: no configuration given to check the endorsement with"
	}
	by, err := endorsedBy(configPath, dir)
	if err != nil {
		return "NOT ENDORSED: " + err.Error()
	}
	return by
}

func endorsedBy(configPath, dir string) (string, error) {
	c, err := config.Load(configPath)
	if err != nil {
		return "", err
	}
	global, err := globalKeys(c)
	if err != nil {
		return "", err
	}
	set, err := loadTrust(c, global, nil)
	if err != nil {
		return "", err
	}
	genesis, err := trail.ReadGenesis(dir)
	if err != nil {
		return "", err
	}
	if len(genesis.Endorsement) == 0 {
		return "", errors.New("its genesis carries no endorsement: the node has no TPM")
	}
	record, _ := set.Record(c.Node.TrustDomain())
	key, err := trail.PKIX(genesis.Verifier)
	if err != nil {
		return "", err
	}
	if _, err := endorse.VerifyTrailKey(genesis.Endorsement, record.AuthorityKey, c.Node, key, time.Now()); err != nil {
		return "", err
	}
	return fmt.Sprintf("endorsed by the authority of %s", c.Node.TrustDomain()), nil
}

// Trusted returns what a node's configuration has it believe: the global keys, how many of
// them must have signed, and the signed trust records its files hold. It needs no running node.
func Trusted(configPath string) (global []*ecdsa.PublicKey, threshold int, records [][]byte, err error) {
	c, err := config.Load(configPath)
	if err != nil {
		return nil, 0, nil, err
	}
	if global, err = globalKeys(c); err != nil {
		return nil, 0, nil, err
	}
	set, err := loadTrust(c, global, nil)
	if err != nil {
		return nil, 0, nil, err
	}
	return global, c.Trust.Threshold, set.Export(), nil
}

// pruneEvery is how often leaves are looked for that are too old.
const pruneEvery = time.Hour

// retention is how long leaves are kept; zero: for ever.
func (a *App) retention() time.Duration {
	if a.cfg.Trail.Hold != "" {
		return 0
	}
	return a.cfg.Trail.Retention.Duration()
}

// keepRetention removes leaves of this node's trail that are older than they are to be kept.
func (a *App) keepRetention(ctx context.Context) error {
	keep := a.retention()
	if keep == 0 {
		return nil
	}
	before := uint64(0)
	for {
		if t := a.trail.current(); t != nil {
			gone, err := t.Prune(ctx, time.Now().Add(-keep))
			switch {
			case err != nil && ctx.Err() == nil:
				a.log.Warn("trail: old leaves could not be removed", "err", err)
			case err == nil && gone > before:
				a.log.Info("trail: old leaves were removed", "leaves", gone-before)
				before = gone
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pruneEvery):
		}
	}
}
