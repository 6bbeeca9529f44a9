package casefile

import (
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// Dated holds what nodes say of the time against what their witnesses saw. The word of a key
// counts for as long as its certificate: a node can set its clock back, and so can a thief with a
// key whose certificate has ended; their witnesses' clocks they cannot. The zero value: nothing
// was held against anything.
type Dated struct {
	Good   bool   `json:"good"`           // what keys with certificates said was all seen before these ended
	Seen   int    `json:"seen"`           // of what they said, so many
	Unseen int    `json:"unseen"`         // so many are under no head that is witnessed: only the node says when
	Late   []Late `json:"late,omitempty"` // these were seen only when it was too late to tell
}

// Late is a leaf that no witness saw before the certificate of its key had ended. A node that was
// cut off from its witnesses has such leaves, and one that was written later and dated back.
type Late struct {
	Origin string    `json:"origin"`
	Index  uint64    `json:"index"`
	At     time.Time `json:"at"`    // as the leaf says
	Key    string    `json:"key"`   // whose certificate it is
	Until  time.Time `json:"until"` // when that ended
	Seen   time.Time `json:"seen"`
}

func (l Late) String() string {
	return fmt.Sprintf("leaf %d of %s says %s; its %s ended %s, and witnesses had seen the leaf only by %s",
		l.Index, l.Origin, l.At.UTC().Format(time.RFC3339), l.Key, l.Until.UTC().Format(time.RFC3339), l.Seen.UTC().Format(time.RFC3339))
}

func (d Dated) String() string {
	switch {
	case len(d.Late) > 0:
		return fmt.Sprintf("NOT SHOWN for %d leaves: %s", len(d.Late), d.Late[0])
	case d.Good:
		return fmt.Sprintf("%d leaves of keys with certificates were seen by witnesses before these ended", d.Seen)
	case d.Unseen > 0:
		return fmt.Sprintf("NOT SHOWN for %d leaves of keys with certificates: no witness has seen them", d.Unseen)
	}
	return "nothing here rests on a certificate"
}

// lateness is how much later than a leaf came to be the first head that is kept with cosignatures
// may have been: see trail.SeenEvery.
const lateness = trail.SeenEvery + clockSkew

// dated comes after the witnesses and the certificates.
func (k *checker) dated() {
	epochs := map[string]term{} // of each origin and epoch of its feed, the newest so far
	n := -1
	for i, p := range k.said {
		if p.Index == 0 {
			n++
			k.date(i, k.vouches[n], "endorsement")
		}
		f := k.r.Facts[i]
		feed := p.Head.Origin + " " + f.Field("epoch")
		switch p.Kind {
		case trail.IdentitySVID.Name():
			k.date(i, k.terms[i], "SVID")
		case trail.IdentityEpoch.Name():
			epochs[feed] = k.terms[i]
			k.date(i, k.terms[i], "epoch certificate")
		case trail.StateOut.Name():
			k.date(i, epochs[feed], "epoch certificate")
		}
	}
	d := &k.r.Dated
	d.Good = len(d.Late) == 0 && d.Unseen == 0 && d.Seen > 0
}

// date holds a leaf against the term of the key behind it; the zero value: none is known here.
func (k *checker) date(i int, t term, key string) {
	f, d := k.r.Facts[i], &k.r.Dated
	//bailiwick:check TestBackDated/auditor instead late := false
	late := f.Seen.After(t.until.Add(lateness))
	switch {
	case t.until.IsZero():
	case f.Seen.IsZero():
		d.Unseen++
	case late:
		d.Late = append(d.Late, Late{f.Origin, f.Index, f.At, key, t.until, f.Seen})
	default:
		d.Seen++
	}
}
