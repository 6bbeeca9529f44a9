package app

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
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

	mu    sync.RWMutex // held for an assignment, and by close
	trail *trail.Trail
}

// open begins or continues the trail of an epoch and ends the one before.
func (k *trailKeeper) open(node spiffeid.ID, epoch uint64, key crypto.Signer, tpm bool, endorsement []byte) error {
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
	})
	if err != nil {
		return fmt.Errorf("trail of epoch %d: %w", epoch, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trail = t
	return nil
}

func (k *trailKeeper) current() *trail.Trail {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.trail
}

// gap tells the trail of events that could not be recorded.
func (k *trailKeeper) gap(count uint64, why string) {
	if t := k.current(); t != nil {
		t.Gap(count, why)
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
	e, err := endorse.Verify(genesis.Endorsement, record.AuthorityKey, c.Node.TrustDomain(), time.Now())
	if err != nil {
		return "", err
	}
	key, err := trail.PKIX(genesis.Verifier)
	if err != nil {
		return "", err
	}
	if hash := statement.Digest(key); e.ID != c.Node || string(e.TrailKey) != string(hash[:]) {
		return "", errors.New("the endorsement is for another key or node")
	}
	return fmt.Sprintf("endorsed by the authority of %s", c.Node.TrustDomain()), nil
}
