package authority

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Record says who decides for a region and how far that goes while it is cut
// off from its upstream. JSON field names are those operators know.
type Record struct {
	Level    Level       `json:"level"`
	Region   string      `json:"region"` // short label, the object's name
	Master   spiffeid.ID `json:"master"` // the node that is master of record
	Autonomy Autonomy    `json:"autonomy"`
	Sync     Sync        `json:"sync"`
	Lease    LeaseTerms  `json:"lease"`
}

// Autonomy is what the region may do on its own. All false: nothing.
type Autonomy struct {
	CanOperateIsolated bool `cbor:"1,keyasint" json:"can_operate_isolated"`
	CanModifyPolicies  bool `cbor:"2,keyasint" json:"can_modify_policies"`
	CanDeployVersions  bool `cbor:"3,keyasint" json:"can_deploy_versions"`
}

// Sync is how the region keeps up with its upstream authority.
type Sync struct {
	Upstream    string        `json:"upstream"`     // label of the upstream authority; empty: there is none
	Frequency   time.Duration `json:"frequency"`    // between syncs, whole milliseconds, at most 24 h; 0: on change
	Mode        string        `json:"mode"`         // push, pull or both
	BatchSize   int           `json:"batch_size"`   // objects per exchange, 1 to 1024
	RetryPolicy string        `json:"retry_policy"` // none, fixed or exponential
}

// LeaseTerms bound how long the region goes on without its upstream.
type LeaseTerms struct {
	Duration time.Duration `json:"duration"` // whole milliseconds, at most 90 days
	Degraded Mode          `json:"degraded"` // after it
}

const (
	maxFrequency = 24 * time.Hour
	maxLease     = 90 * 24 * time.Hour
)

type recordWire struct {
	Level     string   `cbor:"1,keyasint"`
	Region    string   `cbor:"2,keyasint"`
	Master    string   `cbor:"3,keyasint"`
	Autonomy  Autonomy `cbor:"4,keyasint"`
	Upstream  string   `cbor:"5,keyasint,omitempty"`
	Frequency uint64   `cbor:"6,keyasint"` // ms
	Mode      string   `cbor:"7,keyasint"`
	BatchSize uint64   `cbor:"8,keyasint"`
	Retry     string   `cbor:"9,keyasint"`
	Lease     uint64   `cbor:"10,keyasint"` // ms
	Degraded  string   `cbor:"11,keyasint"`
}

func (r Record) encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return statement.Marshal(recordWire{
		r.Level.String(), r.Region, r.Master.String(), r.Autonomy,
		r.Sync.Upstream, uint64(r.Sync.Frequency.Milliseconds()), r.Sync.Mode, uint64(r.Sync.BatchSize), r.Sync.RetryPolicy,
		uint64(r.Lease.Duration.Milliseconds()), string(r.Lease.Degraded),
	})
}

func parseRecord(b []byte) (Record, error) {
	var w recordWire
	if err := statement.Unmarshal(b, &w); err != nil {
		return Record{}, fmt.Errorf("%w: authority record: %w", ErrMalformed, err)
	}
	level, err := ParseLevel(w.Level)
	if err != nil {
		return Record{}, fmt.Errorf("%w: authority record: %w", ErrMalformed, err)
	}
	master, err := spiffeid.FromString(w.Master)
	if err != nil {
		return Record{}, fmt.Errorf("%w: authority record: master: %w", ErrMalformed, err)
	}
	if w.Frequency > uint64(maxFrequency.Milliseconds()) || w.Lease > uint64(maxLease.Milliseconds()) || w.BatchSize > 1024 {
		return Record{}, fmt.Errorf("%w: authority record: frequency, batch_size or lease out of bounds", ErrMalformed)
	}
	r := Record{
		Level: level, Region: w.Region, Master: master, Autonomy: w.Autonomy,
		Sync: Sync{
			Upstream: w.Upstream, Frequency: time.Duration(w.Frequency) * time.Millisecond,
			Mode: w.Mode, BatchSize: int(w.BatchSize), RetryPolicy: w.Retry,
		},
		Lease: LeaseTerms{Duration: time.Duration(w.Lease) * time.Millisecond, Degraded: Mode(w.Degraded)},
	}
	return r, r.check()
}

// check reports the first field that is out of bounds.
func (r Record) check() error {
	field, found, right := "", any(nil), ""
	switch {
	case r.Level < Autonomous || r.Level > Global:
		field, found, right = "level", r.Level, "global, regional, local or autonomous"
	case !label(r.Region):
		field, found, right = "region", r.Region, "1 to 63 of a-z, 0-9 and -"
	case r.Master.IsZero():
		field, found, right = "master", r.Master, "the SPIFFE ID of a node"
	case r.Sync.Upstream != "" && !label(r.Sync.Upstream):
		field, found, right = "sync.upstream", r.Sync.Upstream, "a label, or empty"
	case r.Sync.Frequency < 0 || r.Sync.Frequency > maxFrequency || r.Sync.Frequency%time.Millisecond != 0:
		field, found, right = "sync.frequency", r.Sync.Frequency, "whole milliseconds up to 24h"
	case !slices.Contains([]string{"push", "pull", "both"}, r.Sync.Mode):
		field, found, right = "sync.mode", r.Sync.Mode, "push, pull or both"
	case r.Sync.BatchSize < 1 || r.Sync.BatchSize > 1024:
		field, found, right = "sync.batch_size", r.Sync.BatchSize, "1 to 1024"
	case !slices.Contains([]string{"none", "fixed", "exponential"}, r.Sync.RetryPolicy):
		field, found, right = "sync.retry_policy", r.Sync.RetryPolicy, "none, fixed or exponential"
	case r.Lease.Duration < 0 || r.Lease.Duration > maxLease || r.Lease.Duration%time.Millisecond != 0:
		field, found, right = "lease.duration", r.Lease.Duration, "whole milliseconds up to 2160h"
	case !slices.Contains([]Mode{RenewOnly, DenyNew, DenyAll}, r.Lease.Degraded):
		field, found, right = "lease.degraded", r.Lease.Degraded, "renew-only, deny-new or deny-all"
	default:
		return nil
	}
	return fmt.Errorf("%w: authority record: %s is %v, must be %s", ErrMalformed, field, found, right)
}

func (r Record) belongs(o Object, td spiffeid.TrustDomain) error {
	if r.Region != o.Name || r.Level != o.Level {
		return fmt.Errorf("%w: %s object %q holds the record of %s %q", ErrMalformed, o.Level, o.Name, r.Level, r.Region)
	}
	if r.Level != Global && r.Master.TrustDomain() != td {
		return fmt.Errorf("%w: master %s", ErrForeign, r.Master)
	}
	return nil
}

// Service is the identities that may answer to a service name. A dialler
// requires one of them.
type Service struct {
	Name string        `json:"name"` // 1 to 63 of a-z, 0-9 and -
	IDs  []spiffeid.ID `json:"ids"`  // 1 to 64, sorted, each once
}

const maxServiceIDs = 64

type serviceWire struct {
	Name string   `cbor:"1,keyasint"`
	IDs  []string `cbor:"2,keyasint"`
}

func (s Service) encode() ([]byte, error) {
	w := serviceWire{Name: s.Name}
	for _, id := range s.IDs {
		w.IDs = append(w.IDs, id.String())
	}
	slices.Sort(w.IDs)
	w.IDs = slices.Compact(w.IDs)
	b, err := statement.Marshal(w)
	if err != nil {
		return nil, err
	}
	_, err = parseService(b)
	return b, err
}

func parseService(b []byte) (Service, error) {
	var w serviceWire
	if err := statement.Unmarshal(b, &w); err != nil {
		return Service{}, fmt.Errorf("%w: service: %w", ErrMalformed, err)
	}
	if !label(w.Name) {
		return Service{}, fmt.Errorf("%w: service: name is %q, must be 1 to 63 of a-z, 0-9 and -", ErrMalformed, w.Name)
	}
	if len(w.IDs) < 1 || len(w.IDs) > maxServiceIDs {
		return Service{}, fmt.Errorf("%w: service %s: %d ids, must be 1 to %d", ErrMalformed, w.Name, len(w.IDs), maxServiceIDs)
	}
	s := Service{Name: w.Name}
	for i, raw := range w.IDs {
		id, err := spiffeid.FromString(raw)
		if err != nil {
			return Service{}, fmt.Errorf("%w: service %s: ids[%d]: %w", ErrMalformed, w.Name, i, err)
		}
		if i > 0 && raw <= w.IDs[i-1] {
			return Service{}, fmt.Errorf("%w: service %s: ids[%d] is out of order", ErrMalformed, w.Name, i)
		}
		s.IDs = append(s.IDs, id)
	}
	return s, nil
}

func (s Service) belongs(o Object, td spiffeid.TrustDomain) error {
	if s.Name != o.Name {
		return fmt.Errorf("%w: object %q holds service %q", ErrMalformed, o.Name, s.Name)
	}
	for _, id := range s.IDs {
		if id.TrustDomain() != td {
			return fmt.Errorf("%w: service %s: %s", ErrForeign, s.Name, id)
		}
	}
	return nil
}

// Allows reports whether id may answer to the service's name.
func (s Service) Allows(id spiffeid.ID) bool { return !id.IsZero() && slices.Contains(s.IDs, id) }

// label reports whether s is a DNS label in lower case (RFC 1035 §2.3.1, digits first allowed).
func label(s string) bool {
	return len(s) > 0 && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
