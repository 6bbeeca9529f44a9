package authority

import "time"

// Mode is what a region may do. The zero value is none of them and allows nothing.
type Mode string

const (
	Full      Mode = "full"       // upstream heard within the lease, or there is none
	RenewOnly Mode = "renew-only" // credentials of known identities are renewed; nothing new is enrolled, published or deployed
	DenyNew   Mode = "deny-new"   // as renew-only, without renewal and without new sessions; live sessions end with their SVIDs
	DenyAll   Mode = "deny-all"   // live sessions end now
)

// MayChange reports whether identities may be enrolled and objects published.
func (m Mode) MayChange() bool { return m == Full }

// MayRenew reports whether credentials of known identities may be renewed.
func (m Mode) MayRenew() bool { return m == Full || m == RenewOnly }

// MayConnect reports whether new sessions may begin.
func (m Mode) MayConnect() bool { return m == Full || m == RenewOnly }

// MayStay reports whether live sessions may go on.
func (m Mode) MayStay() bool { return m == Full || m == RenewOnly || m == DenyNew }

// LeaseState is what the lease is computed from.
type LeaseState struct {
	Record      Record        // the region's authority record; the zero record allows nothing
	LastContact time.Time     // when the upstream was last heard, by the wall clock
	Elapsed     time.Duration // since then by a clock nobody can set back (boot time, TPM time); 0: not known
}

// LeaseStatus is the state of the autonomy lease.
type LeaseStatus struct {
	Remaining time.Duration // until the degraded mode; 0 once it applies
	Unlimited bool          // there is no upstream, so nothing runs out; Remaining is then 0
	Mode      Mode
}

// Lease resolves the autonomy lease. The longer of wall clock and Elapsed
// counts, so that setting a clock back never lengthens it. A region that may
// not operate isolated has three sync periods, at least 30 s, to hear its
// upstream again, and no more.
func Lease(s LeaseState, now time.Time) LeaseStatus {
	if s.Record.check() != nil {
		return LeaseStatus{Mode: DenyAll}
	}
	if s.Record.Sync.Upstream == "" {
		return LeaseStatus{Unlimited: true, Mode: Full}
	}
	if s.LastContact.IsZero() && s.Elapsed == 0 {
		return LeaseStatus{Mode: s.Record.Lease.Degraded}
	}
	length := s.Record.Lease.Duration
	if !s.Record.Autonomy.CanOperateIsolated {
		length = min(length, max(3*s.Record.Sync.Frequency, 30*time.Second))
	}
	gone := s.Elapsed
	if !s.LastContact.IsZero() {
		gone = max(gone, now.Sub(s.LastContact))
	}
	left := length - gone
	if left <= 0 {
		return LeaseStatus{Mode: s.Record.Lease.Degraded}
	}
	return LeaseStatus{Remaining: min(left, length), Mode: Full}
}
