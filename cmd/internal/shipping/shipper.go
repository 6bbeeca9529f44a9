package shipping

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/decision/export"
)

const (
	every     = 2 * time.Second // between two looks at the trail
	retryMin  = time.Second
	retryMax  = 5 * time.Minute
	maxLeaves = 1 << 20 // bytes of leaves in a request

	bucket = "shipping"
	key    = "place"
)

// Config connects a Shipper with its node. What has no default must be given.
type Config struct {
	Node      spiffeid.ID
	Version   string
	Trail     string // the folder of the trails of all epochs
	Decisions string // the folder of segments; empty: decisions are not sent
	Store     *store.Store
	Send      func(ctx context.Context, request []byte) error // errors as export.Send has them
	Log       *slog.Logger
	Metrics   prometheus.Registerer // nil: none
}

// Shipper sends one node's trail. Run may be called once.
type Shipper struct {
	cfg     Config
	at      place
	counts  *prometheus.CounterVec
	failing bool
}

// New reads how far the collector has the trail.
func New(cfg Config) (*Shipper, error) {
	s := &Shipper{cfg: cfg, counts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bailiwick_shipping_requests_total", Help: "Requests to the log collector: taken, failed (tried again) or refused (passed over); and what was gone before it was sent.",
	}, []string{"outcome"})}
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(s.counts); err != nil {
			return nil, err
		}
	}
	return s, cfg.Store.View(func(tx *store.Tx) error {
		if v := tx.Get(bucket, []byte(key)); v != nil {
			return statement.Unmarshal(v, &s.at)
		}
		return nil
	})
}

// Run sends until ctx ends. It never fails: what cannot be sent waits on disk.
func (s *Shipper) Run(ctx context.Context) error {
	wait := retryMin
	for {
		err := s.all(ctx)
		if ctx.Err() != nil {
			return nil
		}
		next := every
		if err != nil {
			s.counts.WithLabelValues("failed").Inc()
			next, wait = wait, min(2*wait, retryMax)
		} else {
			wait = retryMin
		}
		s.tell(err)
		select {
		case <-time.After(next):
		case <-ctx.Done():
			return nil
		}
	}
}

// tell logs when it turns.
func (s *Shipper) tell(err error) {
	switch {
	case err != nil && !s.failing:
		s.cfg.Log.Warn("log collector: the trail waits on disk until it answers", "err", err)
	case err == nil && s.failing:
		s.cfg.Log.Info("log collector: has the trail again", "epoch", s.at.Epoch, "leaves", s.at.Index)
	}
	s.failing = err != nil
}

// all sends what there is.
func (s *Shipper) all(ctx context.Context) error {
	epochs, err := trail.Epochs(s.cfg.Trail)
	if err != nil {
		return err
	}
	for _, e := range epochs {
		if e < s.at.Epoch {
			continue
		}
		if e > s.at.Epoch {
			if err := s.segment(ctx); err != nil {
				return err
			}
			s.at = place{Epoch: e}
		}
		err := s.epoch(ctx)
		if damaged(err) && e != epochs[len(epochs)-1] {
			s.gone(fmt.Sprintf("epoch %d from leaf %d on", e, s.at.Index), err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func damaged(err error) bool {
	return errors.Is(err, trail.ErrTile) || errors.Is(err, trail.ErrLeaf) || errors.Is(err, trail.ErrCheckpoint)
}

// epoch sends what there is of one epoch.
func (s *Shipper) epoch(ctx context.Context) error {
	origin, err := trail.Origin(s.cfg.Node, s.at.Epoch)
	if err != nil {
		return err
	}
	dir := trail.EpochDir(s.cfg.Trail, s.at.Epoch)
	for {
		if err := s.segment(ctx); err != nil {
			return err
		}
		_, raw, err := trail.ReadRaw(dir, s.at.Index, maxLeaves)
		switch {
		case errors.Is(err, trail.ErrPruned):
			if err := s.skip(dir); err != nil {
				return err
			}
			continue
		case errors.Is(err, trail.ErrNoTrail):
			return nil // not begun yet
		case err != nil:
			return err
		case len(raw) == 0:
			return nil
		}
		logs, after, err := batch(origin, s.at, raw)
		if err != nil {
			return err
		}
		request, err := export.Logs(s.cfg.Node.String(), s.cfg.Version, "github.com/bailiwick-mesh/bailiwick/attest/trail", logs)
		if err != nil {
			return err
		}
		if err := s.send(ctx, request, after); err != nil {
			return err
		}
	}
}

// skip goes on behind leaves that were removed by age.
func (s *Shipper) skip(dir string) error {
	snapshot, err := trail.OpenSnapshot(dir)
	if err != nil {
		return err
	}
	for l, err := range snapshot.Leaves(context.Background(), s.at.Index) {
		if err != nil {
			return err
		}
		s.gone(fmt.Sprintf("leaves %d to %d of epoch %d", s.at.Index, l.Index-1, s.at.Epoch), trail.ErrPruned)
		s.at.Index = l.Index
		return nil
	}
	s.at.Index = snapshot.Head().Size // all that is left was removed
	return nil
}

func (s *Shipper) gone(what string, err error) {
	s.counts.WithLabelValues("gone").Inc()
	s.cfg.Log.Warn("log collector: passed over, for it is not there to be sent", "what", what, "err", err)
}

// segment sends the rest of the segment that the last leaf named.
func (s *Shipper) segment(ctx context.Context) error {
	if s.at.Segment == "" {
		return nil
	}
	after := s.at
	after.Segment, after.Sent = "", 0
	if s.cfg.Decisions == "" {
		s.at = after
		return nil
	}
	done := uint64(0)
	for request, err := range export.Lines(decision.Read(filepath.Join(s.cfg.Decisions, s.at.Segment)), export.OTLP) {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, decision.ErrSegment) || errors.Is(err, decision.ErrEvent) {
			s.gone(s.at.Segment, err)
			break
		}
		if err != nil {
			return err
		}
		if done++; done <= s.at.Sent {
			continue
		}
		next := s.at
		next.Sent = done
		if err := s.send(ctx, request, next); err != nil {
			return err
		}
	}
	return s.keep(after)
}

// send sends one request; once it is answered, the place is the one after it.
func (s *Shipper) send(ctx context.Context, request []byte, after place) error {
	err := s.cfg.Send(ctx, request)
	switch {
	case errors.Is(err, export.ErrRefused):
		s.counts.WithLabelValues("refused").Inc()
		s.cfg.Log.Warn("log collector: refused records for good; they are passed over", "epoch", s.at.Epoch, "from_leaf", s.at.Index, "err", err)
	case err != nil:
		return err
	default:
		s.counts.WithLabelValues("taken").Inc()
	}
	return s.keep(after)
}

func (s *Shipper) keep(at place) error {
	v, err := statement.Marshal(at)
	if err != nil {
		return err
	}
	if err := s.cfg.Store.Update(func(tx *store.Tx) error { return tx.Put(bucket, []byte(key), v) }); err != nil {
		return err
	}
	s.at = at
	return nil
}
