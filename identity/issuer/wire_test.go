package issuer

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/protobuf/proto"
)

// Pages say what protobuf would, to the entry, under each mask, also when they are
// remembered.
func TestPages(t *testing.T) {
	d, err := newDirectory(west, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2*pageSize + 1 {
		e := Entry{
			SPIFFEID: spiffeid.RequireFromPathf(west, "/workload/w%d", i), ParentID: westNode, Selectors: []string{"unix:uid:1", fmt.Sprint("unix:gid:", i)},
			X509TTL: time.Minute, JWTTTL: time.Second, DNSNames: []string{"a.example"}, Hint: "h", Expires: time.Unix(5e9, 0),
		}
		if err := d.add(registered{ID: fmt.Sprintf("e%04d", i), Entry: e, Revision: int64(i), Created: time.Unix(int64(i), 0)}); err != nil {
			t.Fatal(err)
		}
	}
	d.sort()
	masks := []*types.EntryMask{nil, {}, {SpiffeId: true}, {Selectors: true, Hint: true}, {RevisionNumber: true}, {CreatedAt: true}, {DnsNames: true, ExpiresAt: true}}
	if len(masks) <= maxMasks {
		t.Fatal("want more masks than are remembered")
	}
	for _, n := range []int{0, 1, pageSize, pageSize + 1, 2 * pageSize, 2*pageSize + 1} {
		ids := d.ids()[:n]
		for range 2 { // the second time it is remembered
			for _, mask := range masks {
				want := wantPages(ids, func(out *entryv1.SyncAuthorizedEntriesResponse, id string) {
					out.Entries = append(out.Entries, entryMessage(d.byID[id], mask))
				})
				var got []page
				if err := d.pages(ids, mask, func(p page) error { got = append(got, slices.Clone(p)); return nil }); err != nil {
					t.Fatal(err)
				}
				samePages(t, fmt.Sprintf("%d entries as %v", n, mask), got, want)
			}
			want := wantPages(ids, func(out *entryv1.SyncAuthorizedEntriesResponse, id string) {
				out.EntryRevisions = append(out.EntryRevisions, revision(d.byID[id]))
			})
			got, err := d.revisionPages(ids)
			if err != nil {
				t.Fatal(err)
			}
			samePages(t, fmt.Sprintf("%d revisions", n), got, want)
		}
	}
	if len(d.wire.masks) != maxMasks {
		t.Errorf("%d masks are remembered", len(d.wire.masks))
	}
}

func wantPages(ids []string, add func(*entryv1.SyncAuthorizedEntriesResponse, string)) (out []*entryv1.SyncAuthorizedEntriesResponse) {
	for chunk := range slices.Chunk(ids, pageSize) {
		p := &entryv1.SyncAuthorizedEntriesResponse{More: true}
		for _, id := range chunk {
			add(p, id)
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		out = append(out, &entryv1.SyncAuthorizedEntriesResponse{})
	}
	out[len(out)-1].More = false
	return out
}

func samePages(t *testing.T, what string, got []page, want []*entryv1.SyncAuthorizedEntriesResponse) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d pages, want %d", what, len(got), len(want))
	}
	for i := range got {
		var m entryv1.SyncAuthorizedEntriesResponse
		if err := proto.Unmarshal(got[i], &m); err != nil || !proto.Equal(&m, want[i]) {
			t.Errorf("%s: page %d: %v\n got %v\nwant %v", what, i, err, &m, want[i])
		}
	}
}

// What is remembered of one caller's pages is not given for another list.
func TestRevisionsOfAnotherReach(t *testing.T) {
	agent := spiffeid.RequireFromPath(west, "/spire/agent/join_token/x")
	entry := func(n int) Entry {
		return Entry{SPIFFEID: spiffeid.RequireFromPathf(west, "/w%d", n), ParentID: agent, Selectors: []string{"unix:uid:1"}}
	}
	one, err := newDirectory(west, []Entry{entry(1)})
	if err != nil {
		t.Fatal(err)
	}
	two, err := newDirectory(west, []Entry{entry(2), entry(3)})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{}
	for i, d := range []*directory{one, two, one, one, two} {
		ids := s.reachable(d, agent, nil, time.Now())
		pages, err := s.revisions(d, ids)
		if err != nil {
			t.Fatal(err)
		}
		samePages(t, fmt.Sprint("step ", i), pages, wantPages(ids, func(out *entryv1.SyncAuthorizedEntriesResponse, id string) {
			out.EntryRevisions = append(out.EntryRevisions, revision(d.byID[id]))
		}))
	}
}
