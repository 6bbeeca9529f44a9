package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
)

// witnesses are a node's trail, and the four peers that cosign its heads, each with a disk of its own.
type witnesses struct {
	store   *store.Store
	trail   *trail.Trail
	roster  witness.Roster
	keepers []*witness.Keeper
	node    spiffeid.ID
	known   uint64 // leaves of the head that the witnesses cosigned last
	stops   []func() error
}

func newWitnesses(dir string) (w *witnesses, err error) {
	w = &witnesses{node: spiffeid.RequireFromString("spiffe://east.example.org/node/n0")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	var members []witness.Member
	keys := make([]*witness.Key, witness.Chosen)
	for i := range keys {
		id := spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.example.org/node/w%d", i))
		if keys[i], err = witness.NewKey(id, [32]byte{byte(i)}); err != nil {
			return nil, err
		}
		members = append(members, witness.Member{ID: id, Key: keys[i].Verifier()})
	}
	if w.roster, err = witness.NewRoster(members); err != nil {
		return nil, err
	}
	if w.store, err = store.Open(filepath.Join(dir, "state.db")); err != nil {
		return nil, err
	}
	w.stops = append(w.stops, w.store.Close)
	w.trail, err = trail.Open(trail.Config{Dir: filepath.Join(dir, "trail"), Node: w.node, Epoch: 1, Key: key, Store: w.store, Roster: w.roster.Hash, Every: time.Hour})
	if err != nil {
		return w, err
	}
	w.stops = append(w.stops, w.trail.Close)
	for i, m := range members {
		st, err := store.Open(filepath.Join(dir, fmt.Sprint(i)+".db"))
		if err != nil {
			return w, err
		}
		w.stops = append(w.stops, st.Close)
		w.keepers = append(w.keepers, witness.New(witness.Config{
			Self: m.ID, Key: keys[i], Store: st, Now: time.Now,
			Log:    func(string) (witness.Log, bool) { return witness.Log{Owner: w.node, Key: w.trail.VerifierKey()}, true },
			Roster: func([32]byte) (witness.Roster, bool) { return w.roster, true },
		}))
	}
	return w, nil
}

func (w *witnesses) stop() {
	for i := len(w.stops) - 1; i >= 0; i-- {
		_ = w.stops[i]()
	}
}

// event records one event and returns when its head is witnessed, durably here and at the witnesses.
func (w *witnesses) event() error {
	if err := w.store.Update(func(tx *store.Tx) error { return trail.Append(tx, trail.AdminAction, leafBody) }); err != nil {
		return err
	}
	if err := w.trail.Flush(context.Background()); err != nil {
		return err
	}
	head := w.trail.Head()
	proof, err := trail.Consistency(w.trail.Dir(), w.known, head.Size)
	if err != nil {
		return err
	}
	body := witness.Request{Old: w.known, Proof: proof, Head: head.Raw}.Encode()
	answers := make(chan witness.Answer, len(w.keepers))
	for _, k := range w.keepers {
		go func() { answers <- k.Add(w.node, body) }()
	}
	var lines [][]byte
	for range w.keepers {
		a := <-answers
		if a.Status != 200 {
			return fmt.Errorf("a witness answers %d: %s", a.Status, a.Body)
		}
		lines = append(lines, a.Body)
	}
	w.known = head.Size
	if err := w.trail.SetWitnessed(context.Background(), witness.Assemble(head.Raw, lines...)); err != nil {
		return err
	}
	c, ok := w.trail.Witnessed()
	if v := witness.Judge(c, func([32]byte) (witness.Roster, bool) { return w.roster, true }); !ok || !v.Good || c.Size != head.Size {
		return fmt.Errorf("the head of %d leaves is not witnessed: %s", head.Size, v.Why)
	}
	return nil
}

// witnessed prepares events that are each under a witnessed head before the next.
func witnessed(dir string, events int) (sides, error) {
	w, err := newWitnesses(dir)
	if err != nil {
		if w != nil {
			w.stop()
		}
		return sides{}, err
	}
	var logs []*os.File
	for i := range 1 + witness.Chosen {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)+".json"))
		if err != nil {
			w.stop()
			return sides{}, err
		}
		logs = append(logs, f)
	}
	appendTo := func(f *os.File) error {
		line, err := json.Marshal(map[string]any{"time": time.Now(), "kind": "admin.action", "body": leafBody})
		if err != nil {
			return err
		}
		_, err = f.Write(append(line, '\n'))
		return errors.Join(err, f.Sync())
	}
	took := func(one func() error) func() (float64, error) {
		return func() (float64, error) {
			start := time.Now()
			for range events {
				if err := one(); err != nil {
					return 0, err
				}
			}
			return float64(time.Since(start).Microseconds()) / 1000 / float64(events), nil
		}
	}
	return sides{
		ours: took(w.event),
		reference: took(func() error {
			if err := appendTo(logs[0]); err != nil {
				return err
			}
			return together(witness.Chosen, 1, nextOf(logs[1:], appendTo))
		}),
		stop: func() {
			w.stop()
			for _, f := range logs {
				f.Close()
			}
		},
	}, nil
}

// nextOf does one thing with each file, at whichever call gets to it.
func nextOf(files []*os.File, do func(*os.File) error) func() error {
	next := make(chan *os.File, len(files))
	for _, f := range files {
		next <- f
	}
	return func() error { return do(<-next) }
}
