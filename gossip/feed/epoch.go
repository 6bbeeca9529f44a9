package feed

import (
	"crypto/ecdsa"
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxCert is the largest epoch certificate, in bytes of DER.
const MaxCert = 4 << 10

// ErrUncheckable is for a KeyFunc to wrap: it cannot judge this certificate, for
// want of the region's record root for instance. It says nothing about who
// sent it. Try again when trust has been updated.
var ErrUncheckable = errors.New("epoch certificate cannot be checked here")

// EpochKey is what a verified epoch certificate says.
type EpochKey struct {
	Origin    spiffeid.ID
	Epoch     uint64
	Key       *ecdsa.PublicKey
	Class     string // limits class: node, gateway, probation, unattested
	Attested  bool   // a TPM backs the epoch: equivocation convicts
	NotBefore time.Time
	NotAfter  time.Time // records are valid by their own clock, so old ones stay valid
	Cert      []byte    // the DER this was read from
}

// Feed returns the feed the key signs.
func (k EpochKey) Feed() FeedID { return FeedID{k.Origin, k.Epoch} }

// covers reports whether the certificate had not ended at the clock reading. Its
// start does not matter: a renewal starts later than the records it must cover.
func (k EpochKey) covers(h HLC) bool { return !h.Time().After(k.NotAfter) }

// KeyFunc verifies an epoch certificate: chain, purpose and name. It must not
// refuse one for having expired, nor depend on the time of the call: a record
// is judged by its own clock against NotAfter.
type KeyFunc func(der []byte) (EpochKey, error)

// Limits are the hard quotas of a class, for one feed.
type Limits struct {
	Rate  int // records a second, sustained
	Burst int // records at once
	Keys  int // live keys
	Bytes int // live keys and values together
	Feed  int // encoded records of the newest complete snapshot and since; snapshots go on to twice that
}

// LimitsOf returns the quotas of a class; one that is not known gets the
// smallest.
func LimitsOf(class string) Limits {
	switch class {
	case "gateway":
		return Limits{Rate: 400, Burst: 4000, Keys: 16 << 10, Bytes: 4 << 20, Feed: 16 << 20}
	case "node":
		return Limits{Rate: 100, Burst: 1000, Keys: 4 << 10, Bytes: 1 << 20, Feed: 4 << 20}
	}
	return Limits{Rate: 20, Burst: 200, Keys: 512, Bytes: 256 << 10, Feed: 1 << 20} // probation, unattested
}

// pace is a leaky bucket (GCRA) over one clock, in milliseconds: full is when the
// bucket would be empty again.
type pace struct{ full int64 }

func (p pace) after(ms int64, l Limits) pace {
	return pace{max(p.full, ms*1000) + int64(1_000_000/l.Rate)} // kept in microseconds: rates above 1000 stay exact enough
}

func (p pace) wait(ms int64, l Limits) time.Duration {
	over := p.after(ms, l).full - ms*1000 - int64(l.Burst)*int64(1_000_000/l.Rate)
	return time.Duration(max(over, 0)) * time.Microsecond
}
