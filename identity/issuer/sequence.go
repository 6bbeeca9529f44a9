package issuer

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"
	"sync"

	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

const bundlesBucket = "issuer/bundles" // trust domain -> edition

// editions number the trust bundles that are shown. A number grows whenever what is in
// the bundle changes (SPIFFE Trust Domain and Bundle §4.1.1), whatever changed it: this
// issuer's authorities, a trust record, another issuer, an upstream, the clock.
type editions struct {
	mu sync.Mutex // held while one is numbered, and remembered where it is new
	of map[string]edition
}

// edition is the newest of one trust domain's bundle.
type edition struct {
	Number  uint64 `cbor:"1,keyasint"`
	Content []byte `cbor:"2,keyasint"` // SHA-256
}

// number sets the sequence number of a bundle, which is not below floor. One that cannot
// be remembered is used all the same: nobody goes without roots because of a full disk.
func (s *Server) number(b *types.Bundle, floor uint64) error {
	content, err := contentOf(b)
	if err != nil {
		return err
	}
	e := &s.editions
	e.mu.Lock()
	defer e.mu.Unlock()
	last, ok := e.of[b.TrustDomain]
	if !ok {
		err := s.cfg.Store.View(func(tx *store.Tx) error {
			if raw := tx.Get(bundlesBucket, []byte(b.TrustDomain)); raw != nil {
				return statement.Unmarshal(raw, &last)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if !bytes.Equal(last.Content, content[:]) {
		last = edition{Number: max(last.Number+1, floor), Content: content[:]}
		raw, err := statement.Marshal(last)
		if err == nil {
			err = s.cfg.Store.Update(func(tx *store.Tx) error { return tx.Put(bundlesBucket, []byte(b.TrustDomain), raw) })
		}
		if err != nil {
			s.log.Warn("the sequence number of a trust bundle is not remembered", "trust_domain", b.TrustDomain, "number", last.Number, "err", err)
		}
	}
	if e.of == nil {
		e.of = map[string]edition{}
	}
	e.of[b.TrustDomain] = last
	b.SequenceNumber = last.Number
	return nil
}

// contentOf is a hash of a bundle's authorities, in whatever order they are.
func contentOf(b *types.Bundle) ([32]byte, error) {
	roots, keys := slices.Clone(b.X509Authorities), slices.Clone(b.JwtAuthorities)
	slices.SortFunc(roots, func(a, b *types.X509Certificate) int { return bytes.Compare(a.Asn1, b.Asn1) })
	slices.SortFunc(keys, func(a, b *types.JWTKey) int { return cmp.Compare(a.KeyId, b.KeyId) })
	var all []any
	for _, c := range roots {
		all = append(all, c.Asn1, c.Tainted)
	}
	for _, k := range keys {
		all = append(all, k.KeyId, k.PublicKey, k.ExpiresAt, k.Tainted)
	}
	raw, err := statement.Marshal(all)
	return sha256.Sum256(raw), err
}
