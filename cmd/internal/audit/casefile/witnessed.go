package casefile

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// Seen is an earlier head of a trail, with its cosignatures, and the proof that it lies in
// the past of the head that proves the leaves.
type Seen struct {
	Size uint64 // leaves under it
	Raw  []byte // a trail.Earlier, encoded
}

// Cosigner is a witness whose cosignature is of the head, and who vouches for its key.
type Cosigner struct {
	witness.Cosignature
	Key Verdict `json:"key"`
}

// Witnessed is what peers saw of a trail. The zero value: nothing.
type Witnessed struct {
	Good bool       `json:"good"`           // a head of Size leaves is witnessed, by keys that are vouched for
	Size uint64     `json:"size"`           // leaves under the newest head that is
	Of   uint64     `json:"of"`             // leaves under the head that proves the leaves
	Seen time.Time  `json:"seen,omitzero"`  // by then the Size leaves existed
	By   []Cosigner `json:"by,omitempty"`   // first to last
	Why  string     `json:"why,omitempty"`  // where not Good: of the newest head
	Said string     `json:"said,omitempty"` // whose word it is who the witnesses are
}

func (w Witnessed) String() string {
	if !w.Good {
		return fmt.Sprintf("UNWITNESSED: %s; the head binds the node, but another head could have been shown elsewhere", w.Why)
	}
	return fmt.Sprintf("%d of %d leaves, seen by %s, by %d witnesses with keys that are vouched for; who they are %s",
		w.Size, w.Of, w.Seen.UTC().Format(time.RFC3339), len(w.By), w.Said)
}

func rosterName(b []byte) (string, error) {
	if _, err := witness.ParseRoster(b); err != nil {
		return "", fmt.Errorf("%w: %w", ErrEntry, err)
	}
	return fmt.Sprintf("rosters/%x.roster", sha256.Sum256(b)), nil
}

func keysName(b []byte) (string, error) {
	v, err := witnessing.ReadRecord(b)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrEntry, err)
	}
	return fmt.Sprintf("witnesses/%x.keys", sha256.Sum256([]byte(v.Witness))), nil
}

// signedHead is a head of a trail, verified, in the order of size.
type signedHead struct {
	trail.Checkpoint
	seen time.Time // zero: not witnessed
}

// witnessed judges the cosignatures of all heads of all trails. It comes after the trails:
// what vouches for a witness may be any trust record of the case file.
func (k *checker) witnessed() error {
	used := map[string]bool{}
	for n := range k.heads {
		tr := &k.r.Trails[n]
		all, err := k.earlier(n)
		if err != nil {
			return err
		}
		tr.Witnessed = Witnessed{Of: tr.Size}
		for i := range all {
			w := k.cosigned(all[i].Checkpoint, used)
			w.Of = tr.Size
			if w.Good {
				all[i].seen = w.Seen
			}
			if w.Good || !tr.Witnessed.Good {
				tr.Witnessed = w // the newest that is good, or else the newest
			}
		}
		if !tr.Witnessed.Good {
			tr.Witnessed.Size = 0
		}
		for i, p := range k.said {
			if p.Head.Origin != tr.Origin {
				continue
			}
			for _, h := range all {
				if h.Size > p.Index && !h.seen.IsZero() && (k.r.Facts[i].Seen.IsZero() || h.seen.Before(k.r.Facts[i].Seen)) {
					k.r.Facts[i].Seen = h.seen
				}
			}
		}
	}
	return k.needed(used)
}

// sortedSeen are earlier heads by size.
func sortedSeen(list []Seen) []Seen {
	return slices.SortedFunc(slices.Values(list), func(a, b Seen) int { return cmp.Compare(a.Size, b.Size) })
}

// earlier verifies the earlier heads of a trail; the last is the head itself.
func (k *checker) earlier(n int) (out []signedHead, err error) {
	if len(k.c.Seen) > 0 {
		for _, s := range sortedSeen(k.c.Seen[n]) {
			c, err := trail.VerifyEarlier(s.Raw, k.heads[n], k.c.Manifest.Trails[n].Verifier)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.heads[n].Origin, err)
			}
			if c.Size != s.Size {
				return nil, fmt.Errorf("%w: a head of %d leaves is filed as one of %d", ErrEntry, c.Size, s.Size)
			}
			out = append(out, signedHead{Checkpoint: c})
		}
	}
	return append(out, signedHead{Checkpoint: k.heads[n]}), nil
}

// cosigned judges one head. used collects the names of the entries that it needs.
func (k *checker) cosigned(head trail.Checkpoint, used map[string]bool) Witnessed {
	var roster witness.Roster
	v := witness.Judge(head, func(hash [32]byte) (witness.Roster, bool) {
		r, ok := k.c.roster(hash)
		if roster = r; ok {
			used[fmt.Sprintf("rosters/%x.roster", hash)] = true
		}
		return r, ok
	})
	w := Witnessed{Size: head.Size, Why: v.Why, Said: "is the word of who made the case file"}
	if k.t.knowsRoster(head.Roster) {
		w.Said = "the trust file says"
	}
	var times []time.Time
	for _, c := range v.By {
		key := k.cosigner(c, roster, used)
		w.By = append(w.By, Cosigner{c, key})
		//bailiwick:check TestForgedWitnesses instead times = append(times, c.At)
		if key.Good {
			times = append(times, c.At)
		}
	}
	switch {
	case !v.Good:
	case len(times) < witness.Quorum:
		w.Why = fmt.Sprintf("%d of its %d witnesses cosigned, with %d keys that are vouched for; %d are needed", len(v.By), witness.Chosen, len(times), witness.Quorum)
	default:
		w.Good, w.Why, w.Seen = true, "", times[witness.Quorum-1]
	}
	return w
}

// cosigner says who vouches for the key of a witness: the trust file or the region's authority
// for the trail key of that node, and that trail key for this one.
func (k *checker) cosigner(c witness.Cosignature, roster witness.Roster, used map[string]bool) Verdict {
	members := roster.Members()
	i := slices.IndexFunc(members, func(m witness.Member) bool { return m.ID == c.Witness })
	for _, b := range k.c.Witnesses {
		v, err := witnessing.ReadRecord(b)
		if err != nil || v.Owner != c.Witness || v.Witness != members[i].Key {
			continue
		}
		used[fmt.Sprintf("witnesses/%x.keys", sha256.Sum256([]byte(v.Witness)))] = true
		if c.At.Before(v.Since.Add(-clockSkew)) {
			return bad(fmt.Errorf("%w: it cosigned at %s, and has this key since %s", ErrKey, c.At.Format(time.RFC3339), v.Since.Format(time.RFC3339)))
		}
		return k.trailKey(v)
	}
	return bad(fmt.Errorf("%w: nothing in the case file says whose it is", ErrKey))
}

// clockSkew is how far the clocks of two nodes may be apart.
const clockSkew = time.Minute

func (k *checker) trailKey(v witnessing.Vouched) Verdict {
	origin, err := trail.Origin(v.Owner, v.Epoch)
	if err != nil {
		return bad(err)
	}
	if known, ok := k.t.Known(origin); ok && known.Verifier == v.Trail {
		return Verdict{Good: true, Why: "the trust file names its trail key"}
	}
	err = k.under(v.Owner.TrustDomain(), func(r trust.Record) error { return v.Endorsed(r.AuthorityKey) })
	if err != nil {
		return bad(fmt.Errorf("%w: %w", ErrKey, err))
	}
	return Verdict{Good: true, Why: "endorsed by the authority of " + v.Owner.TrustDomain().Name()}
}

// authority is the key of a region's authority, from its newest trust record.
func (k *checker) authority(td spiffeid.TrustDomain) (*ecdsa.PublicKey, error) {
	var newest trust.Record
	for _, r := range k.trusted {
		if r.TrustDomain == td && r.Version > newest.Version {
			newest = r
		}
	}
	if newest.AuthorityKey == nil {
		return nil, fmt.Errorf("no trust record of %s is in the case file", td)
	}
	return newest.AuthorityKey, nil
}

// needed refuses rosters and keys that no head in the case file needs.
func (k *checker) needed(used map[string]bool) error {
	for _, part := range []struct {
		list [][]byte
		name func([]byte) (string, error)
	}{{k.c.Rosters, rosterName}, {k.c.Witnesses, keysName}} {
		for _, b := range part.list {
			name, err := part.name(b)
			if err != nil {
				return err
			}
			if !used[name] {
				return fmt.Errorf("%w: no head in it needs %s", ErrEntry, name)
			}
		}
	}
	return nil
}

// EachHead calls f with every head of a case, before anything of it is verified.
func EachHead(c Case, f func(trail.Checkpoint) error) error {
	for n := range c.Leaves {
		heads := [][]byte{}
		if len(c.Leaves[n]) > 0 {
			head, err := trail.ProofHead(c.Leaves[n][0].Proof)
			if err != nil {
				return err
			}
			heads = append(heads, head)
		}
		if len(c.Seen) > n {
			for _, s := range c.Seen[n] {
				head, err := trail.EarlierHead(s.Raw)
				if err != nil {
					return err
				}
				heads = append(heads, head)
			}
		}
		for _, raw := range heads {
			h, err := trail.PeekCheckpoint(raw)
			if err != nil {
				return err
			}
			h.Raw = raw
			if err := f(h); err != nil {
				return err
			}
		}
	}
	return nil
}
