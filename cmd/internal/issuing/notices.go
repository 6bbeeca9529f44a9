package issuing

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
)

// Bounds of one issuer's notice. At both, it is well below maxIssuing.
const (
	maxSharedKeys      = 64
	maxSharedBans      = 16 << 10
	maxSharedEvictions = 4 << 10 // the newest
)

const (
	noticeBucket = "app/issuers"    // at the authority, what each issuer said last: SPIFFE ID -> notice
	heardBucket  = "app/colleagues" // at an issuer, what it heard last of each other: SPIFFE ID -> notice
)

// notice is what an issuer tells the others.
type notice struct {
	Keys    []keyWire      `cbor:"1,keyasint"`
	Banned  [][]byte       `cbor:"2,keyasint"` // of agents, see banOf
	Evicted []evictionWire `cbor:"3,keyasint,omitempty"`
}

// evictionWire tells that an agent was evicted. The numbers of one issuer only grow: who
// heard of one follows no earlier one again.
type evictionWire struct {
	Agent  []byte `cbor:"1,keyasint"` // see banOf
	Number uint64 `cbor:"2,keyasint"`
}

// lastEviction is the highest number of a notice; 0 without any.
func (n notice) lastEviction() (last uint64) {
	for _, e := range n.Evicted {
		last = max(last, e.Number)
	}
	return last
}

// keyWire is a key that verifies JWT-SVIDs.
type keyWire struct {
	ID       string `cbor:"1,keyasint"`
	PKIX     []byte `cbor:"2,keyasint"`
	NotAfter int64  `cbor:"3,keyasint"` // Unix seconds
	Tainted  bool   `cbor:"4,keyasint"`
}

// ban is an agent's ID as notices name it: the first half of its SHA-256, so that all
// are short whatever the IDs are. Who makes two IDs with one bans no agent but his own.
type ban [sha256.Size / 2]byte

func banOf(id spiffeid.ID) ban {
	sum := sha256.Sum256([]byte(id.String()))
	return ban(sum[:len(ban{})])
}

func wireKeys(all []issuer.Authority) (out []keyWire, err error) {
	for _, a := range all {
		if a.Kind != issuer.JWT {
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(a.Key)
		if err != nil {
			return nil, err
		}
		out = append(out, keyWire{ID: a.ID, PKIX: der, NotAfter: a.NotAfter.Unix(), Tainted: a.Tainted})
	}
	return out, nil
}

// authority reads a P-256 key.
func (k keyWire) authority() (issuer.Authority, error) {
	key, err := x509.ParsePKIXPublicKey(k.PKIX)
	if err != nil {
		return issuer.Authority{}, fmt.Errorf("%w: JWT key %.64q: %w", statement.ErrKey, k.ID, err)
	}
	pub, ok := key.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return issuer.Authority{}, fmt.Errorf("%w: JWT key %.64q: a %T that is not of P-256", statement.ErrKey, k.ID, key)
	}
	return issuer.Authority{Kind: issuer.JWT, ID: k.ID, Key: pub, NotAfter: time.Unix(k.NotAfter, 0), Tainted: k.Tainted}, nil
}

// taken is a notice as the authority keeps it: none is kept that others could not read,
// and no key outlives one made now.
func (n notice) taken(now time.Time) (notice, error) {
	if len(n.Keys) > maxSharedKeys || len(n.Banned) > maxSharedBans || len(n.Evicted) > maxSharedEvictions {
		return notice{}, fmt.Errorf("a notice of %d keys, %d bans and %d evictions, at most %d, %d and %d",
			len(n.Keys), len(n.Banned), len(n.Evicted), maxSharedKeys, maxSharedBans, maxSharedEvictions)
	}
	last := now.Add(issuer.JWTKeyLifetime).Unix()
	out := notice{Keys: slices.Clone(n.Keys), Banned: n.Banned, Evicted: n.Evicted}
	for i, k := range out.Keys {
		if _, err := k.authority(); err != nil {
			return notice{}, err
		}
		out.Keys[i].NotAfter = min(k.NotAfter, last)
	}
	for _, b := range n.Banned {
		if len(b) != len(ban{}) {
			return notice{}, fmt.Errorf("a ban of %d bytes, want %d", len(b), len(ban{}))
		}
	}
	for _, e := range n.Evicted {
		if len(e.Agent) != len(ban{}) {
			return notice{}, fmt.Errorf("an eviction of %d bytes, want %d", len(e.Agent), len(ban{}))
		}
	}
	return out, nil
}

// keep remembers an issuer's notice, and forgets those of nodes that are none any more.
func (o *Office) keep(by spiffeid.ID, n notice) error {
	mine, err := statement.Marshal(n)
	if err != nil {
		return err
	}
	nothing := false
	err = o.store.View(func(tx *store.Tx) error {
		nothing = bytes.Equal(tx.Get(noticeBucket, []byte(by.String())), mine) && len(o.gone(tx)) == 0
		return nil
	})
	if err != nil || nothing {
		return err
	}
	err = o.store.Update(func(tx *store.Tx) error {
		for _, author := range o.gone(tx) {
			if err := tx.Delete(noticeBucket, author); err != nil {
				return err
			}
		}
		return tx.Put(noticeBucket, []byte(by.String()), mine)
	})
	if err == nil {
		o.tell()
	}
	return err
}

// tell wakes all issuers that wait for news.
func (o *Office) tell() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.edition++
	if o.news != nil {
		close(o.news)
		o.news = nil
	}
}

// editionNow is the number of the notices as they are, and what closes with the next.
func (o *Office) editionNow() (uint64, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.news == nil {
		o.news = make(chan struct{})
	}
	return o.edition, o.news
}

// newsSince returns the edition once it is not the one that an issuer has, or after
// newsTimeout whatever it is.
func (o *Office) newsSince(ctx context.Context, had uint64) uint64 {
	ctx, cancel := context.WithTimeout(ctx, newsTimeout)
	defer cancel()
	edition, news := o.editionNow()
	if edition != had {
		return edition
	}
	select {
	case <-news:
	case <-ctx.Done():
	}
	edition, _ = o.editionNow()
	return edition
}

// gone is who has a notice here and is no issuer any more.
func (o *Office) gone(tx *store.Tx) (authors [][]byte) {
	tx.Range(noticeBucket, nil, func(k, _ []byte) bool {
		if !o.hears(string(k)) {
			authors = append(authors, bytes.Clone(k))
		}
		return true
	})
	return authors
}

// hears reports whether a node is an issuer of the region now.
func (o *Office) hears(author string) bool {
	return author == o.self.String() || slices.ContainsFunc(o.issuers, func(id spiffeid.ID) bool { return id.String() == author })
}

// next returns the notice of the first issuer but by whose name is after another's.
func (o *Office) next(by spiffeid.ID, after string) (r reply, err error) {
	heard, err := notices(o.store, noticeBucket)
	if err != nil {
		return reply{}, err
	}
	for _, author := range slices.Sorted(maps.Keys(heard)) {
		var n notice
		if author <= after || author == by.String() || !o.hears(author) || statement.Unmarshal(heard[author], &n) != nil {
			continue // an unreadable one is of an older version, until that issuer speaks again
		}
		return reply{Notice: &n, Of: author}, nil
	}
	return reply{}, nil
}

// colleagues is what the other issuers said last.
type colleagues struct {
	keys    []issuer.Authority
	banned  map[ban]bool
	evicted map[ban]bool
}

// newColleagues takes from notices what is readable: a part that is not takes nothing
// else with it.
func newColleagues(all map[string][]byte) *colleagues {
	c := &colleagues{banned: map[ban]bool{}, evicted: map[ban]bool{}}
	for _, author := range slices.Sorted(maps.Keys(all)) {
		var n notice
		if statement.Unmarshal(all[author], &n) != nil {
			continue
		}
		for _, k := range n.Keys {
			if key, err := k.authority(); err == nil {
				c.keys = append(c.keys, key)
			}
		}
		for _, b := range n.Banned {
			if len(b) == len(ban{}) {
				c.banned[ban(b)] = true
			}
		}
		for _, e := range n.Evicted {
			if len(e.Agent) == len(ban{}) {
				c.evicted[ban(e.Agent)] = true
			}
		}
	}
	return c
}

// newlyEvicted is whom issuers evicted since they were heard before.
func newlyEvicted(before, now map[string][]byte) map[ban]bool {
	out := map[ban]bool{}
	for author, raw := range now {
		var had, has notice
		if statement.Unmarshal(raw, &has) != nil {
			continue
		}
		if old, ok := before[author]; ok && statement.Unmarshal(old, &had) != nil {
			had = notice{} // of an older version, which had none
		}
		for _, e := range has.Evicted {
			if e.Number > had.lastEviction() && len(e.Agent) == len(ban{}) {
				out[ban(e.Agent)] = true
			}
		}
	}
	return out
}

// notices reads a bucket of notices.
func notices(st *store.Store, bucket string) (map[string][]byte, error) {
	out := map[string][]byte{}
	err := st.View(func(tx *store.Tx) error {
		tx.Range(bucket, nil, func(k, v []byte) bool {
			out[string(k)] = bytes.Clone(v)
			return true
		})
		return nil
	})
	return out, err
}

// keepHeard remembers these notices in the place of those before. It writes nothing when
// they are the same.
func keepHeard(st *store.Store, before, all map[string][]byte) error {
	if maps.EqualFunc(before, all, bytes.Equal) {
		return nil
	}
	return st.Update(func(tx *store.Tx) error {
		for author := range before {
			if _, still := all[author]; !still {
				if err := tx.Delete(heardBucket, []byte(author)); err != nil {
					return err
				}
			}
		}
		for author, n := range all {
			if bytes.Equal(before[author], n) {
				continue
			}
			if err := tx.Put(heardBucket, []byte(author), n); err != nil {
				return err
			}
		}
		return nil
	})
}
