package trail

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

const (
	batchSize  = 2048 // leaves: what waited long catches up soon, in a few MiB
	maxReasons = 15   // distinct reasons of gaps kept apart until the next drain
	maxReason  = 200  // bytes of one
	// variousReasons stands for all reasons above maxReasons.
	variousReasons = "various"
)

// bindBucket holds, for each origin this store feeds, an empty value.
const bindBucket = "trail/origins"

// bind begins a trail that has no genesis, and refuses a trail that this store
// did not begin, or that lacks leaves which this store has given to it: an older copy of
// the folder. Beginning also puts a leaf in the outbox, so its first sequence
// is known.
func (t *Trail) bind(origin string) error {
	var known bool
	var given uint64
	if err := t.cfg.Store.View(func(tx *store.Tx) error {
		known, given = tx.Get(bindBucket, []byte(origin)) != nil, tx.Trimmed()
		return nil
	}); err != nil {
		return err
	}
	if t.w.size > 0 {
		if !known {
			return ErrOtherStore
		}
		//bailiwick:check TestRestoredDisk/without_its_store
		if given > t.w.seq {
			return fmt.Errorf("%w: the trail ends at sequence %d, and had leaves up to %d: its folder is an older copy", ErrOtherStore, t.w.seq, given)
		}
		return t.ownGenesis(origin)
	}
	if err := t.cfg.Store.Update(func(tx *store.Tx) error {
		// Whatever waits: it is this trail that will take it.
		if err := write(tx, openKind, map[string]string{"origin": origin}); err != nil {
			return err
		}
		return tx.Put(bindBucket, []byte(origin), []byte{})
	}); err != nil {
		return err
	}
	waiting, err := t.cfg.Store.Outbox(0, 1)
	if err != nil {
		return err
	}
	if len(waiting) == 0 {
		return fmt.Errorf("%w: its first leaf is gone", ErrOtherStore)
	}
	return t.genesis(waiting[0].Seq - 1)
}

func (t *Trail) genesis(seq uint64) error {
	previous, err := previousHead(t.cfg.Dir, t.cfg.Epoch)
	if err != nil {
		return err
	}
	g := Genesis{
		Node: t.cfg.Node.String(), Epoch: t.cfg.Epoch, Protection: t.cfg.Protection, Verifier: t.vkey,
		Endorsement: t.cfg.Endorsement, Previous: previous,
	}
	if g.Protection == "" {
		g.Protection = "software"
	}
	l, err := bodyLeaf(seq, genesisKind, time.Now(), g)
	if err != nil {
		return err
	}
	if err := t.w.grow([]Leaf{l}); err != nil {
		return err
	}
	return t.w.publish()
}

func (t *Trail) ownGenesis(origin string) error {
	l, err := t.w.tiles().leaf(0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	g, err := readGenesis(l)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if got, err := g.origin(); err != nil || got != origin || g.Verifier != t.vkey {
		return fmt.Errorf("%w: the genesis is of %s", ErrDamaged, g.Node)
	}
	return nil
}

// drain moves everything from the outbox under a head, and then what could only
// be counted while the outbox was too full.
func (t *Trail) drain() error {
	defer t.show()
	if err := t.empty(); err != nil {
		return err
	}
	if err := settle(t.cfg.Store); err != nil {
		return fmt.Errorf("tell of what was counted only: %w", err)
	}
	return t.empty()
}

// empty moves the outbox. Nothing new goes into the tree while the last batch
// has no head: a key that does not sign leaves the outbox, not the trail, to wait.
func (t *Trail) empty() error {
	for {
		if err := t.w.publish(); err != nil {
			return err
		}
		waiting, err := t.cfg.Store.Outbox(0, batchSize)
		if err != nil {
			return err
		}
		old, err := t.known(waiting)
		if err != nil {
			return err
		}
		fresh := waiting[old:]
		gaps := t.pendingGaps()
		if len(fresh) > 0 || len(gaps) > 0 {
			if err := t.w.grow(t.leaves(fresh, gaps)); err != nil {
				return err
			}
			t.recorded(gaps)
			if err := t.w.publish(); err != nil {
				return err
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		if err := t.cfg.Store.Trim(waiting[len(waiting)-1].Seq); err != nil {
			return fmt.Errorf("trim the outbox: %w", err)
		}
		if len(waiting) < batchSize {
			return nil
		}
	}
}

// known counts the entries that a crash left in the outbox after they were
// integrated, and insists that they are what was integrated.
func (t *Trail) known(waiting []store.Entry) (int, error) {
	for i, e := range waiting {
		if e.Seq > t.w.seq {
			return i, nil
		}
		found, err := t.w.has(entryLeaf(e))
		if err != nil {
			return 0, err
		}
		if !found {
			return 0, fmt.Errorf("%w: the outbox has sequence %d, %s of %s, and the trail went past it without",
				ErrOtherStore, e.Seq, e.Kind, e.At.Format(time.RFC3339))
		}
	}
	return len(waiting), nil
}

// leaves makes the next batch. Sequences the outbox jumps over become a gap.
func (t *Trail) leaves(fresh []store.Entry, gaps map[string]uint64) []Leaf {
	now, seq := time.Now(), t.w.seq
	var out []Leaf
	for _, why := range slices.Sorted(maps.Keys(gaps)) {
		out = append(out, gapLeaf(seq, now, Gap{Count: gaps[why], Why: why}))
	}
	for _, e := range fresh {
		if e.Seq > seq+1 {
			missing := e.Seq - seq - 1
			out = append(out, gapLeaf(e.Seq-1, now, Gap{Count: missing, Why: "gone from the outbox before they were in the trail", From: seq + 1}))
			t.counts.gap(missing)
		}
		out = append(out, entryLeaf(e))
		seq = e.Seq
	}
	return out
}

// entryLeaf never fails: what no leaf can hold is a gap of one that says so, for
// else it would stand before everything after it forever.
func entryLeaf(e store.Entry) Leaf {
	l := Leaf{Seq: e.Seq, Kind: e.Kind, At: e.At, Body: e.Body}
	if g, err := readGap(l); err == nil && e.Kind == gapKind.name && g.Count > 0 && g.From == 0 {
		g.From, g.Why = e.Seq, clip(g.Why)
		return gapLeaf(e.Seq, e.At, g)
	}
	if _, err := l.encode(); err != nil || reserved(e.Kind) {
		return gapLeaf(e.Seq, e.At, Gap{Count: 1, Why: clip(fmt.Sprintf("a %q of %d bytes is no leaf", e.Kind, len(e.Body))), From: e.Seq})
	}
	return l
}

// reserved kinds are the trail's own; only AppendGap puts one of them into the outbox.
func reserved(kind string) bool { return kind == gapKind.name || kind == genesisKind.name }

func gapLeaf(seq uint64, at time.Time, g Gap) Leaf {
	l, err := bodyLeaf(seq, gapKind, at, g)
	if err != nil {
		panic(err) // two numbers and a text of ours always encode
	}
	return l
}

func clip(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b[:min(len(b), maxReason)])
}

func (t *Trail) pendingGaps() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.gaps)
}

// recorded takes off what a batch has told.
func (t *Trail) recorded(gaps map[string]uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for why, n := range gaps {
		if t.gaps[why] -= n; t.gaps[why] == 0 {
			delete(t.gaps, why)
		}
	}
}

// show publishes the head to the other goroutines, where it moved.
func (t *Trail) show() {
	h, c := t.w.head, t.witnessed.Load()
	now := Head{Size: h.Size, Root: h.Root, At: t.w.at, Unwitnessed: c == nil || c.Text() != h.Text(), Raw: h.Raw}
	if old := t.head.Load(); old != nil && old.Unwitnessed == now.Unwitnessed && bytes.Equal(old.Raw, now.Raw) {
		return
	}
	t.head.Store(&now)
	t.cfg.OnHead()
}
