package feed

import (
	"crypto"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

var sealType = statement.Type{Name: "seal", Version: 1}

// ErrSeal means bytes are not a seal of version 1.
var ErrSeal = errors.New("malformed seal")

// headEntry is one (feed, head) as sealed, and as a frontier's leaf.
type headEntry struct {
	Origin string `cbor:"1,keyasint"`
	Epoch  uint64 `cbor:"2,keyasint"`
	Seq    uint64 `cbor:"3,keyasint"`
	ID     ID     `cbor:"4,keyasint"`
}

func (e headEntry) feed() (FeedID, error) {
	origin, err := spiffeid.FromString(e.Origin)
	if err != nil || origin.Path() == "" || len(e.Origin) > maxOrigin || e.Epoch == 0 || e.Seq == 0 {
		return FeedID{}, fmt.Errorf("origin %q epoch %d seq %d", e.Origin, e.Epoch, e.Seq)
	}
	return FeedID{origin, e.Epoch}, nil
}

// Seal is an owner's word about the head of its feed, not verified yet.
type Seal struct {
	Feed FeedID
	Seq  uint64
	ID   ID
	env  statement.Envelope
}

// SignSeal returns the seal of a feed's head, encoded.
func SignSeal(key crypto.Signer, f FeedID, seq uint64, id ID) ([]byte, error) {
	payload, err := statement.Marshal(headEntry{f.Origin.String(), f.Epoch, seq, id})
	if err != nil {
		return nil, err
	}
	return statement.Sign(key, sealType, f.Origin.TrustDomain().Name(), payload)
}

// ParseSeal reads a seal and keeps b. Errors wrap ErrSeal.
func ParseSeal(b []byte) (Seal, error) {
	if len(b) > MaxHeader {
		return Seal{}, fmt.Errorf("%w: %d bytes", ErrSeal, len(b))
	}
	env, err := statement.Parse(b)
	if err != nil {
		return Seal{}, fmt.Errorf("%w: %w", ErrSeal, err)
	}
	var e headEntry
	if err := statement.Unmarshal(env.Payload(), &e); err != nil {
		return Seal{}, fmt.Errorf("%w: %w", ErrSeal, err)
	}
	f, err := e.feed()
	if err != nil {
		return Seal{}, fmt.Errorf("%w: %w", ErrSeal, err)
	}
	return Seal{Feed: f, Seq: e.Seq, ID: e.ID, env: env}, nil
}

// Bytes returns the seal as received.
func (s Seal) Bytes() []byte { return s.env.Bytes() }

// Verify reports whether key signed the seal for key's own feed.
func (s Seal) Verify(key EpochKey) error {
	if key.Key == nil || s.Feed != key.Feed() {
		return fmt.Errorf("%w: seal of %s under the key of %s", statement.ErrSignature, s.Feed, key.Feed())
	}
	return s.env.Verify(key.Key, sealType, s.Feed.Origin.TrustDomain().Name())
}
