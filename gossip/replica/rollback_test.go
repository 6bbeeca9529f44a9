package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

func seen(n, of *node) (out []string) {
	entries, _ := n.List("/")
	for _, e := range entries {
		if e.Owner == of.id {
			out = append(out, e.Name+"="+string(e.Value))
		}
	}
	return out
}

// Readers see an origin as it was, whenever they hear of it, and until it writes in a new epoch,
// which begins with what they see; a restart changes nothing, and all records stay.
func TestRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := ring(t, 4)
		origin := nodes[0]
		origin.put("config", "good")
		origin.put("gone", "good")
		good := origin.put("kept", "good")
		spans := []Span{{After: feed.Place{Epoch: 1, Seq: good.Seq}, Before: 2}}
		if _, err := nodes[1].Rollback(t.Context(), origin.id, spans); err != nil { // before there is anything here
			t.Fatal(err)
		}
		want := []string{"config=good", "gone=good", "kept=good"}
		origin.put("config", "bad")
		if _, err := origin.Put(t.Context(), feed.Op{Key: origin.key("gone"), Action: feed.Del, Scope: feed.ScopeRegion}); err != nil {
			t.Fatal(err)
		}
		bad := origin.put("new", "bad")
		settle(2 * time.Second)
		if got := seen(nodes[1], origin); !slices.Equal(got, want) {
			t.Errorf("who knew before sees %q, want %q", got, want)
		}
		if got := seen(nodes[2], origin); slices.Equal(got, want) {
			t.Fatalf("who knows nothing sees %q: nothing is shown", got)
		}
		for _, n := range nodes {
			news, err := n.Rollback(t.Context(), origin.id, spans)
			if err != nil || news != (n != nodes[1]) {
				t.Fatalf("%s: news %t, %v", n.id, news, err)
			}
			if got := seen(n, origin); !slices.Equal(got, want) {
				t.Errorf("%s sees %q, want %q", n.id, got, want)
			}
		}
		converged(t, nodes...)
		if heads, _, _ := nodes[2].Frontier(t.Context()); heads[feed.FeedID{Origin: origin.id, Epoch: 1}].Seq < bad.Seq {
			t.Errorf("the records that are not shown are gone: %+v", heads)
		}
		origin.put("config", "worse") // in the same epoch: it has not heard, or does not care
		settle(2 * time.Second)
		if got := seen(nodes[3], origin); !slices.Equal(got, want) {
			t.Errorf("written on in the same epoch: %q, want %q", got, want)
		}
		nodes[2].restart()
		if got := seen(nodes[2], origin); !slices.Equal(got, want) {
			t.Errorf("after a restart %q, want %q", got, want)
		}
		if err := origin.SetIdentity(t.Context(), newIdentity(t, origin.id, 2)); err != nil {
			t.Fatal(err)
		}
		origin.put("config", "mended")
		settle(2 * time.Second)
		want[0] = "config=mended"
		for _, n := range []*node{nodes[1], nodes[3]} {
			if got := seen(n, origin); !slices.Equal(got, want) {
				t.Errorf("%s sees %q of the new epoch, want %q", n.id, got, want)
			}
		}
	})
}

// The view is a function of the records and the spans: any order of hearing of them gives one.
func TestRollbackOrder(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				nodes := ring(t, 4)
				origin := nodes[0]
				spans := []Span{{feed.Place{Epoch: 1, Seq: rnd.Uint64N(6)}, 2}, {feed.Place{Epoch: 2, Seq: rnd.Uint64N(6)}, 3}}
				told := []int{rnd.IntN(16), rnd.IntN(16), rnd.IntN(16)}
				for i := range 16 {
					if i == 8 {
						if err := origin.SetIdentity(t.Context(), newIdentity(t, origin.id, 2)); err != nil {
							t.Fatal(err)
						}
					}
					for j, at := range told {
						if i == at {
							if _, err := nodes[j+1].Rollback(t.Context(), origin.id, spans[:1+rnd.IntN(2)]); err != nil {
								t.Fatal(err)
							}
						}
					}
					origin.put(fmt.Sprint("k", rnd.IntN(4)), fmt.Sprint(i))
					settle(100 * time.Millisecond)
				}
				slices.Reverse(spans) // in any order
				for _, n := range nodes[1:] {
					if _, err := n.Rollback(t.Context(), origin.id, spans); err != nil {
						t.Fatal(err)
					}
				}
				settle(5 * time.Second)
				converged(t, nodes[1:]...)
			})
		})
	}
}

func TestRollbackBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		if _, err := n.Rollback(t.Context(), nodeID(2), make([]Span, MaxSpans+1)); !errors.Is(err, ErrConfig) {
			t.Errorf("too many spans: %v", err)
		}
	})
	s := Span{feed.Place{Epoch: 2, Seq: 5}, 4}
	for _, tt := range []struct {
		epoch, seq uint64
		want       bool
	}{{1, 9, false}, {2, 5, false}, {2, 6, true}, {3, 1, true}, {4, 1, false}} {
		if s.hides(tt.epoch, tt.seq) != tt.want {
			t.Errorf("%d/%d: %t", tt.epoch, tt.seq, !tt.want)
		}
	}
	if (Span{}).hides(1, 1) {
		t.Error("the zero span hides something")
	}
	// An owner's word that a snapshot only restates old values is not taken for one inside the span.
	for _, tt := range []struct {
		at   feed.Place
		seq  uint64 // of epoch 2, that wrote it, on the owner's word
		want bool
	}{{feed.Place{Epoch: 2, Seq: 5}, 5, false}, {feed.Place{Epoch: 2, Seq: 9}, 5, true}, {feed.Place{Epoch: 4, Seq: 1}, 5, false}, {feed.Place{Epoch: 4, Seq: 1}, 6, true}} {
		if got := rolledBack([]Span{s}, item{at: tt.at, Entry: Entry{Epoch: 2, Seq: tt.seq}}); got != tt.want {
			t.Errorf("held by %+v, written by 2/%d: %t", tt.at, tt.seq, got)
		}
	}
}

// An origin that does not apply its own rollback takes its state along into the next epoch, by a
// snapshot. What it wrote in the span is not shown there either; what it writes anew is.
func TestRollbackIsNotRestated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := ring(t, 3)
		origin, reader := nodes[0], nodes[1]
		origin.put("kept", "good")
		good := origin.put("config", "good")
		origin.put("config", "bad")
		origin.put("new", "bad")
		settle(2 * time.Second)
		if _, err := reader.Rollback(t.Context(), origin.id, []Span{{feed.Place{Epoch: 1, Seq: good.Seq}, 2}}); err != nil {
			t.Fatal(err)
		}
		if err := origin.SetIdentity(t.Context(), newIdentity(t, origin.id, 2)); err != nil {
			t.Fatal(err)
		}
		origin.put("own", "word")
		settle(2 * time.Second)
		if got, want := seen(nodes[2], origin), []string{"config=bad", "kept=good", "new=bad", "own=word"}; !slices.Equal(got, want) {
			t.Fatalf("who was told nothing sees %q, want %q", got, want)
		}
		if got, want := seen(reader, origin), []string{"kept=good", "own=word"}; !slices.Equal(got, want) {
			t.Errorf("sees %q, want %q", got, want)
		}
	})
}
