package custody

import (
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// Held is one copy on this node.
type Held struct {
	Owner   spiffeid.ID
	First   bool   // this node is one of the owner's first custodians; else it stands in for one
	Epoch   uint64 // the newest
	Leaves  uint64 // of it, under the head that is held
	Files   int    // that leaves name
	Trouble bool   // the owner showed a head that does not continue the copy
}

// status hands what Run knows to others.
type status struct {
	mu   sync.Mutex // held for a copy
	held []Held
	kept []Kept
	used int64
}

func (s *status) set(held []Held, kept []Kept, used int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held, s.kept, s.used = held, kept, used
}

func (s *status) register(reg prometheus.Registerer, log *slog.Logger) {
	if reg == nil {
		return
	}
	gauge := func(name, help string, value func() float64) {
		if err := reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return value()
		})); err != nil {
			log.Warn("custody: metric not registered", "err", err)
		}
	}
	gauge("bailiwick_custody_copies", "Trails of other nodes of which this node holds a copy.", func() float64 { return float64(len(s.held)) })
	gauge("bailiwick_custody_bytes", "Bytes of these copies.", func() float64 { return float64(s.used) })
	gauge("bailiwick_custody_whole", "Custodians that have a whole copy of this node's own trail.", func() (n float64) {
		for _, c := range s.kept {
			if c.Whole {
				n++
			}
		}
		return n
	})
	gauge("bailiwick_custody_conflicts", "Copies that their owner's trail does not continue.", func() (n float64) {
		for _, h := range s.held {
			if h.Trouble {
				n++
			}
		}
		return n
	})
}

// Status lists the copies on this node as they were after the last round.
func (k *Keeper) Status() []Held {
	k.status.mu.Lock()
	defer k.status.mu.Unlock()
	return k.status.held
}

func (k *Keeper) describe(owner spiffeid.ID, first bool) Held {
	h := Held{Owner: owner, First: first, Files: len(k.files[owner])}
	dir := k.place(owner).trail
	epochs, err := trail.Epochs(dir)
	if err != nil || len(epochs) == 0 {
		return h
	}
	h.Epoch = epochs[len(epochs)-1]
	if c := k.copies[trail.EpochDir(dir, h.Epoch)]; c != nil {
		h.Leaves = c.Head().Size
	}
	for _, e := range epochs {
		h.Trouble = h.Trouble || k.told[trail.EpochDir(dir, e)]
	}
	return h
}
