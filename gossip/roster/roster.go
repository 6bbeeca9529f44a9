package roster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ErrConfig means a required field of Config is missing or wrong.
var ErrConfig = errors.New("roster is not fully configured")

// Config is what a Roster needs.
type Config struct {
	Self    spiffeid.ID
	Network Network
	Record  []byte  // this node's signed record, see SignRecord
	Keys    KeyFunc // verifies the records of others

	// OnHint is called for each change, in order, from one goroutine. It must not
	// block for long: serf waits for it. Optional.
	OnHint func(Hint)

	Log     *slog.Logger          // nil: discard
	Metrics prometheus.Registerer // nil: none
}

// State is what a hint says of a node.
type State string

const (
	Alive  State = "alive"  // answers probes, or nobody has noticed yet that it does not
	Failed State = "failed" // did not answer and did not refute
	Left   State = "left"   // said that it leaves
)

// Hint is what serf makes of a node. It may be wrong, late, or a lie within the
// bounds of the package doc.
type Hint struct {
	ID    spiffeid.ID
	Name  string
	State State
	At    time.Time      // when this node learned of it
	Addr  netip.AddrPort // where the node says its link is
	Epoch uint64         // the epoch its record was signed in
}

// Roster is a running serf. Its methods may be called from any goroutine.
type Roster struct {
	cfg     Config
	name    string
	serf    *serf.Serf
	events  chan serf.Event
	drained chan struct{} // closed when no more hints come

	muted  map[string]Hint // failures that wait until this node does not doubt itself; follow's
	doubts atomic.Bool     // the score was above 0 at two looks in a row: one missed answer is no fault

	mu    sync.Mutex // guards hints, for map work only
	hints map[string]Hint
}

// Start starts serf. It meets nobody before Join, or before others join it. Errors
// wrap ErrConfig, ErrRecord or are serf's.
func Start(cfg Config) (*Roster, error) {
	if cfg.Network == nil || cfg.Keys == nil || cfg.Self.IsZero() {
		return nil, ErrConfig
	}
	name, ok := cfg.Network.NameOf(cfg.Self)
	if !ok {
		return nil, fmt.Errorf("%w: %s has no name in the roster", ErrConfig, cfg.Self)
	}
	if _, own, err := splitRecord(cfg.Record); err != nil || own.ID != cfg.Self {
		return nil, fmt.Errorf("%w: own record of %q: %w", ErrConfig, own.ID, errors.Join(err, ErrRecord))
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Roster{cfg: cfg, name: name, events: make(chan serf.Event, 64), drained: make(chan struct{}), hints: map[string]Hint{}, muted: map[string]Hint{}}
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bailiwick_roster_dropped_total",
		Help: "Membership messages kept from serf, by reason.",
	}, []string{"reason"})
	health := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bailiwick_roster_health_score",
		Help: "Lifeguard score of this node: 0 is healthy, above it the node doubts itself.",
	}, func() float64 { return float64(r.HealthScore()) })

	label := cfg.Self.TrustDomain().Name()
	f := newFilter(name, label, cfg.Record, func(n string) bool { _, ok := cfg.Network.PeerByName(n); return ok }, r.check,
		func(reason string) { dropped.WithLabelValues(reason).Inc() })
	f.doubt = r.doubts.Load
	t := newTransport(cfg.Network, f)
	var err error
	if r.serf, err = serf.Create(serfConfig(name, label, cfg.Record, t, r.events, cfg.Log)); err != nil {
		return nil, errors.Join(fmt.Errorf("start serf: %w", err), t.Shutdown())
	}
	if cfg.Metrics != nil {
		if err := errors.Join(cfg.Metrics.Register(dropped), cfg.Metrics.Register(health)); err != nil {
			return nil, errors.Join(fmt.Errorf("roster metrics: %w", err), r.serf.Shutdown())
		}
	}
	go r.follow()
	return r, nil
}

// serfConfig is serf with everything off that is not membership.
func serfConfig(name, label string, record []byte, t *transport, events chan serf.Event, l *slog.Logger) *serf.Config {
	logger := log.New(logWriter{l}, "", 0)
	c := serf.DefaultConfig()
	c.NodeName = name
	c.ProtocolVersion = serfProtocol
	c.Tags = map[string]string{recordTag: string(record)}
	c.EventCh = events
	c.Logger, c.LogOutput = logger, nil
	c.EnableNameConflictResolution = false // it asks by query; names are bound to certificates
	c.DisableCoordinates = true            // a cold probe holds a handshake
	c.EventBuffer, c.QueryBuffer = 1, 1

	m := memberlist.DefaultLANConfig()
	m.Transport = t
	m.Label = label
	m.ProbeInterval, m.ProbeTimeout = 5*time.Second, 3*time.Second // as on a WAN: a probe may have to connect first, over a slow link
	m.SuspicionMult = 2                                            // of those intervals
	m.UDPBufferSize = 1100                                         // fits a QUIC datagram before path MTU discovery
	m.EnableCompression = false
	m.RequireNodeNames = true
	// A nack comes after two of these, and must be there when the probe ends, after 1 s:
	// otherwise everybody doubts itself because of one dead node.
	m.ProbeTimeout = 400 * time.Millisecond
	m.BindPort, m.AdvertisePort = port, port
	m.Logger, m.LogOutput = logger, nil
	c.MemberlistConfig = m
	return c
}

// check is the filter's judge of node records.
func (r *Roster) check(name string, record []byte, own bool) error {
	rec, err := OpenRecord(record, r.cfg.Keys)
	if err != nil && !(own && errors.Is(err, ErrUnknownKey)) {
		return err
	}
	if id, ok := r.cfg.Network.PeerByName(name); !ok || id != rec.ID {
		return fmt.Errorf("%w: %s under the name %q", ErrRecord, rec.ID, name)
	}
	return nil
}

// follow turns serf's events into hints until serf is shut down.
func (r *Roster) follow() {
	defer close(r.drained)
	look := time.NewTicker(time.Second)
	defer look.Stop()
	before := 0 // the score, a look ago
	for {
		select {
		case <-r.serf.ShutdownCh():
			return
		case <-look.C:
			score := r.HealthScore()
			r.doubts.Store(min(before, score) > 0)
			if before = score; r.doubts.Load() {
				continue
			}
			for name, h := range r.muted {
				delete(r.muted, name)
				r.tell(h)
			}
		case e := <-r.events:
			m, ok := e.(serf.MemberEvent)
			if !ok {
				continue
			}
			for _, member := range m.Members {
				if h, ok := r.hint(m.Type, member); ok {
					delete(r.muted, h.Name)
					if h.State == Failed && r.doubts.Load() {
						r.muted[h.Name] = h
						continue
					}
					r.tell(h)
				}
			}
		}
	}
}

// hint is what an event says of a node, if it says something of another.
func (r *Roster) hint(kind serf.EventType, m serf.Member) (Hint, bool) {
	if m.Name == r.name {
		return Hint{}, false
	}
	id, ok := r.cfg.Network.PeerByName(m.Name)
	if !ok {
		return Hint{}, false
	}
	h := Hint{ID: id, Name: m.Name, At: time.Now()}
	switch kind {
	case serf.EventMemberJoin, serf.EventMemberUpdate:
		h.State = Alive
	case serf.EventMemberFailed:
		h.State = Failed
	case serf.EventMemberLeave:
		h.State = Left
	default: // reaped: the last hint stands
		return Hint{}, false
	}
	if _, rec, err := splitRecord([]byte(m.Tags[recordTag])); err == nil && rec.ID == id {
		h.Addr, h.Epoch = rec.Addr, rec.Epoch
	}
	return h, true
}

func (r *Roster) tell(h Hint) {
	r.mu.Lock()
	before := r.hints[h.Name]
	r.hints[h.Name] = h
	r.mu.Unlock()
	if before.State != h.State || before.ID != h.ID { // records are renewed all the time
		r.cfg.Log.Info("membership hint", "peer", h.ID, "state", h.State)
	}
	if r.cfg.OnHint != nil {
		r.cfg.OnHint(h)
	}
}

// Join asks peers for what they know, in turn, and returns how many answered. It
// takes up to 10 s for each that does not, or until ctx ends. Its error is that
// of the last peer, when none answered.
func (r *Roster) Join(ctx context.Context, peers ...spiffeid.ID) (n int, err error) {
	for _, peer := range peers {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		name, ok := r.cfg.Network.NameOf(peer)
		if !ok || name == r.name {
			err = fmt.Errorf("join %s: %w", peer, errNoName)
			continue
		}
		if _, joinErr := r.serf.Join([]string{name + "/" + address(name).String()}, true); joinErr != nil {
			err = fmt.Errorf("join %s: %w", peer, joinErr)
			continue
		}
		n++
	}
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// SetRecord replaces this node's record, for a new epoch or address.
func (r *Roster) SetRecord(record []byte) error {
	if _, own, err := splitRecord(record); err != nil || own.ID != r.cfg.Self {
		return fmt.Errorf("own record of %q: %w", own.ID, errors.Join(err, ErrRecord))
	}
	return r.serf.SetTags(map[string]string{recordTag: string(record)})
}

// Hints returns the newest hint of each node but this one, sorted by name.
func (r *Roster) Hints() []Hint {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.hints), func(a, b Hint) int { return strings.Compare(a.Name, b.Name) })
}

// HealthScore is Lifeguard's score (arXiv 1707.00788): 0 is healthy. A node whose
// score stays above 0 misses answers itself, and accuses nobody; see the package doc.
func (r *Roster) HealthScore() int { return r.serf.Memberlist().GetHealthScore() }

// Leave tells the others that this node goes; it takes some seconds. Close comes after.
func (r *Roster) Leave() error { return r.serf.Leave() }

// Close ends serf and waits for the last hint. The Network stays open.
func (r *Roster) Close() error {
	err := r.serf.Shutdown()
	<-r.drained
	return err
}

// logWriter hands the lines of serf's and memberlist's loggers to slog. They are
// details of a hint, so that none is above debug.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.log.Debug(string(bytes.TrimSpace(b)), "from", "serf")
	return len(b), nil
}
