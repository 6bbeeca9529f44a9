package summary

import (
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

const (
	every = 2 * time.Second        // between summaries of unchanged content
	pause = 100 * time.Millisecond // at least, between summaries of changed content
	block = 1024                   // numbers reserved at once, so that most summaries need no commit
)

// ErrConfig means a required field of Config is missing.
var ErrConfig = errors.New("summary gateway is not fully configured")

// Config is what a Gateway needs. All fields are required unless they say otherwise.
type Config struct {
	Self  spiffeid.ID
	Store *store.Store
	Keys  KeyFunc

	// Tracker takes in the summaries of other regions.
	Tracker *Tracker

	// Signer returns the current epoch key and its certificate. It is asked for
	// each summary, so that a new epoch takes effect at once.
	Signer func() (key crypto.Signer, cert []byte)

	// Content returns what to say of the own region now.
	Content func() Content

	// Statements returns the statements of the own region's authority that
	// other regions are to have. Optional.
	Statements func() [][]byte

	// OnSummary is called for each newer summary, from the session's goroutine. Optional.
	OnSummary func(peer spiffeid.ID, s Summary)

	// OnStatement is called for each statement of the peer's authority, from the
	// session's goroutine. The bytes are not verified. Its error is logged and
	// ends nothing. Optional.
	OnStatement func(peer spiffeid.ID, raw []byte) error

	Log     *slog.Logger          // nil: discard
	Metrics prometheus.Registerer // nil: none
}

// Gateway publishes summaries of its region and exchanges them with gateways of
// others. Its methods may be called from any goroutine.
type Gateway struct {
	cfg     Config
	ledger  ledger
	wake    chan struct{}
	counter *prometheus.CounterVec

	reserved uint64 // numbers up to this are durable; owned by Run

	mu       sync.Mutex // guards the fields below; nothing outside is called under it
	own      Summary
	sessions map[chan struct{}]bool // told when own changes
}

// New returns a gateway that publishes once Run runs. Its numbers go on above
// those of all earlier runs. Errors wrap ErrConfig or the store's.
func New(cfg Config) (*Gateway, error) {
	if cfg.Self.IsZero() || cfg.Store == nil || cfg.Keys == nil || cfg.Tracker == nil || cfg.Signer == nil || cfg.Content == nil {
		return nil, ErrConfig
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{cfg: cfg, wake: make(chan struct{}, 1), sessions: map[chan struct{}]bool{}}
	g.ledger.peers = map[spiffeid.ID]*account{}
	g.counter = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bailiwick_summary_frames_total",
		Help: "Frames exchanged with gateways of other regions, by kind and verdict.",
	}, []string{"kind", "verdict"})
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(g.counter); err != nil {
			return nil, fmt.Errorf("summary metrics: %w", err)
		}
	}
	err := cfg.Store.View(func(tx *store.Tx) error {
		if b := tx.Get(numberBucket, numberKey); len(b) == 8 {
			g.reserved = binary.BigEndian.Uint64(b)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("summary numbers: %w", err)
	}
	g.ledger.base = g.reserved
	return g, nil
}

const numberBucket = "summary/number"

var numberKey = []byte("reserved")

// Wake says that Content may have changed.
func (g *Gateway) Wake() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// Debt returns what is owed to each peer gateway met in this run, sorted by peer.
func (g *Gateway) Debt() []Debt { return g.ledger.debts() }

// Own returns the newest summary published, which must not be changed; false
// before the first.
func (g *Gateway) Own() (Summary, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.own, g.own.Number != 0
}

// Run publishes until ctx ends: at once, on every change, and every 2 s. What
// cannot be published is logged and tried again.
func (g *Gateway) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	always := true // a number every 2 s shows that we live; a wake needs a change
	for {
		if err := g.publish(time.Now(), always); err != nil {
			g.cfg.Log.Warn("region summary not published", "error", err)
			g.counter.WithLabelValues("summary", "unpublished").Inc()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			always = true
			continue
		case <-g.wake:
			always = false
		}
		select { // let changes gather
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// publish signs the content under the next number. Unless always, only if it changed.
func (g *Gateway) publish(now time.Time, always bool) error {
	content := g.cfg.Content()
	before, _ := g.Own()
	if !always && reflect.DeepEqual(content, before.Content) {
		return nil
	}
	key, cert := g.cfg.Signer()
	holder, err := g.cfg.Keys(cert)
	if err != nil {
		return fmt.Errorf("own epoch certificate: %w", err)
	}
	number := max(before.Number, g.ledger.base) + 1
	if number > g.reserved {
		if err := g.reserve(number + block); err != nil {
			return err
		}
	}
	raw, err := Build(key, cert, g.cfg.Self, holder.Epoch, number, now, content)
	if err != nil {
		return err
	}
	s, err := Verify(raw, g.cfg.Keys) // what others would refuse is not sent
	if err != nil {
		return err
	}
	s.Content = content // as given, so that it compares equal next time
	g.ledger.publish(now)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.own = s
	for session := range g.sessions {
		select {
		case session <- struct{}{}:
		default:
		}
	}
	return nil
}

func (g *Gateway) reserve(upTo uint64) error {
	err := g.cfg.Store.Update(func(tx *store.Tx) error {
		return tx.Put(numberBucket, numberKey, binary.BigEndian.AppendUint64(nil, upTo))
	})
	if err != nil {
		return fmt.Errorf("reserve summary numbers: %w", err)
	}
	g.reserved = upTo
	return nil
}
