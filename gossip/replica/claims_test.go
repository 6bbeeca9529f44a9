package replica

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// TestClaimsOfEverything: a peer claims as many feeds as are remembered, and answers each
// want with its end. No frame of it may have all of them looked at: a second's worth of
// its frames would hold the loop up for a minute.
func TestClaimsOfEverything(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Now()
	r, err := open(Config{
		Self: nodeID(1), Keys: keyFunc, Apply: func(feed.Record, feed.Op) error { return nil }, Now: func() time.Time { return now },
	}, onStore{s})
	if err != nil {
		t.Fatal(err)
	}
	core := &Core{r}
	claimer := core.Connect(nodeID(2), func(error) {})
	for i := range 15 {
		core.Connect(nodeID(3+i), func(error) {})
	}
	give := func(b []byte) {
		if err := claimer.Receive(b); err != nil {
			t.Fatal(err)
		}
	}
	var news [][]byte
	for i := 0; i < maxFeeds; i += 128 {
		heads := feed.Frontier{}
		for j := range 128 {
			origin := spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/node/x%d", i+j))
			heads[feed.FeedID{Origin: origin, Epoch: 1}] = feed.Head{Seq: 1, ID: feed.ID{1}, Bytes: 256}
		}
		news = append(news, headsFrames(heads)...)
	}
	ends, most := 0, 0
	for range 20 { // so that soon it is not asked again for most of them
		for _, b := range news {
			give(b)
		}
		for range 4 {
			for _, f := range inOrder(r.pulls) {
				end := endFrame(f, 1)
				before := r.looked
				give(end)
				most = max(most, r.looked-before)
				ends++
			}
		}
		for claimer.Next() != nil {
		}
	}
	if ends < maxPulls {
		t.Fatalf("%d ends", ends)
	}
	if most > 8*maxPulls {
		t.Errorf("one end of a want has %d of %d claims looked at", most, maxFeeds)
	}
}
