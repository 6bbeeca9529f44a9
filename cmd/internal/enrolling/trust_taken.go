package enrolling

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// toldBucket remembers of which version of a region's trust record the trail tells,
// under its trust domain.
const toldBucket = "trust/told"

// TakeTrust puts a trust record in force that is newer than what is known, once the
// trail tells of it. It reports whether it was newer; an older one is no error. The others
// are those of trust.Set.Judge and of the store.
func (c *Credentials) TakeTrust(raw []byte, from string) (trust.Record, bool, error) {
	return takeTrust(c.trust, c.st, raw, from, time.Now())
}

func takeTrust(set *trust.Set, st *store.Store, raw []byte, from string, now time.Time) (trust.Record, bool, error) {
	r, news, err := set.Judge(raw, now)
	if errors.Is(err, trust.ErrOld) {
		return r, false, nil
	}
	if err != nil || !news {
		return r, false, err
	}
	if err := st.Update(func(tx *store.Tx) error { return TellTrust(tx, r, from) }); err != nil {
		return r, false, err
	}
	r, news, err = set.Apply(raw, now)
	if errors.Is(err, trust.ErrOld) { // a newer one came meanwhile
		return r, false, nil
	}
	return r, news, err
}

// TellTrust writes a record into the trail, in the transaction that keeps it, and once.
func TellTrust(tx *store.Tx, r trust.Record, from string) error {
	key, version := []byte(r.TrustDomain.Name()), binary.BigEndian.AppendUint64(nil, r.Version)
	if string(tx.Get(toldBucket, key)) == string(version) {
		return nil
	}
	if err := tx.Put(toldBucket, key, version); err != nil {
		return err
	}
	return trail.Append(tx, trail.IdentityTrust, map[string]any{
		"region": r.Region, "trust_domain": r.TrustDomain.Name(), "version": r.Version, "from": from,
		"roots": len(r.X509Roots), "not_after": r.NotAfter.Unix(),
	})
}

// TellKnownTrust begins to write what this node starts with into the trail. Nothing that an
// issuer gives is kept before it is there.
func (c *Credentials) TellKnownTrust() {
	told := make(chan error, 1)
	go func() { told <- tellKnownTrust(c.trust, c.st) }()
	c.told = sync.OnceValue(func() error { return <-told })
}

// Told returns when the trail tells of what TellKnownTrust began to write. The error is the
// store's.
func (c *Credentials) Told() error { return c.told() }

func tellKnownTrust(set *trust.Set, st *store.Store) error {
	return st.Update(func(tx *store.Tx) error {
		for _, r := range set.Regions() {
			if err := TellTrust(tx, r, "start"); err != nil {
				return err
			}
		}
		return nil
	})
}
