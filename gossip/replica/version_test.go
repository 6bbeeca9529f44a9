package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// A kind that only some nodes know yet neither stops its writer's feed at the others
// nor is lost there: they pass it on, and show it when they are updated.
func TestUnknownKindWaitsForItsVersion(t *testing.T) {
	newer := func(cfg *Config) {
		cfg.Kinds = feed.DefaultKinds().With("gadget", func(string, []byte) error { return nil })
	}
	synctest.Test(t, func(t *testing.T) {
		writer, old, reader := newNodeWith(t, 1, newer), newNode(t, 2), newNodeWith(t, 3, newer)
		connect(writer, old)
		connect(old, reader)
		gadget := feed.KeyOf(writer.id, "gadget", "1")
		if _, err := writer.Put(t.Context(), op(gadget, "x"), op(writer.key("shop"), "1")); err != nil {
			t.Fatal(err)
		}
		writer.put("late", "1")
		settle(time.Second)
		converged(t, writer, reader)
		if old.root() != writer.root() {
			t.Error("the older node does not hold what the writer has")
		}
		for _, key := range []string{writer.key("shop"), writer.key("late")} {
			if _, ok := old.Get(key); !ok {
				t.Errorf("%s does not apply at the older node", key)
			}
		}
		if _, ok := old.Get(gadget); ok {
			t.Error("the older node shows what it cannot read")
		}
		if _, ok := reader.Get(gadget); !ok {
			t.Error("the older node did not pass it on")
		}
		if got := old.found(); len(got) != 0 {
			t.Errorf("findings %v", got)
		}
		old.over = newer
		old.restart()
		settle(time.Second)
		if _, ok := old.Get(gadget); !ok {
			t.Error("the updated node does not show what it held")
		}
	})
}
