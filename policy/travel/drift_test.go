package travel

import (
	"slices"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

func TestGaps(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	east, site := Slot{policy.Regional, "east.dev.example"}, Slot{policy.Local, "east.dev.example/zone/z"}
	record := func(s Slot, version uint64, edit func(*bundle.Record)) *bundle.Record {
		r := &bundle.Record{Level: s.Level, Scope: s.Scope, Version: version, Mode: bundle.Enforce, NotBefore: now.Unix() - 1, NotAfter: now.Unix() + 1}
		if edit != nil {
			edit(r)
		}
		return r
	}
	d := Desired{}
	d.Want(record(mesh, 3, nil), [32]byte{3}, now)
	d.Want(record(mesh, 2, nil), [32]byte{2}, now)
	d.Want(record(mesh, 4, func(r *bundle.Record) { r.Mode = bundle.Shadow }), [32]byte{4}, now)
	d.Want(record(mesh, 5, func(r *bundle.Record) { r.NotBefore = now.Unix() + 1 }), [32]byte{5}, now)
	d.Want(record(mesh, 6, func(r *bundle.Record) { r.NotAfter = now.Unix() - 1 }), [32]byte{6}, now)
	d.Want(record(east, 7, nil), [32]byte{7}, now)

	have := func(s Slot, version uint64, name byte) Effective { return Effective{s, version, [8]byte{name}} }
	for _, tt := range []struct {
		name string
		have []Effective
		want []string
	}{
		{"all", []Effective{have(mesh, 3, 3), have(east, 7, 7)}, nil},
		{"newer than is known here", []Effective{have(mesh, 3, 3), have(east, 8, 8)}, nil},
		{"a level that nobody wants", []Effective{have(mesh, 3, 3), have(east, 7, 7), have(site, 1, 1)}, nil},
		{"older", []Effective{have(mesh, 2, 2), have(east, 7, 7)}, []string{"global: has 2, want 3"}},
		{"another of the version", []Effective{have(mesh, 3, 3), have(east, 7, 9)}, []string{"regional: has another record of version 7"}},
		{"another scope", []Effective{have(mesh, 3, 3), have(Slot{policy.Regional, "west.dev.example"}, 7, 7)}, []string{"regional: has none, want 7"}},
		{"nothing", nil, []string{"global: has none, want 3", "regional: has none, want 7"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, g := range d.Gaps([]Slot{mesh, east, site}, tt.have) {
				got = append(got, g.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
