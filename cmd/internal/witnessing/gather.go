package witnessing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
)

const (
	every    = time.Second            // between two rounds, at least
	look     = 5 * time.Second        // between two looks at the roster
	retryMax = 30 * time.Second       // between two rounds that fail
	patience = 5 * time.Second        // with one witness
	straggle = 100 * time.Millisecond // for the fourth, once three have cosigned
)

// RostersDir is the folder of rosters in a folder of trails, KeysDir that of the records of
// the keys of nodes that cosigned.
const (
	RostersDir = "rosters"
	KeysDir    = "witnesses"
)

// Config says whose heads are to be witnessed, and how witnesses are asked.
type Config struct {
	Self spiffeid.ID
	Dir  string // of the trails of all epochs
	Book *Book

	// Trail returns the trail of the epoch in force; nil: none yet.
	Trail func() *trail.Trail

	// Ask brings a request to a witness and returns its answer.
	Ask func(ctx context.Context, peer spiffeid.ID, request []byte) ([]byte, error)

	Log *slog.Logger
}

// State is how a node's trail stands with its witnesses.
type State struct {
	Members int           // of the roster
	Chosen  []spiffeid.ID // its witnesses; none: too few members
	Refused map[spiffeid.ID]string
	Ahead   uint64 // leaves of a head that a witness cosigned and this disk lacks; 0: none
}

// Gatherer has the heads of a node's trail cosigned. Make one with NewGatherer.
type Gatherer struct {
	cfg   Config
	named atomic.Pointer[[32]byte]
	state atomic.Pointer[State]
	wake  chan struct{}

	known map[spiffeid.ID]uint64 // run's: the size that a witness cosigned last
	kept  map[string]bool        // run's: files that are there
}

// NewGatherer makes a gatherer; nothing runs yet.
func NewGatherer(cfg Config) *Gatherer {
	g := &Gatherer{cfg: cfg, wake: make(chan struct{}, 1), known: map[spiffeid.ID]uint64{}, kept: map[string]bool{}}
	g.state.Store(&State{})
	return g
}

// Roster is what the next head names; the shape of trail.Config.Roster.
func (g *Gatherer) Roster() [32]byte {
	if h := g.named.Load(); h != nil {
		return *h
	}
	return [32]byte{}
}

// Wake has the gatherer look again, now: a head was signed, or a peer came back.
func (g *Gatherer) Wake() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// State says how things stand.
func (g *Gatherer) State() State { return *g.state.Load() }

// Run gathers until ctx ends.
func (g *Gatherer) Run(ctx context.Context) error {
	retry := every
	for {
		wait := look
		witnessed, err := g.round(ctx)
		switch {
		case err != nil:
			g.cfg.Log.Debug("trail: not witnessed", "err", err)
			wait, retry = retry, min(2*retry, retryMax)
		case witnessed:
			retry = every
		}
		pause := time.NewTimer(every)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
		due := time.NewTimer(wait - every)
		select {
		case <-ctx.Done():
			due.Stop()
			return nil
		case <-g.wake:
			retry = every
		case <-due.C:
		}
		due.Stop()
	}
}

// round brings the newest head to its witnesses, where that is to be done. false without
// an error: there was nothing to do.
func (g *Gatherer) round(ctx context.Context) (witnessed bool, err error) {
	t := g.cfg.Trail()
	if t == nil {
		return false, nil
	}
	roster := g.cfg.Book.Roster(time.Now())
	chosen := roster.Choose(g.cfg.Self)
	state := State{Members: len(roster.Members())}
	for _, m := range chosen {
		state.Chosen = append(state.Chosen, m.ID)
	}
	before := g.State()
	state.Refused, state.Ahead = before.Refused, before.Ahead
	g.state.Store(&state)
	if len(chosen) == 0 {
		return false, nil
	}
	if err := g.name(ctx, t, roster); err != nil {
		return false, err
	}
	head := t.Head()
	if !head.Unwitnessed {
		return false, nil
	}
	c, err := trail.OpenCheckpoint(head.Raw, t.VerifierKey())
	if err != nil || c.Roster != roster.Hash() {
		return false, errors.Join(err, fmt.Errorf("the head of %d leaves names another roster", head.Size))
	}
	return g.gather(ctx, t, c, roster, chosen)
}

// name has the next heads name a roster, once it is kept beside the trail.
func (g *Gatherer) name(ctx context.Context, t *trail.Trail, r witness.Roster) error {
	hash := r.Hash()
	if hash != g.Roster() {
		dir := filepath.Join(g.cfg.Dir, RostersDir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		path := filepath.Join(dir, hex.EncodeToString(hash[:]))
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := durable.Replace(path, r.Bytes(), 0o644); err != nil {
				return err
			}
		}
		g.named.Store(&hash)
	}
	if c, err := trail.PeekCheckpoint(t.Head().Raw); err != nil || c.Roster != hash {
		return t.Flush(ctx)
	}
	return nil
}

// ReadRoster reads a roster that a node kept beside its trails, in dir. Errors wrap
// witness.ErrRoster, or are the file system's.
func ReadRoster(dir string, hash [32]byte) (witness.Roster, error) {
	return readRoster(filepath.Join(dir, RostersDir), hash)
}

func readRoster(dir string, hash [32]byte) (witness.Roster, error) {
	f, err := os.Open(filepath.Join(dir, hex.EncodeToString(hash[:])))
	if err != nil {
		return witness.Roster{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, witness.MaxRoster+1))
	if err != nil {
		return witness.Roster{}, err
	}
	r, err := witness.ParseRoster(b)
	if err == nil && r.Hash() != hash {
		err = fmt.Errorf("%w: its hash is %x", witness.ErrRoster, r.Hash())
	}
	return r, err
}

// keepKeys keeps what says whose keys cosigned, beside the trail: a file for each witness key.
func (g *Gatherer) keepKeys(by []witness.Cosignature) error {
	for _, c := range by {
		b := g.cfg.Book.Record(c.Witness)
		v, err := ReadRecord(b)
		if err != nil {
			continue // it was another a moment ago
		}
		path := KeyPath(g.cfg.Dir, v.Witness)
		if g.kept[path] {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := durable.Replace(path, b, 0o644); err != nil {
				return err
			}
		}
		g.kept[path] = true
	}
	return nil
}

// KeyPath is the file, in a folder of trails, of the record that says whose a witness key is.
func KeyPath(dir, cosigner string) string {
	return filepath.Join(dir, KeysDir, fmt.Sprintf("%x", sha256.Sum256([]byte(cosigner))))
}

type answered struct {
	by      witness.Member
	line    []byte
	refused string
	size    uint64 // of the head it cosigned last, as far as known
}

// gather asks all witnesses of a head at once.
func (g *Gatherer) gather(ctx context.Context, t *trail.Trail, c trail.Checkpoint, roster witness.Roster, chosen []witness.Member) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answers := make(chan answered, len(chosen))
	var all sync.WaitGroup
	for _, m := range chosen {
		known, head := g.known[m.ID], c // c grows by what the first ones answer
		all.Go(func() { answers <- g.ask(ctx, t.Dir(), head, m, known) })
	}
	state := g.State()
	state.Refused, state.Ahead = map[spiffeid.ID]string{}, 0
	find := func(h [32]byte) (witness.Roster, bool) { return roster, h == roster.Hash() }
	best := witness.Verdict{}
	var late <-chan time.Time
	for range chosen {
		select {
		case a := <-answers:
			g.known[a.by.ID] = a.size
			state.Ahead = max(state.Ahead, a.size)
			if a.refused != "" {
				state.Refused[a.by.ID] = a.refused
				continue
			}
			c.Raw = witness.Assemble(c.Raw, a.line)
			if best = witness.Judge(c, find); best.Good && late == nil {
				late = time.After(straggle)
			}
			continue
		case <-late:
		}
		break
	}
	cancel()
	all.Wait()
	if state.Ahead <= c.Size {
		state.Ahead = 0
	}
	g.state.Store(&state)
	if err := g.keepKeys(best.By); err != nil {
		return false, err
	}
	if !best.Good {
		return false, fmt.Errorf("%d leaves: %s: %v", c.Size, best.Why, state.Refused)
	}
	if err := t.SetWitnessed(context.WithoutCancel(ctx), c.Raw); err != nil {
		return false, err
	}
	return true, nil
}

// ask gets one witness's cosignature, telling it first what it wants to hear: the size
// that it cosigned last is often only known from its refusal.
func (g *Gatherer) ask(ctx context.Context, dir string, c trail.Checkpoint, m witness.Member, known uint64) answered {
	a := answered{by: m, size: known}
	for range 3 {
		if known > c.Size {
			known = 0 // our size is told it all the same
		}
		proof, err := trail.Consistency(dir, known, c.Size)
		if err != nil {
			a.refused = err.Error()
			return a
		}
		b, err := g.cfg.Ask(ctx, m.ID, witness.Request{Old: known, Proof: proof, Head: c.Raw}.Encode())
		if err != nil {
			a.refused = err.Error()
			return a
		}
		answer, err := witness.ParseAnswer(b)
		if err != nil {
			a.refused = err.Error()
			return a
		}
		size, conflict := answer.Size()
		if conflict && size != known && size <= c.Size {
			known, a.size = size, size
			continue
		}
		if conflict {
			a.size = size
			a.refused = fmt.Sprintf("has cosigned a head of %d leaves that this one of %d does not extend", size, c.Size)
			return a
		}
		if answer.Status != http.StatusOK {
			a.refused = fmt.Sprintf("%d %.200s", answer.Status, answer.Body)
			return a
		}
		if _, err := witness.Open(c.Text(), string(answer.Body), m); err != nil {
			a.refused = err.Error()
			return a
		}
		a.line, a.size = answer.Body, c.Size
		return a
	}
	a.refused = "says another size each time"
	return a
}
