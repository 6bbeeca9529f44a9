package app

import (
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/enrolling"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/machine"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/identity"
)

// Identity is a node's own, opened from its state folder and its TPM while the
// node itself is stopped. Whoever can read the folder and use the TPM is the node.
type Identity struct {
	ID        spiffeid.ID
	SVID      x509svid.Source
	Bundles   x509bundle.Source
	Feed      crypto.Signer // signs records
	EpochCert []byte        // of the epoch in use, DER
	Store     *store.Store
	Keys      feed.KeyFunc // verifies epoch certificates of known regions

	machine *machine.Machine
}

// OpenIdentity opens the identity that the node configured by c holds. It fails
// while the node runs, with store.ErrBusy.
func OpenIdentity(c config.Config, log *slog.Logger) (id *Identity, err error) {
	st, err := store.Open(filepath.Join(string(c.State), "state.db"))
	if err != nil {
		return nil, err
	}
	id = &Identity{ID: c.Node, Store: st}
	defer func() {
		if err != nil {
			err = errors.Join(err, id.Close())
		}
	}()
	if id.machine, err = machine.Open(c, st, log); err != nil {
		return nil, err
	}
	global, err := globalKeys(c)
	if err != nil {
		return nil, err
	}
	v, err := enrolling.OpenVault(string(c.State), c.TPM.SealCache, id.machine, log)
	if err != nil {
		return nil, err
	}
	imported, err := importedTrust(st)
	if err != nil {
		return nil, err
	}
	set, err := loadTrust(c, global, append(imported, v.TrustRecords()...))
	if err != nil {
		return nil, err
	}
	creds := enrolling.New(enrolling.Config{Node: c, Machine: id.machine, Trust: set, Vault: v, Store: st, Log: log})
	creds.Load()
	if id.EpochCert = creds.EpochCert(); id.EpochCert == nil {
		return nil, fmt.Errorf("%w: %s holds no epoch certificate", identity.ErrNoSVID, c.State)
	}
	id.SVID, id.Bundles, id.Feed, id.Keys = creds.SVID(), set, id.machine.Feed(), newVerifier(set).key
	return id, nil
}

// Close releases the store and the TPM.
func (id *Identity) Close() error {
	var err error
	if id.machine != nil {
		err = id.machine.Close()
	}
	return errors.Join(err, id.Store.Close())
}
