package authority

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// Release is Draft and Decide in one, where the region has no approvers. Errors are those of
// both; with approvers quarantine.ErrApprovals, and nothing is signed.
func (a *Authority) Release(now time.Time, accused spiffeid.ID, digests [][32]byte, until time.Time, reason string, again bool) (Signed, error) {
	d, err := a.Draft(now, accused, digests, until, reason, again)
	if err != nil {
		return Signed{}, err
	}
	return a.Decide(now, d)
}

// Draft writes an answer to findings against a node, which Decide puts in force: its epochs so far
// are void, its next ones are above all of them, and until the end of probation they have
// ClassProbation. Digests answered before stay answered. The caller has seen a
// root cause; the fresh quote is the issuer's to see, before it gives a certificate for a new
// epoch. Of a node that was released before, the caller says again, or gets ErrRepeat. Errors
// also wrap ErrRevoked, ErrMalformed, ErrForeign, ErrEpochState or the store's. It signs nothing.
func (a *Authority) Draft(now time.Time, accused spiffeid.ID, digests [][32]byte, until time.Time, reason string, again bool) (Draft, error) {
	td := a.self.TrustDomain()
	if accused.TrustDomain() != td {
		return Draft{}, fmt.Errorf("%w: accused %s", ErrForeign, accused)
	}
	before, err := a.releasable(accused)
	if err != nil {
		return Draft{}, err
	}
	r := quarantine.Release{Accused: accused, Digests: slices.Clone(digests), Until: until, At: now, Reason: reason}
	if before != nil {
		if !again {
			return Draft{}, fmt.Errorf("%w: %s, last released %s: %q", ErrRepeat, accused, before.At.Format(time.RFC3339), before.Reason)
		}
		r.Again = true
		r.Digests = append(r.Digests, before.Digests...)
	}
	slices.SortFunc(r.Digests, compareDigest)
	r.Digests = slices.Compact(r.Digests)
	err = a.st.View(func(tx *store.Tx) error {
		n, err := vacant(tx, accused)
		r.Epoch = n.Min
		return err
	})
	if err != nil {
		return Draft{}, err
	}
	body, err := r.Encode()
	if err != nil {
		return Draft{}, err
	}
	r, err = quarantine.ParseRelease(body) // as everybody reads it
	return Draft{TrustDomain: td, Release: r, body: body}, err
}

// Decide signs a draft and puts it in force. Errors wrap quarantine.ErrApprovals, quarantine.ErrDraft where it says
// another thing than one made now would, and those of Draft.
func (a *Authority) Decide(now time.Time, d Draft) (Signed, error) {
	r := d.Release
	switch {
	case d.TrustDomain != a.self.TrustDomain():
		return Signed{}, fmt.Errorf("%w: it is of %s, this authority of %s", ErrForeign, d.TrustDomain, a.self.TrustDomain())
	case now.Unix() > r.Until.Unix():
		return Signed{}, fmt.Errorf("%w: its time was over %s", quarantine.ErrDraft, r.Until.Format(time.RFC3339))
	}
	if a.approvers != nil {
		if _, err := a.approvers().check(d.TrustDomain, d.body, d.approvals); err != nil {
			return Signed{}, err
		}
	}
	return a.publish(now, KindRelease, r.Accused.String(), func(tx *store.Tx) ([]byte, error) {
		before, err := a.releasable(r.Accused)
		if err != nil {
			return nil, err
		}
		if have, ok := a.book.Get(KindRelease, r.Accused.String()); ok && bytes.Equal(have.Body, d.body) {
			return d.body, nil // handed in before
		}
		if before != nil {
			for _, answered := range before.Digests {
				if _, ok := slices.BinarySearchFunc(r.Digests, answered, compareDigest); !ok || !r.Again {
					return nil, fmt.Errorf("%w: %s was released %s, after it was made", quarantine.ErrDraft, r.Accused, before.At.Format(time.RFC3339))
				}
			}
		}
		epoch, err := retire(tx, r.Accused, r.Until)
		if err == nil && epoch != r.Epoch {
			err = fmt.Errorf("%w: it begins epoch %d, and %s was given epochs up to %d since", quarantine.ErrDraft, r.Epoch, r.Accused, epoch-1)
		}
		return d.body, err
	}, d.approvals...)
}

// releasable returns the release before, if there is one, of a node that is not revoked.
func (a *Authority) releasable(accused spiffeid.ID) (before *quarantine.Release, err error) {
	if _, ok := a.book.Get(KindRevocation, accused.String()); ok {
		return nil, fmt.Errorf("%w: %s", ErrRevoked, accused)
	}
	have, ok := a.book.Get(KindRelease, accused.String())
	if !ok {
		return nil, nil
	}
	r, err := have.Release()
	return &r, err
}

func compareDigest(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) }
